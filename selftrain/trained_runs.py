"""Trainings that are named by their run: teachers, starts, weights, networks to be measured."""

import csv
from pathlib import Path

from selftrain import tracking
from selftrain.checkpoint import WEIGHTS, load_card, require_same_classes
from selftrain.config import TrainConfig
from selftrain.datasets import OpenData
from selftrain.errors import InputError
from selftrain.knobs import override
from selftrain.stage import Product, Stage, open_product

TRAIN = Stage("train", version=2, artifacts=tracking.MODEL_ARTIFACTS)


def open_trained(name: str, knob: str, outputs: Path) -> Product:
    """Return the product of a finished training, whatever it was trained on.

    Args:
        name: Run id, `runs:/ID` or `models:/NAME@ALIAS`.
        knob: That names it, for the message.
        outputs: Folder for all products.

    Raises:
        InputError: there is no such run, or it is of another stage.
    """
    if not name:
        raise InputError(f"{knob} names a run without a name: look for a + too many.")
    found = tracking.finished(name)
    if found.stage != TRAIN.name:
        raise InputError(f"{knob} = {name} is a run of the stage {found.stage}, not of train.")
    return open_product(TRAIN, found.key, found.run_id, outputs)


def open_fitting(name: str, knob: str, data: OpenData, outputs: Path) -> Product:
    """Return the product of a training that fits the data's classes and frame sizes.

    Raises:
        InputError: as `open_trained`, or it does not fit.
    """
    product = open_trained(name, knob, outputs)
    card = load_card(product.folder)
    require_same_classes(card.classes, data.splits.classes.names, f"{knob} = {name}")
    for size in ("scale", "short_side"):
        wanted, given = getattr(card, size), getattr(data.config, size)
        if wanted != given:
            raise InputError(
                f"{knob} = {name} was trained with data.{size} = {wanted:g}, but it is "
                f"{given:g} here: set data.{size} to {wanted:g}."
            )
    return product


def start_of(config: TrainConfig, section: str, outputs: Path) -> Product | None:
    """Return the training that another goes on from, if it names one."""
    named = config.start
    return None if named == "none" else open_trained(named, f"{section}.start", outputs)


def weights_of(config: TrainConfig, outputs: Path) -> Product | None:
    """Return the training whose backbone another starts with, if it names one."""
    named = config.network.backbone_weights
    if not named.startswith(("runs:/", "models:/")):
        return None
    return open_trained(named, "network.backbone_weights", outputs)


def with_weights(config: TrainConfig, outputs: Path) -> TrainConfig:
    """Return the config with a run's weights as their file, which counts by its content."""
    weights = weights_of(config, outputs)
    if weights is None:
        return config
    return override(config, {"network.backbone_weights": str(weights.folder / WEIGHTS)})


def dev_miou(trained: Product) -> float:
    """Return what a training has reached on dev, 0 to 1.

    Raises:
        InputError: it was trained without a dev split.
    """
    measured = tracking.finished(trained.run_id).metrics
    if "dev/mIoU" not in measured:
        raise InputError(
            f"Run {trained.run_id} has no dev/mIoU, by which rounds are compared: keep dev "
            "(data.train_on = train), or set rounds to 1."
        )
    return measured["dev/mIoU"]


def read_dev_miou(folder: Path) -> float | None:
    """Return what a training in a folder has reached on dev, 0 to 1; None: it is not known.

    Unlike `dev_miou` this asks no store.
    """
    try:
        with (folder / "history.csv").open(newline="") as file:
            rows = [row.get("dev/mIoU") or "" for row in csv.DictReader(file)]
        return float(rows[-1])
    except (OSError, ValueError, IndexError):
        return None
