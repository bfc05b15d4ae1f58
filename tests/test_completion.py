"""Completion, asked of real shells."""

import shutil
import subprocess
from pathlib import Path

import pytest

from selftrain.benchmarks import BENCHMARKS
from selftrain.commands import COMMANDS
from selftrain.completion import complete
from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.help import leaf_types

ASK = """
source ./script
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
compopt() { :; }  # knows only completions that a terminal has begun
_selftrain
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script").write_text(complete(["bash"]))
    return tmp_path


def ask_bash(folder: Path, *words: str) -> list[str]:
    """Return what bash would offer for the last of these words."""
    done = subprocess.run(
        ["bash", "-u", "-c", ASK, "bash", "selftrain", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_first_word_is_a_command(folder: Path) -> None:
    assert ask_bash(folder, "") == [*COMMANDS, "--help"]
    assert ask_bash(folder, "stu") == ["student", "study"]


def test_a_knob_is_completed_part_by_part(folder: Path) -> None:
    assert ask_bash(folder, "predict", "--stude") == ["--student."]
    assert ask_bash(folder, "predict", "--student.opt") == ["--student.optim."]
    found = ask_bash(folder, "predict", "--student.optim.")
    assert found == [
        f"--{path}" for path in leaf_types(Config) if path.startswith("student.optim.")
    ]


def test_a_commands_own_knobs_need_no_name(folder: Path) -> None:
    assert "--images" in ask_bash(folder, "predict", "--im")
    assert "--optim." in ask_bash(folder, "student", "--op")
    assert ask_bash(folder, "teacher", "--images") == []


def test_every_knob_can_be_completed(folder: Path) -> None:
    offered = ask_bash(folder, "sync", "--")
    assert {"--benchmark", "--quiet", "--json", "--help", "--rounds", "--machine."} <= set(offered)
    assert {it for it in offered if not it.endswith(".")} == {
        *(f"--{path}" for path in leaf_types(Config) if "." not in path),
        *("--pool", "--quiet", "--json", "--help"),
    }
    for section in (it for it in offered if it.endswith(".")):
        names = [f"--{path}" for path in leaf_types(Config) if f"--{path}".startswith(section)]
        found = ask_bash(folder, "sync", section)
        assert {it.rstrip(".") for it in found} == {
            section + name.removeprefix(section).partition(".")[0] for name in names
        }


def test_a_value_is_one_of_those_that_are_allowed(folder: Path) -> None:
    assert ask_bash(folder, "main", "--benchmark", "") == list(BENCHMARKS)
    assert ask_bash(folder, "main", "--student.optim.name", "a") == ["adamw"]
    assert ask_bash(folder, "student", "--optim.name", "") == ["sgd", "adamw"]
    assert ask_bash(folder, "student", "--network.output_stride", "") == ["8", "16", "32"]
    # As bash cuts --evaluate.inference.flip=t.
    assert ask_bash(folder, "main", "--evaluate.inference.flip", "=", "t") == ["true"]
    assert ask_bash(folder, "main", "--evaluate.inference.flip", "=") == ["true", "false"]
    assert ask_bash(folder, "main", "--student.epochs", "") == []


def test_a_path_is_completed_from_what_there_is(folder: Path) -> None:
    (folder / "pictures").mkdir()
    assert ask_bash(folder, "predict", "--images", "pic") == ["pictures"]
    assert ask_bash(folder, "predict", "--predict.images", "pic") == ["pictures"]


def test_after_a_switch_comes_another_knob(folder: Path) -> None:
    assert "--json" in ask_bash(folder, "main", "--quiet", "--js")


def test_the_shells_are_completed_too(folder: Path) -> None:
    assert ask_bash(folder, "completion", "") == ["bash", "zsh", "fish"]


def test_only_the_console_command_is_completed(folder: Path) -> None:
    listed = subprocess.run(
        ["bash", "-c", "source ./script; complete -p"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.strip() == "complete -F _selftrain selftrain"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    file = tmp_path / "script"
    file.write_text(complete([shell]))
    subprocess.run([shell, "-n", str(file)], check=True)


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="one of bash, zsh, fish"):
        complete(words)
