"""What every frame holds: found once, remembered, and found again when a file changes."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import truncate, write_picture

from selftrain.data.centroids import tile_centroids
from selftrain.data.digests import digest_file, digest_samples
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.data.scan import Frame, Kind, digest_frames, scan, scan_frame
from selftrain.errors import InputError

CLASSES = ClassTable(("road", "car", "bus"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
READER = Reader(CLASSES)
LABEL = np.array([[0, 0, 2, 2], [0, 255, 2, 1]], dtype=np.uint8)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Six frames, 4x2, no two alike; the last two have no label."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        image, label = tmp_path / "images" / f"{i}.png", tmp_path / "labels" / f"{i}.png"
        write_picture(image, rng.integers(0, 256, (2, 4, 3), dtype=np.uint8))
        if i < 4:
            write_picture(label, np.roll(LABEL, i, axis=1))
        made.append(Sample(f"city/{i}", image, Blob(label) if i < 4 else None))
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the image of each sample was decoded."""
    counted: Counter[str] = Counter()
    read = Reader.image

    def image(self: Reader, sample: Sample) -> np.ndarray:
        counted[sample.name] += 1
        return read(self, sample)

    monkeypatch.setattr(Reader, "image", image)
    return counted


def scanned(samples: list[Sample], cache: Path | None = None, **options: int) -> list[Frame]:
    return list(scan(samples, READER, tile=4, cache=cache, **options))


def facts(frames: list[Frame]) -> list[object]:
    return [
        [getattr(frame, name) for name in ("name", "image_digest", "label_digest", "width")]
        + [None if c is None else c.tolist() for c in (frame.class_pixels, frame.centroids)]
        for frame in frames
    ]


@pytest.mark.parametrize("workers", [0, 3])
def test_frames_come_in_the_order_of_their_samples_with_what_they_hold(
    samples: list[Sample], workers: int
) -> None:
    frames = scanned(samples, workers=workers)
    assert [frame.name for frame in frames] == [sample.name for sample in samples]
    for frame, sample in zip(frames, samples, strict=True):
        assert frame.problems == ()
        assert frame.image_digest == digest_file(sample.image)
        assert (frame.width, frame.height) == (4, 2)
        assert frame.image_bytes == sample.image.stat().st_size
        if sample.label is None:
            assert frame.class_pixels is None
            assert frame.centroids is None
            assert frame.label_digest is None
            continue
        assert frame.class_pixels is not None
        assert frame.class_pixels.tolist() == [3, 1, 3]
        found = tile_centroids(READER.label(sample), num_classes=3, tile=4)
        assert frame.centroids is not None
        assert frame.centroids.tolist() == [(found[:, 0] == c).sum() for c in range(3)]


def test_sizes_and_pixels_are_those_that_the_reader_gives(samples: list[Sample]) -> None:
    (frame,) = scan(samples[:1], Reader(CLASSES, scale=2.0), tile=4)
    assert (frame.width, frame.height) == (8, 4)
    assert frame.class_pixels is not None
    assert frame.class_pixels.tolist() == [12, 4, 12]


@given(order=st.permutations(range(6)))
def test_frames_have_the_digest_of_their_samples_in_any_order(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "digests"
    for i in order:
        if not (folder / f"{i}.png").exists():
            write_picture(folder / f"{i}.png", np.full((2, 4), i % 3, dtype=np.uint8))
    files = [Sample(f"{i}", folder / f"{i}.png", Blob(folder / f"{5 - i}.png")) for i in range(6)]
    frames = list(scan([files[i] for i in order], READER, tile=4))
    for labels in (True, False):
        assert digest_frames(frames, labels=labels) == digest_samples(files, labels=labels)


def test_nothing_is_read_twice(samples: list[Sample], tmp_path: Path, reads: Counter[str]) -> None:
    cache = tmp_path / "cache"
    first = scanned(samples, cache)
    assert reads == {sample.name: 1 for sample in samples}
    assert facts(scanned(samples, cache)) == facts(first)
    assert reads == {sample.name: 1 for sample in samples}


def test_an_interrupted_scan_goes_on_where_it_stopped(
    samples: list[Sample], tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, read = tmp_path / "cache", Reader.label

    def stop_at_the_last(self: Reader, sample: Sample) -> np.ndarray:
        if sample.name == "city/3":
            raise KeyboardInterrupt
        return read(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "label", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            scanned(samples, cache)
    reads.clear()
    frames = scanned(samples, cache)
    assert [frame.name for frame in frames] == [sample.name for sample in samples]
    assert set(reads) == {"city/3", "city/4", "city/5"}


def test_what_a_caller_has_taken_is_remembered_when_it_stops(
    samples: list[Sample], tmp_path: Path, reads: Counter[str]
) -> None:
    cache = tmp_path / "cache"
    frames = scan(samples, READER, tile=4, cache=cache)
    assert [next(frames).name for _ in range(2)] == ["city/0", "city/1"]
    frames.close()
    reads.clear()
    scanned(samples, cache)
    assert not {"city/0", "city/1"} & set(reads)


def rewrite(path: Path) -> None:
    write_picture(path, np.full((2, 4), 2, dtype=np.uint8))


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace_and_set_back(path: Path) -> None:
    """Write other bytes, but of the same size and time of modification, as a copy may."""
    before, data = path.stat(), path.read_bytes()
    other = path.with_name("2.png").read_bytes()
    assert len(data) == before.st_size
    path.write_bytes(other if len(other) == len(data) else data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(data), before.st_mtime_ns)


@pytest.mark.parametrize("change", [rewrite, touch, replace_and_set_back])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_changed_file_is_read_again_and_no_other(
    samples: list[Sample],
    tmp_path: Path,
    reads: Counter[str],
    change: Callable[[Path], None],
    kind: str,
) -> None:
    cache = tmp_path / "cache"
    scanned(samples, cache)
    reads.clear()
    change(tmp_path / kind / "1.png")
    frames = scanned(samples, cache)
    assert reads == {"city/1": 1}
    assert facts(frames) == facts(scanned(samples))


def test_another_tile_or_scale_is_another_scan(
    samples: list[Sample], tmp_path: Path, reads: Counter[str]
) -> None:
    scanned(samples, tmp_path / "cache")
    for reader, tile in ((READER, 1), (Reader(CLASSES, scale=0.5), 4)):
        reads.clear()
        list(scan(samples, reader, tile=tile, cache=tmp_path / "cache"))
        assert len(reads) == 6


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', '{"a": {}}', "[]"])
def test_a_broken_memory_is_left_out_with_a_warning(
    samples: list[Sample],
    tmp_path: Path,
    reads: Counter[str],
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    scanned(samples, tmp_path / "cache")
    (piece,) = (tmp_path / "cache").rglob("*.json")
    piece.write_text(text)
    reads.clear()
    scanned(samples, tmp_path / "cache")
    assert len(reads) == 6
    assert f"{piece} is broken" in caplog.text


def a_missing_image(sample: Sample) -> Kind:
    sample.image.unlink()
    return Kind.UNOPENED


def a_missing_label(sample: Sample) -> Kind:
    label(sample).unlink()
    return Kind.UNOPENED


def a_truncated_image(sample: Sample) -> Kind:
    truncate(sample.image)
    return Kind.DAMAGED


def a_truncated_label(sample: Sample) -> Kind:
    truncate(label(sample))
    return Kind.DAMAGED


def an_empty_label(sample: Sample) -> Kind:
    label(sample).write_bytes(b"")
    return Kind.DAMAGED


def a_text_for_an_image(sample: Sample) -> Kind:
    sample.image.write_text("no picture")
    return Kind.DAMAGED


def an_id_that_is_no_class(sample: Sample) -> Kind:
    write_picture(label(sample), np.full((2, 4), 77, dtype=np.uint8))
    return Kind.ILLEGAL


def a_label_in_colour(sample: Sample) -> Kind:
    write_picture(label(sample), np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    return Kind.ILLEGAL


def a_label_of_sixteen_bits(sample: Sample) -> Kind:
    write_picture(label(sample), np.zeros((2, 4), dtype=np.uint16))
    return Kind.ILLEGAL


def a_larger_label(sample: Sample) -> Kind:
    write_picture(label(sample), np.zeros((4, 8), dtype=np.uint8))
    return Kind.SIZE


def label(sample: Sample) -> Path:
    assert sample.label is not None
    return sample.label.path


MISTAKES: list[Callable[[Sample], Kind]] = [
    a_missing_image,
    a_missing_label,
    a_truncated_image,
    a_truncated_label,
    an_empty_label,
    a_text_for_an_image,
    an_id_that_is_no_class,
    a_label_in_colour,
    a_label_of_sixteen_bits,
    a_larger_label,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_its_kind_and_names_the_file_and_the_cure(
    samples: list[Sample], mistake: Callable[[Sample], Kind], tmp_path: Path
) -> None:
    kind = mistake(samples[1])
    frames = scanned(samples, tmp_path / "cache", workers=2)
    (problem,) = frames[1].problems
    assert problem.kind == kind
    path = samples[1].image if "image" in mistake.__name__ else label(samples[1])
    assert str(path) in problem.sentence
    assert ": " in problem.sentence
    assert [bool(frame.problems) for frame in frames] == [False, True, *[False] * 4]


def test_image_and_label_may_both_be_wrong(samples: list[Sample]) -> None:
    a_truncated_image(samples[0])
    an_id_that_is_no_class(samples[0])
    kinds = [problem.kind for problem in scan_frame(samples[0], READER, tile=4).problems]
    assert kinds == [Kind.DAMAGED, Kind.ILLEGAL]


def test_a_frame_with_a_problem_is_not_remembered(
    samples: list[Sample], tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Reader, sample: Sample) -> np.ndarray:
        raise InputError("The network drive is away: wait.")

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "label", fail)
        assert scanned(samples, tmp_path / "cache")[0].problems
    reads.clear()
    assert scanned(samples, tmp_path / "cache")[0].problems == ()
    assert set(reads) == {f"city/{i}" for i in range(4)}


def test_a_label_that_is_not_named_stays_closed(samples: list[Sample], tmp_path: Path) -> None:
    for path in (tmp_path / "labels").iterdir():
        path.write_text("unreadable")
    bare = [Sample(sample.name, sample.image) for sample in samples]
    assert not any(frame.problems for frame in scanned(bare))


def test_samples_are_taken_as_they_are_needed(samples: list[Sample]) -> None:
    taken = []

    def many() -> Iterator[Sample]:
        for i in range(10_000):
            taken.append(i)
            yield samples[i % 6]

    frames = scan(many(), READER, tile=4, workers=2)
    for _ in range(3):
        next(frames)
    frames.close()
    assert len(taken) < 30


def test_a_tile_below_one_pixel_is_refused(samples: list[Sample]) -> None:
    with pytest.raises(InputError, match="tile is 0 but must be at least 1"):
        list(scan(samples, READER, tile=0))


def test_a_cache_that_cannot_be_written_is_named(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"cache.*cannot be written.*choose a folder"):
        scanned(samples, tmp_path / "cache")


def test_jpeg_webp_and_unicode_names_are_scanned(tmp_path: Path) -> None:
    picture = cv2.resize(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), (32, 16))
    paths = [tmp_path / "Zürich am See" / f"bild 1{end}" for end in (".jpg", ".webp", ".png")]
    for path in paths:
        write_picture(path, picture)
    frames = scanned([Sample(path.name, path) for path in paths], tmp_path / "cache")
    assert [(frame.width, frame.height, frame.problems) for frame in frames] == [(32, 16, ())] * 3


def test_what_was_read_is_written_down_on_the_way(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftrain.data.scan._PIECE", 2)
    frames = scan(samples, READER, tile=4, cache=tmp_path / "cache")
    for _ in range(5):  # a process that is killed now closes nothing
        next(frames)
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2
    frames.close()
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 3
