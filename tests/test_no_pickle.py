"""No file that is read can run code: a pickle that would make a file is planted everywhere."""

import io
import logging
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from label_sets import labelled_images, write_set
from miniature import TINY, flags, random_network, write_picture

from selftrain import checkpoint
from selftrain.__main__ import main
from selftrain.data import centroids, shards
from selftrain.data.cache import RawCache
from selftrain.data.class_file import read_classes
from selftrain.data.digests import FileDigests
from selftrain.data.manifest import read_metadata, read_rows
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.data.scan import scan
from selftrain.data.scratch import read_scratch
from selftrain.data.table import read_table
from selftrain.models.weights import _read as read_backbone_weights
from selftrain.sources import _load_flags

CPU = torch.device("cpu")
TABLE = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.proof,)


def plain(proof: Path) -> bytes:
    return pickle.dumps(Code(proof))


def numpy_array(proof: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Code(proof)], dtype=object), allow_pickle=True)
    return file.getvalue()


def numpy_archive(proof: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, np.array([Code(proof)], dtype=object))
    return file.getvalue()


def torch_archive(proof: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "code": Code(proof)}, file)
    return file.getvalue()


def old_torch_file(proof: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"code": Code(proof)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(proof: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", plain(proof))
        archive.writestr("0.npy", numpy_array(proof))
    return file.getvalue()


FORMS = (plain, numpy_array, numpy_archive, torch_archive, old_torch_file, zipped)


def open_set(path: Path) -> object:
    return PseudoLabelSet.open(path.parent, verify=True)


def open_cache(path: Path) -> object:
    found = RawCache.open(path.parent, source_digest="", reader=Reader(TABLE))
    return found or RawCache(folder=path.parent, index_digest="").names()


def scan_remembered(path: Path) -> object:
    (key,) = path.parent.glob("scan-*")
    path.rename(key / "planted.json")
    return list(scan([], Reader(TABLE), tile=8, cache=path.parent))


READERS: dict[str, Callable[[Path], object]] = {
    "weights.pth": read_backbone_weights,
    "weights.pt": read_backbone_weights,
    "backbone.safetensors": read_backbone_weights,
    "weights.safetensors": lambda path: checkpoint.read_weights(path.parent),
    "model.json": lambda path: checkpoint.load_network(path.parent, CPU),
    "checkpoint.pt": lambda path: checkpoint.load_checkpoint(path.parent, CPU),
    "centroids-0.npz": centroids._load,
    "classes-0.npy": _load_flags,
    "digests.sqlite": lambda path: FileDigests(path).digest(path),
    "planted.json": scan_remembered,
    "images.u8": open_cache,
    "index.parquet": open_cache,
    "manifest.parquet": open_set,
    "card.json": open_set,
    "shard-00000.zip": open_set,
    "shard-00000.parquet": lambda path: (
        read_metadata(path),
        read_rows(path),
        shards.finished_shards(path.parent),
    ),
    "00000.kept": read_scratch,
    "classes.json": read_classes,
    "data.csv": lambda path: read_table(path, with_labels=True),
    "picture.png": lambda path: Reader(TABLE).image(Sample("picture", path)),
    "picture.tif": lambda path: Reader(TABLE).image(Sample("picture", path)),
    "label.png": lambda path: Reader(TABLE).label(Sample("label", path, Blob(path))),
}
"""Where a planted file is read, by a name that it has there."""


def test_the_planted_pickles_would_run(tmp_path: Path) -> None:
    for number, form in enumerate(FORMS[:3]):
        proof = tmp_path / f"ran-{number}"
        data = form(proof)
        if form is plain:
            pickle.loads(data)
        else:
            found = np.load(io.BytesIO(data), allow_pickle=True)
            _ = found["arr_0"] if form is numpy_archive else found
        assert proof.exists()
    for form in (torch_archive, old_torch_file):
        torch.load(io.BytesIO(form(tmp_path / form.__name__)), weights_only=False)
        assert (tmp_path / form.__name__).exists()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("name", READERS)
def test_no_reader_runs_what_is_planted(
    name: str, form: Callable[[Path], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    proof, folder = tmp_path / "ran", tmp_path / "planted"
    folder.mkdir()
    if name in ("weights.safetensors", "model.json"):
        shutil.copytree(_network(tmp_path), folder, dirs_exist_ok=True)
    if name in ("manifest.parquet", "card.json", "shard-00000.zip"):
        items = labelled_images(tmp_path / "images")
        write_set(folder, items)
    if name == "planted.json":
        write_picture(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
        list(scan([Sample("a", tmp_path / "a.png")], Reader(TABLE), tile=8, cache=folder))
    if name == "checkpoint.pt":  # also behind a right digest
        with suppress(Exception):
            checkpoint.save_checkpoint(folder, {"network": Code(proof)})
            checkpoint.load_checkpoint(folder, CPU)
    path = folder / name
    path.write_bytes(form(proof))
    with suppress(Exception):  # which error it is, test_fuzz.py and bad_input/ say
        READERS[name](path)
    assert not proof.exists()


def _network(folder: Path) -> Path:
    return random_network(folder / "network", TABLE)


KINDS = (
    "weights.safetensors",
    "model.json",
    "checkpoint.pt",
    "history.csv",
    "product.json",
    "card.json",
    "manifest.parquet",
    "shard-*.parquet",
    "shard-*.zip",
    "*.npz",
    "*.npy",
    "scan-*/*.json",
    "digests.sqlite",
    "images.u8",
    "index.parquet",
    "images/*.png",
    "labels/*.png",
    "MLmodel",
    "python_model.pkl",
)
"""Files that the stages read, as patterns."""


@pytest.mark.torture
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("form", [plain, torch_archive, numpy_archive], ids=lambda it: it.__name__)
def test_no_stage_runs_what_is_planted_among_its_files(
    form: Callable[[Path], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof, whole = tmp_path / "ran", tmp_path / "whole"
    places = {"machine.data_root": tmp_path / "scenes", "machine.outputs": tmp_path / "outputs"}

    def run(stage: str, **values: object) -> None:
        command = flags({**TINY, **places, "data.shots": 1, **values})  # type: ignore[dict-item]
        monkeypatch.setattr(sys, "argv", ["selftrain", stage, *command])
        main()

    run("prepare", **{"prepare.cache": "raw"})
    run("student")
    places_of_files = [tmp_path / name for name in ("scenes", "outputs", "mlruns")]
    for place in places_of_files:
        shutil.copytree(place, whole / place.name)
    found = 0
    for number, kind in enumerate(KINDS):
        for place in places_of_files:
            shutil.rmtree(place)
            shutil.copytree(whole / place.name, place)
            for path in place.rglob(kind):
                found += 1
                path.write_bytes(form(proof))
        if kind == "python_model.pkl":
            for path in list((tmp_path / "mlruns").rglob("MLmodel")):
                found += 1
                path.with_name(kind).write_bytes(form(proof))
        for stage in ("prepare", "pseudo_label", "student", "evaluate"):
            with suppress(SystemExit):
                run(stage, **{"student.seed": number + 1, "pseudo_label.shard_size": 3})
        assert not proof.exists(), kind
    assert found >= len(KINDS) - 4
