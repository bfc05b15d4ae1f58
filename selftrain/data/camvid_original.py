"""CamVid as it was published: 701 frames of 960x720, their labels painted in 32 colours.

    701_StillsRaw_full/NAME.png  LabeledApproved_full/NAME_L.png

Frames, sets, dev and labelled lists are those of `camvid`, and so are the 11 classes: a model of
one layout can be measured on the other. The release does not say which frame belongs to which set;
the lists in `splits/camvid/` do, as SegNet cut them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from selftrain.data import camvid
from selftrain.data.pairs import Pairs, list_stems
from selftrain.data.sample import ClassTable, Splits
from selftrain.data.splits.make_camvid import OFFICIAL
from selftrain.labels import IGNORE_INDEX

IMAGES, LABELS = "701_StillsRaw_full", "LabeledApproved_full"

Color = tuple[int, int, int]

GROUPS: Mapping[str, Mapping[str, Color]] = {
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Archway": (192, 0, 128),
        "Bridge": (0, 128, 64),
        "Building": (128, 0, 0),
        "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {
        "LaneMkgsDriv": (128, 0, 192),
        "LaneMkgsNonDriv": (192, 0, 64),
        "Road": (128, 64, 128),
    },
    "pavement": {
        "ParkingBlock": (64, 192, 128),
        "RoadShoulder": (128, 128, 192),
        "Sidewalk": (0, 0, 192),
    },
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign_symbol": {
        "Misc_Text": (128, 128, 64),
        "SignSymbol": (192, 128, 128),
        "TrafficLight": (0, 64, 64),
    },
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128),
        "OtherMoving": (128, 64, 64),
        "SUVPickupTruck": (64, 128, 192),
        "Train": (192, 64, 128),
        "Truck_Bus": (192, 128, 192),
    },
    "pedestrian": {
        "Animal": (64, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Child": (192, 128, 64),
        "Pedestrian": (64, 64, 0),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}
"""Class -> those of the release's 32 that it is made of, with their colours (label_colors.txt).

The grouping is the one in use for SegNet's 11 classes; the thirty-second, Void, is ignored.
"""
VOID: Color = (0, 0, 0)

_GRAYS = (2, 8, 15, 26, 36, 48, 50, 51, 63, 77, 92, 110, 113, 116, 125)
_DARK_OLIVES = (2, 5, 18, 26, 29, 47, 48, 50, 51, 60, 77, 102, 108, 111)
_OLIVES = (3, 6, 21, 26, 30, 50, 51, 54, 63, 68, 69, 75, 77, 78, 86, 92, 102, 104, 113, 123, 126)
BLENDS: frozenset[Color] = frozenset(
    [(v, v, v) for v in _GRAYS]
    + [(v, v, 0) for v in _DARK_OLIVES]
    + [(128, 128, v) for v in _OLIVES]
    + [(171, 171, 86), (191, 191, 126), (138, 138, 20), (136, 136, 15), (154, 154, 51)]
)
"""Colours of none of the 32 classes, on 175 edge pixels of one label, Seq05VD_f02610_L.png.

Known copies all have that flaw. They are ignored; any other colour is an error, as in every data
set.
"""

CLASSES: ClassTable = dataclasses.replace(
    camvid.CLASSES,
    train_ids={},
    file_colors={
        VOID: IGNORE_INDEX,
        **dict.fromkeys(sorted(BLENDS), IGNORE_INDEX),
        **{
            color: camvid.CLASSES.names.index(name)
            for name, group in GROUPS.items()
            for color in group.values()
        },
    },
)
"""The classes of `camvid.CLASSES`, read from colours."""

_LAYOUT = (
    f"CamVid's original release is expected with {IMAGES}/NAME.png and {LABELS}/NAME_L.png; make "
    "the folder where the archive has none (machine.data_root says where data lie)"
)


def splits(root: Path, *, labelled_fraction: float) -> Splits:
    """List CamVid's frames by what they may be used for; no file is opened.

    Args:
        root: The folder that holds 701_StillsRaw_full/ and LabeledApproved_full/.
        labelled_fraction: See `camvid.splits`.

    Returns:
        As `camvid.splits`, with the same names in the same places.

    Raises:
        InputError: another fraction, no such layout at `root`, or a frame or label missing.
    """
    images = list_stems(root / IMAGES, ".png", layout=_LAYOUT)
    labels = list_stems(root / LABELS, "_l.png", layout=_LAYOUT)
    expected = str(root / LABELS / "{}_L.png")
    sets = {}
    for name, file in OFFICIAL.items():
        listed = camvid.read_list(file, images, root / IMAGES)
        sets[name] = Pairs(
            images={frame: images[frame] for frame in listed},
            labels=labels,
            expected_label=expected,
        )
    return camvid.divide(sets, root / IMAGES, CLASSES, labelled_fraction=labelled_fraction)
