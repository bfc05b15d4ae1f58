"""Draw CamVid's dev and labelled lists from the names in its `train` folder, and keep its sets.

    python -m selftrain.data.splits.make_camvid /data/camvid

CamVid is filmed: one frame a second, and neighbours are near copies. Frames drawn at random would
put a copy of nearly every unlabelled frame among the labelled ones, so that pseudo labels would
seem easy, and a copy of nearly every dev frame among those that train. Hence blocks of frames:

* A clip is a stretch of a drive without a gap (0016E5 was cut into three).
* dev is the last ninth of every clip of a minute or more. The frames of `test` and `val` go on
  where the clips 0001TP and 0016E5 end: dev lies between them and everything that trains.
* The rest of a clip falls into equal segments of about a minute. The labelled block of a segment
  lies in its middle and grows to both sides, so that a smaller share lies within a larger one.
  Each segment gives the same share, by largest remainder, and at least one frame.

The rule reads names only. To look at the labels would be to choose the labelled frames with
knowledge of the labels that are said to be hidden.

`train.txt`, `val.txt` and `test.txt` repeat the names in SegNet's folders: the original release
has all frames in one folder and does not say which belongs where.
"""

import hashlib
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from selftrain.errors import InputError

FOLDER = Path(__file__).parent / "camvid"
LABELLED = {
    1 / 16: "labelled_1_16.txt",
    1 / 8: "labelled_1_8.txt",
    1 / 4: "labelled_1_4.txt",
    1 / 2: "labelled_1_2.txt",
}
"""Share of the train frames outside dev -> the list's file name."""
DEV = "dev.txt"
OFFICIAL = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
"""SegNet's set -> the list of all its frames."""
HASHES = "SHA256SUMS"
MINUTE = 60
"""Frames in a minute of the film."""


def cut_clips(names: Sequence[str]) -> list[list[str]]:
    """Sort the names of frames into clips, at each new drive and each gap of over two seconds.

    Args:
        names: Such as 0001TP_006690 or 0006R0_f00930; the number counts at 30 a second.
    """
    clips: list[list[str]] = []
    for name in sorted(names):
        follows = clips and _drive(name) == _drive(clips[-1][-1])
        if follows and _number(name) - _number(clips[-1][-1]) <= 60:
            clips[-1].append(name)
        else:
            clips.append([name])
    return clips


def draw(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the lists of names by file name, each sorted; the module's docstring has the rule."""
    dev: list[str] = []
    segments: list[list[str]] = []
    for clip in cut_clips(names):
        held_out = round(len(clip) / 9) if len(clip) >= MINUTE else 0
        dev += clip[len(clip) - held_out :]
        segments += _cut_evenly(clip[: len(clip) - held_out])
    lists = {DEV: dev}
    for fraction, file in LABELLED.items():
        blocks = zip(segments, _shares([len(s) for s in segments], fraction), strict=True)
        lists[file] = [name for segment, size in blocks for name in _middle(segment, size)]
    return {file: sorted(names) for file, names in lists.items()}


def write_lists(root: Path, folder: Path = FOLDER) -> None:
    """Write the lists of the tree at `root` and their hashes (`sha256sum -c` checks them)."""
    official = {file: _frames(root / name) for name, file in OFFICIAL.items()}
    folder.mkdir(parents=True, exist_ok=True)
    hashes = []
    for file, listed in sorted({**draw(official[OFFICIAL["train"]]), **official}.items()):
        text = "".join(f"{name}\n" for name in listed)
        (folder / file).write_text(text)
        hashes.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {file}\n")
    (folder / HASHES).write_text("".join(hashes))


def _frames(folder: Path) -> list[str]:
    names = sorted({path.stem for path in folder.glob("*_*.*")})
    if not names:
        raise InputError(f"{folder} holds no frames: give the folder that has CamVid's.")
    return names


def _drive(name: str) -> str:
    return name.partition("_")[0]


def _number(name: str) -> int:
    return int(name.partition("_")[2].removeprefix("f"))


def _cut_evenly(frames: Sequence[str]) -> list[list[str]]:
    count = max(1, round(len(frames) / MINUTE))
    edges = [len(frames) * i // count for i in range(count + 1)]
    return [list(frames[a:b]) for a, b in pairwise(edges)]


def _shares(lengths: Sequence[int], fraction: float) -> list[int]:
    exact = [length * fraction for length in lengths]
    shares = [max(1, math.floor(share)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: max(0, math.floor(sum(exact) + 0.5) - sum(shares))]:
        shares[i] += 1
    return shares


def _middle(frames: Sequence[str], size: int) -> Sequence[str]:
    start = (len(frames) - size) // 2
    return frames[start : start + size]


if __name__ == "__main__":
    write_lists(Path(sys.argv[1]))
