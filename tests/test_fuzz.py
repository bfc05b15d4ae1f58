"""Whatever bytes a file holds: its reader gives what was written, or one sentence.

Whole files of every kind are changed at random places, cut and spliced. A short, always equal
round is part of every run of the tests; `make torture` tries thousands.
"""

import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from label_sets import CLASSES, labelled_images, samples_of, write_set
from miniature import random_network
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from selftrain import checkpoint
from selftrain.command_line import leaf_types, parse
from selftrain.config import Config
from selftrain.data import centroids
from selftrain.data.cache import RawCache
from selftrain.data.cache_writing import build_raw_cache
from selftrain.data.class_file import read_classes
from selftrain.data.digests import FileDigests
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Sample
from selftrain.data.scan import scan
from selftrain.data.scratch import read_scratch, write_scratch
from selftrain.data.table import read_table
from selftrain.errors import InputError
from selftrain.models.weights import load_backbone_weights
from selftrain.sources import _load_flags

SECONDS = 20
"""Most that one reading may take, on a machine where much else goes on."""
MEMORY = 2**30
"""Most bytes that all of a test's readings may add to the process's peak."""
CPU = torch.device("cpu")
READER = Reader(CLASSES)
Change = tuple[str, float, int]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "zero", "cut", "drop", "repeat", "insert"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 2**16 - 1),
    ),
    min_size=1,
    max_size=4,
)


def change(data: bytes, changes: list[Change]) -> bytes:
    """Return the data with bits flipped, pieces cut out, repeated or put in."""
    for kind, place, number in changes:
        at = int(place * len(data))
        head, tail, some = data[:at], data[at:], 1 + number % 64
        data = {
            "flip": head + bytes([it ^ 1 << number % 8 for it in tail[:1]]) + tail[1:],
            "set": head + number.to_bytes(2, "big")[: len(tail)] + tail[2:],
            "zero": head + bytes(len(tail[:some])) + tail[some:],
            "cut": head,
            "drop": head + tail[some:],
            "repeat": head + tail[:some] + tail,
            "insert": head + np.random.default_rng(number).bytes(some) + tail,
        }[kind]
    return data


@dataclass(frozen=True)
class Target:
    """A file, and what reads it."""

    data: bytes
    read: Callable[[Path], object]
    name: str
    is_guarded: bool
    """It has a digest or a checksum: what comes back is what was written."""
    beside: Path | None = None
    """Folder of the files that belong to it."""


def png(array: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def blocks(kind: str) -> bytes:
    """Return a label map of 40x60 as a file of some kind."""
    ids = np.kron(np.arange(24, dtype=np.uint8).reshape(4, 6) % 3, np.ones((10, 10), np.uint8))
    if kind == "palette":
        picture, file = Image.fromarray(ids), io.BytesIO()
        picture.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
        picture.save(file, "PNG")
        return file.getvalue()
    array = np.stack([ids * 80, ids * 20, ids], axis=-1) if kind in (".jpg", ".webp") else ids
    return cv2.imencode(kind, array)[1].tobytes()


def read_label(path: Path) -> object:
    return READER.label(Sample("a", path, Blob(path))).tolist()


def read_image(path: Path) -> object:
    return READER.image(Sample("a", path)).tolist()


def read_set(path: Path) -> object:
    labels = PseudoLabelSet.open(path.parent, verify=True)
    found = labels.samples([Sample(f"drive/{i}", path) for i in range(5)])
    reader = Reader(CLASSES, keep_from=(100, 100, 100))
    return [(reader.label(it).tolist(), reader.confidence(it).tolist()) for it in found]


def read_remembered_scan(path: Path) -> object:
    folder = path.parent / f"scan-{path.parent.name}"
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder)
    return list(scan([], READER, tile=8, cache=path.parent)) and None


def read_cache(path: Path) -> object:
    opened = RawCache.open(path.parent, source_digest="abc", reader=READER)
    if opened is None:
        return None
    opened.verify()
    images = [opened.image(name) for name in opened.names()]
    return [None if it is None else it.tolist() for it in images]


def read_checkpoint(path: Path) -> object:
    found = checkpoint.load_checkpoint(path.parent, CPU)
    return None if found is None else {name: str(value) for name, value in found.items()}


def read_backbone(path: Path) -> object:
    layer = torch.nn.Conv2d(3, 2, 1)
    load_backbone_weights(layer, "resnet50", str(path))
    return None


def read_digests(path: Path) -> object:
    return FileDigests(path).digest(Path(__file__))


def make_targets(folder: Path) -> Iterator[Target]:
    """Write a small file of each kind and yield it with its reader."""
    for kind in (".png", "palette", ".tif", ".bmp", ".webp"):
        guarded = kind in (".png", "palette")
        yield Target(blocks(kind), read_label, f"label-{kind.strip('.')}.png", guarded)
    for kind in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        yield Target(blocks(kind), read_image, f"image{kind}", kind == ".png")
    whole = write_set(folder / "set", labelled_images(folder / "images"))
    for name in ("manifest.parquet", "card.json", "shard-00000.zip"):
        yield Target((whole / name).read_bytes(), read_set, name, True, whole)
    samples = samples_of(labelled_images(folder / "images"))
    cache = build_raw_cache(samples, READER, folder / "raw", source_digest="abc")
    for name in ("images.u8", "index.parquet", "card.json"):
        read = read_cache
        yield Target((cache.folder / name).read_bytes(), read, name, True, cache.folder)
    list(scan(samples, READER, tile=8, cache=folder / "scanned"))
    (found,) = (folder / "scanned").rglob("*.json")
    yield Target(found.read_bytes(), read_remembered_scan, "found.json", False)
    centroids._save(folder / "a.npz", {1: np.arange(30, dtype=np.int32).reshape(10, 3)})
    points = lambda path: (it := centroids._load(path)) and {c: x.tolist() for c, x in it.items()}  # noqa: E731
    yield Target((folder / "a.npz").read_bytes(), points, "centroids.npz", False)
    np.save(folder / "a.npy", np.eye(5, dtype=bool))
    yield Target((folder / "a.npy").read_bytes(), _load_flags, "classes.npy", False)
    FileDigests(folder / "a.sqlite").digest(Path(__file__))
    FileDigests(folder / "a.sqlite")._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield Target((folder / "a.sqlite").read_bytes(), read_digests, "digests.sqlite", False)
    write_scratch(folder / "a.kept", {"row": {"name": "a"}}, [b"one", b"two"])
    yield Target((folder / "a.kept").read_bytes(), read_scratch, "a.kept", True)
    checkpoint.save_checkpoint(folder, {"network": {"a": torch.arange(50.0)}, "next_epoch": 3})
    data = (folder / checkpoint.CHECKPOINT).read_bytes()
    yield Target(data, read_checkpoint, checkpoint.CHECKPOINT, True)
    layer = torch.nn.Conv2d(3, 2, 1).state_dict()
    torch.save(layer, folder / "a.pth")
    save_file(layer, folder / "a.safetensors")
    for suffix in (".pth", ".safetensors"):
        yield Target((folder / f"a{suffix}").read_bytes(), read_backbone, f"a{suffix}", False)
    network = random_network(folder / "network", CLASSES)
    card = lambda path: checkpoint.load_card(path.parent) and None  # noqa: E731
    yield Target((network / "model.json").read_bytes(), card, "model.json", False)
    classes = {"classes": [{"name": "a", "id": 1}, {"name": "b", "id": 2}], "ignore": [255]}
    text = json.dumps(classes).encode()
    yield Target(text, lambda path: read_classes(path) and None, "classes.json", False)
    rows = b'image,label,split\n"a.png",,train\nb/c.png,b/c.png,val\n'
    table = lambda path: read_table(path, with_labels=True) and None  # noqa: E731
    yield Target(rows, table, "data.csv", False)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """Every kind of file, by the function that reads it and its name."""
    made = make_targets(tmp_path_factory.mktemp("targets"))
    return {f"{it.read.__name__} {it.name}": it for it in made}


def peak_memory() -> int:
    (line,) = (
        it for it in Path("/proc/self/status").read_text().splitlines() if it.startswith("VmHWM")
    )
    return 1024 * int(line.split()[1])


def attempt(target: Target, data: bytes, folder: Path) -> None:
    """Read a changed file; assert that it is refused in a sentence, or read in time."""
    if target.beside is not None:
        shutil.copytree(target.beside, folder, dirs_exist_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # sidecars of a database among them
        folder.mkdir()
    path = folder / target.name
    path.write_bytes(target.data)
    expected = target.read(path) if target.is_guarded else None
    path.write_bytes(data)
    begun = time.monotonic()
    found, refusal = tried(lambda: target.read(path))
    assert time.monotonic() - begun < SECONDS
    if refusal is not None:
        assert str(folder) in refusal
    elif target.is_guarded:
        assert found == expected or found is None


def tried(read: Callable[[], object]) -> tuple[object, str | None]:
    """Return what a call gives, or the sentence with which it refuses."""
    try:
        return read(), None
    except InputError as error:
        return None, str(error)


def fuzz(test: Callable[..., None], examples: int) -> None:
    """Try a test of hypothesis's on so many examples, which are always the same."""
    settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )(test)()


ROUNDS = [10, pytest.param(1000, marks=pytest.mark.torture)]


@pytest.mark.parametrize("examples", ROUNDS)
def test_a_damaged_file_is_refused_or_read_as_it_was(
    examples: int, targets: dict[str, Target], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.CRITICAL)
    before = peak_memory()
    try:
        for target in targets.values():

            @given(CHANGES, st.just(target))
            def damaged(changes: list[Change], target: Target) -> None:
                attempt(target, change(target.data, changes), tmp_path / "damaged")

            fuzz(damaged, examples)
    finally:
        logging.disable(logging.NOTSET)
    assert peak_memory() - before < MEMORY


@pytest.mark.parametrize("examples", ROUNDS)
def test_random_bytes_are_no_file_of_any_kind(
    examples: int, targets: dict[str, Target], tmp_path: Path
) -> None:
    logging.disable(logging.CRITICAL)
    try:

        @given(st.binary(max_size=300), st.booleans(), st.sampled_from(sorted(targets)))
        def random(data: bytes, has_beginning: bool, name: str) -> None:
            target = targets[name]
            beginning = target.data[:16] if has_beginning else b""
            attempt(target, beginning + data, tmp_path / "random")

        fuzz(random, 4 * examples)
    finally:
        logging.disable(logging.NOTSET)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
WORDS = st.sampled_from(["classes", "ignore", "masks", "shards", "name", "id", "color", "colors"])


@pytest.mark.parametrize("examples", ROUNDS)
def test_any_json_is_refused_or_understood(
    examples: int, targets: dict[str, Target], tmp_path: Path
) -> None:
    logging.disable(logging.CRITICAL)
    names = [name for name, target in targets.items() if target.name.endswith(".json")]
    try:

        @given(st.sampled_from(names), st.dictionaries(WORDS | st.text(max_size=5), JSON), JSON)
        def other(name: str, values: dict[str, Any], instead: object) -> None:
            target = targets[name]
            card = json.loads(target.data)
            known = dict(zip(card, values.values(), strict=False))
            for content in (card | values, card | known, instead):
                attempt_json(target, content, tmp_path / "json")

        fuzz(other, examples)
    finally:
        logging.disable(logging.NOTSET)


def attempt_json(target: Target, content: object, folder: Path) -> None:
    unguarded = Target(target.data, target.read, target.name, False, target.beside)
    attempt(unguarded, json.dumps(content).encode(), folder)


TEXTS = st.text(max_size=20) | st.sampled_from(
    ["nan", "-inf", "1e999", "-0", "0x10", "1_000", "1/0", "١٢", "true", "none", "../..", "9" * 99]
)


@pytest.mark.parametrize("examples", [300, pytest.param(30_000, marks=pytest.mark.torture)])
def test_any_value_of_any_knob_is_refused_or_taken(examples: int) -> None:
    knobs = sorted(leaf_types(Config))

    @given(st.sampled_from(knobs), TEXTS)
    def value(knob: str, text: str) -> None:
        found, refusal = tried(lambda: parse(["student", f"--{knob}={text}"], {"student": ""}))
        assert refusal or (isinstance(found, tuple) and isinstance(found[1], Config))

    fuzz(value, examples)


@pytest.mark.parametrize("examples", [100, pytest.param(10_000, marks=pytest.mark.torture)])
def test_any_words_are_refused_or_understood(examples: int) -> None:
    @given(st.lists(st.text(max_size=12) | st.sampled_from(["student", "--student.seed"])))
    def words(argv: list[str]) -> None:
        if not argv or "-h" in argv or "--help" in argv:
            return
        found, refusal = tried(lambda: parse(argv, {"student": ""}))
        assert found is not None or refusal

    fuzz(words, examples)
