"""Selection: which images and pixels of the pseudo labels count, from histograms alone."""

import math
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from selftrain.data.centroids import find_centroids
from selftrain.data.plan import Pool, plan_epoch
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.data.selection import NEVER, lowest_level, report, select, starved
from selftrain.data.shards import (
    BIN_STARTS,
)
from selftrain.errors import InputError

Histograms = NDArray[np.uint32]
BINS = len(BIN_STARTS)
NAMES = ("road", "car", "train")

histograms = hnp.arrays(  # few bins hold pixels, so that whole bins matter
    np.uint32,
    st.tuples(st.integers(1, 5), st.just(3), st.just(BINS)),
    elements=st.integers(0, 50),
    fill=st.just(0),
).filter(lambda counts: counts.sum() > 0)
shares = st.floats(0.01, 1.0)
bin_starts = st.sampled_from(BIN_STARTS)
real_counts = hnp.arrays(np.int64, 3, elements=st.integers(0, 1000)).filter(np.any)
rules = st.sampled_from(["global", "cbst", "dars"])


def at(level: int) -> int:
    """Return the bin of an 8-bit confidence."""
    return int(np.searchsorted(BIN_STARTS, level, side="right")) - 1


def image(*pixels: dict[int, int]) -> Histograms:
    """Return one image's histogram from {8-bit confidence: pixels} for each class."""
    counts = np.zeros((len(pixels), BINS), dtype=np.uint32)
    for class_id, levels in enumerate(pixels):
        for level, number in levels.items():
            counts[class_id, at(level)] += number
    return counts


def kept_from(counts: Histograms, level: int, class_id: int) -> int:
    """Return the pixels of a class in the bins from a level's on."""
    return int(counts[:, class_id, at(level) :].sum()) if level < NEVER else 0


def next_start(level: int) -> int:
    return (*BIN_STARTS, NEVER)[at(level) + 1] if level < NEVER else NEVER


@given(histograms)
def test_by_default_everything_is_kept(counts: Histograms) -> None:
    selection = select(counts)
    labelled = np.flatnonzero(counts.any(axis=(1, 2)))  # an image without a label teaches nothing
    assert selection.rows.tolist() == labelled.tolist()
    assert selection.keep_from == (0, 0, 0)
    pixels = counts.sum(axis=(0, 2)).tolist()
    assert selection.kept_pixels.tolist() == selection.predicted_pixels.tolist() == pixels
    assert selection.kept_images.tolist() == (counts.sum(axis=2) > 0).sum(axis=0).tolist()


@given(st.floats(0, 1))
def test_a_global_threshold_is_the_exact_level_and_no_bin(threshold: float) -> None:
    counts = np.ones((1, 3, BINS), dtype=np.uint32)
    (level,) = set(select(counts, threshold=threshold).keep_from)
    assert level == lowest_level(threshold)
    assert level - 1 < 255 * threshold <= level


@given(histograms, bin_starts)
def test_pixels_are_counted_exactly_where_a_bin_begins(counts: Histograms, start: int) -> None:
    kept = counts[:, :, at(start) :].sum(axis=(0, 2))
    if kept.any():
        selection = select(counts, threshold=start / 255 - 1e-9)
        assert selection.keep_from == (start,) * 3
        assert selection.kept_pixels.tolist() == kept.tolist()


def test_within_a_bin_the_pixels_are_counted_as_evenly_spread() -> None:
    counts = image({100: 80, 255: 1}, {100: 8}, {})[np.newaxis]  # 100 lies in the bin 96..103
    selection = select(counts, threshold=98 / 255)
    assert selection.keep_from == (98, 98, 98)
    assert selection.kept_pixels.tolist() == [61, 6, 0]


def test_an_image_may_stay_for_pixels_of_the_bin_that_the_threshold_cuts() -> None:
    """Whether they reach it, the histogram does not say; where a bin begins, it does."""
    counts = np.stack([image({255: 9}, {}, {}), image({96: 9}, {}, {})])
    assert select(counts, threshold=98 / 255).rows.tolist() == [0, 1]
    assert select(counts, threshold=104 / 255).rows.tolist() == [0]


@given(histograms, shares)
def test_cbst_keeps_the_share_of_each_class_and_less_than_a_bin_more(
    counts: Histograms, share: float
) -> None:
    selection = select(counts, rule="cbst", share=share)
    for class_id, level in enumerate(selection.keep_from):
        total = int(selection.predicted_pixels[class_id])
        if total == 0:
            continue
        kept = int(selection.kept_pixels[class_id])
        assert kept == kept_from(counts, level, class_id)
        assert kept >= share * total * (1 - 1e-9)
        assert share == 1 or kept_from(counts, next_start(level), class_id) < share * total


def test_a_share_of_whole_pixels_is_not_rounded_up() -> None:
    counts = image({250: 7, 200: 93}, {}, {})[np.newaxis]
    assert 0.07 * 100 > 7
    assert select(counts, rule="cbst", share=0.07).kept_pixels.tolist() == [7, 0, 0]


@given(histograms, shares, shares, st.sampled_from(["cbst", "dars"]), real_counts)
def test_a_larger_share_never_keeps_less_of_a_class(
    counts: Histograms,
    first: float,
    second: float,
    rule: Literal["cbst", "dars"],
    real: NDArray[np.int64],
) -> None:
    small, large = sorted([first, second])
    try:
        less = select(counts, rule=rule, share=small, real_pixels=real)
    except InputError:  # none of the classes that the real labels have
        return
    more = select(counts, rule=rule, share=large, real_pixels=real)
    assert (np.array(less.keep_from) >= more.keep_from).all()
    assert (less.kept_pixels <= more.kept_pixels).all()


@given(histograms, bin_starts)
def test_a_starved_class_keeps_more_under_cbst_than_under_a_global_threshold_that_keeps_as_much(
    counts: Histograms, start: int
) -> None:
    kept = counts[:, :, at(start) :].sum(axis=(0, 2))
    total = counts.sum(axis=(0, 2))
    share = kept.sum() / total.sum()
    if share == 0:
        return
    selection = select(counts, rule="cbst", share=share)
    assert selection.kept_pixels.sum() >= kept.sum()
    starving = (total > 0) & (kept < share * total * (1 - 1e-9))
    assert (selection.kept_pixels[starving] > kept[starving]).all()


def test_a_class_of_which_the_teacher_is_never_sure_survives_under_cbst() -> None:
    street = image({250: 900, 200: 100}, {230: 50, 150: 50}, {120: 8, 60: 2})[np.newaxis]
    strict = select(street, threshold=0.9)
    assert strict.kept_pixels.tolist() == [900, 50, 0]
    fair = select(street, rule="cbst", share=0.8)
    assert fair.kept_pixels.tolist() == [900, 100, 8]
    assert fair.keep_from == (250, 148, 120)


def brute_force_targets(
    available: NDArray[np.float64], real: NDArray[np.int64], total: float
) -> NDArray[np.float64]:
    """Return dars' targets by halving the interval in which alpha lies."""
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        reached = np.minimum(available, middle * real).sum() >= total
        low, high = (low, middle) if reached else (middle, high)
    return np.asarray(np.minimum(available, high * real))


@settings(deadline=None)
@given(histograms, shares, real_counts)
def test_dars_keeps_the_real_frequencies_and_less_than_a_bin_more(
    counts: Histograms, share: float, real: NDArray[np.int64]
) -> None:
    available = counts.sum(axis=(0, 2)).astype(float)
    if not available[real > 0].any():
        return
    targets = brute_force_targets(available, real, share * available.sum())
    selection = select(counts, rule="dars", share=share, real_pixels=real)
    for class_id, level in enumerate(selection.keep_from):
        kept, target = int(selection.kept_pixels[class_id]), float(targets[class_id])
        assert kept == kept_from(counts, level, class_id)
        assert kept >= target - 1e-6 * available.sum()
        if level and target < available[class_id] - 1e-6:
            assert kept_from(counts, next_start(level), class_id) < target + 1e-6


def test_dars_follows_the_real_labels_and_a_class_without_enough_gives_all() -> None:
    levels = range(224, 256)
    fine = [dict.fromkeys(levels, 100), dict.fromkeys(levels, 100), {240: 6, 200: 4}]
    real = np.array([300, 100, 100])
    selection = select(np.array([image(*fine)]), rule="dars", share=2010 / 6410, real_pixels=real)
    # train has 10 pixels only; the other 2000 are dealt 3:1.
    assert selection.kept_pixels.tolist() == [1500, 500, 10]
    assert selection.keep_from == (241, 251, 0)


def test_dars_counts_as_there_what_reaches_the_threshold() -> None:
    counts = image(dict.fromkeys(range(236, 256), 100), {250: 100, 100: 1000}, {})[np.newaxis]
    real = np.array([1, 1, 0])
    selection = select(counts, rule="dars", threshold=0.5, share=0.25, real_pixels=real)
    # 775 of 3100 pixels are asked for, and car has 100 that are sure enough.
    assert selection.kept_pixels.tolist() == [700, 100, 0]
    assert selection.keep_from == (249, 128, 128)


def test_dars_takes_nothing_of_a_class_that_the_real_labels_lack() -> None:
    counts = image({255: 10}, {255: 10}, {255: 10})[np.newaxis]
    selection = select(counts, rule="dars", share=0.5, real_pixels=np.array([5, 5, 0]))
    assert selection.keep_from == (255, 255, NEVER)
    assert selection.kept_pixels.tolist() == [10, 10, 0]


@given(histograms, rules, shares, bin_starts, real_counts)
def test_no_rule_keeps_a_pixel_below_the_threshold(
    counts: Histograms,
    rule: Literal["global", "cbst", "dars"],
    share: float,
    start: int,
    real: NDArray[np.int64],
) -> None:
    try:
        selection = select(counts, rule=rule, share=share, threshold=start / 255, real_pixels=real)
    except InputError:
        return
    assert min(selection.keep_from) >= lowest_level(start / 255)


@given(
    histograms,
    rules,
    shares,
    st.sampled_from(["all", "confidence", "agreement"]),
    shares,
    st.integers(0, 60),
    real_counts,
    st.integers(0, 1000),
)
def test_the_order_of_the_images_does_not_matter(
    counts: Histograms,
    rule: Literal["global", "cbst", "dars"],
    share: float,
    images: Literal["all", "confidence", "agreement"],
    images_share: float,
    min_pixels: int,
    real: NDArray[np.int64],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    order, scores = rng.permutation(len(counts)), rng.permutation(len(counts)) / 10
    middles = np.array(BIN_STARTS) + (np.diff([*BIN_STARTS, NEVER]) - 1) / 2
    sure = counts.sum(axis=1) @ middles / counts.sum(axis=(1, 2)).clip(min=1)
    if images == "confidence" and len(np.unique(sure)) < len(counts):
        return  # of images that score alike the first is taken

    def kept(rows: NDArray[np.intp]) -> tuple[list[int], tuple[int, ...], list[int]] | None:
        try:
            selection = select(
                counts[rows],
                rule=rule,
                share=share,
                images=images,
                images_share=images_share,
                min_pixels=min_pixels,
                agreement=scores[rows],
                real_pixels=real,
            )
        except InputError:
            return None
        return (
            sorted(rows[selection.rows].tolist()),
            selection.keep_from,
            selection.kept_pixels.tolist(),
        )

    assert kept(np.arange(len(counts))) == kept(order)


def sure_and_unsure() -> Histograms:
    """Four images; their mean confidences are 250, 240, 230 and, again, 240."""
    return np.array([image({level: 10}, {}, {}) for level in (250, 240, 230, 240)])


@pytest.mark.parametrize(
    ("share", "rows"),
    [(0.01, [0]), (0.25, [0]), (0.5, [0, 1]), (0.75, [0, 1, 3]), (1, [0, 1, 2, 3])],
)
def test_the_images_with_the_highest_mean_confidence_are_taken_in_their_order(
    share: float, rows: list[int]
) -> None:
    selection = select(sure_and_unsure(), images="confidence", images_share=share)
    assert selection.rows.tolist() == rows
    assert selection.kept_pixels.tolist() == [10 * len(rows), 0, 0]
    assert selection.predicted_pixels.tolist() == [40, 0, 0]
    assert selection.kept_images.tolist() == [len(rows), 0, 0]


def test_an_image_without_any_labelled_pixel_is_taken_last() -> None:
    counts = np.array([image({}, {}, {}), image({3: 10}, {}, {})])
    selection = select(counts, images="confidence", images_share=0.5)
    assert selection.rows.tolist() == [1]


def test_the_images_on_which_the_answers_agree_best_are_taken() -> None:
    agreement = np.array([0.2, 0.9, 0.8, 0.1])
    selection = select(sure_and_unsure(), images="agreement", images_share=0.5, agreement=agreement)
    assert selection.rows.tolist() == [1, 2]


def test_levels_come_from_the_images_that_are_taken() -> None:
    counts = np.array([image({250: 10, 230: 10}, {}, {}), image({100: 1000}, {}, {})])
    selection = select(counts, rule="cbst", share=0.5, images="confidence", images_share=0.5)
    assert selection.keep_from[0] == 250
    real = np.array([1, 0, 0])
    aligned = select(
        counts, rule="dars", share=0.5, images="confidence", images_share=0.5, real_pixels=real
    )
    assert aligned.keep_from[0] == 250


def test_the_mean_confidence_is_taken_at_the_middles_of_the_bins() -> None:
    # By the bins' first levels both are 220; 216..219 and 220..223 are bins, 224 is one alone.
    counts = np.array([image({224: 5, 216: 5}, {}, {}), image({220: 10}, {}, {})])
    assert select(counts, images="confidence", images_share=0.5).rows.tolist() == [1]


def test_images_with_too_few_pixels_leave_and_the_levels_stay() -> None:
    counts = np.array([image({250: 10, 200: 90}, {}, {}), image({250: 90, 200: 10}, {}, {})])
    selection = select(counts, rule="cbst", share=0.5, min_pixels=11)
    assert selection.keep_from == (250, 0, 0)
    assert selection.rows.tolist() == [1]
    assert selection.kept_pixels.tolist() == [90, 0, 0]


def test_agreement_that_was_not_measured_is_refused_with_the_knob_that_measures_it() -> None:
    agreement = np.array([0.5, math.nan, math.nan, 0.1])
    with pytest.raises(InputError, match=r"2 of the 4 images .*pseudo_label\.agreement = flip or"):
        select(sure_and_unsure(), images="agreement", images_share=0.5, agreement=agreement)


def test_a_selection_of_nothing_is_refused_with_its_numbers_and_its_knobs() -> None:
    expected = (
        r"Nothing is left of the pseudo labels' 40 pixels: 4 of 4 images .* of them 0 pixels .*"
        r"global with threshold = 0\.99 and share = 1, and no image min_pixels = 0: lower threshold"
    )
    with pytest.raises(InputError, match=expected):
        select(sure_and_unsure(), threshold=0.99)
    with pytest.raises(InputError, match=r"of them 40 pixels .* no image min_pixels = 11"):
        select(sure_and_unsure(), min_pixels=11)
    with pytest.raises(InputError, match=r"0 pixels: 0 of 0 images"):
        select(np.zeros((0, 3, BINS), dtype=np.uint32))


def test_dars_without_a_real_pixel_is_refused() -> None:
    with pytest.raises(InputError, match=r"real labels.* no labelled pixel: label some, or"):
        select(sure_and_unsure(), rule="dars", share=0.5, real_pixels=np.zeros(3, dtype=np.int64))


CLASSES = ClassTable(NAMES, ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def labelled_pool(folder: Path, count: int = 6) -> tuple[list[Sample], Histograms]:
    """Write pseudo labels of 16x24 pixels and return their histograms; a later image is surer."""
    rng = np.random.default_rng(0)
    samples, counts = [], np.zeros((count, 3, BINS), dtype=np.uint32)
    for i in range(count):
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (16, 24), p=[0.6, 0.2, 0.1, 0.1])
        confidence = rng.integers(20 * i, 140 + 20 * i, (16, 24), dtype=np.uint8)
        for kind, picture in [("label", label), ("confidence", confidence)]:
            cv2.imwrite(str(folder / f"{i}-{kind}.png"), picture)
        for class_id in range(3):
            bins = np.searchsorted(BIN_STARTS, confidence[label == class_id], side="right") - 1
            counts[i, class_id] = np.bincount(bins, minlength=BINS)
        blobs = Blob(folder / f"{i}-label.png"), Blob(folder / f"{i}-confidence.png")
        samples.append(Sample(f"image-{i}", folder / f"{i}.png", *blobs, is_pseudo=True))
    return samples, counts


@pytest.mark.parametrize("rule", ["cbst", "dars"])
def test_the_reader_keeps_as_many_pixels_as_the_histograms_promise(
    tmp_path: Path, rule: Literal["cbst", "dars"]
) -> None:
    samples, counts = labelled_pool(tmp_path)
    real = np.array([50, 30, 20])
    selection = select(counts, rule=rule, share=0.4, images_share=0.5, images="confidence",
                       real_pixels=real)  # fmt: skip
    assert len(set(selection.keep_from)) > 1
    reader = Reader(CLASSES, keep_from=selection.keep_from)
    labels = [reader.label(samples[row]) for row in selection.rows]
    read = [int(sum((label == class_id).sum() for label in labels)) for class_id in range(3)]
    assert read == selection.kept_pixels.tolist()


def test_a_crop_is_never_placed_on_a_pixel_that_the_selection_takes_away(tmp_path: Path) -> None:
    samples, counts = labelled_pool(tmp_path)
    selection = select(counts, rule="cbst", share=0.5)
    reader = Reader(CLASSES, keep_from=selection.keep_from)
    pool = Pool(range(len(samples)), find_centroids(samples, reader, tile=8))
    crops = plan_epoch(
        Pool(()),
        pool,
        real_crops=0,
        pseudo_crops=200,
        centroid_fraction=1.0,
        crop_size=8,
        seed=0,
        epoch=0,
    )
    for crop in crops:
        assert crop.point is not None
        assert reader.label(samples[crop.image])[crop.point] == crop.class_id


def test_the_report_shows_each_class_before_and_after() -> None:
    counts = np.array([image({250: 60, 100: 20}, {250: 20}, {}), image({100: 80}, {250: 20}, {})])
    selection = select(counts, rule="dars", share=0.4, real_pixels=np.array([3, 1, 0]))
    centroids = {0: np.zeros((5, 3), dtype=np.int32)}
    table = report(selection, NAMES, np.array([3, 1, 0]), centroids)
    expected = {
        "class": list(NAMES),
        "real %": [75, 25, 0],
        "predicted %": [80, 20, 0],
        "kept %": [60, 40, 0],
        "kept share %": [37.5, 100, 0],
        "threshold": [250 / 255, 250 / 255, 0],
        "images": [1, 2, 0],
        "centroids": [5, 0, 0],
    }
    assert table.columns.tolist() == list(expected)
    for column, values in expected.items():
        assert table[column].tolist() == pytest.approx(values), column
    assert "centroids" not in report(selection, NAMES, np.array([3, 1, 0]))


def test_a_class_of_which_nothing_counts_has_no_threshold_in_the_report() -> None:
    counts = image({255: 10}, {255: 10}, {})[np.newaxis]
    real = np.array([1, 0, 0])
    table = report(select(counts, rule="dars", share=0.5, real_pixels=real), NAMES, real)
    assert table["threshold"].isna().tolist() == [False, True, False]


def test_classes_that_the_pseudo_labels_hardly_show_are_named_with_their_frequencies() -> None:
    real = np.array([90_000, 9_900, 100])
    assert starved(NAMES, real, np.array([900_000, 90_000, 110])) == []
    assert starved(NAMES, real, np.array([999_900, 9_000, 90])) == [
        "train (0.0089 % instead of 0.1 %)",
        "car (0.89 % instead of 9.9 %)",
    ]
    assert starved(NAMES, real, np.zeros(3, dtype=np.int64))[0].startswith("road (0 %")


def test_a_class_that_the_real_labels_lack_is_not_called_starved() -> None:
    assert starved(NAMES, np.array([9, 1, 0]), np.array([9, 1, 0])) == []
