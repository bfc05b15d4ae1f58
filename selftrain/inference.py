"""From images to probabilities, labels and scores; the one evaluator of the project.

The dev score in training, the test score of a table and the pseudo labels of a pool all come
through `Predictor`, so that their protocols cannot drift apart.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from selftrain import distributed
from selftrain.data.reader import Reader, frame_factor
from selftrain.data.sample import Sample
from selftrain.errors import InputError, from_worker
from selftrain.metrics import ConfusionMatrix

_SMALLEST_SIDE = 32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which networks compute: bf16 on CUDA unless "fp32" is asked for."""
    use_bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_bf16)


@dataclass(frozen=True)
class Predictor:
    """A network and the way it is asked."""

    network: nn.Module
    device: torch.device
    scales: Sequence[float] = (1.0,)
    """Scales of the image whose probabilities are averaged."""
    flip: bool = False
    """Average with the mirrored image too."""
    precision: str = "auto"
    frame_scale: float = 1.0
    """Images are resized by this factor before anything else, and the result back again: for
    pictures as they are, where the network was trained on frames that a reader had resized."""
    short_side: int = 0
    """Likewise, images whose shorter side would be longer than this are resized to it; 0: none."""

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return probabilities (B, K, H, W) of images (B, 3, H, W), uint8.

        They are float32 and lie on the device.
        """
        images = images.to(self.device, non_blocking=True)
        images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2:]
        total: Tensor | None = None
        factor = frame_factor(height, width, self.frame_scale, self.short_side)
        for scale in (wanted * factor for wanted in self.scales):
            resized = images if scale == 1 else _resize(images.float(), scale)
            for mirrored in (False, True) if self.flip else (False,):
                with autocast(self.device, self.precision):
                    logits = self.network(resized.flip(-1) if mirrored else resized)
                found = logits.float().softmax(dim=1)
                found = found.flip(-1) if mirrored else found
                if found.shape[-2:] != (height, width):
                    found = F.interpolate(found, size=(height, width), mode="bilinear")
                total = found if total is None else total + found
        assert total is not None  # the config refuses an empty list of scales
        return total / (len(self.scales) * (2 if self.flip else 1))

    def labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest class (B, H, W) and its probability (B, H, W), both uint8.

        The probability is scaled to 0..255 and rounded down, so that a threshold never keeps a
        pixel that lies below it.
        """
        confidence, labels = self.probabilities(images).max(dim=1)
        return labels.to(torch.uint8), (confidence * 255).clamp(0, 255).to(torch.uint8)


def _resize(images: Tensor, scale: float) -> Tensor:
    height, width = (max(_SMALLEST_SIDE, round(side * scale)) for side in images.shape[-2:])
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=scale < 1)


Frame = tuple[int, NDArray[np.uint8], NDArray[np.uint8] | None]
"""Position, RGB image (H, W, 3), and label (H, W) or None."""


class Frames(Dataset[Frame]):
    """Whole frames of a list of samples."""

    def __init__(self, samples: Sequence[Sample], reader: Reader, *, with_labels: bool) -> None:
        self.samples, self.reader, self.with_labels = samples, reader, with_labels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Frame:
        """Read one frame."""
        sample = self.samples[index]
        if not self.with_labels:
            return index, self.reader.image(sample), None
        return index, *self.reader.pair(sample)


@dataclass(frozen=True)
class FrameBatch:
    """Frames of one size."""

    positions: list[int]
    images: Tensor
    """uint8 (B, 3, H, W)."""
    labels: NDArray[np.uint8] | None
    """(B, H, W), or None if they were not asked for."""


def frames(
    samples: Sequence[Sample],
    reader: Reader,
    *,
    with_labels: bool,
    batch_size: int = 1,
    workers: int = 0,
    share: tuple[int, int] | None = None,
) -> Iterator[FrameBatch]:
    """Read this rank's share of the samples, in order, in batches of equally sized frames.

    Each sample is read by exactly one rank, without padding: a sum over ranks counts it once.
    `share` = (number, of how many) takes another part; (0, 1) is all of them.
    """
    first, step = share or (distributed.rank(), distributed.world_size())
    mine = list(range(first, len(samples), step))
    dataset = Frames([samples[i] for i in mine], reader, with_labels=with_labels)
    loader: DataLoader[Frame] = DataLoader(
        dataset, batch_size, num_workers=workers, collate_fn=list
    )
    try:
        for batch in loader:
            for group in _same_size(batch):
                images = np.stack([image for _, image, _ in group]).transpose(0, 3, 1, 2)
                labels = [label for _, _, label in group if label is not None]
                yield FrameBatch(
                    [mine[position] for position, _, _ in group],
                    torch.from_numpy(np.ascontiguousarray(images)),
                    np.stack(labels) if labels else None,
                )
    except InputError as error:
        if workers == 0:
            raise
        raise from_worker(error) from None


def _same_size(
    batch: list[Frame],
) -> Iterator[list[Frame]]:
    group: list[Frame] = []
    for frame in batch:
        if group and frame[1].shape != group[0][1].shape:
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def score(
    predictor: Predictor,
    samples: Sequence[Sample],
    reader: Reader,
    *,
    batch_size: int = 1,
    workers: int = 0,
) -> ConfusionMatrix:
    """Compare predictions with labels over whole frames, on all ranks together.

    Returns:
        The same matrix on every rank; each frame counts once.
    """
    matrix = ConfusionMatrix(len(reader.classes))
    read = frames(samples, reader, with_labels=True, batch_size=batch_size, workers=workers)
    for batch in read:
        labels, _ = predictor.labels(batch.images)
        matrix.update(torch.from_numpy(batch.labels).to(predictor.device), labels)
    if distributed.world_size() == 1:
        return matrix
    counts = torch.from_numpy(matrix.matrix).to(predictor.device)
    return ConfusionMatrix.from_matrix(distributed.sum_over_ranks(counts).cpu().numpy())


def batch_size_for(device: torch.device) -> int:
    """Return how many frames to push through at once: several only pay on a GPU."""
    return 8 if device.type == "cuda" else 1
