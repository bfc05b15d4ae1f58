"""What is built from the checkout, and that it works where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # comes with mlflow
from miniature import TINY, flags

from selftrain.actions import ACTIONS
from selftrain.knobs import Scalar
from selftrain.space import space_names
from selftrain.study import study_names

REPOSITORY = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
NAME = f"selftrain-{PROJECT['version']}"

ELSEWHERE = """
import importlib.util, pathlib, sys
assert not [it for it in ("analysis", "experiments", "tests") if importlib.util.find_spec(it)]
import selftrain
print(pathlib.Path(selftrain.__file__).resolve().parents[1])
from selftrain.benchmarks import benchmark
config = benchmark("camvid")
print(config.machine.data_root, config.teacher.network.backbone_weights)
from selftrain.space import load_space, space_names
from selftrain.study import load_study, study_names
for name in study_names():
    load_study(name)
for name in space_names():
    load_space(name)
print(*study_names())
print(*space_names())
"""


def tracked(folder: str = ".") -> set[str]:
    """Return the files below a folder of the checkout that git knows, or would add."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    listed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    return {name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of the checkout, and a wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--out-dir", folder, REPOSITORY], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    return built / f"{NAME}.tar.gz"


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel, and a folder that has nothing to do with the checkout."""

    environment: Path
    folder: Path

    def call(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Call a program of the environment as a user with an empty home does."""
        return subprocess.run(
            [self.environment / "bin" / program, *words],
            cwd=self.folder,
            env={
                "PATH": f"{self.environment / 'bin'}{os.pathsep}{os.defpath}",
                "HOME": str(self.folder),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def selftrain(self, stage: str, more: Mapping[str, Scalar]) -> subprocess.CompletedProcess[str]:
        """Call `selftrain STAGE` with the tiny knobs."""
        return self.call("selftrain", stage, *flags({**TINY, **more}))


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment of its own, which borrows the dependencies of the tests'.

    What is borrowed is found last, and its .pth files, one of which leads to the checkout, are not
    read.
    """
    environment, folder = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("user")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel],
        check=True,
    )
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return Installation(environment, folder)


def test_the_wheel_holds_the_package_with_its_data_and_the_studies_and_nothing_else(
    wheel: Path,
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    studies = {path.name for path in (REPOSITORY / "experiments").glob("*.py")}
    inside = {f"selftrain/experiments/{name}" for name in studies}
    assert {"sweep_student.py", "__init__.py"} < studies
    assert names == tracked("selftrain") | inside
    for kind in ("templates/audit.html", "templates/style.css", "data/splits/camvid/SHA256SUMS"):
        assert f"selftrain/{kind}" in names


def test_the_sdist_holds_what_git_holds(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {it.name.removeprefix(f"{NAME}/") for it in archive.getmembers() if it.isfile()}
    assert names == {*tracked(), "PKG-INFO"}


def test_the_wheel_says_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        said = Parser().parsestr(archive.read(f"{NAME}.dist-info/METADATA").decode())
        commands = archive.read(f"{NAME}.dist-info/entry_points.txt").decode().split("\n")
        licence = archive.read(f"{NAME}.dist-info/licenses/LICENSE")
    assert commands[:2] == ["[console_scripts]", "selftrain = selftrain.__main__:main"]
    assert said["Version"] == PROJECT["version"]
    needed = [it for it in said.get_all("Requires-Dist", []) if "extra ==" not in it]
    assert sorted(needed) == sorted(PROJECT["dependencies"])
    assert licence == (REPOSITORY / "LICENSE").read_bytes()


def test_the_version_is_said_once_and_cited_alike() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    package = REPOSITORY / "selftrain"
    assert [it for it in package.rglob("*.py") if "__version__ =" in it.read_text()] == []


def test_the_installed_command_says_what_it_can_do(installation: Installation) -> None:
    done = installation.call("selftrain", "--help")
    assert done.returncode == 0, done.stdout
    assert all(f"\n  {stage} " in done.stdout for stage in ACTIONS)


def test_an_installed_package_knows_the_studies_and_nothing_of_a_checkout(
    installation: Installation,
) -> None:
    done = installation.call("python", "-c", ELSEWHERE)
    assert done.returncode == 0, done.stdout
    place, camvid, studies, sweeps = (line.rstrip() for line in done.stdout.splitlines()[-4:])
    assert Path(place).is_relative_to(installation.environment)
    assert camvid == "data/camvid IMAGENET1K_V1"
    assert studies.split() == study_names()
    assert sweeps.split() == space_names()


def test_the_demo_runs_from_the_installed_command_in_any_folder(
    installation: Installation,
) -> None:
    done = installation.selftrain("main", {})
    assert done.returncode == 0, done.stdout
    assert "student - control" in done.stdout
    assert (installation.folder / "mlflow.db").is_file()
    (table,) = installation.folder.glob("outputs/main-scenes-*/*.csv")
    assert "test mIoU" in table.read_text()

    # Two processes, each of which must find the installed package again.
    done = installation.selftrain("student", {"machine.processes": 2})
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("student: found outputs/train-") == 1
