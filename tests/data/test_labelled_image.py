from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_sets import FORM, TILE, labelled_images, soft_maps

from selftrain.data.centroids import tile_centroids
from selftrain.data.digests import digest_file
from selftrain.data.labelled_image import (
    BIN_STARTS,
    LabelledImage,
    count_confidence,
    encode_image,
    encode_map,
)
from selftrain.data.manifest import KINDS
from selftrain.data.quarter import enlarge, shrink
from selftrain.data.sample import Sample
from selftrain.errors import InputError


@pytest.fixture
def item(tmp_path: Path) -> LabelledImage:
    """The second image: it has every class."""
    return labelled_images(tmp_path)[1]


def decode(png: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


def by_bin(label: np.ndarray, confidence: np.ndarray, num_classes: int) -> np.ndarray:
    edges = [*BIN_STARTS, 256]
    return np.stack(
        [np.histogram(confidence[label == c], bins=edges)[0] for c in range(num_classes)]
    )


def test_the_bins_begin_where_the_format_says() -> None:
    assert len(BIN_STARTS) == 72
    assert BIN_STARTS[:17] == tuple(range(0, 129, 8))
    assert BIN_STARTS[16:41] == tuple(range(128, 225, 4))
    assert BIN_STARTS[40:] == tuple(range(224, 256))


def test_maps_come_back_as_they_were(item: LabelledImage) -> None:
    row, (label, confidence, *soft) = encode_image(item, FORM)
    np.testing.assert_array_equal(decode(label), item.label)
    np.testing.assert_array_equal(decode(confidence), item.confidence)
    assert soft == [b"", b""]
    assert (row["name"], row["height"], row["width"]) == ("drive/1", *item.label.shape)
    assert row["image_digest"] == digest_file(item.sample.image)
    assert len(KINDS) == 4


def test_the_pictures_of_an_image_are_its_encoded_maps(item: LabelledImage) -> None:
    """Those that `experiments/speed/pseudo_label.py` times are those that are stored."""
    classes, probabilities = soft_maps(item.label.shape)
    soft = replace(item, soft_classes=classes, soft_probabilities=probabilities)
    maps = [item.label, item.confidence, classes, probabilities]
    assert encode_image(soft, FORM)[1] == [encode_map(array) for array in maps]


def test_soft_labels_are_red_where_they_are_likeliest(item: LabelledImage) -> None:
    classes, probabilities = soft_maps(item.label.shape)
    soft = replace(item, soft_classes=classes, soft_probabilities=probabilities)
    *_, first, second = encode_image(soft, FORM)[1]
    for png, array in [(first, classes), (second, probabilities)]:
        np.testing.assert_array_equal(cv2.cvtColor(decode(png), cv2.COLOR_BGR2RGB), array)


def test_counts_and_centroids_are_those_of_the_label(item: LabelledImage) -> None:
    row, _ = encode_image(item, FORM)
    expected = by_bin(item.label, item.confidence, 3)
    np.testing.assert_array_equal(np.reshape(row["confidence_histogram"], (3, 72)), expected)
    assert row["class_pixels"] == expected.sum(axis=1).tolist()
    found = tile_centroids(item.label, num_classes=3, tile=TILE)
    np.testing.assert_array_equal(np.reshape(row["centroids"], (-1, 3)), found)


@given(st.integers(0, 255), st.integers(1, 4))
def test_every_level_is_counted_in_its_bin(level: int, num_classes: int) -> None:
    label = np.repeat(np.array([*range(num_classes), 255], dtype=np.uint8), 3).reshape(1, -1)
    counts = count_confidence(label, np.full_like(label, level), num_classes)
    assert counts.shape == (num_classes, 72)
    (place,) = np.flatnonzero(counts.sum(axis=0))
    assert [*BIN_STARTS, 256][place] <= level < [*BIN_STARTS, 256][place + 1]
    assert (counts[:, place] == 3).all()


def test_a_quarter_of_the_confidence_is_counted_as_it_will_be_read(item: LabelledImage) -> None:
    row, (_, confidence, *_) = encode_image(item, replace(FORM, confidence="quarter"))
    np.testing.assert_array_equal(decode(confidence), shrink(item.confidence))
    seen = enlarge(decode(confidence), item.label.shape)
    expected = by_bin(item.label, seen, 3)
    assert row["confidence_histogram"] == expected.ravel().tolist()
    assert expected.tolist() != by_bin(item.label, item.confidence, 3).tolist()


def test_agreement_is_counted_where_there_were_judges(item: LabelledImage) -> None:
    silent, _ = encode_image(item, FORM)
    assert np.isnan(silent["agreement"])
    assert silent["agreed_pixels"] == []
    agreed = item.confidence > 100
    row, _ = encode_image(replace(item, agreed=agreed, agreement=0.25), FORM)
    assert row["agreement"] == 0.25
    assert row["agreed_pixels"] == [int(((item.label == c) & agreed).sum()) for c in range(3)]


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b", "a\\b", ""])
def test_a_name_that_leads_out_of_the_set_is_refused(item: LabelledImage, name: str) -> None:
    bad = replace(item, sample=Sample(name, item.sample.image))
    with pytest.raises(InputError, match=r"image1\.png cannot name a shard's member: rename it"):
        encode_image(bad, FORM)


def test_maps_that_are_no_label_are_refused(item: LabelledImage) -> None:
    classes, probabilities = soft_maps(item.label.shape)
    for change, message in [
        ({"label": item.label[1:]}, r"confidence of drive/1 is uint8 \(21, 31\), not uint8"),
        ({"label": item.label[None]}, r"label of drive/1 is \(1, 21, 31\), not \(H, W\)"),
        ({"confidence": item.confidence.astype(np.float32)}, "confidence of drive/1 is float32"),
        ({"label": np.full_like(item.label, 3)}, "holds ids that are none of 3"),
        ({"agreed": np.ones((1, 2), dtype=bool)}, r"agreed of drive/1 is uint8 \(1, 2\)"),
        ({"soft_classes": classes}, "but not both"),
        (
            {"soft_classes": classes[1:], "soft_probabilities": probabilities},
            r"soft_classes of drive/1 is uint8 \(5, 8, 3\), not uint8 \(6, 8, 3\)",
        ),
        ({"soft_classes": classes + 1, "soft_probabilities": probabilities}, "none of 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            encode_image(replace(item, **change), FORM)  # type: ignore[arg-type]  # the point


def test_a_class_of_probability_0_may_be_any(item: LabelledImage) -> None:
    classes, probabilities = soft_maps(item.label.shape)
    classes[..., 2], probabilities[..., 2] = 200, 0
    soft = replace(item, soft_classes=classes, soft_probabilities=probabilities)
    assert encode_image(soft, FORM)[1][2] != b""


def test_an_image_that_cannot_be_read_is_named(item: LabelledImage) -> None:
    item.sample.image.unlink()
    with pytest.raises(InputError, match=r"image1\.png cannot be read"):
        encode_image(item, FORM)
