"""Batches: a pure function of the crops, whatever process makes them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from selftrain.data.augment import Augmentation
from selftrain.data.centroids import find_centroids
from selftrain.data.dataset import EpochBatches, Example, SegmentationDataset, make_loader
from selftrain.data.plan import Crop, Pool, global_batches, plan_epoch
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.errors import InputError

READER = Reader(ClassTable(names=("a", "b"), colors=((0, 0, 0), (9, 9, 9))))


@pytest.fixture
def dataset(tmp_path: Path) -> SegmentationDataset:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        image, label = tmp_path / f"{i}.png", tmp_path / f"{i}-label.png"
        cv2.imwrite(str(image), rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
        cv2.imwrite(str(label), rng.integers(0, 2, (40, 64), dtype=np.uint8))
        samples.append(Sample(str(i), image, Blob(label), is_pseudo=i >= 3))
    return SegmentationDataset(samples, READER, Augmentation())


def epoch_batches(epoch: int, size: int) -> list[list[Crop]]:
    plan = plan_epoch(
        Pool(range(3), {1: np.array([[0, 5, 6]], dtype=np.int32)}),
        Pool(range(3, 6)),
        real_crops=6,
        pseudo_crops=6,
        centroid_fraction=0.5,
        crop_size=size,
        seed=7,
        epoch=epoch,
    )
    return global_batches(plan, batch_size=4)


def run(dataset: SegmentationDataset, workers: int) -> list[Example]:
    batches = EpochBatches()
    loader = make_loader(dataset, batches, workers=workers, pin_memory=False)
    found = []
    for epoch, size in enumerate((24, 40, 32)):
        batches.batches = epoch_batches(epoch, size)
        assert len(loader) == 3
        found += list(loader)
    return found


def test_an_example_is_an_image_and_its_labels_as_bytes(dataset: SegmentationDataset) -> None:
    image, labels = dataset[Crop(image=1, point=(3, 4), class_id=0, size=24, seed=5)]
    assert image.shape == (3, 24, 24)
    assert labels.shape == (24, 24)
    assert image.dtype == labels.dtype == torch.uint8
    assert set(labels.flatten().tolist()) <= {0, 1, 255}


def test_the_channels_are_red_green_blue(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), (10, 20, 30), dtype=np.uint8))  # BGR
    cv2.imwrite(str(tmp_path / "label.png"), np.zeros((8, 8), dtype=np.uint8))
    sample = Sample("a", tmp_path / "a.png", Blob(tmp_path / "label.png"))
    plain = Augmentation(scale_min=1, scale_max=1, jitter=0, blur=0)
    image, _ = SegmentationDataset([sample], READER, plain)[Crop(0, None, None, 8, 0)]
    assert image[:, 4, 4].tolist() == [30, 20, 10]


def test_the_same_crop_twice_is_identical(dataset: SegmentationDataset) -> None:
    crop = Crop(image=1, point=None, class_id=None, size=24, seed=5)
    first = dataset[crop]
    dataset[replace(crop, seed=6, size=30)]
    again = dataset[crop]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("size", [8, 24, 100])
def test_every_centroid_crop_shows_its_class(dataset: SegmentationDataset, size: int) -> None:
    centroids = find_centroids(dataset.samples, READER, tile=16)
    plan = plan_epoch(
        Pool(range(6), centroids),
        None,
        real_crops=60,
        pseudo_crops=0,
        centroid_fraction=1,
        crop_size=size,
        seed=0,
        epoch=0,
    )
    for crop in plan:
        assert crop.class_id in dataset[crop][1]


def test_workers_give_identical_batches_and_follow_every_epoch(
    dataset: SegmentationDataset,
) -> None:
    alone, helped = run(dataset, workers=0), run(dataset, workers=2)
    assert [tuple(images.shape) for images, _ in alone] == [
        (4, 3, size, size) for size in (24, 40, 32) for _ in range(3)
    ]
    assert len(alone) == len(helped)
    for (images, labels), (other_images, other_labels) in zip(alone, helped, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_loading_leaves_the_global_random_state_alone(dataset: SegmentationDataset) -> None:
    before = torch.get_rng_state()
    run(dataset, workers=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def confident(dataset: SegmentationDataset, tmp_path: Path) -> SegmentationDataset:
    """The same samples, the pseudo-labelled ones with a confidence that tells the label."""
    samples = []
    for sample in dataset.samples:
        if sample.is_pseudo:
            path = tmp_path / f"{sample.name}-confidence.png"
            cv2.imwrite(str(path), 100 + 50 * READER.label(sample))
            sample = replace(sample, confidence=Blob(path))
        samples.append(sample)
    return SegmentationDataset(samples, READER, Augmentation(), with_confidence=True)


CROPS = [
    Crop(image, point, None, size, seed)
    for image in (0, 4)
    for point in (None, (39, 63))
    for size in (24, 100)
    for seed in range(8)
]


def test_a_pseudo_labels_confidence_is_cut_like_the_label(confident: SegmentationDataset) -> None:
    for crop in CROPS:
        _, labels, confidence = confident[crop]
        assert confidence.shape == labels.shape
        assert confidence.dtype == torch.uint8
        assert confidence.is_contiguous()
        if crop.image == 4:
            expected = torch.where(labels == 255, 0, 100 + 50 * labels)
            assert torch.equal(confidence, expected.to(torch.uint8))


def test_a_true_label_is_certain(confident: SegmentationDataset) -> None:
    for crop in CROPS:
        if crop.image == 0:
            assert (confident[crop][2] == 255).all()


def test_images_and_labels_are_the_same_with_and_without_confidence(
    dataset: SegmentationDataset, confident: SegmentationDataset
) -> None:
    for crop in CROPS:
        image, labels = dataset[crop]
        other_image, other_labels, _ = confident[crop]
        assert torch.equal(image, other_image)
        assert torch.equal(labels, other_labels)


def test_batches_carry_confidences_in_the_third_place(confident: SegmentationDataset) -> None:
    for images, labels, confidence in run(confident, workers=0):
        assert confidence.shape == labels.shape == (4, *images.shape[2:])


def test_a_pseudo_label_without_confidence_is_named(dataset: SegmentationDataset) -> None:
    asked = SegmentationDataset(dataset.samples, READER, Augmentation(), with_confidence=True)
    with pytest.raises(InputError, match=r"label of 4 has no confidence map: set .*label the pool"):
        asked[Crop(4, None, None, 24, 0)]


def test_a_confidence_map_of_another_size_is_named(
    confident: SegmentationDataset, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "4-confidence.png"), np.zeros((20, 64), dtype=np.uint8))
    with pytest.raises(
        InputError, match=r"map of 4 .*\(20, 64\).*\(40, 64\): label the pool again"
    ):
        confident[Crop(4, None, None, 24, 0)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_reported_in_one_sentence(
    dataset: SegmentationDataset, workers: int
) -> None:
    path = dataset.samples[0].image
    path.write_bytes(path.read_bytes()[:-20])
    batches = EpochBatches([[Crop(0, None, None, 24, 0)]])
    loader = make_loader(dataset, batches, workers=workers, pin_memory=False)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert str(caught.value) == f"{path} is truncated: make or copy it again."
