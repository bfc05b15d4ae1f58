"""The steps, and how each is stopped in time so that what it has reached comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from experiments.speed.measure import machine_facts
from selftrain.files import write_atomically

CHECKOUT = Path(__file__).resolve().parents[2]
KEPT = Path("outputs/cuda")
"""Records between commands, because the folder that is brought back begins empty."""
NETWORKS = (
    "deeplabv3plus-resnext50_32x4d",
    "pspnet-resnet101",
    "fast_scnn",
    "deeplabv3plus-wide_resnet38",
)
"""Table 3, ordered by worth: the first two have goals of their own."""
REPORT_SECONDS = 60.0
"""Kept for the report, at most a third of a step's time."""
GRACE_SECONDS = 20.0
"""In which a process that was told to end writes what it has."""


@dataclass(frozen=True)
class Step:
    """One command's work."""

    what: str
    study: str = ""
    """File of `experiments/` without .py, of a CamVid step."""
    per_network: bool = False
    """A process for each network, so that a record holds those measured before time was up."""


STEPS: Mapping[str, Step] = {
    "tests": Step("the GPU tests"),
    "training_step": Step("images/s and memory of a training step", per_network=True),
    "crop_schedules": Step("speed-up of each crop-size schedule"),
    "pseudo_label": Step("labelling against the bare forward pass"),
    "inference": Step("images/s and memory of inference", per_network=True),
    "camvid_ratio": Step("Table 2 on CamVid", study="table2_pseudo_ratio"),
    "camvid_schedules": Step("Table 4 on CamVid", study="table4_crop_schedules"),
    "camvid_fraction": Step("labelled fractions of CamVid", study="labelled_fraction"),
    "camvid_thresholds": Step("thresholds on CamVid", study="thresholds"),
    "camvid_strong": Step("strong augmentation on CamVid", study="strong_augmentation"),
}
"""Ordered by worth."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a step is taken: the command's options."""

    out: Path
    minutes: float
    device: str
    networks: Sequence[str] | None
    seeds: int
    side_by_side: int
    data_root: str | None
    weights: str | None
    fraction: float
    passed: Sequence[str]
    """Words for the command of the step."""


def take(name: str, setting: Setting) -> int:
    """Take a step; return 0 if all is done, 1 if something failed, 3 if something is left."""
    began = time.monotonic()
    deadline = began + 60 * setting.minutes
    setting.out.mkdir(parents=True, exist_ok=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    step = STEPS[name]
    if name == "tests":
        found = _test(setting, deadline)
    elif step.study:
        found = _study(step.study, setting, deadline)
    else:
        found = _measure(name, step, setting, deadline)
    record = {
        "step": name,
        "commit": _commit(),
        "device": _device(setting.device),
        "machine": machine_facts(),
        "minutes": round((time.monotonic() - began) / 60, 2),
        "passed_on": list(setting.passed),
        **found,
    }
    _write(setting.out / f"step_{name}.json", record)
    return 1 if found["failed"] else 3 if found["left"] else 0


def _test(setting: Setting, deadline: float) -> dict[str, Any]:
    junit = (KEPT / "tests.xml").resolve()
    junit.unlink(missing_ok=True)
    tests = str(CHECKOUT / "tests" / "gpu")
    command = ["-m", "pytest", tests, f"--junitxml={junit}", *setting.passed]
    (code,) = _run([command], 1, deadline)
    found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    if junit.exists():
        for case in ElementTree.parse(junit).iter("testcase"):
            kinds = {child.tag for child in case}
            kind = "failed" if kinds & {"failure", "error"} else "passed"
            kind = "skipped" if "skipped" in kinds else kind
            found[kind].append(f"{case.get('classname')}::{case.get('name')}")
    if code not in (None, 0) and not found["failed"]:
        found["failed"].append(f"pytest ended with {code}")
    return {**found, "left": ["tests"] if code is None else []}


def _measure(name: str, step: Step, setting: Setting, deadline: float) -> dict[str, Any]:
    """Measure what the kept record does not have yet."""
    kept = KEPT / f"{name}.json"
    names = list(setting.networks or NETWORKS) if step.per_network else [""]
    done, failed, left = list[str](), list[str](), list[str]()
    for network in names:
        if kept.exists() and (not network or network in json.loads(kept.read_bytes())):
            done.append(network or name)
            continue
        command = ["-m", f"experiments.speed.{name}", "--record", str(kept)]
        command += ["--device", setting.device, *(["--networks", network] if network else [])]
        if name == "inference" and network != names[0]:
            command += ["--large", "0"]  # always of the same networks: once is enough
        (code,) = _run([[*command, *setting.passed]], 1, deadline)
        (left if code is None else failed if code else done).append(network or name)
    if kept.exists():
        shutil.copy(kept, setting.out / kept.name)
    return {"done": done, "failed": failed, "left": left}


def _study(study: str, setting: Setting, deadline: float) -> dict[str, Any]:
    """Train a process for each seed, then build the tables of what is there."""
    stop = deadline - min(REPORT_SECONDS, 20 * setting.minutes)
    # One process makes the store, before several would at the same time.
    _run([["-c", "from selftrain import tracking; tracking.connect()"]], 1, stop)
    words = [f"--study.name={study}", "--benchmark=camvid", "--study.seeds=1"]
    words += [f"--machine.device={setting.device}"]
    if study != "labelled_fraction":
        words += [f"--data.labelled_fraction={setting.fraction}"]
    if setting.data_root:
        words += [f"--machine.data_root={setting.data_root}"]
    if setting.weights:
        words += [
            f"--{who}.network.backbone_weights={setting.weights}" for who in ("teacher", "student")
        ]
    commands = [
        ["-m", "selftrain", "study", *words, f"--study.first_seed={seed}", *setting.passed]
        for seed in range(setting.seeds)
    ]
    codes = _run(commands, setting.side_by_side, stop)
    report = ["-m", "analysis.report", "--benchmark", "camvid", "--pictures", "false"]
    (reported,) = _run([report], 1, deadline)
    results = Path("results/camvid")
    for table in (study, "main"):  # the other steps bring back their own
        for suffix in ("csv", "md"):
            if (path := results / f"{table}.{suffix}").exists():
                shutil.copy(path, setting.out / path.name)
    failed = [f"seed {seed}" for seed, code in enumerate(codes) if code]
    return {
        "study": study,
        "done": [f"seed {seed}" for seed, code in enumerate(codes) if code == 0],
        "failed": failed + (["report"] if reported else []),
        "left": [f"seed {seed}" for seed, code in enumerate(codes) if code is None]
        + (["report"] if reported is None else []),
    }


def _run(commands: Sequence[Sequence[str]], at_once: int, deadline: float) -> list[int | None]:
    """Run Python with these words, several at once; None for one that time did not suffice for."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    codes: list[int | None] = [None] * len(commands)
    waiting = list(enumerate(commands))
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < at_once:
                at, words = waiting.pop(0)
                running[at] = subprocess.Popen(
                    [sys.executable, *words], env=environment, start_new_session=True
                )
            time.sleep(0.1)
            for at in [at for at, it in running.items() if it.poll() is not None]:
                codes[at] = running.pop(at).returncode
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for process in running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return codes


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "-"
    told = subprocess.run(
        [git, "-C", str(CHECKOUT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "-"


def _device(device: str) -> str:
    import torch

    is_there = device == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_name() if is_there else "cpu" if device == "cpu" else "none"


def _write(path: Path, record: Mapping[str, object]) -> None:
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
