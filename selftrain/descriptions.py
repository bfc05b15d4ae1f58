"""What a run's page in MLflow says in words: what it is, what of, and how it is made again.

Descriptions are lines of Markdown (`describe_stage`, `describe_command`): others may be added.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selftrain.config import Config
from selftrain.knobs import Scalar, flatten

TEACHER, STUDENT, CONTROL, FINETUNED = "teacher", "student", "control", "finetune"
_KINDS: Mapping[str, str] = {
    "prepare": "What the benchmark's data hold: counts, classes, pictures.",
    TEACHER: "The teacher: a network trained on the labelled images alone (Figure 1a).",
    STUDENT: "A student: a network trained on real and pseudo labels together (Figure 1c).",
    CONTROL: "The student's equal-iteration control: the same network on as many crops, all of "
    "them really labelled. What a student gains is its difference from this.",
    FINETUNED: "A network trained on the benchmark's labels, from another training's weights.",
    "pseudo_label": "Pseudo labels: what the teachers see in the unlabelled pool (Figure 1b). "
    "How far they can be trusted: artifact `audit/audit.html`.",
    "evaluate": "A trained network, measured on images by which no choice was made.",
}
_TRAINED = (
    "In *Model metrics*: curves, the last epoch's IoU of each class on dev as bars, and the same "
    "dev frames at several epochs, with a slider. The network is the logged model."
)
_READS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("data.",),
    "teacher": ("data.", "teacher."),
    "pseudo_label": ("data.", "teacher.", "pseudo_label."),
    "student": ("data.", "teacher.", "pseudo_label.", "student.", "rounds"),
    "finetune": ("data.", "finetune."),
    "evaluate": ("data.", "evaluate."),
}
"""Beginnings of the knobs that decide what a command makes."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a stage's run is to be known by."""

    name: str
    """Of the run."""
    command: str
    """Of `python -m selftrain`, that makes the same; `_READS` lists them."""
    kind: str
    """What is made, of those in `_KINDS`."""
    seed: int | None = None
    """None: nothing is drawn at random, or it is not known with what."""
    network: str = ""
    """That is trained or asked; "" for none."""
    made_from: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What -> ids of the runs that have made it."""
    values: Mapping[str, Scalar] = field(default_factory=dict)
    """Knobs of the command, beside those of the config: runs that are named."""


def describe_stage(
    facts: Facts, config: Config, usual: Config, *, read: str, pages: Mapping[str, str]
) -> list[str]:
    """Return the description of a stage's run.

    Args:
        facts: What is made.
        config: From which it can be made again.
        usual: The benchmark's own.
        read: Names and counts the images.
        pages: Id -> link to the page, of the runs in `facts.made_from`.
    """
    lines = [_KINDS[facts.kind]]
    if facts.command in (TEACHER, STUDENT, FINETUNED):
        lines += ["", _TRAINED]
    lines += ["", f"**Data:** {read}"]
    if facts.made_from:
        linked = {
            what: ", ".join(f"[{run_id[:8]}]({pages[run_id]})" for run_id in run_ids)
            for what, run_ids in facts.made_from.items()
        }
        lines += ["", f"**Made from:** {'; '.join(f'{k} {v}' for k, v in linked.items())}"]
    command = repeating_command(facts.command, config, usual, facts.values)
    return [*lines, "", *_again(command), "", "Every knob: artifact `config.json`."]


def describe_command(title: str, words: Sequence[str]) -> list[str]:
    """Return the description of a command's own run.

    Args:
        title: What the command does.
        words: That were typed after `python -m selftrain`.
    """
    rows = "Its stages are the runs below it; what was there already was found and not made again."
    return [title, "", rows, "", *_again(f"python -m selftrain {shlex.join(words)}")]


def repeating_command(
    command: str, config: Config, usual: Config, values: Mapping[str, Scalar]
) -> str:
    """Return a command line that makes the same product; where things lie is left out.

    Args:
        command: Of `python -m selftrain`.
        config: From which the product was made.
        usual: The benchmark's own: what is as in it need not be said.
        values: Knobs to be set beside these.
    """
    reads = _READS[command]
    if command == STUDENT and config.student.data.pseudo_ratio == 0:
        reads = ("data.", "student.")
    if config.pseudo_label.teacher != "none" or "pseudo_label.teacher" in values:
        reads = tuple(it for it in reads if it != "teacher.")
    known = flatten(usual)
    changed = {
        knob: value
        for knob, value in flatten(config).items()
        if knob.startswith(reads) and value != known[knob]
    }
    flags = (f"--{knob}={value}" for knob, value in {**changed, **values}.items())
    words = ["python", "-m", "selftrain", command, f"--benchmark={config.benchmark}", *flags]
    return shlex.join(words)


def _again(command: str) -> list[str]:
    return ["**The same again:**", "", "```", command, "```"]
