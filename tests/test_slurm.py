"""The batch scripts of docs/slurm, run by bash where Slurm's programs are played by a few lines."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from selftrain.actions import ACTIONS
from selftrain.command_line import parse
from selftrain.config import Config

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs" / "slurm"
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))
STOPPED = 138  # 128 + SIGUSR1

PROGRAMS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "$@" > requeued; fi',
    "selftrain": 'printf "%s\\n" "$@" > words; env > environment; exit "${CODE:-0}"',
}
SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NODELIST": "node[7-8]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_ARRAY_TASK_ID": "5",
}
"""What Slurm gives a script."""
USER = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    "SWEEP_STORAGE": "postgresql://me@database/sweeps",
}
"""What a user has set."""


@dataclass(frozen=True)
class Ran:
    """A script that has ended."""

    code: int
    errors: str
    folder: Path

    @property
    def config(self) -> Config:
        """What the command asks for."""
        return self._parsed[1]

    @property
    def stage(self) -> str:
        """The command's stage."""
        return self._parsed[0]

    @property
    def _parsed(self) -> tuple[str, Config]:
        words = (self.folder / "words").read_text().splitlines()
        return parse(words, dict.fromkeys(ACTIONS, ""))

    @property
    def environment(self) -> dict[str, str]:
        """Of the command."""
        lines = (self.folder / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def requeued(self) -> str:
        """What Slurm was told to do again."""
        path = self.folder / "requeued"
        return path.read_text().strip() if path.exists() else ""


def run(name: str, folder: Path, *words: str, **variables: str) -> Ran:
    """Run a script in a folder."""
    programs = folder / "programs"
    programs.mkdir()
    for program, lines in PROGRAMS.items():
        (programs / program).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (programs / program).chmod(0o755)
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    given = {**path, **SLURM, **USER, **variables}
    done = subprocess.run(
        ["bash", FOLDER / f"{name}.sbatch", *words],
        cwd=folder,
        env={name: value for name, value in given.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.returncode, done.stderr, folder)


def options(name: str) -> dict[str, str]:
    """Return what a script asks Slurm for."""
    text = (FOLDER / f"{name}.sbatch").read_text()
    head = text.partition("\nset ")[0]  # Slurm looks no further than the first command
    assert text.count("#SBATCH") == head.count("#SBATCH")
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", head, re.MULTILINE))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: apt-get install shellcheck)")
    done = subprocess.run(["shellcheck", script], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_job_that_was_given_notice_is_queued_again_and_no_other(
    script: Path, tmp_path: Path
) -> None:
    assert options(script.stem)["signal"].startswith("USR1@")
    assert "requeue" in options(script.stem)
    for code, told in [(0, ""), (1, ""), (143, ""), (STOPPED, "requeue 1234567")]:
        folder = tmp_path / str(code)
        folder.mkdir()
        ran = run(script.stem, folder, CODE=str(code))
        assert (ran.code, ran.requeued) == (code, told), ran.errors


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_job_without_a_tracking_server_does_not_start(script: Path, tmp_path: Path) -> None:
    ran = run(script.stem, tmp_path, MLFLOW_TRACKING_URI="")
    assert ran.code != 0
    assert "MLFLOW_TRACKING_URI: set it to the address" in ran.errors
    assert not (tmp_path / "words").exists()


def test_a_training_runs_on_all_gpus_of_all_machines_which_meet_at_the_first(
    tmp_path: Path,
) -> None:
    ran = run("train", tmp_path, "student", "--benchmark", "camvid", "--student.optim.lr=0.02")
    assert ran.code == 0, ran.errors
    assert (ran.stage, ran.config.benchmark) == ("student", "camvid")
    assert ran.config.student.optim.lr == 0.02
    assert ran.config.machine.processes == 4
    assert options("train")["ntasks-per-node"] == "1"
    told = {name: value for name, value in ran.environment.items() if name.startswith("PET_")}
    assert int(told.pop("PET_SHUTDOWN_TIMEOUT")) < int(options("train")["signal"].partition("@")[2])
    assert told == {
        "PET_NNODES": "2",
        "PET_RDZV_ID": "1234567",
        "PET_RDZV_ENDPOINT": "node7:24567",
    }


def test_without_words_a_training_is_the_papers(tmp_path: Path) -> None:
    ran = run("train", tmp_path)
    assert (ran.stage, ran.config.benchmark) == ("main", "cityscapes")


def test_the_jobs_of_an_array_label_all_shards_and_one_more_merges_them(tmp_path: Path) -> None:
    jobs = range(1, 17)
    assert options("label")["array"] == f"1-{len(jobs)}"
    seen = []
    for job in jobs:
        folder = tmp_path / str(job)
        folder.mkdir()
        ran = run("label", folder, SLURM_ARRAY_TASK_ID=str(job))
        assert (ran.stage, ran.config.benchmark) == ("pseudo_label", "cityscapes")
        seen.append(ran.config.pseudo_label.job())
    assert seen == [(job - 1, len(jobs)) for job in jobs]
    folder = tmp_path / "merge"
    folder.mkdir()
    assert run("label", folder, SHARD="merge").config.pseudo_label.job() is None


def test_the_workers_of_an_array_share_one_storage(tmp_path: Path) -> None:
    ran = run("sweep", tmp_path, "--sweep.trials", "64")
    assert ran.stage == "sweep"
    assert ran.config.sweep.storage == USER["SWEEP_STORAGE"]
    assert ran.config.sweep.trials == 64
    folder = tmp_path / "none"
    folder.mkdir()
    assert "SWEEP_STORAGE: set it to the database" in run("sweep", folder, SWEEP_STORAGE="").errors
