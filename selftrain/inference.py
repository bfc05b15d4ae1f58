"""From images to probabilities, labels and scores; the one evaluator of the project.

The dev score in training, the test score of a table and the pseudo labels of a pool all come
through `Predictor`, so that their protocols cannot drift apart.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from selftrain import distributed, signals
from selftrain.config import InferenceConfig, MachineConfig
from selftrain.data.reader import Reader, frame_factor
from selftrain.data.sample import Sample
from selftrain.data.workers import iterate
from selftrain.metrics import ConfusionMatrix
from selftrain.windows import Taps, add_window, row_chunks, slices, window_starts, window_taps

_SMALLEST_SIDE = 32
_PIXELS_TOGETHER = 2**24
"""Pixels that go through the network together on a GPU: eight frames of 2048x1024."""


def pixels_together(device: torch.device) -> int:
    """Return how many pixels go through a network together, a frame at least.

    On the CPU it is 0, one frame at a time, because several only pay on a GPU.
    """
    return _PIXELS_TOGETHER if device.type == "cuda" else 0


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which networks compute.

    "auto" is bf16 on CUDA devices that have it in hardware, and fp32 elsewhere.
    """
    use_bf16 = precision == "bf16" or (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
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
    window: int = 0
    """Side of the square windows that the network sees, in pixels of the resized image; a smaller
    image is one window. 0: the whole image."""
    overlap: float = 1 / 3
    """Share of a window that lies in its neighbour, in [0, 1); the last one is shifted in."""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        device: torch.device,
        config: InferenceConfig,
        machine: MachineConfig,
    ) -> "Predictor":
        """Return a predictor that asks as the knobs say."""
        return cls(
            network,
            device,
            scales=config.scale_list(),
            flip=config.flip,
            precision=machine.precision,
            window=config.window,
            overlap=config.overlap,
        )

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return probabilities (B, K, H, W) of images (B, 3, H, W), uint8.

        They are float32 and lie on the device. A pixel's are the mean over the scales and the
        mirrored images, each the mean over the windows that hold the pixel. No second array of
        this size is made: each window's are added as they come, those of other scales resized.
        """
        images = images.to(self.device, non_blocking=True)
        images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2:]
        total: Tensor | None = None
        factor = frame_factor(height, width, self.frame_scale, self.short_side)
        for scale in (wanted * factor for wanted in self.scales):
            resized = images if scale == 1 else _resize(images.float(), scale)
            for mirrored in (False, True) if self.flip else (False,):
                for part, seen, rows, columns in self._windows(resized, (height, width), mirrored):
                    if total is None and _is_all(seen, images) and _is_all(resized, images):
                        total = seen
                        continue
                    if total is None:
                        total = _zeros(len(images), seen, height, width)
                    add_window(total[part], seen, rows, columns)
        assert total is not None  # the config refuses an empty list of scales
        return total.div_(len(self.scales) * (2 if self.flip else 1))

    def labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest class (B, H, W) and its probability (B, H, W), both uint8.

        See `likeliest`.
        """
        return likeliest(self.probabilities(images))

    def label_picture(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the likeliest class (H, W) of each pixel of a picture, RGB (H, W, 3)."""
        image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        return np.asarray(self.labels(image[None])[0][0].cpu().numpy(), dtype=np.uint8)

    def _windows(
        self, images: Tensor, target: tuple[int, int], mirrored: bool
    ) -> Iterator[tuple[slice, Tensor, Taps, Taps]]:
        """Yield probabilities, upright: of which images, and where they go in the target."""
        batch, _, height, width = images.shape
        side = self.window or max(height, width)
        tops = window_starts(height, side, self.overlap)
        lefts = window_starts(width, side, self.overlap)
        box = (min(side, height), min(side, width))
        if mirrored:  # the image is mirrored, and windows slide over what comes of it
            lefts = [width - box[1] - left for left in lefts]
        rows = window_taps(tops, box[0], length=height, target=target[0], device=self.device)
        columns = window_taps(lefts, box[1], length=width, target=target[1], device=self.device)
        places = [(y, x) for y in range(len(tops)) for x in range(len(lefts))]
        pixels = pixels_together(self.device)
        fitting = max(1, pixels // (box[0] * box[1])) if pixels else batch
        of_each = max(1, fitting // batch)
        for part, first in product(slices(batch, fitting), slices(len(places), of_each)):
            some = images[part]
            crops = torch.cat(
                [
                    some[:, :, tops[y] :, lefts[x] :][:, :, : box[0], : box[1]]
                    for y, x in places[first]
                ]
            )
            found = self._ask(crops, mirrored)
            for seen, (y, x) in zip(torch.split(found, len(some)), places[first], strict=True):
                yield part, seen, rows[y], columns[x]

    def _ask(self, images: Tensor, mirrored: bool) -> Tensor:
        """Return the network's probabilities (B, K, H, W), upright."""
        images = images.flip(-1) if mirrored else images
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            logits: Tensor = self.network(images).float()
        for rows in row_chunks(*logits.shape):
            found = logits[:, :, rows].softmax(dim=1)
            logits[:, :, rows] = found.flip(-1) if mirrored else found
        return logits


def likeliest(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest class (B, H, W) and its probability (B, H, W), both uint8.

    The probability is scaled to 0..255 and rounded down, so that a threshold never keeps a pixel
    that lies below it.

    Args:
        probabilities: (B, K, H, W); only a part of it is worked on at a time.
    """
    batch, _, height, width = probabilities.shape
    labels = probabilities.new_empty((batch, height, width), dtype=torch.uint8)
    confidence = torch.empty_like(labels)
    for rows in row_chunks(*probabilities.shape):
        best, classes = probabilities[:, :, rows].max(dim=1)
        labels[:, rows] = classes.to(torch.uint8)
        confidence[:, rows] = (best * 255).clamp(0, 255).to(torch.uint8)
    return labels, confidence


def _is_all(some: Tensor, images: Tensor) -> bool:
    """Return whether some are as many as the images, and of their size."""
    return some.shape[0] == images.shape[0] and some.shape[-2:] == images.shape[-2:]


def _zeros(batch: int, window: Tensor, height: int, width: int) -> Tensor:
    """Return zeros (batch, K, height, width), channels last: as the networks give a window's."""
    shape = (batch, window.shape[1], height, width)
    return torch.empty(shape, device=window.device, memory_format=torch.channels_last).zero_()


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
    """uint8 (B, 3, H, W), channels last."""
    labels: NDArray[np.uint8] | None
    """(B, H, W), or None if they were not asked for."""


def frames(
    samples: Sequence[Sample],
    reader: Reader,
    *,
    with_labels: bool,
    pixels: int = 0,
    workers: int = 0,
    share: tuple[int, int] | None = None,
) -> Iterator[FrameBatch]:
    """Read this rank's share of the samples, in order, in batches of equally sized frames.

    Each sample is read by exactly one rank, without padding: a sum over ranks counts it once.

    Args:
        samples: What is read, by all ranks together.
        reader: Reads it.
        with_labels: Read labels too.
        pixels: Of a batch, at most; a frame that has more comes alone. See `pixels_together`.
        workers: Processes that read ahead; 0: read in this one.
        share: (number, of how many): another part than this rank's; (0, 1) is all of them.

    Raises:
        InputError: a file cannot be read.
    """
    first, step = share or (distributed.rank(), distributed.world_size())
    mine = list(range(first, len(samples), step))
    dataset = Frames([samples[i] for i in mine], reader, with_labels=with_labels)
    loader: DataLoader[FrameBatch] = DataLoader(
        dataset,  # type: ignore[arg-type]  # of frames, of which `collate_fn` makes batches
        batch_size=None,
        num_workers=workers,
        worker_init_fn=signals.outlast,
        collate_fn=_as_batch,  # type: ignore[arg-type]  # without batches it is given one item
    )
    for batch in _join(iterate(loader), pixels):
        yield replace(batch, positions=[mine[position] for position in batch.positions])


def _as_batch(frame: Frame) -> FrameBatch:
    """Make a batch of one frame, in the worker that has read it.

    Tensors come from there through shared memory. For arrays, which are written to a pipe, this
    process would take 25 ms for a frame of 2048x1024 (measured).
    """
    position, image, label = frame
    # Copies: the reader's may lie in a file that is mapped read-only.
    pixels = torch.from_numpy(image[None].copy()).permute(0, 3, 1, 2)
    if get_worker_info() is not None:
        # Shared here, where an error reaches the user: on its way out of the worker it would reach
        # nobody, and the batch would be waited for for ever.
        pixels.share_memory_()  # type: ignore[no-untyped-call]  # torch gives it no types
    return FrameBatch([position], pixels, None if label is None else label[None].copy())


def _join(batches: Iterable[FrameBatch], pixels: int) -> Iterator[FrameBatch]:
    """Put neighbours of one size together, up to so many pixels."""
    group: list[FrameBatch] = []
    for one in batches:
        if group and one.images.shape != group[0].images.shape:
            yield _joined(group)
            group = []
        group.append(one)
        if (len(group) + 1) * one.images[0, 0].numel() > pixels:
            yield _joined(group)
            group = []
    if group:
        yield _joined(group)


def _joined(group: list[FrameBatch]) -> FrameBatch:
    if len(group) == 1:
        return group[0]
    labels = [one.labels for one in group if one.labels is not None]
    return FrameBatch(
        [position for one in group for position in one.positions],
        torch.cat([one.images for one in group]),
        np.concatenate(labels) if labels else None,
    )


def score(
    predictor: Predictor,
    samples: Sequence[Sample],
    reader: Reader,
    *,
    workers: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> ConfusionMatrix:
    """Compare predictions with labels over whole frames, on all ranks together.

    Args:
        predictor: Answers.
        samples: What is compared.
        reader: Reads it.
        workers: Processes that read ahead; 0: read in this one.
        advance: Told how many more frames this rank has compared.

    Returns:
        The same matrix on every rank; each frame counts once.
    """
    matrix = ConfusionMatrix(len(reader.classes))
    pixels = pixels_together(predictor.device)
    read = frames(samples, reader, with_labels=True, pixels=pixels, workers=workers)
    for batch in read:
        labels, _ = predictor.labels(batch.images)
        matrix.update(torch.from_numpy(batch.labels).to(predictor.device), labels)
        advance(len(batch.positions))
    if distributed.world_size() == 1:
        return matrix
    counts = torch.from_numpy(matrix.matrix).to(predictor.device)
    return ConfusionMatrix.from_matrix(distributed.sum_over_ranks(counts).cpu().numpy())
