"""One row for each run of an arm: from tracking stores, and as CSV.

Everything that is drawn is drawn from the CSV, so that it can be drawn again without a store.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from selftrain.config import DataConfig, TrainConfig
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.knobs import flatten
from selftrain.study import ARM, Arm
from selftrain.tracking import KEY_TAG, STAGE_TAG, Recorded, read_store

TEXTS = ("study", "arm", "key", "commit", "hardware", "torch", "protocol", "recipe")
"""Columns that are no numbers, though "1234e5" looks like one."""
FIXED = (
    "study",
    "arm",
    "seed",
    "key",
    "commit",
    "hardware",
    "torch",
    "hours",
    "labelled",
    "protocol",
    "recipe",
)
"""Columns of every table of rows; the metrics follow."""
_METRIC = re.compile(r"(?P<split>[^/]+)/(?P<what>mIoU|accuracy|IoU/.+)")
_SECTIONS = {"teacher": "teacher", "student": "student", "control": "student"}


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """What an arm has reached with one seed, and the runs that this stands on."""

    study: str
    arm: str
    seed: int
    recorded: Recorded
    trained: Recorded | None
    """None: no store that was read has it; likewise the others."""
    evaluated: Recorded | None
    labels: Recorded | None
    """The pseudo labels of a student."""


def collect(stores: Sequence[str], benchmark: str) -> tuple[list[ArmRun], list[str]]:
    """Return the arms' runs on a benchmark, of all studies, and what is to be said of them.

    Of several runs of one arm and seed the newest counts, in whichever store it is. Runs that are
    not FINISHED never do.

    Args:
        stores: URIs.
        benchmark: Its name.

    Raises:
        InputError: a store cannot be read.
    """
    by_id = {run.run_id: run for store in stores for run in read_store(store)}
    wanted = {STAGE_TAG: ARM.name, "selftrain.benchmark": benchmark}
    found = [run for run in by_id.values() if wanted.items() <= run.tags.items()]
    newest: dict[tuple[str, str, int], ArmRun] = {}
    superseded = 0
    for run in sorted(found, key=lambda it: (it.ended, it.run_id)):
        arm = _arm_run(run, by_id)
        place = (arm.study, arm.arm, arm.seed)
        superseded += place in newest
        newest[place] = arm
    remarks = []
    if superseded:
        remarks.append(
            f"Older runs of an arm and seed that has a newer one are left out: {superseded}."
        )
    return [newest[place] for place in sorted(newest)], remarks


def _arm_run(run: Recorded, by_id: Mapping[str, Recorded]) -> ArmRun:
    tags = run.tags
    return ArmRun(
        study=tags["selftrain.study"],
        arm=tags["selftrain.arm"],
        seed=int(tags["selftrain.seed"]),
        recorded=run,
        trained=by_id.get(tags.get("selftrain.trained", "")),
        evaluated=by_id.get(tags.get("selftrain.evaluated", "")),
        labels=by_id.get(tags.get("selftrain.pseudo_labels", "")),
    )


def tabulate(runs: Iterable[ArmRun], arms: Mapping[str, Arm]) -> pd.DataFrame:
    """Return the runs of one study as rows: by arm in the study's order, then by seed.

    Key, commit, hardware, torch, hours and recipe are those of the network's training; empty where
    no store has its run.

    Args:
        runs: Of a study.
        arms: Of the study. A run of an arm that it does not have comes last.
    """
    order = {name: place for place, name in enumerate(arms)}
    varied = {knob for arm in arms.values() for knob in arm.knobs}
    ordered = sorted(runs, key=lambda it: (order.get(it.arm, len(order)), it.arm, it.seed))
    rows = [_row(run, arms.get(run.arm), varied) for run in ordered]
    metrics = sorted({name for row in rows for name in row if name not in FIXED}, key=_place)
    return pd.DataFrame(rows, columns=[*FIXED, *metrics])


def _place(metric: str) -> tuple[int, str, int, str]:
    """Order metrics: dev, then test, then other splits; mIoU, accuracy, then the classes."""
    split, _, what = metric.partition("/")
    splits, whats = ("dev", "test"), ("mIoU", "accuracy")
    return (
        splits.index(split) if split in splits else len(splits),
        split,
        whats.index(what) if what in whats else len(whats),
        what,
    )


def evaluation_splits(metrics: Iterable[str]) -> list[str]:
    """Return the splits that have an mIoU, except dev: test first, then the others by name."""
    found = (name.removesuffix("/mIoU") for name in metrics if name.endswith("/mIoU"))
    return sorted((split for split in found if split != "dev"), key=lambda it: (it != "test", it))


def _row(run: ArmRun, arm: Arm | None, varied: set[str]) -> dict[str, object]:
    trained = run.trained
    tags = trained.tags if trained else {}
    processes = tags.get("selftrain.processes", "1")
    seconds = run.recorded.metrics.get("train/seconds", float("nan"))
    params = trained.params if trained else {}
    return {
        "study": run.study,
        "arm": run.arm,
        "seed": run.seed,
        "key": tags.get(KEY_TAG, ""),
        "commit": tags.get("mlflow.source.git.commit", "")[:7],
        "hardware": ("" if processes == "1" else f"{processes} x ")
        + tags.get("selftrain.hardware", ""),
        "torch": tags.get("selftrain.torch", ""),
        "hours": seconds / 3600,
        "labelled": float(params.get("data.labelled_fraction", "nan")),
        "protocol": _protocol(run.evaluated),
        "recipe": _recipe(params, arm, varied),
        **{name: v for name, v in run.recorded.metrics.items() if _METRIC.fullmatch(name)},
    }


def _protocol(evaluated: Recorded | None) -> str:
    """Say how the network was asked when it was measured."""
    if evaluated is None:
        return ""
    asked = {
        knob.removeprefix("evaluate.inference."): value
        for knob, value in evaluated.params.items()
        if knob.startswith("evaluate.inference.")
    }
    window = asked.get("window", "0")
    seen = "whole images" if window == "0" else f"windows of {window} px"
    mirrored = ", flip" if asked.get("flip") == "True" else ""
    return f"{seen}, scales {asked.get('scales', '?')}{mirrored}"


def _recipe(params: Mapping[str, str], arm: Arm | None, varied: set[str]) -> str:
    """Return a digest of what the arms of a study should have in common.

    Arms of one stage with different recipes do not belong into one table, for example because one
    of them was trained for fewer epochs to try something.
    """
    if not params or arm is None:
        return ""
    section = _SECTIONS.get(arm.stage, arm.stage)
    left_out = {*varied, f"{section}.seed", f"{section}.start"}
    # The control's follow from the student's.
    left_out |= {f"{section}.data.repeat", f"{section}.data.pseudo_ratio"}
    same = {
        knob: Path(value).name if knob.endswith("backbone_weights") else value
        for knob, value in params.items()
        if knob not in left_out and knob.startswith((f"{section}.", "data."))
    }
    # A run shows no knob that is at its default; an older one showed all.
    defaults = {section: TrainConfig(), "data": DataConfig()}
    usual = {f"{name}.{k}": str(v) for name, it in defaults.items() for k, v in flatten(it).items()}
    complete = {knob: value for knob, value in usual.items() if knob not in left_out} | same
    text = json.dumps(complete, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write rows as CSV; numbers come back from it as they were."""
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n").encode())


def read_rows(path: Path) -> pd.DataFrame:
    """Read rows of `write_rows`.

    Raises:
        InputError: the file is no table of rows.
    """
    try:
        rows = pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXTS, str),
            keep_default_na=False,
            na_values={name: [] if name in TEXTS else [""] for name in _header(path)},
            float_precision="round_trip",
        )
        missing = [name for name in FIXED if name not in rows]
        if not missing:
            rows = rows.astype({"seed": int})
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a table of runs ({error}): restore it, or write it anew by "
            "a report with a tracking store."
        ) from error
    if missing:
        raise InputError(
            f"{path} is no table of runs: the column {missing[0]} is missing. Restore it, or write "
            "it anew by a report with a tracking store."
        )
    return rows


def _header(path: Path) -> list[str]:
    return [str(name) for name in pd.read_csv(path, nrows=0)]
