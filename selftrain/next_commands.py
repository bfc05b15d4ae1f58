"""How a command is written that may come next: with what the user has changed, to be pasted."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from selftrain.benchmarks import benchmark
from selftrain.commands import COMMANDS
from selftrain.config import Config
from selftrain.knobs import Scalar, flatten
from selftrain.passwords import hide_passwords
from selftrain.summary import Summary

_ROOTS = ("machine.data_root", "machine.pool_root")
_OF_ONE_COMMAND = ("pseudo_label.shard", "evaluate.model", "prepare.export", "prepare.cache")
"""Knobs that say what one command is to do, and not how the next one does it."""


def write_commands(summary: Summary, config: Config, *, by_mlflow: bool = False) -> Summary:
    """Return a summary whose next commands are written out.

    Args:
        summary: Names their stages and knobs.
        config: Of the command that has ended.
        by_mlflow: Whether that was given by `mlflow run`.
    """
    writer = _Writer(config, by_mlflow)
    following = [
        it if it.command else replace(it, command=writer.write(it.stage, it.knobs))
        for it in summary.following
    ]
    return replace(summary, following=following)


@dataclass(frozen=True)
class _Writer:
    """Writes commands for the same data, machine and recipe as the one that was given."""

    config: Config
    by_mlflow: bool

    def write(self, stage: str, knobs: Mapping[str, Scalar]) -> str:
        if stage == "report":
            given: dict[str, Scalar] = {"benchmark": self.config.benchmark}
        else:
            given = {**self._changed(stage, knobs), **knobs}
        if self.by_mlflow:
            words = [
                f"-P {shlex.quote(f'{_short(it, stage)}={_text(v)}')}" for it, v in given.items()
            ]
            return " ".join([f"mlflow run . -e {stage} --env-manager local", *words])
        program = (
            "python -m analysis.report" if stage == "report" else f"python -m selftrain {stage}"
        )
        return " ".join([program, *(f"--{it} {shlex.quote(_text(v))}" for it, v in given.items())])

    def _changed(self, stage: str, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return what the user has changed of the knobs that a stage reads."""
        plain, mine = flatten(benchmark(self.config.benchmark)), flatten(self.config)
        changed = {knob: value for knob, value in mine.items() if value != plain[knob]}
        reads = {*COMMANDS[stage].reads, "machine"}
        if {**changed, **given}.get("pseudo_label.teacher", "none") != "none":
            reads.discard("teacher")  # it is there, whatever it was made with
        if "evaluate.model" in given:
            reads = {"evaluate", "data", "machine"}
        drops = {*_OF_ONE_COMMAND, *(() if "data" in reads else _ROOTS)}
        drops |= {"rounds", "machine.processes"} if stage == "sweep" else set()  # which has neither
        found = {
            knob: value
            for knob, value in changed.items()
            if knob.partition(".")[0] in reads and knob not in drops
        }
        # Where no data are read, the benchmark decides nothing.
        is_named = "data" in reads and self.config.benchmark != Config().benchmark
        return {"benchmark": self.config.benchmark, **found} if is_named else found


def _short(knob: str, stage: str) -> str:
    """Return a knob as MLproject declares it: of the stage's own, the last word."""
    own = knob.removeprefix(f"{stage}.")
    return knob if "." in own else own


def _text(value: Scalar) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return hide_passwords(text)
