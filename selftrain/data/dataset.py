"""From a plan of crops to batches of tensors."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from selftrain.data.augment import Augmentation, Augmenter
from selftrain.data.plan import Crop
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError, from_worker

Example = tuple[Tensor, ...]
"""Image and labels; with confidences, if the data set was asked for them, as the third."""


class SegmentationDataset(Dataset[Example]):
    """Crops of labelled samples, indexed by `Crop` instead of by number.

    `Crop.image` is a position in `samples`; real and pseudo-labelled samples stand in one list.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        reader: Reader,
        augmentation: Augmentation,
        *,
        with_confidence: bool = False,
    ) -> None:
        self.samples = samples
        self.reader = reader
        self.with_confidence = with_confidence
        self._augment = Augmenter(augmentation)

    def __getitem__(self, crop: Crop) -> Example:
        """Return image uint8 (3, S, S), RGB 0..255, and labels uint8 (S, S); S = crop.size.

        With confidences they come third, uint8 (S, S), 0..255 for 0..1: cut like the label, 0
        outside the image; 255 all over for a real sample.

        A pure function of the crop: neither worker, nor order, nor epoch matters.
        Labels stay uint8 on the way to the device; the loss needs `.long()`.

        Raises:
            InputError: A file is missing or broken, or confidences are asked for and a pseudo
                label has none.
        """
        sample = self.samples[crop.image]
        image, label = self.reader.pair(sample)
        if self.with_confidence and sample.is_pseudo:
            label = self._add_confidence(label, sample)
        image, label = self._augment(image, label, point=crop.point, size=crop.size, seed=crop.seed)
        # Turned by NumPy: it takes half the time of torch's `contiguous`.
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.with_confidence:
            return pixels, torch.from_numpy(label).contiguous()
        if label.ndim == 2:
            maps = [label, np.full_like(label, 255)]
        else:
            maps = [label[..., 0], label[..., 1]]
        return pixels, *(torch.from_numpy(np.ascontiguousarray(it)) for it in maps)

    def _add_confidence(self, label: NDArray[np.uint8], sample: Sample) -> NDArray[np.uint8]:
        """Return label and confidence as one (H, W, 2), so that one window cuts both."""
        confidence = self.reader.confidence(sample)
        if confidence.shape != label.shape:
            raise InputError(
                f"The confidence map of {sample.name} has the shape {confidence.shape}, but its "
                f"pseudo label {label.shape}: label the pool again."
            )
        return np.asarray(cv2.merge([label, confidence]), dtype=np.uint8)


class EpochBatches(Sampler[list[Crop]]):
    """The batches of the current epoch; set `batches` before each epoch.

    The loader iterates its sampler in the parent process and sends the crops to the workers.
    So persistent workers always get the current epoch's crops and sizes, which they would not
    if these were set as attributes of the data set, of which each worker has its own copy.
    """

    def __init__(self, batches: Sequence[list[Crop]] = ()) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Crop]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class CropLoader(DataLoader[Example]):
    """A DataLoader whose workers' InputErrors reach the user as one sentence."""

    def __iter__(self) -> Iterator[Example]:  # type: ignore[override]  # no one needs its class
        """Yield images uint8 (B, 3, S, S), labels uint8 (B, S, S), and confidences like them."""
        try:
            yield from super().__iter__()
        except InputError as error:
            if self.num_workers == 0:
                raise
            raise from_worker(error) from None


def make_loader(
    dataset: SegmentationDataset, batches: EpochBatches, *, workers: int, pin_memory: bool
) -> CropLoader:
    """Return a loader of (images, labels[, confidences]) batches, in the order of `batches`.

    Its content does not depend on `workers`. Make it once and iterate it once per epoch: the
    worker processes stay.

    Args:
        dataset: Where the crops are cut from.
        batches: The epoch's batches; all crops of one batch have the same size.
        workers: Processes that load ahead; 0: load in this process.
        pin_memory: Whether batches land in page-locked memory, for a GPU.
    """
    return CropLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_use_one_thread,
        pin_memory=pin_memory,
        # Its own generator: otherwise each epoch's start would draw from torch's global one.
        generator=torch.Generator(),
    )


def _use_one_thread(worker: int) -> None:
    # Workers are the parallelism; threads on top of them fight for the same cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
