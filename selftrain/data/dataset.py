"""From a plan of crops to batches of tensors."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from selftrain.data.augment import Augmentation, Augmenter
from selftrain.data.mixing import Layers, paste
from selftrain.data.plan import Crop
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.data.strong_augment import StrongAugmentation, StrongAugmenter
from selftrain.data.workers import iterate, use_one_thread

Example = tuple[Tensor, ...]
"""Image and labels; where the data set was asked for them, confidences; where it was asked for
soft labels, two more: the likeliest classes and their probabilities."""


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
        strong: StrongAugmentation | None = None,
        with_confidence: bool = False,
        with_soft: bool = False,
    ) -> None:
        """Name what is read, and what is made of it.

        Args:
            samples: What crops are cut from.
            reader: Reads them.
            augmentation: Of all crops.
            strong: Further changes of pseudo-labelled crops; None: none.
            with_confidence: Whether examples have confidences.
            with_soft: Whether examples have soft labels.
        """
        self.samples = samples
        self.reader = reader
        self.with_confidence = with_confidence
        self.with_soft = with_soft
        self._augment = Augmenter(augmentation)
        self._strong = StrongAugmenter(strong or StrongAugmentation())

    def __getitem__(self, crop: Crop) -> Example:
        """Return image uint8 (3, S, S), RGB 0..255, and labels uint8 (S, S); S = crop.size.

        With confidences they come third, uint8 (S, S), 0..255 for 0..1: cut like the label, 0
        outside the image; 255 all over for a real sample.

        With soft labels they come last: the three likeliest classes, the likeliest first, and
        their probabilities, 0..255 for 0..1, both uint8 (3, S, S) and cut like the label.
        Probabilities that are all 0 say nothing, and the label alone counts: so it is all over a
        real sample.

        A pure function of the crop: neither worker, nor order, nor epoch matters.
        Labels stay uint8 on the way to the device; the loss needs `.long()`.

        Raises:
            InputError: A file is missing or broken, or confidences or soft labels are asked for
                and a pseudo label has none.
            ValueError: The crop is mixed, but it or its partner has a true label.
        """
        layers = self._cut(crop)
        if crop.mix is not None:
            partner = crop.mix.partner
            if not (self.samples[crop.image].is_pseudo and self.samples[partner.image].is_pseudo):
                raise ValueError(f"a true label is never mixed: {crop}")
            layers = paste(layers, self._cut(partner), crop.mix)
        if self.samples[crop.image].is_pseudo:
            layers = self._strong.cut_out(layers, seed=crop.seed)
        # Turned by NumPy: it takes half the time of torch's `contiguous`.
        turned = (it.transpose(2, 0, 1) if it.ndim == 3 else it for it in layers)
        return tuple(torch.from_numpy(np.ascontiguousarray(it)) for it in turned)

    def _cut(self, crop: Crop) -> Layers:
        """Read and vary a crop by itself; the layers are those of an example."""
        sample = self.samples[crop.image]
        image, label = self.reader.pair(sample)
        soft = None
        if sample.is_pseudo and self.with_confidence:
            # One (H, W, 2), so that one window cuts both.
            both = cv2.merge([label, self.reader.confidence(sample)])
            label = np.asarray(both, dtype=np.uint8)
        if sample.is_pseudo and self.with_soft:
            soft = np.concatenate(self.reader.soft(sample), axis=2)
        image, label, *quarter = self._augment(
            image, label, point=crop.point, size=crop.size, seed=crop.seed, quarter=soft
        )
        if sample.is_pseudo:
            image = self._strong.vary_colors(image, seed=crop.seed)
        maps = [label[..., 0], label[..., 1]] if label.ndim == 3 else [label]
        if self.with_confidence and not sample.is_pseudo:
            maps.append(np.full_like(label, 255))
        if self.with_soft:
            # Of a true label nothing is likelier than itself.
            found = quarter[0] if quarter else np.zeros((*label.shape[:2], 6), dtype=np.uint8)
            maps += [found[..., :3], found[..., 3:]]
        return image, *maps


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
        """Yield batches: an example's tensors, each with a first dimension of B crops."""
        return iterate(self)


def make_loader(
    dataset: SegmentationDataset, batches: EpochBatches, *, workers: int, pin_memory: bool
) -> CropLoader:
    """Return a loader of batches of the data set's examples, in the order of `batches`.

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
        worker_init_fn=use_one_thread,
        pin_memory=pin_memory,
        # Its own generator: otherwise each epoch's start would draw from torch's global one.
        generator=torch.Generator(),
    )
