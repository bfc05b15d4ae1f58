"""One way to ask a network, checked against the slow and obvious one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from miniature import truncate, write_picture
from torch import Tensor, nn

from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.errors import InputError
from selftrain.inference import Predictor, frames, score
from selftrain.metrics import ConfusionMatrix

CPU = torch.device("cpu")
CLASSES = ClassTable(("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
READER = Reader(CLASSES)


class Brightest(nn.Module):
    """Class k where channel k is the brightest; a lopsided one, which flipping changes."""

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(0, 2, images.shape[-1])
        return images.float() / 64 + ramp * images.roll(1, dims=-1).float() / 255


def some_images(batch: int = 2, height: int = 40, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    images = some_images()
    found = Predictor(Brightest(), CPU).probabilities(images)
    torch.testing.assert_close(found, Brightest()(images).softmax(1))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5), (0.1,)])
@pytest.mark.parametrize("flip", [False, True])
def test_scales_and_mirror_images_are_averaged(scales: tuple[float, ...], flip: bool) -> None:
    images = some_images()
    views = []
    for scale in scales:
        size = [max(32, round(side * scale)) for side in images.shape[-2:]]
        resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=scale < 1)
        for turned in [False, True][: 1 + flip]:
            seen = resized.flip(3) if turned else resized
            probabilities = Brightest()(seen).softmax(1)
            upright = probabilities.flip(3) if turned else probabilities
            views.append(F.interpolate(upright, size=(40, 48), mode="bilinear"))
    found = Predictor(Brightest(), CPU, scales, flip).probabilities(images)
    torch.testing.assert_close(found, torch.stack(views).mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 40, 48))


def test_with_the_mirror_image_the_answer_is_mirrored_with_the_image() -> None:
    images = some_images()
    predictor = Predictor(Brightest(), CPU, flip=True)
    turned = predictor.probabilities(images.flip(-1)).flip(-1)
    torch.testing.assert_close(turned, predictor.probabilities(images))


def test_the_confidence_is_rounded_down_to_a_byte() -> None:
    images = some_images()
    predictor = Predictor(Brightest(), CPU)
    labels, confidence = predictor.labels(images)
    best, classes = predictor.probabilities(images).max(1)
    assert labels.dtype == confidence.dtype == torch.uint8
    assert torch.equal(labels.long(), classes)
    assert (confidence.float() <= best * 255).all()
    assert (confidence.float() > best * 255 - 1).all()


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Seven frames of two sizes, in no order."""
    rng = np.random.default_rng(0)
    made = []
    for i, height in enumerate([40, 40, 36, 40, 36, 36, 40]):
        image, label = tmp_path / f"{i}.png", tmp_path / f"{i}-label.png"
        write_picture(image, rng.integers(0, 256, (height, 48, 3), dtype=np.uint8))
        ids = rng.integers(0, 4, (height, 48), dtype=np.uint8)
        write_picture(label, np.where(ids == 3, 255, ids).astype(np.uint8))
        made.append(Sample(str(i), image, Blob(label)))
    return made


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_score_counts_every_frame_once(samples: list[Sample], batch_size: int) -> None:
    predictor = Predictor(Brightest(), CPU)
    slow = ConfusionMatrix(3)
    for sample in samples:
        image, label = READER.pair(sample)
        labels, _ = predictor.labels(torch.from_numpy(image).permute(2, 0, 1)[None])
        slow.update(label, labels[0].numpy())
    fast = score(predictor, samples, READER, batch_size=batch_size)
    np.testing.assert_array_equal(fast.matrix, slow.matrix)


@pytest.mark.parametrize("workers", [0, 1])
def test_frames_come_in_order_in_batches_of_one_size(samples: list[Sample], workers: int) -> None:
    read = list(frames(samples, READER, with_labels=True, batch_size=4, workers=workers))
    assert [batch.positions for batch in read] == [[0, 1], [2], [3], [4, 5], [6]]
    for batch in read:
        assert batch.labels is not None
        assert batch.labels.shape == (len(batch.positions), *batch.images.shape[-2:])


def test_shares_are_disjoint_and_complete(samples: list[Sample]) -> None:
    shares = [
        [
            position
            for batch in frames(samples, READER, with_labels=False, batch_size=2, share=(i, 3))
            for position in batch.positions
        ]
        for i in range(3)
    ]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_frames_without_labels_open_none(samples: list[Sample]) -> None:
    gone = [replace(sample, label=Blob(Path("nowhere"))) for sample in samples]
    assert all(batch.labels is None for batch in frames(gone, READER, with_labels=False))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_frame_ends_in_its_one_sentence(samples: list[Sample], workers: int) -> None:
    truncate(samples[4].image)
    with pytest.raises(InputError) as caught:
        list(frames(samples, READER, with_labels=False, workers=workers))
    assert str(caught.value) == f"{samples[4].image} is truncated: make or copy it again."
