"""Dockerfile and compose.yaml, as far as they can be checked without a Docker daemon."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with mlflow
from compose_file import COMPOSE, CUDA, REPOSITORY, services

from selftrain.actions import ACTIONS
from selftrain.command_line import parse

PASSWORD = {"POSTGRES_PASSWORD": "hush-4711"}
HOST = re.compile(r"\b[a-z0-9-]+(\.[a-z0-9-]+)*\.(com|io|org|net|dev)\b|https?://")


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and what follows them."""
    text = re.sub(r"^\s*#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    split = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(words[0], words[1]) for words in split]


def said(instruction: str) -> list[str]:
    """Return what follows an instruction, wherever it stands."""
    return [words for found, words in instructions() if found == instruction]


def reaches_the_daemon(name: str) -> bool:
    """Tell whether a file of the checkout is among those that the image may be made of."""
    is_in = True
    for line in (REPOSITORY / ".dockerignore").read_text().split("\n"):
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#"):
            first = name.partition("/")[0]
            if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(first, pattern):
                is_in = line.startswith("!")
    return is_in


def test_the_image_is_made_of_files_that_are_there_and_of_no_others() -> None:
    copied = [
        name for words in said("COPY") if "--from" not in words for name in words.split()[:-1]
    ]
    assert {"selftrain", "experiments", "pyproject.toml", "hatch_build.py"} <= set(copied)
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
    assert [name for name in copied if not reaches_the_daemon(name)] == []
    for name in ("outputs/x", "mlflow.db", ".git/config", ".env", "tests/compose_file.py"):
        assert not reaches_the_daemon(name)


def test_the_image_names_no_package_index_and_its_commands_are_not_roots() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert HOST.findall(text) == []
    assert said("FROM") == ["python:${PYTHON}-slim AS wheel", "python:${PYTHON}-slim"]
    indexes = [it for it in said("ARG") if "INDEX" in it]
    assert indexes == ["PIP_INDEX_URL", "PIP_INDEX_URL", "TORCH_INDEX"]  # without defaults
    assert said("USER") == ["selftrain"]
    assert said("ENTRYPOINT") == ['["selftrain"]']
    pythons = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert said("ARG")[0] == f"PYTHON={pythons['requires-python'].removeprefix('>=')}"


def test_the_image_takes_its_pins_from_pyproject() -> None:
    (run,) = (words for words in said("RUN") if "tomllib" in words)
    words = shlex.split(run)
    program = words[words.index("-c") + 1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert done.stdout.splitlines() == project["dependencies"]
    pattern = words[words.index("-E") + 1]
    chosen = [it for it in project["dependencies"] if re.match(pattern, it)]
    assert [it.partition("==")[0] for it in chosen] == ["torch", "torchvision"]


def test_what_the_containers_publish_is_reached_from_this_machine_alone() -> None:
    published = {name: it["ports"] for name, it in services(PASSWORD).items() if "ports" in it}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}
    everywhere = ".".join("0000")
    listening = [name for name, it in services(PASSWORD).items() if everywhere in str(it)]
    assert listening == ["mlflow"]
    for service in services(PASSWORD).values():
        assert not {"network_mode", "networks", "privileged", "devices"} & set(service)


def test_the_password_comes_from_the_environment_and_stands_in_no_address() -> None:
    text = COMPOSE.read_text()
    lines = [line.strip() for line in text.splitlines() if "PASSWORD:" in line]
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(r"\w+: \$\{POSTGRES_PASSWORD:\?[^}]+\}", line)
    assert re.findall(r"://[^/\s]*:[^/\s]*@", text) == []
    assert (
        HOST.findall(text.replace("http://mlflow:5000", "").replace("http://127.0.0.1", "")) == []
    )
    with pytest.raises(KeyError):
        services({})


def test_runs_and_trials_lie_in_databases_that_postgresql_makes() -> None:
    found = services(PASSWORD)
    postgres, mlflow, worker = found["postgres"], found["mlflow"], found["worker"]
    user, tracking = (postgres["environment"][f"POSTGRES_{it}"] for it in ("USER", "DB"))
    assert (
        f"--backend-store-uri=postgresql+psycopg://{user}@postgres/{tracking}" in mlflow["command"]
    )
    (storage,) = (it for it in worker["command"] if "postgresql" in it)
    assert storage == f"--sweep.storage=postgresql://{user}@postgres/sweeps"
    (script,) = (it.split(":")[0] for it in postgres["volumes"] if it.startswith("./"))
    assert "CREATE DATABASE sweeps;" in (REPOSITORY / script).read_text()
    assert worker["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert any("mlflow:5000" in it for it in mlflow["command"] if it.startswith("--allowed-hosts"))


@pytest.mark.parametrize("given", [{}, {"BENCHMARK": "camvid", "TRIALS": "4"}])
def test_a_worker_is_a_sweep_of_the_knobs_that_are_asked_for(given: dict[str, str]) -> None:
    stage, config = parse(
        services({**PASSWORD, **given})["worker"]["command"], dict.fromkeys(ACTIONS, "")
    )
    assert stage == "sweep"
    assert config.benchmark == given.get("BENCHMARK", "scenes")
    assert config.sweep.trials == int(given.get("TRIALS", 32))
    assert str(config.machine.outputs) == "/srv/selftrain/outputs"


def test_a_folder_that_a_volume_is_mounted_on_belongs_to_the_images_user() -> None:
    (made,) = (words for words in said("RUN") if "chown" in words)
    owned = made.partition("chown")[2]
    for name in ("mlflow", "worker"):
        for volume in services(PASSWORD)[name]["volumes"]:
            folder = volume.split(":")[1]
            assert any(f" {it}" in owned for it in (folder, str(Path(folder).parent)))
            assert Path(folder).name in made


def test_the_words_for_gpus_change_nothing_but_the_worker() -> None:
    changed = services({"GPU": "3"}, CUDA)
    assert set(changed) == {"worker"}
    (device,) = changed["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["3"], "capabilities": ["gpu"]}


def compose_program() -> list[str]:
    """Return the words that start Docker Compose; skip the test where it is not installed."""
    if shutil.which("docker") is not None:
        done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if done.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose") is not None:
        return ["docker-compose"]
    pytest.skip("Docker Compose is not installed (Debian: apt-get install docker-compose)")


def config(files: list[Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Call `docker compose config`, which reads the files and needs no daemon."""
    names = [word for path in files for word in ("-f", str(path))]
    ours = ("POSTGRES_PASSWORD", "PYTHONPATH")  # docker-compose may be a Python program
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [*compose_program(), *names, "config"],
        cwd=REPOSITORY,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, CUDA]])
def test_docker_compose_understands_the_file_as_we_do(files: list[Path]) -> None:
    done = config(files, PASSWORD)
    assert done.returncode == 0, done.stderr
    understood: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    ours = services(PASSWORD)
    assert set(understood) == set(ours)
    for name, service in ours.items():
        assert understood[name].get("command") == service.get("command")
        given = {key: str(value) for key, value in understood[name]["environment"].items()}
        assert service["environment"].items() <= given.items()
        waits_for = understood[name].get("depends_on", {})
        assert set(waits_for) == set(service.get("depends_on", {}))


def test_docker_compose_asks_for_the_password() -> None:
    done = config([COMPOSE], {})
    assert done.returncode != 0
    assert "POSTGRES_PASSWORD" in done.stderr
    assert "set it to a password of your own" in done.stderr
