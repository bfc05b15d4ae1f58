"""A step and an evaluation as torchvision's references/segmentation/train.py does them."""

import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import PolynomialLR

from experiments.speed.turns import Batch, synchronize
from selftrain.labels import IGNORE_INDEX
from selftrain.models import SegmentationNetwork


class Usual:
    """A training as torchvision's reference does it."""

    def __init__(self, network: SegmentationNetwork, batch: Batch, *, amp: bool) -> None:
        """Take a copy of the network.

        Args:
            network: Gives the weights and the device.
            batch: Images uint8 and labels, which are normalised here once: the reference's loader
                does that.
            amp: Whether to compute in fp16, with scaled gradients.
        """
        self.device = network.pixel_mean.device
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        self.images = network.normalize(batch[0].to(self.device)).cpu().contiguous()
        self._labels = batch[1].long()
        self.network.normalize = _as_it_is  # type: ignore[method-assign]  # on this copy
        self._amp = amp
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=amp)
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4
        )
        self._scheduler = PolynomialLR(self._optimizer, total_iters=100_000, power=0.9)

    def __call__(self, steps: int) -> float:
        """Take so many steps and return the seconds."""
        self.network.train()
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        synchronize(self.device)
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        synchronize(self.device)
        torch.backends.cudnn.benchmark = before
        return time.perf_counter() - start

    def _step(self) -> float:
        images, labels = self.images.to(self.device), self._labels.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self._amp):
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch has none
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        return loss.item()


class UsualLabels:
    """The labels of images as torchvision's reference finds them when it evaluates."""

    def __init__(self, network: SegmentationNetwork, images: Tensor) -> None:
        """Take a copy of the network; `images`, uint8, are normalised here once, as by a loader."""
        self.device = network.pixel_mean.device
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
        self.images = network.normalize(images.to(self.device)).cpu().contiguous()
        self.network.normalize = _as_it_is  # type: ignore[method-assign]  # on this copy

    @torch.inference_mode()
    def labels(self) -> Tensor:
        """Return the likeliest class (B, H, W) of the images: eager, NCHW, fp32."""
        logits: Tensor = self.network(self.images.to(self.device))
        return logits.argmax(1)


def _as_it_is(images: Tensor) -> Tensor:
    return images


@torch.inference_mode()
def require_equal(network: nn.Module, usual: Usual | UsualLabels, images: Tensor) -> None:
    """Raise AssertionError unless both networks say the same of a batch, but for rounding."""
    device = usual.device
    ours = network.eval()(images.to(device))
    difference = ours - usual.network.eval()(usual.images.to(device))
    if difference.norm() > 0.01 * ours.norm():  # of TF32, 11 bits in each of many layers
        raise AssertionError("ours and the usual way do not have the same network")
