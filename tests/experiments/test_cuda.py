"""The steps of a CUDA machine, in miniature on the CPU, through their command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.splice import splice
from experiments.cuda.steps import STEPS

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "cuda.md").read_text()


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    environment = {**kept, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "experiments.cuda", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def take(folder: Path, step: str, *words: str) -> tuple[int, dict[str, Any]]:
    out = folder / "out"
    done = call(folder, step, "--out", str(out), "--device", "cpu", *words)
    path = out / f"step_{step}.json"
    assert path.exists(), done.stderr
    files = [it for it in out.rglob("*") if it.is_file()]
    assert len(files) <= 8
    assert all(len(it.relative_to(out).parts) <= 3 for it in files)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", it.name) for it in files)
    assert sum(it.stat().st_size for it in files) < 300_000
    return done.returncode, json.loads(path.read_bytes())


def test_the_list_and_the_page_have_the_steps_in_order(tmp_path: Path) -> None:
    listed = [line.split()[0] for line in call(tmp_path, "list").stdout.splitlines()]
    assert listed == list(STEPS)
    assert re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE) == [
        (name, step.what) for name, step in STEPS.items()
    ]


def test_the_page_has_the_tables_of_the_records() -> None:
    assert splice(PAGE, REPOSITORY / "results") == PAGE, "run: make tables"


def test_a_record_of_cuda_that_is_there_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "speed" / "cuda" / "training_step.json"
    path.parent.mkdir(parents=True)
    network = {"product_gflop_per_s": 1.0, "usual_amp_images_per_s": 12.5}
    path.write_text(json.dumps({"what": "training", "fast_scnn": network}))
    shown = splice("<!-- table: speed/cuda/training_step -->\n<!-- end -->\n", tmp_path)
    assert "12.50" in shown
    assert "fast_scnn" in shown


def test_a_step_needs_a_folder(tmp_path: Path) -> None:
    done = call(tmp_path, "tests")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --out is missing")


def test_a_step_that_time_did_not_suffice_for_goes_on_later(tmp_path: Path) -> None:
    tiny = ["--crop", "64", "--batch", "2", "--seconds", "0.1", "--ways", "ours", "--workers", "0"]
    words = ["--networks", "fast_scnn", "--"]
    code, record = take(tmp_path, "training_step", "--minutes", "0.005", *words, *tiny)
    assert (code, record["left"], record["done"]) == (3, ["fast_scnn"], [])
    code, record = take(tmp_path, "training_step", *words, *tiny)
    assert (code, record["left"], record["done"]) == (0, [], ["fast_scnn"])
    measured = (tmp_path / "out" / "training_step.json").read_bytes()
    take(tmp_path, "training_step", *words, *tiny)
    assert (tmp_path / "out" / "training_step.json").read_bytes() == measured


@pytest.mark.parametrize("step", ["tests"])
def test_the_gpu_tests_are_listed_by_their_end(step: str, tmp_path: Path) -> None:
    code, record = take(tmp_path, step)
    assert code == 0
    assert record["skipped"] or record["passed"]
    assert record["failed"] == []
