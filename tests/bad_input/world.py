"""What the cases of bad input spoil, and how a command is seen to refuse it."""

import json
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from label_sets import labelled_images, write_set
from miniature import TINY, flags, random_network, tiny_config, write_picture
from numpy.typing import NDArray

from selftrain import tracking
from selftrain.__main__ import main
from selftrain.data.sample import ClassTable
from selftrain.datasets import open_data
from selftrain.knobs import Scalar
from selftrain.stage import Stage, run_stage
from selftrain.tracking import Run

FEW = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
EIGHT_IMAGES = 8


@dataclass(frozen=True)
class Stock:
    """What is made once for all cases; they copy what they spoil."""

    scenes: Path
    """Data root of the tiny scenes."""
    network: Path
    """An untrained network for the classes of `FEW`."""
    labels: Path
    """A finished set of pseudo labels: `label_sets.write_set`."""


def make_stock(folder: Path, scenes: Path) -> Stock:
    """Make the stock; the scenes are drawn when they are first asked for."""
    return Stock(
        scenes=scenes,
        network=random_network(folder / "network", FEW),
        labels=write_set(folder / "labels", labelled_images(folder / "images")),
    )


@dataclass(frozen=True)
class World:
    """Where a case may put its mistake."""

    folder: Path
    stock: Stock

    def scenes(self, stage: str, **values: Scalar) -> list[str]:
        """Return the command on the scenes that all tests share."""
        return self._command(stage, {"machine.data_root": self.stock.scenes}, values)

    def scenes_classes(self) -> ClassTable:
        """Return the classes of the scenes, which are drawn if need be."""
        return open_data(tiny_config(self.stock.scenes, self.folder / "outputs")).splits.classes

    def own_scenes(self) -> Path:
        """Copy the scenes to be spoilt, into the folder scenes; return the folder of the splits."""
        self.scenes_classes()
        (drawn,) = self.stock.scenes.glob("*-64x32")
        copied = shutil.copytree(drawn, self.folder / "scenes" / drawn.name)
        return Path(copied)

    def camvid(self, stage: str, **values: Scalar) -> list[str]:
        """Return the command on the miniature CamVid in this folder."""
        data: dict[str, Scalar] = {
            "data.dataset": "camvid",
            "data.labelled_fraction": 1 / 16,
            "machine.data_root": self.folder / "camvid",
        }
        return self._command(stage, data, values)

    def pictures(self, stage: str, **values: Scalar) -> list[str]:
        """Return the command on the pictures in the folder own, or on their table."""
        data: dict[str, Scalar] = {
            "data.dataset": "folder",
            "machine.data_root": self.folder / "own",
        }
        return self._command(stage, data, values)

    def own_pictures(self, classes: object = None) -> Path:
        """Write pictures with masks of the ids 0 and 1 into the folder own; return it."""
        root = self.folder / "own"
        for number in range(EIGHT_IMAGES):
            image = np.full((40, 48, 3), number * 20, np.uint8)
            image[:20, :number] = 255
            write_picture(root / "images" / f"{number}.png", image)
            write_picture(root / "labels" / f"{number}.png", two_ids())
        (root / "classes.json").write_text(json.dumps(classes or {"classes": ["road", "car"]}))
        return root

    def predict(self, model: Path | str | None = None) -> list[str]:
        """Return the command that labels the folder pictures."""
        return [
            "predict",
            f"--predict.images={self.folder / 'pictures'}",
            f"--predict.output={self.folder / 'predictions'}",
            f"--predict.model={model or self.stock.network}",
            "--machine.device=cpu",
            "--machine.workers=0",
        ]

    def picture(self, name: str = "one.png") -> Path:
        """Write a picture to be labelled; the suffix says how."""
        path = self.folder / "pictures" / name
        write_picture(path, noise())
        return path

    def picture_of(self, data: bytes, name: str = "one.png") -> Path:
        """Write a file to be labelled as if it were a picture."""
        path = self.folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def own_network(self) -> Path:
        """Copy the network to be spoilt."""
        return Path(shutil.copytree(self.stock.network, self.folder / "network"))

    def own_labels(self) -> Path:
        """Copy the set of pseudo labels to be spoilt."""
        return Path(shutil.copytree(self.stock.labels, self.folder / "labels"))

    def inspect(self) -> list[str]:
        """Return the command that reads all of the set of pseudo labels in this folder."""
        values: dict[str, Scalar] = {
            "inspect_pseudo_labels.labels": self.folder / "labels",
            "inspect_pseudo_labels.output": self.folder / "inspected",
            "inspect_pseudo_labels.verify": True,
        }
        return self.scenes("inspect_pseudo_labels", **values)

    def _command(self, stage: str, data: dict[str, Scalar], values: dict[str, Scalar]) -> list[str]:
        places: dict[str, Scalar] = {"machine.outputs": self.folder / "outputs"}
        return [stage, *flags({**TINY, **places, **data, **values})]

    def product(self, stage: Stage, classes: ClassTable) -> str:
        """Make a product of untrained weights, and return its run's id."""

        def make(folder: Path, run: Run) -> None:
            random_network(folder, classes)

        tracking.connect()
        identity = {"classes": classes.names, "made in": str(self.folder)}
        product = run_stage(stage, identity, make, outputs=self.folder / "outputs", title="made")
        return product.run_id


Found = tuple[list[str], list[str]]
"""A command, and the words that its message must hold."""
Case = Callable[[World], Found]
"""Spoils something and returns the command that must refuse it."""


class Cases(dict[str, Case]):
    """Cases by their names; as a decorator it takes another one up."""

    def __call__(self, case: Case) -> Case:
        self[case.__name__] = case
        return case


def fail(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command that must end with exit code 1, and return what it says."""
    monkeypatch.setattr(sys, "argv", ["selftrain", *command])
    with pytest.raises(SystemExit) as caught:
        main()
    # A text as the exit code: Python prints it to stderr and exits with 1.
    assert isinstance(caught.value.code, str)
    return caught.value.code


def noise(height: int = 40, width: int = 48) -> NDArray[np.uint8]:
    """Return a picture in colours that no format can keep in a few bytes."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_ids() -> NDArray[np.uint8]:
    """Return a mask of 40x48 with the ids 0 and 1."""
    return np.repeat(np.arange(2, dtype=np.uint8), 960).reshape(40, 48)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png_that_claims(width: int, height: int, *, color_type: int = 2) -> bytes:
    """Return a small PNG, right in all its checksums, that claims to be of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if color_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
