"""Frames from the raw cache: the same pixels as from the files, or no cache at all."""

import fcntl
import json
import logging
import pickle
import re
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftrain.data.augment import Augmentation, cut_window
from selftrain.data.cache import CARD, IMAGES, INDEX, LABELS, RawCache
from selftrain.data.cache_writing import build_raw_cache
from selftrain.data.cached_frames import CachedFrames
from selftrain.data.dataset import EpochBatches, SegmentationDataset, make_loader
from selftrain.data.plan import Crop
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.errors import InputError

TABLE = ClassTable(
    names=("road", "car"), colors=((0, 0, 0), (9, 9, 9)), train_ids={7: 0, 26: 1, 0: 255}
)
READER = Reader(TABLE)
SIZES = [(48, 64), (20, 31), (33, 17)]  # odd ones too: no frame starts at a round byte


def write_samples(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Sample]:
    """Write labelled frames of the given heights and widths."""
    rng = np.random.default_rng(0)
    samples = []
    for number, (height, width) in enumerate(sizes):
        image, label = folder / f"image{number}.png", folder / f"label{number}.png"
        cv2.imwrite(str(image), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        cv2.imwrite(str(label), rng.choice(np.array([0, 7, 26], np.uint8), (height, width)))
        samples.append(Sample(f"town/{number}", image, Blob(label)))
    return samples


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return write_samples(tmp_path, SIZES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "raw"


def build(samples: Sequence[Sample], folder: Path, reader: Reader = READER) -> RawCache:
    return build_raw_cache(samples, reader, folder, source_digest="source")


def opened(folder: Path, reader: Reader = READER, source_digest: str = "source") -> RawCache | None:
    return RawCache.open(folder, source_digest=source_digest, reader=reader)


def flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 255]))


def assert_same_frames(cache: RawCache, samples: Sequence[Sample], reader: Reader) -> None:
    for sample in samples:
        image, label = reader.pair(sample)
        np.testing.assert_array_equal(cache.image(sample.name), image, strict=True)
        np.testing.assert_array_equal(cache.label(sample.name), label, strict=True)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_cache_holds_what_the_reader_reads(
    samples: list[Sample], folder: Path, scale: float, workers: int
) -> None:
    reader = replace(READER, scale=scale)
    steps: list[None] = []
    built = build_raw_cache(
        samples,
        reader,
        folder,
        source_digest="source",
        workers=workers,
        advance=lambda: steps.append(None),
    )
    assert_same_frames(built, samples, reader)
    assert opened(folder, reader) == built
    assert len(steps) == len(samples)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.booleans()), max_size=25))
def test_any_mix_of_sizes_and_labels_is_kept(frames: list[tuple[int, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        samples = write_samples(Path(name), [frame[:2] for frame in frames])
        samples = [
            sample if has_label else replace(sample, label=None)
            for sample, (*_, has_label) in zip(samples, frames, strict=True)
        ]
        cache = build(samples, Path(name) / "raw")
        assert opened(cache.folder) == cache
        cache.verify()
        assert_same_frames(cache, [s for s in samples if s.label is not None], READER)
        for sample in samples:
            np.testing.assert_array_equal(cache.image(sample.name), READER.image(sample))
            assert (cache.label(sample.name) is None) == (sample.label is None)


def test_a_sample_that_is_not_in_the_cache_is_none(samples: list[Sample], folder: Path) -> None:
    cache = build(samples[:1], folder)
    assert cache.image("town/1") is None
    assert cache.label("town/1") is None


def test_an_unlabelled_sample_has_an_image_alone(samples: list[Sample], folder: Path) -> None:
    assert samples[0].label is not None
    samples[0].label.path.unlink()  # never opened
    cache = build([replace(samples[0], label=None), samples[1]], folder)
    assert cache.image("town/0") is not None
    assert cache.label("town/0") is None
    assert cache.label("town/1") is not None


def test_a_pseudo_label_is_not_kept_but_its_image_is(samples: list[Sample], folder: Path) -> None:
    cache = build([replace(samples[0], is_pseudo=True)], folder)
    assert cache.image("town/0") is not None
    assert cache.label("town/0") is None


def test_a_reader_with_the_cache_needs_no_files(samples: list[Sample], folder: Path) -> None:
    expected = [READER.pair(sample) for sample in samples]
    reader = replace(READER, cache=CachedFrames.of(build(samples, folder), samples))
    for sample, (image, label) in zip(samples, expected, strict=True):
        assert sample.label is not None
        sample.image.unlink()
        sample.label.path.unlink()
        found = reader.pair(sample)
        np.testing.assert_array_equal(found[0], image)
        np.testing.assert_array_equal(found[1], label)


def test_a_cache_is_built_from_the_files_and_not_from_another_cache(
    samples: list[Sample], folder: Path
) -> None:
    old = build(samples, folder)
    cv2.imwrite(str(samples[0].image), np.zeros((48, 64, 3), np.uint8))
    new = build(samples, folder, replace(READER, cache=CachedFrames.of(old, samples)))
    image = new.image("town/0")
    assert image is not None
    assert not image.any()


def test_frames_cannot_be_written_to(samples: list[Sample], folder: Path) -> None:
    cache = build(samples, folder)
    for frame in (cache.image("town/0"), cache.label("town/0")):
        assert frame is not None
        with pytest.raises(ValueError, match="read-only"):
            frame[0, 0] = 1


def test_a_cache_travels_to_another_process_as_a_path(samples: list[Sample], folder: Path) -> None:
    cache = build(samples, folder)
    cache.image("town/0")  # the files are mapped now
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    assert pickle.loads(sent) == cache
    assert_same_frames(pickle.loads(sent), samples, READER)


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_from_the_cache_equal_those_from_the_files(
    samples: list[Sample], folder: Path, workers: int
) -> None:
    readers = [READER, replace(READER, cache=CachedFrames.of(build(samples, folder), samples))]
    crops = [Crop(i % 3, (5, 9) if i % 2 else None, None, 24, seed=i) for i in range(8)]
    batches = EpochBatches([crops[:4], crops[4:]])
    loaders = [
        make_loader(
            SegmentationDataset(samples, reader, Augmentation()),
            batches,
            workers=workers,
            pin_memory=False,
        )
        for reader in readers
    ]
    for plain, cached in zip(*loaders, strict=True):
        assert plain[0].equal(cached[0])
        assert plain[1].equal(cached[1])


def resident_bytes(path: Path) -> int:
    """Return how much of a mapped file this process has touched."""
    smaps = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", smaps)
    return sum(1024 * int(size) for size in found)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
def test_a_crop_touches_the_pages_of_its_window_only(tmp_path: Path, folder: Path) -> None:
    height, width = 1024, 8192
    sample = Sample("wide", tmp_path / "image.png", Blob(tmp_path / "label.png"))
    cv2.imwrite(str(sample.image), np.zeros((height, width, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "label.png"), np.full((height, width), 7, np.uint8))
    cache = build([sample], folder)
    image, label = cache.image("wide"), cache.label("wide")
    assert image is not None
    assert label is not None
    before = resident_bytes(folder / IMAGES), resident_bytes(folder / LABELS)
    assert before == (0, 0)
    rng = np.random.default_rng(0)
    cut_window(image, label, point=(500, 900), size=64, scale=0.5, rng=rng)
    # The window's 128 rows of 1024; the kernel maps around it, in pieces of up to 2 MB.
    assert 128 * 128 * 3 < resident_bytes(folder / IMAGES) < image.nbytes / 2
    assert 128 * 128 < resident_bytes(folder / LABELS) < label.nbytes


def test_no_cache_is_no_fault(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert opened(folder) is None
    assert not caplog.records


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changes))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another version": lambda folder: edit_card(folder, format_version=0),
    "have changed": lambda folder: edit_card(folder, source_digest="other"),
    r"images.u8.*bytes instead of": lambda folder: truncate(folder / IMAGES),
    r"labels.u8.*bytes instead of": lambda folder: truncate(folder / LABELS),
    "index.parquet is damaged": lambda folder: flip_byte(folder / INDEX, 100),
    r"broken .*card\.json": lambda folder: (folder / CARD).unlink(),
    "broken .*Expecting": lambda folder: (folder / CARD).write_text("{"),
    "broken .*format_version": lambda folder: (folder / CARD).write_text('{"index_digest": 1}'),
    r"broken .*No such file": lambda folder: (folder / LABELS).unlink(),
    r"broken ": lambda folder: (folder / CARD).write_text("[]"),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_cache_that_does_not_match_is_left_out_with_a_warning(
    samples: list[Sample], folder: Path, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    build(samples, folder)
    DAMAGE[reason](folder)
    assert opened(folder) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert re.search(reason, message)
    assert str(folder) in message
    assert "build the cache again" in message


@pytest.mark.parametrize(
    "reader",
    [
        replace(READER, scale=0.5),
        replace(READER, short_side=16),
        replace(READER, classes=replace(TABLE, train_ids={7: 1, 26: 0, 0: 255})),
    ],
)
def test_a_cache_for_another_reading_is_left_out_with_a_warning(
    samples: list[Sample], folder: Path, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    build(samples, folder)
    assert opened(folder, reader) is None
    assert "another scale or other classes" in caplog.text


def test_the_selection_of_pseudo_labels_does_not_matter(
    samples: list[Sample], folder: Path
) -> None:
    assert opened(folder, READER) is None
    cache = build(samples, folder)
    frames = CachedFrames.of(cache, samples)
    assert opened(folder, replace(READER, keep_from=(230, 256), cache=frames)) == cache


def test_a_cache_rebuilt_while_in_use_is_noticed(samples: list[Sample], folder: Path) -> None:
    old = build(samples, folder)
    build(samples[:2], folder)
    with pytest.raises(InputError, match=r"raw was built anew while it was in use: start again"):
        old.image("town/0")


def test_a_cache_in_use_survives_being_rebuilt(samples: list[Sample], folder: Path) -> None:
    old = build(samples, folder)
    image = old.image("town/0")
    assert image is not None
    before = image.copy()
    build(samples[1:], folder)
    np.testing.assert_array_equal(image, before)


def test_a_cache_deleted_while_in_use_is_named(samples: list[Sample], folder: Path) -> None:
    cache = build(samples, folder)
    (folder / LABELS).unlink()
    with pytest.raises(InputError, match=r"raw cannot be read \(No such file.*build it again"):
        cache.image("town/0")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("file", [IMAGES, LABELS])
def test_verify_names_the_first_frame_whose_pixels_changed(
    samples: list[Sample], folder: Path, file: str, workers: int
) -> None:
    cache = build(samples, folder)
    channels = 3 if file == IMAGES else 1
    flip_byte(folder / file, 48 * 64 * channels)  # the first byte of the second frame
    flip_byte(folder / file, (48 * 64 + 20 * 31) * channels)
    assert opened(folder) == cache  # sizes and index are right: only verify reads pixels
    with pytest.raises(InputError, match=r"pixels of town/1 are not.*2 of 3 frames\): delete"):
        cache.verify(workers=workers)


def test_an_intact_cache_passes_and_counts_its_frames(samples: list[Sample], folder: Path) -> None:
    steps: list[None] = []
    build(samples, folder).verify(advance=lambda: steps.append(None))
    assert len(steps) == len(samples)


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_file_that_cannot_be_read_leaves_the_old_cache_whole(
    samples: list[Sample], folder: Path
) -> None:
    old = build(samples, folder)
    samples[2].image.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"image2\.png is not a readable picture"):
        build(samples, folder)
    assert visible(folder.parent) == ["raw"]
    assert opened(folder) == old
    old.verify()


def test_what_a_killed_attempt_left_is_cleared_away(samples: list[Sample], folder: Path) -> None:
    left = folder.with_name(f".{'0' * 32}.tmp")
    left.mkdir(parents=True)
    (left / IMAGES).write_bytes(b"half")
    assert_same_frames(build(samples, folder), samples, READER)
    assert visible(folder.parent) == ["raw"]


def test_two_processes_do_not_build_one_cache(samples: list[Sample], folder: Path) -> None:
    folder.parent.mkdir()
    with folder.with_name(".raw.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"Another process is building .*raw: wait"):
            build(samples, folder)
    build(samples, folder)


def test_samples_of_one_name_are_refused(samples: list[Sample], folder: Path) -> None:
    with pytest.raises(InputError, match="2 samples are named town/0: a cache needs unique names"):
        build([*samples, samples[0]], folder)
    assert not folder.exists()


def test_a_folder_that_is_no_cache_is_left_alone(samples: list[Sample], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"raw is no raw cache: move it away"):
        build(samples, folder)
    assert (folder / "thesis.txt").read_text() == "precious"


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    samples: list[Sample], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    needed = sum(4 * height * width for height, width in SIZES)  # 3 bytes a pixel and a label
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    with pytest.raises(InputError, match=r"needs about \S+ MB but \S+ MB are free: free some sp"):
        build(samples, folder)
    assert visible(folder.parent) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    build(samples, folder)


def test_a_folder_that_cannot_be_written_is_named(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/raw cannot be written .*go on without a cache"):
        build(samples, tmp_path / "file" / "raw")


def test_a_label_of_another_size_is_refused(samples: list[Sample], folder: Path) -> None:
    assert samples[0].label is not None
    wrong: NDArray[np.uint8] = np.zeros((5, 5), np.uint8)
    cv2.imwrite(str(samples[0].label.path), wrong)
    with pytest.raises(InputError, match=r"label0\.png is 5x5 but its image .* is 64x48"):
        build(samples, folder)
