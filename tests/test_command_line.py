"""Words of a command -> a stage and its config, or one sentence."""

from pathlib import Path

import pytest

from selftrain.benchmarks import benchmark
from selftrain.command_line import parse, split_output
from selftrain.commands import COMMANDS
from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.knobs import flatten, override
from selftrain.progress import Output

STAGES = {name: f"About {name}." for name in COMMANDS}


def read(*words: str) -> Config:
    return parse(["student", *words], STAGES)[1]


def test_without_flags_a_stage_runs_the_default_benchmark() -> None:
    assert parse(["teacher"], STAGES) == ("teacher", benchmark("scenes"))


@pytest.mark.parametrize(
    "words", [["--student.optim.lr", "0.5"], ["--student.optim.lr=0.5"]], ids=["space", "equals"]
)
def test_a_flag_sets_its_knob(words: list[str]) -> None:
    assert read(*words) == override(benchmark("scenes"), {"student.optim.lr": 0.5})


def test_the_benchmark_may_come_first_or_last() -> None:
    first = read("--benchmark", "camvid", "--student.epochs", "3")
    last = read("--student.epochs", "3", "--benchmark=camvid")
    assert first == last == override(benchmark("camvid"), {"student.epochs": 3})


def test_the_last_of_several_values_wins() -> None:
    assert read("--student.epochs", "3", "--student.epochs=5").student.epochs == 5


def test_a_stages_own_knob_needs_no_prefix() -> None:
    stage, config = parse(["finetune", "--start", "abc", "--optim.lr=0.5"], STAGES)
    assert (stage, config.finetune.start, config.finetune.optim.lr) == ("finetune", "abc", 0.5)
    assert config.student.optim.lr == benchmark("scenes").student.optim.lr
    assert parse(["prepare", "--cache", "raw"], STAGES)[1].prepare.cache == "raw"
    # A knob of that very name comes first.
    assert parse(["pseudo_label", "--teacher.epochs", "3"], STAGES)[1].teacher.epochs == 3


@pytest.mark.parametrize(
    "words", [["abc", "--output", "a.png"], ["--run=abc", "--lineage.output=a.png"]]
)
def test_lineage_takes_its_run_as_a_word_of_its_own(words: list[str]) -> None:
    stage, config = parse(["lineage", *words], STAGES)
    assert stage == "lineage"
    assert (config.lineage.run, config.lineage.output) == ("abc", "a.png")
    with pytest.raises(InputError, match="'abc' is no knob"):
        parse(["teacher", "abc"], STAGES)


def test_a_pool_is_named_like_a_data_set_or_by_its_folder(tmp_path: Path) -> None:
    assert read("--pool", "train_extra+mapillary").data.pool == "train_extra+mapillary"
    config = read("--pool", str(tmp_path))
    assert (config.data.pool, config.machine.pool_root) == ("folder", tmp_path)
    assert not config.pseudo_label.measure  # a folder of pictures has no hidden labels
    assert read("--pool", str(tmp_path), "--pseudo_label.measure=true").pseudo_label.measure
    with pytest.raises(InputError, match="pool = 'nowhere' is neither a folder nor one of rest"):
        read("--pool", "nowhere")


def test_nproc_is_short_for_processes() -> None:
    assert read("--nproc", "4") == read("--machine.processes", "4")
    assert read("--machine.processes=2", "--nproc=4").machine.processes == 4
    with pytest.raises(InputError, match=r"machine\.processes = 'four' is not a whole number"):
        read("--nproc=four")


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_bools_take_a_value(text: str) -> None:
    config = read("--evaluate.inference.flip", text, "--pseudo_label.inference.flip", "False")
    assert config.evaluate.inference.flip
    assert not config.pseudo_label.inference.flip


def test_a_value_may_hold_an_equals_sign_blanks_and_commas() -> None:
    config = read("--predict.images=a b=c", "--predict.inference.scales", "0.5, 1")
    assert str(config.predict.images) == "a b=c"
    assert config.predict.inference.scale_list() == [0.5, 1.0]


def test_negative_numbers_are_values() -> None:
    assert read("--machine.workers", "-1").machine.workers == -1


@pytest.mark.parametrize("text", ["1e-2", ".01", "0.010"])
def test_every_spelling_of_a_number_is_the_same_config(text: str) -> None:
    assert read("--student.optim.lr", text) == read("--student.optim.lr", "0.01")


@pytest.mark.parametrize("text", ["1/16", "1/8", "1/4", "1/2", "1", "1/1"])
def test_a_fraction_is_a_number(text: str) -> None:
    numerator, _, denominator = text.partition("/")
    share = int(numerator) / int(denominator or 1)
    assert read("--data.labelled_fraction", text).data.labelled_fraction == share


def test_help_says_which_labelled_fractions_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["student", "--help"], STAGES)
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1/16, 1/8, 1/4, 1/2 or 1" in words


def test_every_knob_can_be_given_on_the_command_line() -> None:
    config = benchmark("scenes")
    values = {path: value for path, value in flatten(config).items() if path != "benchmark"}
    assert read(*(f"--{path}={value}" for path, value in values.items())) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--student.epochs"], r"--student\.epochs has no value: write --student\.epochs VALUE"),
        (["--student.epochs", "--machine.workers", "0"], r"--student\.epochs has no value"),
        (["student.epochs", "3"], r"'student\.epochs' is no knob: write --dotted\.path value"),
        (["--student.epochs", "3", "4"], r"'4' is no knob"),
        (["--student.epochs", "1e2"], r"student\.epochs = '1e2' is not a whole number"),
        (["--student.epochs", ""], r"student\.epochs = '' is not a whole number"),
        (["--student.optim.lr", "fast"], r"student\.optim\.lr = 'fast' is not a number"),
        (["--evaluate.inference.flip", "yes"], r"flip = 'yes' is neither true nor false"),
        (["--student.network.output_stride", "7"], r"output_stride = 7 is none of 8, 16, 32"),
        (["--student.network.output_stride", "x"], r"output_stride = 'x' is not a whole number"),
        (["--student.optim.lr", "1/0"], r"lr = '1/0' is not a number such as 0\.125 or 1/8"),
        (["--student.optim.lr", "1/2/3"], r"lr = '1/2/3' is not a number"),
        (["--student.optim.lr", "/"], r"lr = '/' is not a number"),
        (["--student.epochs", "4/2"], r"student\.epochs = '4/2' is not a whole number"),
        (["--data.labelled_fraction", "3/2"], r"allowed is above 0 to 1"),
        (["--benchmark", "camvit"], r"no benchmark camvit; there are scenes, scenes_abroad"),
        (["--student.optim.lrr", "1"], r"did you mean student\.optim\.lr\?"),
        (["--"], "no value"),
        (["--student.optim.lr", "nan"], r"student\.optim\.lr = nan is out of range"),
    ],
)
def test_a_mistake_is_named(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(*words)


def test_an_unknown_stage_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no stage studnet; there are .*teacher.*student"):
        parse(["studnet"], STAGES)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_lists_all_stages(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words, STAGES)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"{name} " in text and line in text for name, line in STAGES.items())


@pytest.mark.parametrize("words", [["--help"], ["-h", "--benchmark", "camvid"]])
def test_help_of_a_stage_lists_all_knobs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["student", *words], STAGES)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [path for path in flatten(Config()) if f"--{path} " not in text] == []


@pytest.mark.parametrize(
    ("words", "output", "left"),
    [
        (["student"], Output(), ["student"]),
        (["student", "--quiet"], Output(quiet=True), ["student"]),
        (["student", "--quiet", "true", "--rounds", "2"], Output(quiet=True), None),
        (["--json", "student", "--rounds", "2"], Output(json=True), None),
        (["--json", "true", "student", "--rounds=2"], Output(json=True), ["student", "--rounds=2"]),
        (["student", "--json", "--quiet=True", "--rounds", "2"], Output(True, True), None),
        (["student", "--json", "--json", "false"], Output(), ["student"]),
        (["student", "--rounds", "2", "--json"], Output(json=True), None),
    ],
)
def test_quiet_and_json_stand_anywhere_alone_or_with_a_value(
    words: list[str], output: Output, left: list[str] | None
) -> None:
    assert split_output(words) == (output, left or ["student", "--rounds", "2"])
    assert split_output(["student", *output.words()]) == (output, ["student"])


def test_quiet_is_true_or_false() -> None:
    with pytest.raises(InputError, match="quiet = 'yes' is neither true nor false"):
        split_output(["student", "--quiet", "yes"])


def test_an_option_before_the_run_of_lineage_does_not_take_it_for_its_value() -> None:
    output, words = split_output(["lineage", "--quiet", "models:/selftrain-scenes@champion"])
    assert output.quiet
    assert words == ["lineage", "models:/selftrain-scenes@champion"]
