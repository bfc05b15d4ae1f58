"""Take one step on a CUDA machine, and leave its record in a folder.

    python -m experiments.cuda list
    python -m experiments.cuda STEP --out DIR [--minutes 9] [-- WORDS OF THE STEP'S COMMAND]

The same command goes on where it was stopped, from `outputs/` and the tracking store.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cuda.steps import STEPS, Setting, take
from selftrain.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Take a step; return 0 if it is done, 1 if something failed, 3 if something is left."""
    mine, _, passed = _split(argv)
    parser = argparse.ArgumentParser(prog="python -m experiments.cuda", description=__doc__)
    parser.add_argument("step", choices=["list", *STEPS])
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of what is brought back")
    parser.add_argument("--minutes", type=float, default=9.0, help="when the step is stopped")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--networks", nargs="+", metavar="NAME-BACKBONE")
    parser.add_argument("--seeds", type=int, default=3, help="of a study")
    parser.add_argument("--side-by-side", type=int, default=3, help="trainings on the one GPU")
    parser.add_argument("--data-root", help="folder of CamVid")
    parser.add_argument("--weights", help="file of the backbone's start")
    parser.add_argument("--fraction", type=float, default=0.125, help="labelled part of CamVid")
    words = parser.parse_args(mine)
    if words.step == "list":
        for name, step in STEPS.items():
            print(f"{name:<18}{step.what}")
        return 0
    if words.out is None:
        raise InputError("--out is missing: name the folder for what is brought back.")
    if words.minutes <= 0 or words.side_by_side < 1 or words.seeds < 1:
        raise InputError("--minutes, --seeds and --side-by-side must be above 0: give more.")
    given = {k: v for k, v in vars(words).items() if k != "step"}
    return take(words.step, Setting(**given, passed=passed))


def _split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in argv:
        return list(argv), "", []
    at = list(argv).index("--")
    return list(argv[:at]), "--", list(argv[at + 1 :])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
