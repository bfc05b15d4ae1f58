"""What is promised about repetition (docs/determinism.md), as far as no other file tests it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import TINY, flags
from squares import RECIPE, draw_squares, fit_squares

from selftrain.__main__ import main
from selftrain.config import MachineConfig
from selftrain.knobs import Scalar

REPOSITORY = Path(__file__).parents[1]


def products(outputs: Path) -> dict[str, bytes]:
    """Return the files of networks, pseudo labels and scores; they name no run and no time."""
    patterns = [
        *("train-*/weights.safetensors", "train-*/model.json", "pseudo_label-*/shard-*"),
        *("pseudo_label-*/manifest.parquet", "pseudo_label-*/card.json"),
        *("evaluate-*/metrics.json", "evaluate-*/per_class.csv"),
    ]
    found = [path for pattern in patterns for path in outputs.glob(pattern)]
    return {str(it.relative_to(outputs)): it.read_bytes() for it in found if it.is_file()}


def words(data: Path, outputs: Path, workers: int) -> list[str]:
    knobs: dict[str, Scalar] = {
        **TINY,
        "machine.data_root": data,
        "machine.outputs": outputs,
        "machine.workers": workers,
    }
    return ["evaluate", *flags(knobs)]


@pytest.mark.usefixtures("store")
def test_the_pipeline_makes_the_same_bytes_in_another_process_with_other_workers(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["selftrain", *words(scenes_root, tmp_path / "here", 0)])
    main()
    here = products(tmp_path / "here")
    assert len([name for name in here if name.endswith("weights.safetensors")]) == 2
    assert {Path(name).name for name in here} >= {"shard-00001.zip", "card.json", "metrics.json"}
    # A store of its own, or it would find what was made; other hashes of texts, another order of
    # sets.
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(
        [sys.executable, "-m", "selftrain", *words(scenes_root, tmp_path / "there", 2)],
        cwd=tmp_path / "elsewhere",
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}",
            "PYTHONHASHSEED": "4711",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert products(tmp_path / "there") == here


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.torture  # trains twice
def test_other_threads_change_the_loss_by_rounding_alone(tmp_path: Path) -> None:
    squares = draw_squares(tmp_path)
    machine = MachineConfig(device="cpu", workers=0)
    losses = []
    for number in (1, 3):
        with threads(number):
            losses.append(fit_squares(RECIPE, squares, machine).losses)
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.04)


def test_every_test_that_the_page_names_is_there() -> None:
    page = (REPOSITORY / "docs" / "determinism.md").read_text()
    named = re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", page)
    assert len(named) > 10
    for file, test in named:
        text = (REPOSITORY / file).read_text()
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file} has no {test}"
