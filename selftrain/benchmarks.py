"""Benchmarks: one word that sets the data and a recipe that fits them.

A benchmark is a set of values for knobs of `config.py`, whose defaults are the paper's. Arms
of a study are scale-free (ratios, fractions), so one study runs on every benchmark.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override

Values = Mapping[str, Scalar]


def _all(values: Values) -> dict[str, Scalar]:
    """Give every training the same recipe."""
    return {
        f"{who}.{key}": value
        for who in ("teacher", "student", "finetune")
        for key, value in values.items()
    }


def _shared(path: str) -> Path | None:
    """Return a path below the folder `shared` beside the checkout, as seen from where we are.

    An installed package lies in no checkout: then there is none.
    """
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "MLproject").is_file():
        return None
    return Path(os.path.relpath(checkout.parent / "shared" / path))


def _mobilenet_start() -> str:
    """Return the start for MobileNetV2: the file beside the checkout, else torchvision's."""
    path = _shared("weights/mobilenet_v2_imagenet.pth")
    return str(path) if path is not None and path.exists() else "IMAGENET1K_V1"


def _scenes() -> dict[str, Scalar]:
    return {
        "data.dataset": "scenes",
        "data.tile": 64,
        "machine.data_root": "outputs/data",
        "pseudo_label.measure": True,
        **_all(
            {
                "network.name": "fast_scnn",
                "network.backbone_weights": "none",
                "epochs": 54,
                "crop.size": 128,
                "augment.scale_min": 0.75,
                "augment.scale_max": 1.5,
                "augment.jitter": 0.1,
                "augment.blur": 0.0,
                "optim.name": "adamw",
                "optim.lr": 0.004,
                "optim.weight_decay": 0.01,
                "optim.batch_size": 8,
                "eval_every": 20,
            }
        ),
        # 1:1, the first row of Table 2: its equal-iteration control is the teacher itself, so
        # the time of the demo goes into two trainings instead of three.
        "student.data.pseudo_ratio": 1.0,
    }


def _camvid() -> dict[str, Scalar]:
    return {
        "data.dataset": "camvid",
        "data.tile": 180,
        "machine.data_root": _shared("data/camvid") or "data/camvid",
        **_all(
            {
                "network.backbone": "mobilenet_v2",
                "network.output_stride": 16,
                "network.head_channels": 128,
                "network.backbone_weights": _mobilenet_start(),
                "epochs": 120,
                "crop.size": 320,
                "augment.scale_min": 0.75,
                "optim.name": "adamw",
                "optim.lr": 0.001,
                "optim.weight_decay": 0.01,
                "optim.batch_size": 8,
                "eval_every": 20,
            }
        ),
        "student.data.pseudo_ratio": 3.0,
    }


def _camvid_small() -> dict[str, Scalar]:
    return {
        **_camvid(),
        "data.scale": 0.5,
        "data.tile": 90,
        **_all({"epochs": 80, "crop.size": 160}),
    }


def _scenes_abroad() -> dict[str, Scalar]:
    return {**_scenes(), "data.scenes.style": "abroad"}


def _cityscapes() -> dict[str, Scalar]:
    """The paper's own: what is not here is the default of its knob."""
    return {
        "data.dataset": "cityscapes",
        "data.labelled_fraction": 1.0,
        "data.pool": "train_extra",
        "machine.data_root": "data/cityscapes",
        "pseudo_label.hood": True,
    }


def _mapillary() -> dict[str, Scalar]:
    return {
        "data.dataset": "mapillary",
        "data.labelled_fraction": 1.0,
        "data.short_side": 1024,
        "machine.data_root": "data/mapillary",
    }


def _camvid_original() -> dict[str, Scalar]:
    """Table 5's: 960x720, 11 classes."""
    return {
        "data.dataset": "camvid_original",
        "data.tile": 360,
        "machine.data_root": "data/camvid_original",
        **_all({"epochs": 120, "crop.size": 640}),
    }


def _kitti() -> dict[str, Scalar]:
    return {
        "data.dataset": "kitti",
        "data.labelled_fraction": 1.0,
        "data.tile": 300,
        "machine.data_root": "data/kitti",
        **_all({"epochs": 90, "crop.size": 368}),
    }


def _bdd100k() -> dict[str, Scalar]:
    return {
        "data.dataset": "bdd100k",
        "data.tile": 720,
        "machine.data_root": "data/bdd100k",
        **_all({"crop.size": 640}),
    }


def _folder() -> dict[str, Scalar]:
    """Anybody's pictures: a recipe that one small GPU runs in an afternoon."""
    return {
        "data.dataset": "folder",
        "data.labelled_fraction": 1.0,
        "data.short_side": 720,
        "data.tile": 360,
        "machine.data_root": "data/folder",
        **_all(
            {
                "network.backbone": "mobilenet_v2",
                "network.output_stride": 16,
                "network.backbone_weights": _mobilenet_start(),
                "epochs": 80,
                "crop.size": 512,
                "optim.name": "adamw",
                "optim.lr": 0.001,
                "optim.weight_decay": 0.01,
                "optim.batch_size": 8,
            }
        ),
        "student.data.repeat": 1.0,
        "student.data.pseudo_ratio": 1.0,
    }


BENCHMARKS = {
    "scenes": _scenes,
    "scenes_abroad": _scenes_abroad,
    "camvid_small": _camvid_small,
    "camvid": _camvid,
    "camvid_original": _camvid_original,
    "cityscapes": _cityscapes,
    "mapillary": _mapillary,
    "kitti": _kitti,
    "bdd100k": _bdd100k,
    "folder": _folder,
}


def benchmark(name: str) -> Config:
    """Return the config of a benchmark.

    Raises:
        InputError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise InputError(f"There is no benchmark {name}; there are {', '.join(BENCHMARKS)}.")
    return override(Config(benchmark=name), BENCHMARKS[name]())
