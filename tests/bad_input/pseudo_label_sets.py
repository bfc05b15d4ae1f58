"""Sets of pseudo labels: cards, manifests and shards that were altered, or made to do harm."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from miniature import truncate

from bad_input.world import Cases, Found, World
from selftrain.data.manifest import SCHEMA
from selftrain.trained_runs import TRAIN

CASES = case = Cases()
MANIFEST, CARD, SHARD = "manifest.parquet", "card.json", "shard-00000.zip"


def spoilt(file: str, spoil: Callable[[Path], object], *words: str) -> Callable[[World], Found]:
    """Return a case in which a file of a set is spoilt."""

    def make(world: World) -> Found:
        path = world.own_labels() / file
        spoil(path)
        return world.inspect(), [str(path), *words]

    return make


def card(changes: Mapping[str, object]) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rows(**changes: object) -> Callable[[Path], None]:
    """Return what gives the first row of a manifest other values."""

    def spoil(path: Path) -> None:
        first, *others = pq.read_table(path).to_pylist()
        pq.write_table(pa.Table.from_pylist([first | changes, *others], SCHEMA), path)

    return spoil


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def without_column(path: Path) -> None:
    pd.read_parquet(path).drop(columns="image_digest").to_parquet(path)


def without_rows(path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), path)


def many_rows(path: Path) -> None:
    """Write forty million values into some kilobytes: all the same."""
    column = pa.array(["x"] * 1_000_000).dictionary_encode()
    with pq.ParquetWriter(path, pa.schema([(name, column.type) for name in SCHEMA.names])) as file:
        piece = pa.table(dict.fromkeys(SCHEMA.names, column))
        for _ in range(2):
            file.write_table(piece)


def zip_bomb(path: Path) -> None:
    """Write a zip of ten megabytes in some kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("drive/0.label.png", bytes(10_000_000))


def listed_as_it_is(path: Path) -> None:
    """Give a shard's card the digest and the size that the shard has."""
    card = json.loads((path.parent / CARD).read_text())
    data = path.read_bytes()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    card["shards"][path.name] = {"bytes": len(data), "digest": digest}
    (path.parent / CARD).write_text(json.dumps(card))


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


AGAIN = "delete the folder and run the stage again"
COPY = "make or copy the set"
PLACE = "no place in a shard"
CASES |= {
    "a_set_without_a_card": spoilt(CARD, Path.unlink, "no finished set", "run the stage"),
    "a_card_that_is_no_json": spoilt(CARD, text("{classes"), "not JSON", AGAIN),
    "a_card_of_deep_brackets": spoilt(CARD, text("[" * 100_000), "not JSON", AGAIN),
    "a_card_that_is_a_list": spoilt(CARD, text("[]"), "format version 2"),
    "a_card_of_another_version": spoilt(
        CARD, card({"format_version": 3}), "format version 2", "label again"
    ),
    "a_card_without_classes": spoilt(CARD, card({"classes": None}), "lists no classes", AGAIN),
    "a_card_with_numbers_for_classes": spoilt(CARD, card({"classes": [1, 2, 3]}), "no classes"),
    "a_card_with_another_number_of_classes": lambda world: (
        spoilt(CARD, card({"classes": ["a", "b"]}))(world)[0],
        [str(world.folder / "labels" / MANIFEST), "2 classes", AGAIN],
    ),
    "a_card_whose_shards_are_texts": spoilt(CARD, card({"shards": {SHARD: "x"}}), "no shards"),
    "a_card_whose_shards_have_no_size": spoilt(CARD, card({"shards": {SHARD: {}}}), "no shards"),
    "a_missing_manifest": spoilt(MANIFEST, Path.unlink, "cannot be read as Parquet", COPY),
    "a_truncated_manifest": spoilt(MANIFEST, truncate, "cannot be read as Parquet", COPY),
    "a_manifest_of_zero_bytes": spoilt(MANIFEST, text(""), "cannot be read as Parquet", COPY),
    "a_manifest_that_is_a_text": spoilt(MANIFEST, text("name,shard"), "as Parquet", COPY),
    "a_manifest_without_a_column": spoilt(
        MANIFEST, without_column, "no column image_digest", AGAIN
    ),
    "a_manifest_without_rows": spoilt(MANIFEST, without_rows, "0 images", "card.json lists 5"),
    "a_manifest_of_very_many_rows": spoilt(
        MANIFEST, many_rows, "more than 268 MB", "no set of pseudo labels", COPY
    ),
    "a_manifest_with_a_name_twice": spoilt(MANIFEST, rows(name="drive/1"), "5 rows for 4", AGAIN),
    "a_shard_outside_the_folder": spoilt(
        MANIFEST, rows(shard="../../secret.zip"), "'../../secret.zip'", PLACE, AGAIN
    ),
    "a_shard_with_an_absolute_path": spoilt(
        MANIFEST, rows(shard="/etc/passwd"), "'/etc/passwd'", PLACE, AGAIN
    ),
    "an_offset_before_the_shard": spoilt(MANIFEST, rows(label_offset=-1), PLACE, AGAIN),
    "a_length_below_zero": spoilt(MANIFEST, rows(label_length=-5), PLACE, AGAIN),
    "an_offset_that_wraps_around": spoilt(
        MANIFEST, rows(label_offset=2**63 - 1, label_length=2), PLACE, AGAIN
    ),
    "an_offset_beyond_the_shard": lambda world: (
        spoilt(MANIFEST, rows(label_offset=10**9))(world)[0],
        [str(world.folder / "labels" / SHARD), "cut off", COPY],
    ),
    "a_missing_shard": spoilt(SHARD, Path.unlink, "missing", COPY),
    "a_truncated_shard": spoilt(SHARD, truncate, "cut off or altered", COPY),
    "a_shard_with_one_bit_changed": spoilt(SHARD, change_a_byte, "digest is another", COPY),
    "a_shard_that_is_a_zip_bomb": spoilt(SHARD, zip_bomb, "cut off or altered", COPY),
}


@case
def a_zip_bomb_that_the_card_knows(world: World) -> Found:
    # Nothing is ever unpacked: bytes of the zip are taken for a picture.
    path = world.own_labels() / SHARD
    zip_bomb(path)
    listed_as_it_is(path)
    rows(label_offset=0, label_length=4)(path.with_name(MANIFEST))
    command = [*world.inspect(), "--image=drive/0"]
    frame: Any = pq.read_table(path.with_name(MANIFEST)).to_pylist()
    rest = {"label_offset": 0, "label_length": 4, "confidence_offset": 0, "confidence_length": 4}
    changed = [row | (rest if row["shard"] == SHARD else {}) for row in frame]
    pq.write_table(pa.Table.from_pylist(changed, SCHEMA), path.with_name(MANIFEST))
    return command, [str(path), "not a readable picture"]


@case
def a_name_that_leads_out_of_the_output(world: World) -> Found:
    rows(name="../../escaped")(world.own_labels() / MANIFEST)
    return [*world.inspect(), "--image=../../escaped"], ["../../escaped", "leads out of", "label"]


@case
def an_image_that_the_set_has_not(world: World) -> Found:
    world.own_labels()
    return [*world.inspect(), "--image=drive/9"], ["drive/9", "such as drive/"]


@case
def a_card_with_a_color_too_few(world: World) -> Found:
    card({"colors": [[1, 2, 3]]})(world.own_labels() / CARD)
    return [*world.inspect(), "--image=drive/1"], ["card", "colour", AGAIN]


@case
def a_card_with_a_color_that_is_none(world: World) -> Found:
    card({"colors": [[1, 2, 3], [4, 5, 6], [7, 8, 900]]})(world.own_labels() / CARD)
    return [*world.inspect(), "--image=drive/1"], ["card", "colour", AGAIN]


@case
def a_label_with_an_id_beyond_the_classes(world: World) -> Found:
    # Every digest is right, and every number of the manifest: only the picture tells.
    labels = world.own_labels()
    frame = pq.read_table(labels / MANIFEST).to_pylist()
    row = next(it for it in frame if it["name"] == "drive/1")
    path = labels / row["shard"]
    import cv2
    import numpy as np

    png = cv2.imencode(".png", np.full((row["height"], row["width"]), 77, np.uint8))[1].tobytes()
    data = path.read_bytes()
    path.write_bytes(data + png)
    listed_as_it_is(path)
    row |= {"label_offset": len(data), "label_length": len(png)}
    pq.write_table(pa.Table.from_pylist(frame, SCHEMA), labels / MANIFEST)
    return [*world.inspect(), "--image=drive/1"], [str(path), "77", "label the pool again"]


@case
def a_set_that_is_named_by_nothing(world: World) -> Found:
    return ["inspect_pseudo_labels"], ["inspect_pseudo_labels.labels", "name a run"]


@case
def a_run_of_a_training_for_a_set(world: World) -> Found:
    run_id = world.product(TRAIN, world.scenes_classes())
    return ["inspect_pseudo_labels", f"--labels={run_id}"], [run_id]
