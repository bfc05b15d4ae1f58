"""The chain of a product, where a person meets it: in its run, in a terminal, in a file."""

from pathlib import Path

from selftrain import distributed, progress, tracking
from selftrain.config import LineageConfig
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.lineage import describe, describe_in_a_line, trace
from selftrain.lineage_figure import FORMATS, draw, encode

_CHAIN = "**Chain:**"
"""Begins the line of a description that has the chain."""
_LONGEST_NOTE = 8000
"""Characters of a tag."""


def note_lineage(run_id: str) -> None:
    """Give a finished run its chain: in its description, in which names are links, and drawn.

    A run that was made from data alone is left as it is.

    Raises:
        InputError: the store is away for too long.
    """
    if distributed.rank() > 0:
        return
    made = trace(run_id)
    if not made.sources:
        return
    run = tracking.Run(run_id)
    note = made.run.tags.get(tracking.DESCRIPTION_TAG, "") if made.run else ""
    what, *others = note.split("\n")
    # The chain says it all, and once.
    rest = "\n".join(it for it in others if not it.startswith((_CHAIN, "**Made from:**")))
    chain = f"{_CHAIN} {describe_in_a_line(made)}"
    # High up: MLflow folds a longer description.
    text = "\n".join([what, "", chain, rest])[:_LONGEST_NOTE].strip()
    run.set_tags({tracking.DESCRIPTION_TAG: text})
    run.log_text(describe(made), "lineage/lineage.txt")
    run.log_figure(draw(made), "lineage/lineage.png")


def has_chain(run: tracking.Finished) -> bool:
    """Say whether a run has its chain: who made it may have died before."""
    return _CHAIN in run.tags.get(tracking.DESCRIPTION_TAG, "")


def show_lineage(config: LineageConfig) -> str:
    """Print a run's chain and return it; draw it if a file is asked for.

    Raises:
        InputError: there is no such run, it is no stage's, or the file cannot be written.
    """
    if config.run == "none":
        raise InputError(
            "lineage.run is not set: name a run, as in `python -m selftrain lineage RUN_ID`."
        )
    suffix = Path(config.output).suffix.removeprefix(".").lower()
    if config.output != "none" and suffix not in FORMATS:
        raise InputError(
            f"lineage.output = {config.output} names no picture: end it in .{', .'.join(FORMATS)}."
        )
    made = trace(config.run)
    text = describe(made)
    progress.say(text)
    if config.output != "none":
        write_atomically(Path(config.output), encode(draw(made), suffix))
        progress.say(f"written: {config.output}")
    return text
