"""Where the studies and sweeps are looked for. The wheel's are read in test_packaging.py."""

import sys
from pathlib import Path

import pytest

from selftrain import experiment_files
from selftrain.errors import InputError

REPOSITORY = Path(__file__).parents[1]


def test_the_files_of_the_checkout_are_named_and_imported() -> None:
    folder = REPOSITORY / "experiments"
    assert experiment_files.names() == sorted(
        path.stem for path in folder.glob("*.py") if path.stem != "__init__"
    )
    assert experiment_files.load("sweep_student").__file__ == str(folder / "sweep_student.py")


def test_without_the_folder_a_sentence_says_where_it_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [it for it in sys.modules if it.partition(".")[0] == "experiments"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "experiments").mkdir()  # somebody's, which is no package
    with pytest.raises(InputError, match=r"no studies and sweeps here: install .* in a checkout"):
        experiment_files.names()
