"""Draw Cityscapes' dev and labelled lists from the names in its `train` folder.

    python -m selftrain.data.splits.make_cityscapes /data/cityscapes

* dev is whole cities, as `val` is: frames of one drive show the same streets, car and weather, so
  that a dev of single frames would praise what is learned by heart. The cities come in the order
  of a seeded hash of their names; each joins dev unless dev would then exceed a tenth of train.
* The rest is one list, in an order of which every beginning has each city's share of frames: a
  city's frames come in the order of a seeded hash of their names, and the i-th of n stands at
  (i + 1/2) / n. The labelled frames are the list's first 1/16, 1/8, 1/4 or 1/2, so that a smaller
  share lies within a larger one. They are not the lists of other projects, which have no dev.

The rule reads names only. To look at the labels would be to choose the labelled frames with
knowledge of the labels that are said to be hidden.

The lists that lie here were drawn from the 2975 names themselves, as two lists published for
other purposes give them alike; no picture was at hand.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from selftrain.data.shares import order
from selftrain.errors import InputError

FOLDER = Path(__file__).parent / "cityscapes"
DEV = "dev.txt"
TRAIN = "train.txt"
"""The frames outside dev; the first of them are the labelled ones."""
HASHES = "SHA256SUMS"
FRAMES = 2975
"""In the official train set."""
SEED = 0


def city_of(name: str) -> str:
    """Return the city of a frame such as aachen_000000_000019."""
    return name.partition("_")[0]


def draw(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the lists of names by file name; the module's docstring has the rule.

    A train set of few cities, none of which fits into a tenth, gives its smallest city to dev.

    Args:
        names: Such as aachen_000000_000019, of two cities at least; their order does not matter.

    Returns:
        DEV, sorted, and TRAIN, in the order of the drawing.
    """
    cities: dict[str, list[str]] = {}
    for name in order(names, seed=SEED):
        cities.setdefault(city_of(name), []).append(name)
    if len(cities) < 2:
        raise InputError(
            f"The train frames are of one city ({', '.join(cities) or 'none'}), but dev takes "
            "whole cities: add the frames of another."
        )
    dev: list[str] = []
    for city in order(cities, seed=SEED):
        if len(dev) + len(cities[city]) <= len(names) / 10:
            dev += cities[city]
    dev = dev or min(cities.values(), key=len)
    held_out = {city_of(name) for name in dev}
    places = {
        name: (i + 0.5) / len(frames)
        for city, frames in cities.items()
        if city not in held_out
        for i, name in enumerate(frames)
    }
    # Two cities of one size share their places: there the hash decides, as sorting is stable.
    return {DEV: sorted(dev), TRAIN: sorted(order(places, seed=SEED), key=places.__getitem__)}


def write_lists(root: Path, folder: Path = FOLDER) -> None:
    """Write the lists of the tree at `root` and their hashes (`sha256sum -c` checks them).

    Raises:
        InputError: `root` has not all train frames.
    """
    ending = "_leftImg8bit.png"
    train = root / "leftImg8bit" / "train"
    names = [path.name.removesuffix(ending) for path in train.glob(f"*/*{ending}")]
    if len(names) != FRAMES:
        raise InputError(
            f"{train} holds {len(names)} frames, but Cityscapes' train set has {FRAMES}: "
            "give the folder that leftImg8bit_trainvaltest.zip was unpacked in."
        )
    folder.mkdir(parents=True, exist_ok=True)
    hashes = []
    for file, listed in sorted(draw(names).items()):
        text = "".join(f"{name}\n" for name in listed)
        (folder / file).write_text(text)
        hashes.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {file}\n")
    (folder / HASHES).write_text("".join(hashes))


if __name__ == "__main__":
    write_lists(Path(sys.argv[1]))
