"""What do the fast schedules save by the clock (paper, section 3.3, Table 4)?

Plans the paper's training, 180 epochs of 2,975 crops, under each of the five schedules, without and
with the paper's warm-up of 20 epochs, and with `constant_pixels` (the batch grows as the crop
shrinks). A plan has few different steps: each (crop size, batch) is timed on synthetic batches,
in turns, and the plan's steps are summed. A schedule's `speedup` is the sum of `constant` over its
own; `area_limit` is what it would be if a step took time by its pixels alone; `paper` is
Table 4's.

As a check the network is then trained for real for a few short epochs under each schedule, under
one with warm-up and `constant_pixels`, and under `constant`, an epoch of one after the same of the
other: `speedup` there is by the clock, `planned` the same from the timed steps. Crops come from a
raw cache in memory, so that the loader is not the limit; neither is there a dev score or a
checkpoint in the times.

    python -m experiments.speed.crop_schedules [--record results/speed/crop_schedules_cpu.json]

Cost: not measured since the check trains six arms, on 2 CPU cores (DeepLabV3+ on MobileNetV2, crop
192, batch 4) or on CUDA (ResNeXt50, crop 800, batch 16). Expected: speed-ups from 1.5 to the area's
limit, 1.8 and, with warm-up, 1.65: a small crop's step has costs that do not shrink with it, of
which `constant_pixels` saves some.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from experiments.speed.measure import machine_facts, report
from experiments.speed.turns import (
    Feed,
    Turn,
    device_name,
    make_training,
    read_arguments,
    scenes_reader,
    synthetic_batch,
    take_turns,
    time_epoch,
    write_scenes,
)
from selftrain.config import MachineConfig, TrainConfig
from selftrain.data.cache_writing import build_raw_cache
from selftrain.data.cached_frames import CachedFrames
from selftrain.epochs import Epoch, plan_epochs
from selftrain.knobs import Scalar, override
from selftrain.schedules import SCHEDULES, expected_speedup
from selftrain.train import Training

EPOCHS, IMAGES = 180, 2975
"""Of the planned training: Cityscapes' images with fine labels, each once an epoch."""
WARM_UP = 20 / 180
PAPER = {0.0: 1.8, WARM_UP: 1.7}
"""Table 4's speed-up by warm-up, the same for all four schedules."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, and how large."""

    device: torch.device
    network: str
    """NAME-BACKBONE."""
    crop: int
    """Side of the full crop, in pixels."""
    batch: int
    """Crops of a step at full size."""
    seconds: float
    """For timing the steps."""
    check_steps: int
    """Steps of an epoch of the check, at full size: so many that the wait for the first batch,
    which every epoch has, does not show."""
    check_epochs: int = 9
    workers: int = -1


def default_setting(device: torch.device) -> Setting:
    """Return what is measured unless asked otherwise: the paper's teacher if there is a GPU."""
    if device.type == "cuda":
        return Setting(
            device=device,
            network="deeplabv3plus-resnext50_32x4d",
            crop=800,
            batch=16,
            seconds=60,
            check_steps=40,
        )
    return Setting(
        device=device,
        network="deeplabv3plus-mobilenet_v2",
        crop=192,
        batch=4,
        seconds=120,
        check_steps=5,
    )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A schedule and its two options."""

    schedule: str
    warm_up: float = 0.0
    constant_pixels: bool = False

    @property
    def name(self) -> str:
        """Return what the record calls it."""
        warm_up = " warm-up" if self.warm_up else ""
        return f"{self.schedule}{warm_up}{' constant_pixels' if self.constant_pixels else ''}"

    def plan(self, setting: Setting, *, epochs: int, images: int) -> list[Epoch]:
        """Return the epochs of a training under this schedule."""
        values: dict[str, Scalar] = {
            "epochs": epochs,
            "crop.size": setting.crop,
            "crop.schedule": self.schedule,
            "crop.warm_up": self.warm_up,
            "crop.constant_pixels": self.constant_pixels,
            "optim.batch_size": setting.batch,
        }
        return plan_epochs(override(TrainConfig(), values), images)


CONSTANT = Arm(schedule="constant")
ARMS = (
    CONSTANT,
    *(
        Arm(schedule=schedule, warm_up=warm_up, constant_pixels=constant_pixels)
        for constant_pixels in (False, True)
        for warm_up in (0.0, WARM_UP)
        for schedule in SCHEDULES
        if schedule != "constant"
    ),
)

CHECKED = (
    CONSTANT,
    *(Arm(schedule=schedule) for schedule in SCHEDULES if schedule != "constant"),
    Arm(schedule="coarse2fine_plus", warm_up=WARM_UP, constant_pixels=True),
)
"""Arms that are trained for real."""

Kind = tuple[int, int]
"""Crop size and batch: what the time of a step depends on."""


def kind_of(epoch: Epoch) -> Kind:
    """Return the kind of an epoch's steps."""
    return epoch.crop_size, epoch.batch_size


def total_seconds(plan: Sequence[Epoch], steps: dict[Kind, float]) -> float:
    """Return how long a plan takes, by the seconds of each kind of step."""
    return sum(epoch.steps * steps[kind_of(epoch)] for epoch in plan)


def time_steps(training: Training, plan: Sequence[Epoch], seconds: float) -> dict[Kind, float]:
    """Time each kind of step of a plan on synthetic batches; return the seconds of one."""
    # One epoch of each kind, the largest first: on CUDA the small ones then reuse its memory.
    kinds = {kind_of(epoch): epoch for epoch in sorted(plan, key=kind_of, reverse=True)}

    def make_turn(epoch: Epoch) -> Turn:
        size, batch = kind_of(epoch)
        classes = len(training.data.reader.classes)
        synthetic = synthetic_batch(size, batch, classes, training.device)
        # Its first steps: however many are timed, they are taken at the start of the training.
        return lambda steps: time_epoch(
            training, [synthetic] * steps, replace(epoch, number=0, first_step=0, steps=steps)
        )

    turns = {f"{size} {batch}": make_turn(epoch) for (size, batch), epoch in kinds.items()}
    for turn in turns.values():
        turn(1)
    ways = take_turns(turns, seconds=seconds)
    return {(size, batch): ways[f"{size} {batch}"].seconds for size, batch in kinds}


def plan_check(setting: Setting) -> dict[Arm, list[Epoch]]:
    """Return the short epochs of the arms that are trained for real."""
    images = setting.check_steps * setting.batch
    return {arm: arm.plan(setting, epochs=setting.check_epochs, images=images) for arm in CHECKED}


def check(training: Training, setting: Setting, steps: dict[Kind, float]) -> dict[str, object]:
    """Train the arms for real, epoch by epoch in turns.

    Returns:
        The epochs and their crops, and under each arm's name its `seconds`, and for one of its
        crops `speedup`, what was `planned`, and `area_limit`.
    """
    plans = plan_check(setting)
    feed = Feed(training)
    # The workers start here, before the clock.
    warm_up = replace(plans[CONSTANT][0], steps=1)
    time_epoch(training, feed.start(warm_up), warm_up)
    seconds = dict.fromkeys(plans, 0.0)
    for number in range(setting.check_epochs):
        for arm, plan in plans.items():
            epoch = plan[number]
            seconds[arm] += time_epoch(training, feed.start(epoch), epoch)
    # By crops: of a short epoch large batches leave over more than small ones.
    crops = {arm: sum(it.steps * it.batch_size for it in plan) for arm, plan in plans.items()}
    cost = {arm: seconds[arm] / crops[arm] for arm in plans}
    planned = {arm: total_seconds(plan, steps) / crops[arm] for arm, plan in plans.items()}
    found: dict[str, object] = {
        "epochs": setting.check_epochs,
        "crops_of_an_epoch": setting.check_steps * setting.batch,
    }
    for arm, plan in plans.items():
        found[arm.name] = {
            "seconds": seconds[arm],
            "speedup": cost[CONSTANT] / cost[arm],
            "planned": planned[CONSTANT] / planned[arm],
            "area_limit": expected_speedup([epoch.crop_size for epoch in plan], setting.crop),
        }
    return found


def measure(folder: Path, setting: Setting) -> dict[str, object]:
    """Time all schedules.

    Args:
        folder: For drawn frames and their cache, up to 160 MB.
        setting: What is measured.

    Returns:
        Crops a second (`images_per_s`) and seconds of a whole epoch (`epoch_s`) by "size x batch";
        for each schedule the hours of the planned training, speed-up, its limit by area and
        the paper's; and under "check" what `check` found.
    """
    reader = scenes_reader()
    samples = write_scenes(folder / "frames", crop=setting.crop)
    cache = build_raw_cache(samples, reader, folder / "raw", source_digest="")
    places: dict[str, Scalar] = {"device": setting.device.type, "workers": setting.workers}
    training = make_training(
        setting.network,
        samples,
        replace(reader, cache=CachedFrames.of(cache, samples)),
        machine=override(MachineConfig(), places),
        crop=setting.crop,
        batch=setting.batch,
    )
    plans = {arm: arm.plan(setting, epochs=EPOCHS, images=IMAGES) for arm in ARMS}
    epochs = {kind_of(epoch): epoch for plan in plans.values() for epoch in plan}
    # Of an epoch as short as the check's, the largest batches may be cut.
    checked = [epoch for plan in plan_check(setting).values() for epoch in plan]
    steps = time_steps(training, [*epochs.values(), *checked], setting.seconds)
    constant, kinds = total_seconds(plans[CONSTANT], steps), sorted(epochs, reverse=True)
    record: dict[str, object] = {
        "what": f"{setting.network}: {EPOCHS} epochs of {IMAGES} crops, full size {setting.crop}",
        "device": device_name(setting.device),
        "images_per_s": {f"{s} x {b}": b / steps[s, b] for s, b in kinds},
        "epoch_s": {f"{s} x {b}": steps[s, b] * epochs[s, b].steps for s, b in kinds},
    }
    for arm, plan in plans.items():
        seconds = total_seconds(plan, steps)
        record[arm.name] = {
            "hours": seconds / 3600,
            "speedup": constant / seconds,
            "area_limit": expected_speedup([epoch.crop_size for epoch in plan], setting.crop),
            "paper": 1.0 if arm is CONSTANT else PAPER[arm.warm_up],
        }
    return {**record, "check": check(training, setting, steps), "machine": machine_facts()}


def _parse() -> tuple[Setting, Path | None]:
    parser = argparse.ArgumentParser(description="Time the crop schedules against constant crops.")
    parser.add_argument("--network", metavar="NAME-BACKBONE")
    parser.add_argument("--crop", type=int, help="side of the full crops in pixels")
    parser.add_argument("--batch", type=int, help="crops of a step at full size")
    parser.add_argument("--seconds", type=float, help="for timing the steps")
    parser.add_argument("--check-epochs", type=int)
    parser.add_argument("--check-steps", type=int, help="of an epoch of the check")
    parser.add_argument("--workers", type=int, help="of the loader; default: as in a training")
    device, chosen, record = read_arguments(parser)
    return replace(default_setting(device), **chosen), record


if __name__ == "__main__":
    chosen, file = _parse()
    with tempfile.TemporaryDirectory() as temporary:
        report(measure(Path(temporary), chosen), file)
