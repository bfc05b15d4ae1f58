import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from label_sets import (
    CARD,
    FORM,
    IMAGES,
    labelled_images,
    samples_of,
    soft_maps,
    write_one,
    write_set,
)

from selftrain.data.digests import digest_file
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.shards import (
    LabelledImage,
    claim,
    finish,
    finished_shards,
    keep_image,
    kept_images,
    write_shard,
)
from selftrain.errors import InputError


@pytest.fixture
def items(tmp_path: Path) -> list[LabelledImage]:
    return labelled_images(tmp_path / "images")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    return write_set(folder / "set", labelled_images(folder / "images"))


@pytest.fixture
def folder(tmp_path: Path, written: Path) -> Path:
    """A set of `items`, the test's own; to copy one is faster than to write one."""
    return shutil.copytree(written, tmp_path / "set")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def kept_file(folder: Path, place: int) -> Path:
    return folder / "shard-00000.part" / f"{place:05d}.kept"


def test_the_same_labels_make_the_same_bytes(
    folder: Path, items: list[LabelledImage], tmp_path: Path
) -> None:
    again = write_set(tmp_path / "again", items)
    assert content(folder) == content(again)
    assert sorted(content(folder)) == [
        "card.json",
        "manifest.parquet",
        *(f"shard-0000{i}.{kind}" for i in range(2) for kind in ("parquet", "zip")),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_set_has_the_bytes_of_an_uninterrupted_one(
    folder: Path, items: list[LabelledImage], tmp_path: Path, seed: int
) -> None:
    """Images come in any order, some twice, some torn, and the last write stops half-way."""
    other, order = tmp_path / "other", list(range(IMAGES))
    chance = random.Random(seed)
    pool = samples_of(items)
    for attempt in range(3):
        for index, part in enumerate((order[:3], order[3:])):
            kept = kept_images(other, index, [pool[i] for i in part])
            places = [place for place in range(len(part)) if place not in kept]
            chance.shuffle(places)
            for place in places[: 1 if attempt < 2 else None]:
                keep_image(other, index, place, items[part[place]], FORM)
            if attempt == 1:
                chance.choice(sorted(other.rglob("*.kept"))).write_bytes(b"torn")
    (other / "shard-00000.zip").write_bytes(b"half of it")
    (other / "shard-00000.part" / "half.tmp").write_bytes(b"half of it")
    for index, count in enumerate((3, 2)):
        write_shard(other, index, count, FORM)
    finish(other, num_shards=2, card=CARD)
    assert content(other) == content(folder)


def test_a_kept_image_need_not_be_labelled_again(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    for place in (2, 0):
        size = keep_image(tmp_path, 0, place, items[place], FORM)
        assert size == kept_file(tmp_path, place).stat().st_size
    assert kept_images(tmp_path, 0, samples_of(items)) == {0, 2}
    assert kept_images(tmp_path, 1, samples_of(items)) == set()
    assert kept_images(tmp_path / "nowhere", 0, samples_of(items)) == set()


def test_a_torn_image_is_removed(tmp_path: Path, items: list[LabelledImage]) -> None:
    for place in range(3):
        keep_image(tmp_path, 0, place, items[place], FORM)
    torn, stray = kept_file(tmp_path, 1), kept_file(tmp_path, 1).with_name("half.tmp")
    torn.write_bytes(torn.read_bytes()[:-1] + b"\0")
    stray.touch()
    assert kept_images(tmp_path, 0, samples_of(items)) == {0, 2}
    assert not torn.exists()
    assert not stray.exists()


def test_an_image_in_another_place_is_labelled_again(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    for place in range(3):
        keep_image(tmp_path, 0, place, items[place], FORM)
    pool = samples_of(items)
    assert kept_images(tmp_path, 0, [pool[1], pool[0], pool[2]]) == {2}
    keep_image(tmp_path, 0, 0, items[0], FORM)
    assert kept_images(tmp_path, 0, pool[:2]) == {0}
    assert not kept_file(tmp_path, 2).exists()


def test_an_image_that_has_changed_is_labelled_again(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    for place in range(2):
        keep_image(tmp_path / "set", 0, place, items[place], FORM)
    cv2.imwrite(str(items[0].sample.image), np.zeros((20, 31, 3), dtype=np.uint8))
    assert kept_images(tmp_path / "set", 0, samples_of(items)) == {1}


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_shard_is_not_made_without_all_its_images(
    tmp_path: Path, items: list[LabelledImage], damage: str
) -> None:
    for place in range(3):
        keep_image(tmp_path, 0, place, items[place], FORM)
    if damage == "missing":
        kept_file(tmp_path, 1).unlink()
    else:
        kept_file(tmp_path, 1).write_bytes(b"torn")
    with pytest.raises(InputError, match=r"00001\.kept is missing or torn: run the stage again"):
        write_shard(tmp_path, 0, 3, FORM)
    assert finished_shards(tmp_path) == set()
    assert sorted(path.name for path in tmp_path.glob("shard*")) == ["shard-00000.part"]
    assert kept_images(tmp_path, 0, samples_of(items[:3])) == {0, 2}


def test_images_kept_in_another_form_are_refused(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    keep_image(tmp_path, 0, 0, items[0], FORM)
    with pytest.raises(ValueError, match="was kept as"):
        write_shard(tmp_path, 0, 1, replace(FORM, confidence="quarter"))


def test_standard_tools_read_shards_and_manifest(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    classes, probabilities = soft_maps(items[1].label.shape)
    items[1] = replace(items[1], soft_classes=classes, soft_probabilities=probabilities)
    folder = write_set(tmp_path / "set", items)
    manifest = pd.read_parquet(folder / "manifest.parquet").set_index("name")
    for item in items:
        row = manifest.loc[item.sample.name]
        assert row["image_digest"] == digest_file(item.sample.image)
        assert (row["height"], row["width"]) == item.label.shape
        with zipfile.ZipFile(folder / row["shard"]) as archive:
            assert archive.testzip() is None
            png = archive.read(f"{item.sample.name}.label.png")
        np.testing.assert_array_equal(
            cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), item.label
        )


def test_members_lie_in_the_order_of_the_pool(tmp_path: Path, items: list[LabelledImage]) -> None:
    classes, probabilities = soft_maps(items[1].label.shape)
    items[1] = replace(items[1], soft_classes=classes, soft_probabilities=probabilities)
    for place in (1, 0):
        keep_image(tmp_path, 0, place, items[place], FORM)
    write_shard(tmp_path, 0, 2, FORM)
    with zipfile.ZipFile(tmp_path / "shard-00000.zip") as archive:
        members = archive.infolist()
    assert [member.filename for member in members] == [
        "drive/0.label.png",
        "drive/0.confidence.png",
        "drive/1.label.png",
        "drive/1.confidence.png",
        "drive/1.soft_classes.png",
        "drive/1.soft_probabilities.png",
    ]
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}


def test_the_card_says_who_made_the_set_and_what_is_in_it(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert card["teacher"] == "train-0123"
    assert card["format_version"] == 2
    labels = PseudoLabelSet.open(folder)
    assert card["images"] == len(labels) == IMAGES
    assert card["class_pixels"] == labels.class_pixels().tolist()
    assert sum(card["class_pixels"]) > 0
    sizes = {name: shard["bytes"] for name, shard in card["shards"].items()}
    assert sizes == {path.name: path.stat().st_size for path in sorted(folder.glob("*.zip"))}


def test_a_set_of_before_the_card_had_class_pixels_opens(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    del card["class_pixels"]
    (folder / "card.json").write_text(json.dumps(card))
    assert len(PseudoLabelSet.open(folder, verify=True)) == IMAGES


def test_rows_of_other_classes_make_no_set(folder: Path) -> None:
    with pytest.raises(InputError, match=r"parquet counts .* other classes than the 2 .* delete"):
        finish(folder, num_shards=2, card={**CARD, "classes": ["road", "car"]})


def test_shards_are_written_by_themselves(tmp_path: Path, items: list[LabelledImage]) -> None:
    write_one(tmp_path, 1, items[3:])
    assert finished_shards(tmp_path) == {1}
    with pytest.raises(InputError, match=r"lacks 1 of 2 shards, the first of them \[0\]: run"):
        finish(tmp_path, num_shards=2, card=CARD)


def test_the_shards_that_are_missing_are_counted(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    write_one(tmp_path, 3, items)
    first = re.escape(str([0, 1, 2, *range(4, 11)]))
    with pytest.raises(InputError, match=rf"lacks 29 of 30 shards, the first of them {first}:"):
        finish(tmp_path, num_shards=30, card=CARD)


def test_a_killed_writer_leaves_nothing_that_counts(folder: Path) -> None:
    (folder / "shard-00000.parquet").unlink()  # killed between the shard and its rows
    assert finished_shards(folder) == {1}


def test_what_a_killed_writer_left_is_removed_in_the_end(
    folder: Path, items: list[LabelledImage]
) -> None:
    """Killed between the shard's rows and the removal of what it was made of."""
    before = content(folder)
    keep_image(folder, 1, 0, items[3], FORM)
    finish(folder, num_shards=2, card=CARD)
    assert content(folder) == before
    assert not list(folder.glob("*.part"))


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


def test_writing_a_shard_again_unfinishes_the_set(folder: Path, items: list[LabelledImage]) -> None:
    write_one(folder, 1, items[3:])
    with pytest.raises(InputError, match=r"card\.json cannot be read: there is no finished set"):
        PseudoLabelSet.open(folder)


def test_one_name_for_two_images_is_refused(tmp_path: Path, items: list[LabelledImage]) -> None:
    with pytest.raises(InputError, match=r"shard-00000\.zip are named drive/0: rename one"):
        write_one(tmp_path, 0, [items[0], items[0]])
    write_one(tmp_path, 0, items[:2])
    write_one(tmp_path, 1, items[:1])
    with pytest.raises(InputError, match="2 labels for drive/0: names must be unique"):
        finish(tmp_path, num_shards=2, card=CARD)


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, items: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(2):
        keep_image(tmp_path, 0, place, items[place], FORM)
    with monkeypatch.context() as patch:

        def fail(file: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", fail)
        message = r"shard-00000\.zip cannot be written \(No space left on device\): free some space"
        with pytest.raises(InputError, match=message):
            write_shard(tmp_path, 0, 2, FORM)
    assert not list(tmp_path.glob("*.zip"))
    assert kept_images(tmp_path, 0, samples_of(items[:2])) == {0, 1}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, items: list[LabelledImage]) -> None:
    (tmp_path / "set").touch()
    message = r"cannot be written \(.*directory\): free some space or choose another"
    with pytest.raises(InputError, match=r"00007\.kept " + message):
        keep_image(tmp_path / "set", 0, 7, items[0], FORM)
    with pytest.raises(InputError, match=r"shard-00000\.zip " + message):
        write_shard(tmp_path / "set", 0, 0, FORM)


def test_a_shard_that_another_process_writes_is_refused_until_that_one_ends(
    tmp_path: Path,
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom selftrain.data.shards import claim\n"
        "with claim(Path(sys.argv[1]), {2, 5}):\n    print('claimed', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with claim(tmp_path, {0, 1, 3}):
            pass
        with (
            pytest.raises(InputError, match=r"Another process is labelling shard 5 of .* K/N of"),
            claim(tmp_path, {4, 5}),
        ):
            pytest.fail("the shard belongs to the other process")
        other.kill()
        other.wait()
        with claim(tmp_path, {2, 5}):
            pass


def test_a_shard_whose_rows_are_damaged_is_to_be_written_again(tmp_path: Path) -> None:
    write_set(tmp_path / "set", labelled_images(tmp_path / "images"))
    assert finished_shards(tmp_path / "set") == {0, 1}
    rows = tmp_path / "set" / "shard-00001.parquet"
    data = bytearray(rows.read_bytes())
    data[len(data) // 4] ^= 0xFF
    rows.write_bytes(bytes(data))
    assert finished_shards(tmp_path / "set") == {0}
    assert finished_shards(tmp_path / "set", among={1}) == set()
