"""The help of the program, of its commands and of every knob."""

import re

import pytest

from selftrain.benchmarks import benchmark
from selftrain.command_line import parse
from selftrain.commands import COMMANDS, EXAMPLES, GROUPS
from selftrain.config import Config
from selftrain.help import knob_docs, leaf_types, overview, stage_help
from selftrain.knobs import flatten

LINES = {name: command.line for name, command in COMMANDS.items()}
NO_STAGES = {"doctor", "sync", "completion"}
"""Commands that leave no run."""


def test_every_knob_has_its_help() -> None:
    docs = knob_docs()
    assert set(docs) == set(flatten(Config())) == set(leaf_types(Config))
    for path, text in docs.items():
        said = re.sub(r"\[\w+\]", "", text)  # where a value is from says nothing of what it is
        assert len(said.split()) >= 2, path


def test_every_action_is_a_command_in_a_group_with_an_example() -> None:
    from selftrain.actions import ACTIONS  # seconds, which the other tests need not wait for

    assert set(COMMANDS) == {*ACTIONS, *NO_STAGES}
    assert {command.group for command in COMMANDS.values()} == set(GROUPS)


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"completion"}))
def test_an_example_is_understood(name: str, tmp_path: object) -> None:
    words = COMMANDS[name].example.replace("DIR", str(tmp_path)).split()
    assert words[0] == name
    stage, _ = parse(words, LINES)
    assert stage == name


def test_the_programs_examples_are_understood(tmp_path: object) -> None:
    for _, words in EXAMPLES:
        parse(words.replace("DIR", str(tmp_path)).split(), LINES)


def test_the_overview_shows_each_command_under_its_group() -> None:
    text = overview(LINES)
    for command in COMMANDS.values():
        assert f"\n{GROUPS[command.group]}:\n" in text
    train = text.index(GROUPS["train"])
    assert train < text.index("  teacher ") < text.index(GROUPS["label"])
    assert "examples:" in text
    assert "--json" in text


def test_a_command_that_nobody_has_grouped_is_shown_all_the_same() -> None:
    assert "\nother:\n  dance                 Dance.\n" in overview({**LINES, "dance": "Dance."})


def test_a_commands_help_begins_with_what_it_does_an_example_and_its_own_knobs() -> None:
    text = stage_help("student", LINES["student"], benchmark("scenes"))
    places = [
        text.index(it)
        for it in (
            "usage: python -m selftrain student",
            LINES["student"],
            "example:\n  python -m selftrain student --benchmark camvid_small",
            "  --student.epochs N (default: 54)\n      How often",
            "  --student.network.name NAME (default: fast_scnn)\n      One of deeplabv3plus,",
            "  --pseudo_label.teacher TEXT",
            "  --machine.outputs PATH",
            "What follows student does not read",
            "  --sweep.trials N",
        )
    ]
    assert places == sorted(places)
    assert "knobs of student:\n  (--epochs is short for --student.epochs)\n" in text


def test_a_default_is_the_benchmarks() -> None:
    text = stage_help("student", LINES["student"], benchmark("camvid_small"))
    assert "--student.epochs N (default: 80)" in text
    assert "--pseudo_label.inference.flip {true,false} (default: true)" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_80_columns(name: str) -> None:
    text = overview(LINES) + "\n" + stage_help(name, LINES[name], benchmark("scenes"))
    assert [line for line in text.splitlines() if len(line) > 80] == []
