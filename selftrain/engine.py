"""A step of training on the device: forward, backward, all ranks together, update.

What the batch is and when the learning rate falls is `train.py`'s to say.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selftrain import distributed
from selftrain.batch_norm import momenta, set_memory, share_batch_norm
from selftrain.checkpoint import on_device
from selftrain.config import LossConfig, MachineConfig, OptimConfig, TrainConfig
from selftrain.data.device_augment import jitter_and_blur
from selftrain.errors import InputError
from selftrain.inference import autocast
from selftrain.losses import LossSettings, mean_loss, pixel_losses, weigh_pixels
from selftrain.models import SegmentationNetwork

Tensors = tuple[Tensor, ...] | list[Tensor]


class Engine:
    """A network on its device, and what changes its weights."""

    def __init__(
        self,
        network: SegmentationNetwork,
        config: TrainConfig,
        machine: MachineConfig,
        device: torch.device,
        *,
        class_weights: Tensor | None = None,
    ) -> None:
        """Move the network to the device and make its optimizer.

        Args:
            network: Is changed in place. With several processes its batch normalisations get the
                statistics of all processes' crops.
            config: Its optim, loss and augment.
            machine: Its precision, compile and checkpointing.
            device: Where steps are taken.
            class_weights: (K,), or None: all classes count alike.
        """
        self.device = device
        if device.type == "cuda":  # crops have few sizes: worth trying out each one's algorithms
            torch.backends.cudnn.benchmark = True
        self.network: nn.Module = on_device(network, device)
        self._optim, self._augment, self._machine = config.optim, config.augment, machine
        self._settings = loss_settings(config.loss)
        self._auxiliary_weight = config.loss.auxiliary_weight
        self._class_weights = None if class_weights is None else class_weights.to(device)
        if machine.checkpointing:
            network.checkpoint_blocks()
        if distributed.world_size() > 1:
            by_torch = device.type == "cuda" and not machine.compile
            self.network = share_batch_norm(self.network, by_torch=by_torch)
        self._momenta = momenta(self.network)
        # One graph a shape, not one for all: an epoch has crops of one size and a schedule three
        # sizes, kernels made for a size are the faster ones, and pyramid pooling needs to know
        # it. `warm` makes them all before the first step; at most six, for accumulation may cut
        # a batch into parts of two sizes, and torch gives up beyond eight.
        compiled = torch.compile(self.network, dynamic=False) if machine.compile else None
        self._compiled = cast(nn.Module | None, compiled)
        self.forward = self._share(self.network if self._compiled is None else self._compiled)
        self.optimizer = _make_optimizer(self.network.parameters(), config.optim)
        self.average = self._make_average()

    def _share(self, network: nn.Module) -> nn.Module:
        if distributed.world_size() == 1:
            return network
        on_gpu = self.device.type == "cuda"
        return DistributedDataParallel(network, device_ids=[self.device.index] if on_gpu else None)

    def _make_average(self) -> AveragedModel | None:
        decay = self._optim.ema
        if decay == 0:
            return None
        return AveragedModel(self.network, multi_avg_fn=_averages(decay), use_buffers=True)

    def remember(self, batches: int) -> None:
        """Let running batch statistics count the steps to come as so many steps of the usual size.

        So they remember as many crops where `crop.constant_pixels` makes steps larger. Each part
        of a step changes them by itself, as a batch of its own: with `optim.accumulate` = p they
        remember p times fewer crops, and normalise by p times fewer while training.

        Args:
            batches: Crops of a step over `optim.batch_size`.
        """
        set_memory(self._momenta, batches)

    def warm(self, shapes: Iterable[tuple[int, int, int]]) -> None:
        """Compile the network for all shapes that will come; do nothing unless it is compiled.

        Weights and batch statistics stay as they are. All ranks must call this together, with as
        many shapes.

        Args:
            shapes: Images of a part of a batch, the side of their crops in pixels, and the
                `batches` that `remember` is told of with them.

        Raises:
            InputError: the network cannot be compiled on this machine.
        """
        if self._compiled is None:
            return
        from torch._dynamo.exc import TorchDynamoException  # seconds that others need not wait for

        self._compiled.train()
        kept = [buffer.clone() for buffer in self.network.buffers()]
        try:
            for count, side, batches in shapes:
                self.remember(batches)
                self._try_shape(self._compiled, count, side)
        except TorchDynamoException as error:
            reason = ": ".join(str(error).strip().splitlines()[:2]).replace(":: ", ": ")
            raise InputError(
                f"The network cannot be compiled ({reason}): set machine.compile to false, or "
                "install the compiler that is missing."
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self.network.buffers(), kept, strict=True):
                buffer.copy_(before)

    def _try_shape(self, compiled: nn.Module, count: int, side: int) -> None:
        """Push black images forward and their gradient backward."""
        images = torch.zeros((count, 3, side, side), dtype=torch.uint8, device=self.device)
        images = self._vary(images, [0] * count)
        labels = torch.zeros((count, side, side), dtype=torch.uint8, device=self.device)
        with autocast(self.device, self._machine.precision):
            outputs = compiled(images)
        self._loss_sum(outputs, labels).backward()  # type: ignore[no-untyped-call]  # torch has none

    def step(
        self,
        batch: Sequence[Tensor],
        *,
        lr: float,
        parts: int = 1,
        seeds: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:
        """Take one step on this rank's share of a batch; on one device the host does not wait.

        The loss is the mean over the labelled pixels of the whole batch, each with its weight,
        however many ranks and parts it is cut into.

        Args:
            batch: On the device: images uint8 (B, 3, S, S), labels uint8 (B, S, S); then, where
                the loss weighs by it, confidence uint8 (B, S, S); last, where it learns from soft
                labels, classes and probabilities, both uint8 (B, 3, S, S).
            lr: Learning rate.
            parts: Into which the share is cut to save memory; the same on every rank, at most B.
            seeds: Of the B crops, read where colours are varied on the device.

        Returns:
            The batch's loss and the norm of its gradient before it is clipped: scalars on the
            device, the same on every rank.
        """
        images, labels, *further = batch
        images = self._vary(images, seeds)
        weight = distributed.sum_over_ranks(self._weigh(labels, further))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(_cut((images, labels, *further), parts)):
            part_images, part_labels, *part_further = part
            with self._gathers_gradients(number + 1 == parts):
                with autocast(self.device, self._machine.precision):
                    outputs = self.forward(part_images)
                loss_sum = self._loss_sum(outputs, part_labels, part_further)
                loss = mean_loss(loss_sum, weight)
                # Averaging over ranks divides by their number again.
                (loss * distributed.world_size()).backward()  # type: ignore[no-untyped-call]  # torch has none
            total += loss.detach()
        norm = self._clip()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return distributed.sum_over_ranks(total), norm

    def _vary(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        augment = self._augment
        if not augment.on_device:
            return images
        return jitter_and_blur(images, seeds, jitter=augment.jitter, blur=augment.blur)

    def _weigh(self, labels: Tensor, further: Sequence[Tensor]) -> Tensor:
        confidence, _ = _tell_apart(further)
        weights = weigh_pixels(
            labels, self._settings, class_weights=self._class_weights, confidence=confidence
        )
        return weights.sum()

    def _gathers_gradients(self, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of a part of a step: ranks talk to each other in the last one."""
        if is_last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        return self.forward.no_sync()

    def _loss_sum(
        self,
        outputs: Tensor | tuple[Tensor, ...],
        labels: Tensor,
        further: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the sum of the pixels' losses, those of an auxiliary classifier included."""
        main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        total = self._pixel_losses(main, labels, further)
        for logits in auxiliary:
            second = self._pixel_losses(logits, labels, further)
            total = total + self._auxiliary_weight * second
        return total

    def _pixel_losses(self, logits: Tensor, labels: Tensor, further: Sequence[Tensor]) -> Tensor:
        confidence, soft = _tell_apart(further)
        total, _ = pixel_losses(
            logits,
            labels,
            self._settings,
            class_weights=self._class_weights,
            confidence=confidence,
            soft=soft,
        )
        return total

    def _clip(self) -> Tensor:
        """Shorten the gradient of all ranks together to `clip_norm`; return its norm before."""
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._optim.clip_norm > 0:
            clip_grads_with_norm_(parameters, self._optim.clip_norm, norm)
        return norm

    def result(self) -> nn.Module:
        """Return the network that is kept: the last step's, or its moving average."""
        return self.average.module if self.average is not None else self.network


def _cut(tensors: Sequence[Tensor], parts: int) -> Iterator[tuple[Tensor, ...]]:
    """Cut each tensor into parts along its first dimension; yield those that belong together."""
    return zip(*(tensor.tensor_split(parts) for tensor in tensors), strict=True)


def _tell_apart(
    further: Sequence[Tensor],
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """Return confidence and soft labels, of what follows the labels in a batch: none, 1, 2 or 3."""
    confidence = further[0] if len(further) % 2 else None
    soft = (further[-2], further[-1]) if len(further) > 1 else None
    return confidence, soft


def _averages(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return what moves averages towards the weights of a step.

    The decay grows to `decay` with the steps, as (1 + n) / (10 + n) of the n-th. Else the first
    step's weights, which know nothing, would be most of the result of a short training: 75 % after
    288 steps at 0.999.
    """

    def move(averages: Tensors, weights: Tensors, averaged: Tensor | int) -> None:
        steps = int(averaged)  # of which the averages are made; AveragedModel waits for it too
        now = min(decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(now)(averages, weights, averaged)  # type: ignore[no-untyped-call]  # torch has none

    return move


def loss_settings(config: LossConfig) -> LossSettings:
    """Return the loss's settings that a config asks for."""
    return LossSettings(
        name=config.name,
        label_smoothing=config.label_smoothing,
        ohem_threshold=config.ohem_threshold,
        ohem_kept=config.ohem_kept,
        confidence_gamma=config.confidence_gamma,
    )


def _make_optimizer(parameters: Iterable[Tensor], optim: OptimConfig) -> torch.optim.Optimizer:
    if optim.name == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=optim.lr,
            betas=(optim.momentum, 0.999),
            weight_decay=optim.weight_decay,
            fused=True,  # one pass over all weights; on the CPU too
        )
    return torch.optim.SGD(
        parameters,
        lr=optim.lr,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        fused=True,  # one pass over all weights; on the CPU too
    )
