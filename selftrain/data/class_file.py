"""`classes.json`: the classes of somebody's own pictures, and how the masks show them.

The smallest file names the classes. Masks then hold 0 for the first, 1 for the second and so on,
and 255 where nothing is known:

    {"classes": ["road", "car"]}

Everything that can be said:

    {
      "classes": [
        {"name": "road", "id": 7, "color": [128, 64, 128]},
        {"name": "car", "id": 26, "color": [0, 0, 142]}
      ],
      "ignore": [0, 255],
      "masks": "ids"
    }

`id` is the gray value in the masks; all classes have one, or none has. `color` is for pictures, and
a class without one gets one. With `"masks": "colors"` the masks are RGB pictures: every class then
needs its `color`, has no `id`, and `ignore` lists colours, such as [[0, 0, 0]].
Where `ignore` is left out it is id 255, or black, unless a class has that.
"""

import colorsys
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

Color = tuple[int, int, int]
T = TypeVar("T")

MOST_CLASSES = 255
"""A label map has 8 bits, and one value means that nothing is known."""

_KEYS = ("classes", "ignore", "masks")
_CLASS_KEYS = ("name", "id", "color")
_BLACK = (0, 0, 0)


def read_classes(path: Path) -> ClassTable:
    """Read a class file; the module's docstring says what may stand in it.

    Raises:
        InputError: the file cannot be read, is no JSON, or says something that cannot be; the
            sentence names the place in the file.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        content = json.loads(text)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): write the classes' names into it, such as "
            '{"classes": ["road", "car"]}.'
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it in that encoding.") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise InputError(f"{path} is no JSON ({error}): correct that place.") from error
    try:
        return _table(content)
    except _Mistake as mistake:
        raise InputError(f"{path}: {mistake}") from None


class _Mistake(Exception):
    """What is wrong in the file, and the cure; `read_classes` adds which file."""


def _table(content: object) -> ClassTable:
    if not isinstance(content, dict):
        raise _Mistake('the file must be an object, such as {"classes": ["road", "car"]}.')
    _check_keys(content, _KEYS, "the file")
    classes = [_entry(item, f"classes[{i}]") for i, item in enumerate(_classes(content))]
    names = [_name(item, f"classes[{i}]") for i, item in enumerate(classes)]
    _check_unique("name", names, names)
    colors = _colors(classes, names)
    masks = content.get("masks", "ids")
    if masks == "ids":
        ids = _ids(classes, names)
        ignored = _ignored_ids(content, ids)
        return ClassTable(
            names=tuple(names),
            colors=_filled(colors),
            train_ids={**dict.fromkeys(ignored, IGNORE_INDEX), **_numbered(ids)},
        )
    if masks == "colors":
        painted = _painted(classes, names, colors)
        ignored_colors = _ignored_colors(content, painted)
        return ClassTable(
            names=tuple(names),
            colors=tuple(painted),
            file_colors={**dict.fromkeys(ignored_colors, IGNORE_INDEX), **_numbered(painted)},
        )
    raise _Mistake(f'masks = {masks!r} is unknown: give "ids" or "colors".')


def _classes(content: Mapping[str, Any]) -> list[Any]:
    classes = content.get("classes")
    if not isinstance(classes, list):
        raise _Mistake('classes must be a list, such as {"classes": ["road", "car"]}.')
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise _Mistake(
            f"classes lists {len(classes)}, but 2 to {MOST_CLASSES} can be told apart: what is "
            "none of the others is a class too, such as background."
        )
    return classes


def _entry(item: object, place: str) -> dict[str, Any]:
    if isinstance(item, str):
        return {"name": item}
    if not isinstance(item, dict):
        raise _Mistake(
            f'{place} = {item!r} is neither a name nor an object such as {{"name": "road"}}.'
        )
    _check_keys(item, _CLASS_KEYS, place)
    return item


def _check_keys(item: Mapping[str, object], known: Sequence[str], place: str) -> None:
    for key in item:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise _Mistake(f"{place} has the unknown key {key!r}: {hint}")


def _name(item: Mapping[str, Any], place: str) -> str:
    name = item.get("name")
    if not isinstance(name, str):
        raise _Mistake(f"{place} has no name: give it one in quotation marks.")
    # A class's IoU is tracked under its name, and these are the characters that can be.
    if not re.fullmatch(r"[\w.:-]+( [\w.:-]+)*", name) or name in (".", ".."):
        raise _Mistake(
            f"{place} has the name {name!r}: use letters, digits, single spaces and _ - . : only."
        )
    return name


def _check_unique(what: str, values: Sequence[object], names: Sequence[str]) -> None:
    first: dict[object, str] = {}
    for value, name in zip(values, names, strict=True):
        if value is not None and value in first:
            raise _Mistake(
                f"the classes {first[value]} and {name} both have the {what} {_shown(value)}: "
                "change one."
            )
        first[value] = name


def _ids(classes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[int]:
    without = [name for item, name in zip(classes, names, strict=True) if "id" not in item]
    if len(without) == len(names):
        return list(range(len(names)))
    if without:
        raise _Mistake(f"the class {without[0]} has no id but others have: give all one, or none.")
    ids = [
        _byte(item["id"], f"the id of {name}") for item, name in zip(classes, names, strict=True)
    ]
    _check_unique("id", ids, names)
    return ids


def _colors(classes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Color | None]:
    colors = [
        _color(item["color"], f"the color of {name}") if "color" in item else None
        for item, name in zip(classes, names, strict=True)
    ]
    _check_unique("color", colors, names)
    return colors


def _painted(
    classes: Sequence[Mapping[str, Any]], names: Sequence[str], colors: Sequence[Color | None]
) -> list[Color]:
    """Return the colours of all classes, each of which must have one and no id."""
    painted = []
    for item, name, color in zip(classes, names, colors, strict=True):
        if color is None:
            raise _Mistake(
                f'masks = "colors", but the class {name} has no color: give the one that it has '
                "in the masks, such as [128, 64, 128]."
            )
        if "id" in item:
            raise _Mistake(f'masks = "colors", but the class {name} has an id: leave ids out.')
        painted.append(color)
    return painted


def _ignored_ids(content: Mapping[str, Any], ids: Sequence[int]) -> list[int]:
    if "ignore" not in content:
        return [] if IGNORE_INDEX in ids else [IGNORE_INDEX]
    ignored = [_byte(value, "an id in ignore") for value in _ignore(content)]
    if both := sorted(set(ids).intersection(ignored)):
        raise _Mistake(f"the id {both[0]} is a class's and in ignore: take it out of one of them.")
    return ignored


def _ignored_colors(content: Mapping[str, Any], colors: Sequence[Color]) -> list[Color]:
    if "ignore" not in content:
        return [] if _BLACK in colors else [_BLACK]
    ignored = [_color(value, "a color in ignore") for value in _ignore(content)]
    if both := sorted(set(colors).intersection(ignored)):
        raise _Mistake(
            f"the color {_shown(both[0])} is a class's and in ignore: take it out of one of them."
        )
    return ignored


def _ignore(content: Mapping[str, Any]) -> list[Any]:
    ignored = content["ignore"]
    if not isinstance(ignored, list):
        raise _Mistake(f"ignore = {ignored!r} must be a list, such as [255].")
    return ignored


def _byte(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise _Mistake(f"{what} is {value!r}: give a whole number from 0 to 255.")
    return value


def _color(value: object, what: str) -> Color:
    if not isinstance(value, list) or len(value) != 3:
        raise _Mistake(f"{what} is {value!r}: give red, green and blue, such as [128, 64, 128].")
    red, green, blue = (_byte(part, f"a part of {what}") for part in value)
    return red, green, blue


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _numbered(keys: Sequence[T]) -> dict[T, int]:
    return {key: i for i, key in enumerate(keys)}


def _filled(colors: Sequence[Color | None]) -> tuple[Color, ...]:
    """Return the colours with one from the palette wherever there is none."""
    free = (color for color in palette() if color not in colors)
    return tuple(color or next(free) for color in colors)


def palette() -> Iterator[Color]:
    """Yield many distinct colours, the first ones far apart; none is black or white.

    Each hue lies 137.5 degrees on from the last one, which leaves no two near each other for long,
    and brightness and saturation take turns.
    """
    seen: set[Color] = set()
    number = 0
    while True:
        hue = number * 0.381966 % 1
        saturation, value = ((0.85, 0.9), (0.5, 0.95), (0.9, 0.55))[number % 3]
        red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
        number += 1
        if (red, green, blue) not in seen:
            seen.add((red, green, blue))
            yield red, green, blue
