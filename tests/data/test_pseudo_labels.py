import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from selftrain.data.centroids import find_centroids
from selftrain.data.digests import digest_file
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import ClassTable, Sample
from selftrain.data.shards import CONFIDENCE_BINS, Labelled, finish, finished_shards, write_shard
from selftrain.errors import InputError

CLASSES = ClassTable(("road", "car", "bus"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
CARD = {"teacher": "train-0123", "classes": list(CLASSES.names)}
TILE = 16
IMAGES = 5


@pytest.fixture
def items(tmp_path: Path) -> list[Labelled]:
    """Images of differing sizes with blocky labels; class 2 is in two of them, 255 in all."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(IMAGES):
        shape = (20 + i, 31)
        blocks = rng.integers(0, 3 if i % 2 else 2, (5, 4), dtype=np.uint8)
        label = cv2.resize(blocks, shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        label[:2] = 255
        confidence = rng.integers(0, 256, shape, dtype=np.uint8)
        image = tmp_path / f"image{i}.png"
        cv2.imwrite(str(image), rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        made.append((Sample(f"drive/{i}", image), label, confidence))
    return made


def write(folder: Path, items: list[Labelled]) -> Path:
    write_shard(folder, 0, items[:3], num_classes=3, tile=TILE)
    write_shard(folder, 1, items[3:], num_classes=3, tile=TILE)
    finish(folder, num_shards=2, card=CARD)
    return folder


@pytest.fixture
def folder(tmp_path: Path, items: list[Labelled]) -> Path:
    return write(tmp_path / "set", items)


def images(items: list[Labelled]) -> list[Sample]:
    return [sample for sample, _, _ in items]


def kept_pixels(samples: list[Sample], threshold: float) -> NDArray[np.int64]:
    labels = [Reader(CLASSES, threshold=threshold).label(sample).ravel() for sample in samples]
    return np.bincount(np.concatenate(labels), minlength=256)[:3].astype(np.int64)


def edit_manifest(folder: Path, **columns: str | int | None) -> None:
    manifest = pd.read_parquet(folder / "manifest.parquet", dtype_backend="pyarrow")
    manifest.assign(**columns).to_parquet(folder / "manifest.parquet")


def test_labels_and_confidence_come_back_as_they_were(folder: Path, items: list[Labelled]) -> None:
    order = [items[i] for i in (4, 0, 2)]
    samples = PseudoLabelSet.open(folder).samples(images(order))
    for sample, (original, label, confidence) in zip(samples, order, strict=True):
        assert sample.is_pseudo
        assert (sample.name, sample.image) == (original.name, original.image)
        np.testing.assert_array_equal(Reader(CLASSES).label(sample), label)
        assert sample.confidence is not None
        png = np.frombuffer(sample.confidence.read(), dtype=np.uint8)
        np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), confidence)


def test_the_same_labels_make_the_same_bytes(
    folder: Path, items: list[Labelled], tmp_path: Path
) -> None:
    again = write(tmp_path / "again", items)
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in again.iterdir())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_standard_tools_read_shards_and_manifest(folder: Path, items: list[Labelled]) -> None:
    manifest = pd.read_parquet(folder / "manifest.parquet").set_index("name")
    for sample, label, _ in items:
        row = manifest.loc[sample.name]
        assert row["image_digest"] == digest_file(sample.image)
        assert (row["height"], row["width"]) == label.shape
        with zipfile.ZipFile(folder / row["shard"]) as archive:
            assert archive.testzip() is None
            png = archive.read(f"{sample.name}.label.png")
        np.testing.assert_array_equal(
            cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), label
        )


def test_the_card_says_who_made_the_set_and_what_is_in_it(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert card["teacher"] == "train-0123"
    assert card["images"] == len(PseudoLabelSet.open(folder)) == IMAGES
    sizes = {name: shard["bytes"] for name, shard in card["shards"].items()}
    assert sizes == {path.name: path.stat().st_size for path in sorted(folder.glob("*.zip"))}


def test_class_pixels_are_those_of_the_labels(folder: Path, items: list[Labelled]) -> None:
    everything = np.concatenate([label.ravel() for _, label, _ in items])
    expected = np.bincount(everything, minlength=256)[:3]
    found = PseudoLabelSet.open(folder)
    np.testing.assert_array_equal(found.class_pixels(), expected)
    np.testing.assert_array_equal(found.confidence_histogram().sum(axis=1), expected)


def test_centroids_are_those_found_in_the_labels(folder: Path, items: list[Labelled]) -> None:
    found = PseudoLabelSet.open(folder)
    samples = found.samples(images(items)[::-1])
    expected = find_centroids(samples, Reader(CLASSES), tile=TILE)
    actual = found.centroids(samples)
    assert actual.keys() == expected.keys()
    for class_id, rows in expected.items():
        np.testing.assert_array_equal(actual[class_id], rows)


def test_kept_share_is_what_the_reader_keeps_at_every_bin_edge(
    folder: Path, items: list[Labelled]
) -> None:
    found = PseudoLabelSet.open(folder)
    samples = found.samples(images(items))
    for edge in range(0, 256, 256 // CONFIDENCE_BINS):
        kept = found.kept_share(edge / 255) * found.class_pixels()
        np.testing.assert_allclose(kept, kept_pixels(samples, edge / 255))


def test_kept_share_between_edges_lies_between_them(folder: Path) -> None:
    found = PseudoLabelSet.open(folder)
    low, middle, high = (found.kept_share(level / 255) for level in (64, 68, 72))
    assert (high <= middle).all()
    assert (middle <= low).all()
    assert found.kept_share(0.0).tolist() == [1, 1, 1]


def test_a_class_that_was_never_predicted_keeps_nothing(
    tmp_path: Path, items: list[Labelled]
) -> None:
    write_shard(tmp_path / "set", 0, items[:1], num_classes=3, tile=TILE)
    finish(tmp_path / "set", num_shards=1, card=CARD)
    found = PseudoLabelSet.open(tmp_path / "set")
    assert found.class_pixels()[2] == 0
    assert found.kept_share(0.0).tolist() == [1, 1, 0]
    assert 2 not in found.centroids(images(items[:1]))


def test_a_set_without_images_is_a_set(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [], num_classes=3, tile=TILE)
    finish(tmp_path, num_shards=1, card=CARD)
    found = PseudoLabelSet.open(tmp_path)
    assert len(found) == 0
    assert found.samples([]) == []
    assert found.centroids([]) == {}


def test_image_digests_recognise_a_copy_under_another_name(
    folder: Path, items: list[Labelled], tmp_path: Path
) -> None:
    copy = tmp_path / "other.png"
    copy.write_bytes(items[1][0].image.read_bytes())
    assert digest_file(copy) in PseudoLabelSet.open(folder).image_digests()


def test_an_interrupted_shard_leaves_nothing_that_counts(
    tmp_path: Path, items: list[Labelled]
) -> None:
    def interrupted() -> Iterator[Labelled]:
        yield items[0]
        raise KeyboardInterrupt

    write_shard(tmp_path / "set", 1, items[3:], num_classes=3, tile=TILE)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "set", 0, interrupted(), num_classes=3, tile=TILE)
    assert finished_shards(tmp_path / "set") == {1}
    assert not list((tmp_path / "set").glob("shard-00000*"))
    with pytest.raises(InputError, match=r"lacks the shards \[0\] of 2"):
        finish(tmp_path / "set", num_shards=2, card=CARD)


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path, folder: Path) -> None:
    (folder / "shard-00000.parquet").unlink()  # killed between the shard and its rows
    assert finished_shards(folder) == {1}


@pytest.mark.parametrize("file", ["shard-00001.zip", "shard-00001.parquet"])
@pytest.mark.parametrize("damage", ["cut off", "altered"])
def test_a_damaged_shard_is_to_be_written_again(folder: Path, file: str, damage: str) -> None:
    data = bytearray((folder / file).read_bytes())
    if damage == "cut off":
        data = data[:-40]
    elif file.endswith(".zip"):
        data[60] ^= 1
    else:
        data[-6] ^= 1
    (folder / file).write_bytes(data)
    assert finished_shards(folder) == {0}


def test_a_folder_that_is_not_there_has_no_finished_shards(tmp_path: Path) -> None:
    assert finished_shards(tmp_path / "nowhere") == set()


def test_writing_a_shard_again_unfinishes_the_set(folder: Path, items: list[Labelled]) -> None:
    write_shard(folder, 1, items[3:], num_classes=3, tile=TILE)
    with pytest.raises(InputError, match=r"card\.json cannot be read: there is no finished set"):
        PseudoLabelSet.open(folder)


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b", "a\\b", ""])
def test_a_name_that_leads_out_of_the_set_is_refused(
    tmp_path: Path, items: list[Labelled], name: str
) -> None:
    sample, label, confidence = items[0]
    bad = (Sample(name, sample.image), label, confidence)
    with pytest.raises(InputError, match="cannot name a shard's member"):
        write_shard(tmp_path / "set", 0, [bad], num_classes=3, tile=TILE)


def test_one_name_for_two_images_is_refused(tmp_path: Path, items: list[Labelled]) -> None:
    with pytest.raises(InputError, match="Two images are named drive/0"):
        write_shard(tmp_path, 0, [items[0], items[0]], num_classes=3, tile=TILE)
    write_shard(tmp_path, 0, items[:2], num_classes=3, tile=TILE)
    write_shard(tmp_path, 1, items[:1], num_classes=3, tile=TILE)
    with pytest.raises(InputError, match="2 labels for drive/0"):
        finish(tmp_path, num_shards=2, card=CARD)


def test_maps_that_are_no_label_are_refused(tmp_path: Path, items: list[Labelled]) -> None:
    sample, label, confidence = items[0]
    for bad, message in [
        ((sample, label[1:], confidence), r"not one \(H, W\)"),
        ((sample, label, confidence.astype(np.float32)), "must be uint8"),
        ((sample, np.full_like(label, 3), confidence), "none of 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            # The wrong type is the point.
            write_shard(tmp_path, 0, [bad], num_classes=3, tile=TILE)  # type: ignore[list-item]


def test_an_image_without_a_label_is_named(folder: Path, items: list[Labelled]) -> None:
    pool = [*images(items), Sample("new", Path("new.png"))]
    with pytest.raises(InputError, match=r"no pseudo label for new \(1 of the 6"):
        PseudoLabelSet.open(folder).samples(pool)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_torn_shard_is_named(folder: Path, keep: int) -> None:
    shard = folder / "shard-00001.zip"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"shard-00001\.zip is cut off or altered"):
        PseudoLabelSet.open(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "shard-00000.zip").unlink()
    with pytest.raises(InputError, match=r"shard-00000\.zip is missing"):
        PseudoLabelSet.open(folder)


def test_a_missing_column_is_named(folder: Path) -> None:
    manifest = pd.read_parquet(folder / "manifest.parquet", dtype_backend="pyarrow")
    manifest.drop(columns="centroids").to_parquet(folder / "manifest.parquet")
    with pytest.raises(InputError, match="no column centroids"):
        PseudoLabelSet.open(folder)


def test_a_column_of_another_type_is_named(folder: Path) -> None:
    edit_manifest(folder, label_offset="x")
    with pytest.raises(InputError, match=r"column of another type: .*'x'"):
        PseudoLabelSet.open(folder)


def test_a_column_with_gaps_is_named(folder: Path) -> None:
    edit_manifest(folder, label_offset=None)
    with pytest.raises(InputError, match="gaps in the column label_offset"):
        PseudoLabelSet.open(folder)


def test_a_manifest_may_be_rewritten_by_other_tools(folder: Path, items: list[Labelled]) -> None:
    before = PseudoLabelSet.open(folder)
    edit_manifest(folder)
    after = PseudoLabelSet.open(folder)
    assert after.samples(images(items)) == before.samples(images(items))
    np.testing.assert_array_equal(after.confidence_histogram(), before.confidence_histogram())


@pytest.mark.parametrize("columns", [{"shard": "../shard-00000.zip"}, {"label_offset": -1}])
def test_a_place_outside_the_shards_is_refused(folder: Path, columns: dict[str, str | int]) -> None:
    edit_manifest(folder, **columns)
    with pytest.raises(InputError, match="no place in a shard of this folder"):
        PseudoLabelSet.open(folder)


def test_a_range_past_the_end_is_refused(folder: Path) -> None:
    edit_manifest(folder, confidence_offset=10**6)
    with pytest.raises(InputError, match=r"shard-0000.\.zip is cut off or altered"):
        PseudoLabelSet.open(folder)


def test_a_manifest_that_is_no_parquet_is_named(folder: Path) -> None:
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"manifest\.parquet cannot be read as Parquet"):
        PseudoLabelSet.open(folder)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("{", "is not JSON"),
        ('{"format_version": 99}', "not of format version 1"),
        ('{"format_version": 1}', "lists no classes"),
        ('{"format_version": 1, "classes": ["a"], "shards": {}}', "not 1 values of class_pixels"),
    ],
)
def test_a_card_that_is_none_is_named(folder: Path, card: str, message: str) -> None:
    (folder / "card.json").write_text(card)
    with pytest.raises(InputError, match=message):
        PseudoLabelSet.open(folder)


def test_a_shard_can_be_read_by_its_bytes_alone(folder: Path, items: list[Labelled]) -> None:
    sample = PseudoLabelSet.open(folder).samples(images(items)[:1])[0]
    assert sample.label is not None
    shard = io.BytesIO(sample.label.path.read_bytes())
    shard.seek(sample.label.offset)
    assert shard.read(8) == b"\x89PNG\r\n\x1a\n"
