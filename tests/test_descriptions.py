"""What a run's page says in words."""

import shlex

import pytest

from selftrain.benchmarks import benchmark
from selftrain.command_line import parse
from selftrain.config import Config
from selftrain.descriptions import Facts, describe_command, describe_stage, repeating_command
from selftrain.knobs import Scalar, flatten, override
from selftrain.pipeline import control_config

STAGES = dict.fromkeys(
    ("prepare", "teacher", "pseudo_label", "student", "finetune", "evaluate"), "does something"
)


def again(command: str, config: Config, values: dict[str, Scalar] | None = None) -> Config:
    """Return what the command line that a description gives is parsed to."""
    line = repeating_command(command, config, benchmark(config.benchmark), values or {})
    python, m, package, *words = shlex.split(line)
    assert (python, m, package) == ("python", "-m", "selftrain")
    stage, parsed = parse(words, STAGES)
    assert stage == command
    return parsed


@pytest.mark.parametrize("command", STAGES)
def test_the_command_of_a_description_sets_what_decides_the_product(command: str) -> None:
    values: dict[str, Scalar] = {
        "data.scenes.images": 64,
        "teacher.epochs": 3,
        "student.select.rule": "cbst",
        "student.select.share": 0.5,
        "student.loss.soft": False,
        "student.data.pseudo_ratio": 2.0,
        "pseudo_label.measure": False,
        "finetune.seed": 5,
        "evaluate.inference.scales": "0.5,1,2",
        "machine.outputs": "somewhere",
    }
    config = override(benchmark("scenes"), values)
    parsed, wanted = flatten(again(command, config)), flatten(config)
    assert parsed["data.scenes.images"] == 64
    own = "data." if command == "prepare" else f"{command}."
    assert {k: v for k, v in parsed.items() if k.startswith(own)} == {
        k: v for k, v in wanted.items() if k.startswith(own)
    }
    assert parsed["machine.outputs"] == flatten(benchmark("scenes"))["machine.outputs"]
    if command == "student":
        assert parsed["teacher.epochs"] == 3


def test_a_controls_command_trains_the_control() -> None:
    config = benchmark("camvid_small")
    control = control_config(config.student)
    record = override(config, {f"student.{k}": v for k, v in flatten(control).items()})
    assert again("student", record).student == control


def test_a_run_that_is_named_is_in_the_command() -> None:
    found = again("evaluate", benchmark("scenes"), {"evaluate.model": "0123456789ab"})
    assert found.evaluate.model == "0123456789ab"


def test_a_description_says_what_it_is_links_what_it_was_made_from_and_how_to_make_it() -> None:
    facts = Facts(
        name="student 1:1 CS s0",
        command="student",
        kind="student",
        seed=0,
        network="fast_scnn",
        made_from={"pseudo_labels": ["0123456789abcdef"]},
    )
    config = benchmark("scenes")
    link = "#/experiments/1/runs/0123456789abcdef"
    pages = {"0123456789abcdef": link}
    text = "\n".join(
        describe_stage(facts, config, config, read="scenes: 128 labelled images.", pages=pages)
    )
    assert text.startswith("A student: a network trained on real and pseudo labels")
    assert f"pseudo_labels [01234567]({link})" in text
    assert "scenes: 128 labelled images." in text
    assert "\npython -m selftrain student --benchmark=scenes\n" in text


def test_a_command_describes_itself_by_its_words() -> None:
    lines = describe_command("Train the teacher.", ["teacher", "--a", "it's"])
    assert lines[0] == "Train the teacher."
    assert """python -m selftrain teacher --a 'it'"'"'s'""" in lines
