"""What the doctor looks at, but for torch: each check says what it has found, and the cure."""

import os
import platform
import re
import shutil
import sqlite3
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from selftrain.config import Config
from selftrain.cores import count_workers
from selftrain.errors import InputError
from selftrain.locks import describe_holder, is_held, read_note
from selftrain.store_address import ping, reason_of, shown_uri, store_uri

SECONDS = 4.5
"""After which a check that has not ended counts as not known: a dead disk, a slow network."""
LATE = f"no answer within {SECONDS:g} s: the machine is busy, or a disk or network slow"
_OLDEST = (3, 11)
_LITTLE = 2**30
"""Bytes of disk."""
_BYTES_OF_PIXEL = 4
"""Of a crop on its way to the device: RGB and the label."""
_SPOOL = "spool"
_TIMEOUT = 3.0
"""Seconds for a server's answer."""
WEIGHT_FILES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found."""

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    cure: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {"name": self.name, "status": self.status, "found": self.found, "cure": self.cure}


def check_python(config: Config) -> list[Check]:
    """Check the interpreter's version."""
    found = platform.python_version()
    if sys.version_info[:2] >= _OLDEST:
        return [Check("python", "ok", f"{found} ({sys.executable})")]
    oldest = ".".join(map(str, _OLDEST))
    return [Check("python", "failed", found, f"use Python {oldest} or newer")]


def check_packages(config: Config) -> list[Check]:
    """Compare the installed packages with the versions that this one is pinned to."""
    pins = _pins()
    if not pins:
        text = "selftrain is not installed, and no pyproject.toml lies beside it"
        return [Check("packages", "warning", text, "make setup, or pip install it")]
    missing, others = [], []
    for name, pin in pins.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name}=={pin}")
            continue
        if version.partition("+")[0] != pin:  # torch's build stands behind a +
            others.append(f"{name} {version} instead of {pin}")
    if missing:
        text = f"missing: {', '.join(missing)}"
        return [
            Check("packages", "failed", text, f"make setup, or pip install {' '.join(missing)}")
        ]
    if others:
        cure = "results may differ; make setup installs the pinned ones"
        return [Check("packages", "warning", ", ".join(others), cure)]
    return [Check("packages", "ok", f"{len(pins)}, as pinned")]


def _pins() -> dict[str, str]:
    """Return {package: version}, of the checkout that this is, or of what was installed."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text())["project"]
        wanted = project["dependencies"] if project["name"] == "selftrain" else []
    except (OSError, ValueError, LookupError):
        try:
            wanted = [it for it in metadata.requires("selftrain") or [] if "extra ==" not in it]
        except metadata.PackageNotFoundError:
            wanted = []
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*==\s*([^\s;]+)", it) for it in wanted)
    return {it[1]: it[2] for it in found if it is not None}


def check_cores(config: Config) -> list[Check]:
    """Check cores, memory, and the shared memory through which loader processes send batches."""
    import psutil

    workers, cores = count_workers(config.machine), len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    text = (
        f"{cores}; loader processes: {workers}; memory: {size(memory.available)} of "
        f"{size(memory.total)} free"
    )
    checks = [Check("cores", "ok", text)]
    shared = Path("/dev/shm")
    if not workers or not shared.is_dir():
        return checks
    trained = (config.teacher, config.student)
    batch = max(it.optim.batch_size * it.crop.size**2 * _BYTES_OF_PIXEL for it in trained)
    needed, free = 2 * workers * batch, shutil.disk_usage(shared).free  # two batches each
    text = f"/dev/shm has {size(free)}, loader processes need about {size(needed)}"
    if free >= needed:
        return [*checks, Check("shared memory", "ok", text)]
    cure = "enlarge it, in a container by --shm-size, or lower machine.workers (0 needs none)"
    return [*checks, Check("shared memory", "warning", text, cure)]


def check_outputs(config: Config) -> list[Check]:
    """Check that products can be written; a file without a name is made, and gone at once."""
    folder = config.machine.outputs
    place = nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror})"
        return [Check("outputs", "failed", text, "set machine.outputs to a folder that can be")]
    state = "" if folder.is_dir() else ", made by the first command"
    text = f"{folder.resolve()}{state}: {size(free)} free"
    if free < _LITTLE:
        return [Check("outputs", "warning", text, "make room, or choose another machine.outputs")]
    return [Check("outputs", "ok", text)]


def check_store(config: Config) -> list[Check]:
    """Check that the tracking store answers, without making one where there is none."""
    uri = store_uri()
    cure = "set MLFLOW_TRACKING_URI to another store, as in sqlite:////PATH/mlflow.db"
    try:
        if uri.startswith("sqlite:///"):
            return [Check("store", "ok", f"{shown_uri()}: {_look_into(uri)}")]
        if not uri.startswith(("http:", "https:")) and "://" not in uri:
            raise InputError(f"{shown_uri()} is a folder, which MLflow takes no more")
        ping(uri, timeout=_TIMEOUT)
        said = _ask(uri) if uri.startswith("http") else "somebody answers"
        return [Check("store", "ok", f"{shown_uri()}: {said}")]
    except InputError as error:
        return [Check("store", "failed", str(error), cure)]
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        known = reason_of(reason) if isinstance(reason, Exception) else reason
        text = f"nobody answers at {shown_uri()} ({known})"
        return [Check("store", "failed", text, f"start the server, or {cure}")]


def _look_into(uri: str) -> str:
    """Say what a SQLite store has; it is opened to be read alone."""
    file = Path(uri.removeprefix("sqlite:///"))
    if file.is_dir():
        raise InputError(f"{file} is a folder and no file")
    if not file.exists():
        if not file.parent.is_dir():
            raise InputError(f"the folder {file.parent} of the tracking store is missing")
        if not os.access(file.parent, os.W_OK):
            raise InputError(f"{file} cannot be made: {file.parent} cannot be written")
        return "not there yet, the first command makes it"
    if not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK):
        raise InputError(f"{file} cannot be written")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as store:
            asked = "SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'"
            (runs,) = store.execute(asked).fetchone()
    except sqlite3.Error as error:
        raise InputError(f"{file} is no database of MLflow, or is damaged ({error})") from error
    return f"{runs} finished runs"


def _ask(uri: str) -> str:
    """Ask a server something that only those whom it lets in are told."""
    parts = urlsplit(uri)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    request = urllib.request.Request(place + path)  # http, as checked
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", parts.username or "")
    if user:
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD", parts.password or "")
        both = b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {both}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            return "answers, and lets us in"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise InputError(
                f"{shown_uri()} does not let us in ({error.code}): see MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from error
        raise InputError(f"{shown_uri()} answers {error.code}: it is no MLflow server") from error


def check_leftovers(config: Config) -> list[Check]:
    """Look for what dead processes have left: messages for the store, and begun products."""
    outputs = config.machine.outputs
    checks = []
    spools = [it.parent for it in outputs.glob(f"{_SPOOL}/*/run.json")]
    waiting = [it for it in spools if not _is_held(it / "lock")]
    if waiting:
        text = f"messages of {len(waiting)} runs wait for the store in {outputs / _SPOOL}"
        cure = f"python -m selftrain sync --machine.outputs {outputs}"
        checks.append(Check("leftovers", "warning", text, cure))
    for lock in sorted(outputs.glob("*.lock")):
        product, who = lock.with_suffix(""), describe_holder(read_note(lock)).rstrip(",")
        if not _is_held(lock):
            text = f"{who} has died at {product}"
            cure = "give its command again: it goes on from there"
            checks.append(Check("leftovers", "warning", text, cure))
        else:
            checks.append(Check("at work", "ok", f"{who} works on {product}"))
    return checks or [Check("leftovers", "ok", "none")]


def _is_held(lock: Path) -> bool:
    try:
        return is_held(lock)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def check_data(config: Config) -> list[Check]:
    """List the benchmark's files, and look for weights that are named by their file."""
    return [*_check_files(config), *_check_weights(config)]


def _check_files(config: Config) -> Iterator[Check]:
    from selftrain.sources import open_splits, scenes_places  # OpenCV, pandas

    root, name = config.machine.data_root, config.benchmark
    if config.data.dataset == "scenes":
        places = scenes_places(config.data, root)
        drawn = {
            split: sum(1 for _ in (place / "images").iterdir())
            for split, (place, _) in places.items()
            if (place / "images").is_dir()
        }
        counts = ", ".join(f"{count} {split}" for split, count in drawn.items())
        left = [split for split in places if split not in drawn]
        text = f"{name}: {counts or 'nothing drawn yet'}"
        text += f"; {', '.join(left)} will be drawn into {root}" if left else f" in {root}"
        yield Check("data", "ok", text)
        return
    listed = replace(config, data=replace(config.data, shots=0))  # shots open every label
    try:
        splits = open_splits(listed, config.machine.outputs / "cache")
    except InputError as error:
        yield Check("data", "failed", f"{name}: {error}", f"docs/data.md has the layout of {name}")
        return
    counts = ", ".join(
        f"{count} {split}"
        for split, count in {
            "labelled": len(splits.labelled),
            "in the pool": len(splits.unlabelled),
            "dev": len(splits.dev),
            **{split: len(some) for split, some in splits.evaluation.items()},
        }.items()
    )
    yield Check("data", "ok", f"{name}: {counts} (listed, not opened) in {root}")


def _check_weights(config: Config) -> Iterator[Check]:
    networks = {"teacher": config.teacher.network, "student": config.student.network}
    named = {it.backbone_weights for it in networks.values() if it.name != "fast_scnn"}
    for weights in sorted(named):
        if not weights.endswith(WEIGHT_FILES):
            continue  # published ones: torchvision knows where they lie
        if Path(weights).is_file():
            yield Check("weights", "ok", weights)
        else:
            cure = "correct network.backbone_weights, or fetch the file"
            yield Check("weights", "failed", f"there is no file {weights}", cure)


def size(count: float) -> str:
    """Return bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def nearest(folder: Path) -> Path:
    """Return the folder, or the nearest of its parents that is there, whatever that is."""
    folder = folder.resolve()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
