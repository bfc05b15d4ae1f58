"""Make a command of `python -m selftrain` small, and leave all else that it says as it is.

Imported by the `python` of a typist's .venv too, which is why it imports nothing heavy.
"""

from collections.abc import Mapping, Sequence

AFTER: Mapping[str, object] = {
    **{f"{who}.epochs": 1 for who in ("teacher", "student", "finetune")},
    **{f"{who}.crop.size": 32 for who in ("teacher", "student", "finetune")},
    "data.scenes.images": 8,
    "study.seeds": 1,
    "study.arms": "teacher",
    "sweep.trials": 1,
    "sweep.retrain": 1,
}
"""Sizes that stand after what the page says, and win."""


def shorten(words: Sequence[str], before: Mapping[str, object]) -> list[str]:
    """Return the words after `python -m selftrain` with smaller knobs.

    Args:
        words: A stage and its knobs.
        before: Knobs that stand before what the page says, and give way to it. Those of the data
            are for drawn scenes alone.
    """
    if (
        len(words) < 1
        or words[0].startswith("-")
        or words[0] in ("sync", "lineage")
        or "--help" in words
    ):
        return list(words)
    stage, *rest = words
    drawn = _benchmark(rest).startswith("scenes")
    small = {k: v for k, v in before.items() if drawn or not k.startswith("data.")}
    return [stage, *_flags(small), *rest, *_flags(AFTER)]


def _flags(knobs: Mapping[str, object]) -> list[str]:
    return [f"--{knob}={value}" for knob, value in knobs.items()]


def _benchmark(words: Sequence[str]) -> str:
    found = "scenes"
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--benchmark":
            found = value if equals else words[number + 1]
    return found
