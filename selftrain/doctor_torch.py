"""What the doctor asks torch: whether it works, what it computes on, how large networks are."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selftrain.config import Config, TrainConfig
from selftrain.doctor_checks import LATE, SECONDS, Check, nearest, size

_ON_CPU = ("scenes", "scenes_abroad", "camvid_small")
"""Benchmarks that are made for a machine without a GPU."""
_BYTES = 4
"""Of a number."""
_CLASSES = 19
"""Of the networks that are measured: it hardly matters."""


def check_torch(config: Config) -> list[Check]:
    """Import torch and torchvision in another process, and ask it for GPUs and networks."""
    networks = {who: getattr(config, who) for who in ("teacher", "student")}
    asked = {who: _describe(trained) for who, trained in networks.items()}
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "selftrain.doctor_probe", json.dumps(asked)],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
            timeout=SECONDS - 0.3,  # it is ended before the doctor is
        )
        said, error, failed = done.stdout, done.stderr.decode(), done.returncode != 0
    except subprocess.TimeoutExpired as late:
        said, error, failed = late.stdout or b"", "", False
    found: dict[str, Any] = {}
    for line in said.decode().splitlines():
        found |= json.loads(line)
    return [*_check_pair(found, error, failed=failed), *_check_what_it_said(config, found)]


def _check_pair(found: dict[str, Any], error: str, *, failed: bool) -> Iterator[Check]:
    if failed and "torchvision" not in found:
        reason = (error.strip().splitlines() or ["it was killed"])[-1]
        what = "torchvision" if "torch" in found else "torch"
        cure = (
            "install torch and torchvision as a pair, at their pinned versions and from the same "
            "index"
        )
        yield Check("torch", "failed", f"{what} cannot be imported ({reason})", cure)
    elif "torchvision" in found:
        pair = f"{found['torch']} with torchvision {found['torchvision']}"
        yield Check("torch", "ok", pair)
    else:
        known = f"{found['torch']}, but of torchvision " if "torch" in found else ""
        yield Check("torch", "warning", known + LATE)


def _check_what_it_said(config: Config, found: dict[str, Any]) -> Iterator[Check]:
    if "gpus" in found:
        yield _check_device(config, found)
    if "networks" in found:
        yield from _check_weights(found["networks"])
        yield _check_disk(config, found["networks"])


def _describe(trained: TrainConfig) -> dict[str, Any]:
    """Return the arguments of `build_network`."""
    network = trained.network
    return {
        "name": network.name,
        "num_classes": _CLASSES,
        "backbone": network.backbone,
        "output_stride": network.output_stride,
        "head_channels": network.head_channels,
        "auxiliary": network.auxiliary,
        "backbone_weights": network.backbone_weights,
    }


def _check_device(config: Config, found: dict[str, Any]) -> Check:
    machine, gpus = config.machine, found["gpus"]
    if gpus and machine.device != "cpu":
        kinds = (
            f"{it['name']}, {size(it['total'])}, {'bf16' if it['bf16'] else 'no bf16'}"
            for it in gpus
        )
        text = f"{len(gpus)}: {'; '.join(kinds)}"
        if machine.processes > len(gpus):
            cure = "lower machine.processes, or set machine.device to cpu"
            text += f"; machine.processes = {machine.processes} needs as many"
            return Check("gpu", "failed", text, cure)
        return Check("gpu", "ok", text)
    build = "a build for the CPU" if found["cuda"] is None else f"a build for CUDA {found['cuda']}"
    if machine.device == "cuda":
        cure = "set machine.device to cpu, or see that nvidia-smi and a torch for CUDA work"
        return Check("gpu", "failed", f"machine.device = cuda, but torch ({build}) sees none", cure)
    text = f"none in use; {found['threads']} threads on the CPU"
    if machine.device == "auto" and Path("/proc/driver/nvidia/version").exists():
        return Check(
            "gpu", "warning", f"{text}, though there is an NVIDIA driver: torch is {build}"
        )
    if config.benchmark not in _ON_CPU:
        cure = f"{', '.join(_ON_CPU)} are made for a CPU"
        return Check("gpu", "warning", f"{text}: {config.benchmark} takes days so", cure)
    return Check("gpu", "ok", text)


def _check_weights(networks: dict[str, dict[str, Any]]) -> Iterator[Check]:
    """Yield what is known of the published weights, each once."""
    seen = set()
    for network in networks.values():
        if "known" in network:
            text = f"torchvision has no such weights; it has {', '.join(network['known'])}"
            yield Check("weights", "failed", text, "correct network.backbone_weights")
        elif "url" in network and network["file"] not in seen:
            seen.add(network["file"])
            if network["is_there"]:
                yield Check("weights", "ok", network["file"])
            else:
                text = f"not fetched yet: {network['url']}"
                file = network["file"]
                cure = f"the first training fetches them; without a network put them at {file}"
                yield Check("weights", "warning", text, cure)


def _check_disk(config: Config, networks: dict[str, dict[str, Any]]) -> Check:
    """Compare the room with what the trainings of the pipeline write."""
    needed = 0
    for who in ("teacher", "student", "student"):  # the last one as the control
        trained: TrainConfig = getattr(config, who)
        numbers = networks[who]["numbers"] * _BYTES
        moments = 2 if trained.optim.name == "adamw" else 1
        average = 1 if trained.optim.ema > 0 else 0
        # The network, and two generations of its checkpoint.
        needed += numbers * (1 + trained.snapshots + 2 * (1 + moments + average))
    free = shutil.disk_usage(nearest(config.machine.outputs)).free
    text = (
        f"{size(free)} free; teacher, student and control write about {size(needed)}, pseudo "
        "labels come on top"
    )
    if free < needed:
        return Check("disk", "warning", text, "make room, or choose another machine.outputs")
    return Check("disk", "ok", text)
