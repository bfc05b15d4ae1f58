"""The same few dev frames at each measurement: what a training learns, in pictures.

MLflow's step slider shows them one after the other. They are drawn beside the measurement, from
the same network, and change nothing: no random number is drawn for them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrain import distributed
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.inference import Predictor
from selftrain.labels import IGNORE_INDEX
from selftrain.pictures import Picture, colorize, encode_webp, shrink, side_by_side

FRAMES = 3
STEPS = 20
"""Measurements that are drawn, at most."""
_LOOKED_AT = 12
"""Frames among which one is chosen: to read all labels of a large dev split would take minutes."""
_PANEL = 252
"""Widest panel in pixels: two and the gap between them make 512 at most."""
_QUALITY = 80
_WRONG = (220, 40, 40)


class Examples:
    """Draws dev frames on the first rank; the others have nothing to do with it."""

    def __init__(self, dev: Sequence[Sample], reader: Reader, *, epochs: int, every: int) -> None:
        """Make one; nothing is read yet.

        Args:
            dev: The split; empty: nothing is drawn.
            reader: Reads it.
            epochs: Of the training.
            every: Epochs between two measurements.
        """
        self._dev, self._reader = dev, reader
        self._epochs, self._every = epochs, every
        self._chosen: list[Sample] | None = None
        self.drawn: dict[int, dict[str, bytes]] = {}
        """Epoch, from 0 -> name, the same in all trainings -> WebP file."""

    def is_due(self, epoch: int) -> bool:
        """Say whether frames are drawn after this epoch, from 0.

        They are after the first, where MLflow's slider begins, and the last, and with up to `STEPS`
        measurements between.
        """
        if epoch in (0, self._epochs - 1):
            return True
        every = max(1, math.ceil(self._epochs // self._every / STEPS)) * self._every
        return (epoch + 1) % every == 0

    def draw(self, predictor: Predictor, epoch: int) -> Mapping[str, bytes]:
        """Draw and keep what a network makes of the frames: {name: WebP file}.

        Upper row: image, truth. Lower row: prediction, and where it is wrong.
        """
        if distributed.rank() > 0 or not self._dev or not self.is_due(epoch):
            return {}
        if self._chosen is None:
            self._chosen = choose(self._dev, self._reader)
        self.drawn[epoch] = {
            f"frames/{number}": self._draw(predictor, sample)
            for number, sample in enumerate(self._chosen, start=1)
        }
        return self.drawn[epoch]

    def _draw(self, predictor: Predictor, sample: Sample) -> bytes:
        image, true = self._reader.pair(sample)
        # A copy: the reader's may lie in a file that is mapped read-only.
        images = torch.from_numpy(image[None].copy()).permute(0, 3, 1, 2)
        predicted = predictor.labels(images)[0][0].cpu().numpy()
        return encode_webp(self._panels(sample.name, image, true, predicted), quality=_QUALITY)

    def _panels(
        self, name: str, image: Picture, true: NDArray[np.uint8], predicted: NDArray[np.uint8]
    ) -> Picture:
        image, true, predicted = (shrink(it, _PANEL) for it in (image, true, predicted))
        colors = self._reader.classes.colors
        wrong = np.repeat(image.mean(axis=2, keepdims=True) * 0.5, 3, axis=2).astype(np.uint8)
        wrong[(true != predicted) & (true != IGNORE_INDEX)] = _WRONG
        rows = [
            {name: image, "truth": colorize(true, colors)},
            {"prediction": colorize(predicted, colors), "wrong": wrong},
        ]
        return np.concatenate([side_by_side(row) for row in rows])

    def state(self) -> dict[int, dict[str, Tensor]]:
        """Return what is drawn, for a checkpoint."""
        return {
            epoch: {
                name: torch.from_numpy(np.frombuffer(file, np.uint8).copy())
                for name, file in pictures.items()
            }
            for epoch, pictures in self.drawn.items()
        }

    def load_state(self, state: Mapping[Any, Mapping[Any, Tensor]], *, next_epoch: int) -> None:
        """Take what was drawn before the epoch that comes next: later ones will be drawn anew."""
        self.drawn = {
            int(epoch): {str(name): it.cpu().numpy().tobytes() for name, it in pictures.items()}
            for epoch, pictures in state.items()
            if int(epoch) < next_epoch
        }


def choose(dev: Sequence[Sample], reader: Reader) -> list[Sample]:
    """Return the frames that are drawn: of each third of dev the one with the most classes.

    Of a large third only frames at even distances are looked at. Of several with as many classes
    the first by name is taken.
    """
    chosen = []
    for part in np.array_split(np.arange(len(dev)), FRAMES):
        if len(part) == 0:
            continue
        at = np.unique(np.linspace(0, len(part) - 1, _LOOKED_AT).round().astype(int))
        some = [dev[int(i)] for i in part[at]]
        chosen.append(min(some, key=lambda it: (-_count_classes(reader.label(it)), it.name)))
    return chosen


def _count_classes(label: NDArray[np.uint8]) -> int:
    return len(np.setdiff1d(label, [IGNORE_INDEX]))
