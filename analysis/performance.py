"""Tables of the records in `results/speed/`, for a text that has markers for them (splice.py).

What a record holds is said in the file of `experiments/speed/` that has its name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.tables import NONE, Table, to_markdown
from selftrain.errors import InputError

FOLDER = "speed"
"""Below the results."""
CUDA = f"{FOLDER}/cuda"
"""Records of a CUDA machine, beside those of the CPU; there may be none."""
NOT_MEASURED = f"{NONE}\n"
"""Stands where there is no record of CUDA."""
Record = Mapping[str, Any]
Item = tuple[str, str, str]
"""What is measured, its dotted path in the record, and the format of the number."""


def render_record(path: Path) -> str:
    """Return a record as a table in Markdown, with what it was measured on in its notes.

    Raises:
        InputError: nobody has said how records of this name are read, or it cannot be read.
    """
    if path.stem not in TABLES:
        raise InputError(
            f"{path} has no table: say in analysis/performance.py how it is read "
            f"({', '.join(TABLES)} are there)."
        )
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): measure it again.") from error
    columns, rows = TABLES[path.stem](record)
    return to_markdown(Table(columns=columns, rows=rows, notes=_conditions(path.stem, record)))


def _conditions(name: str, record: Record) -> list[str]:
    machine: Mapping[str, str] = record.get("machine", {})
    hardware = f"{machine.get('cores', '?')} cores, {machine.get('cpu', 'unknown processor')}"
    versions = [f"{it} {machine[it]}" for it in ("torch", "opencv") if it in machine]
    told = [f"`experiments/speed/{name}.py`: {record.get('what', '')}"]
    told += [record["device"]] if "device" in record else []
    return ["; ".join([*told, hardware, *versions]) + "."]


def _show(record: Record, path: str, form: str) -> str:
    """Return a number of a record; "-" where it was not measured."""
    found: Any = record
    for part in path.split("/"):
        if not isinstance(found, Mapping) or part not in found:
            return NONE
        found = found[part]
    return form.format(found)


def _list(*items: Item) -> Callable[[Record], tuple[Sequence[str], list[list[str]]]]:
    """Return a reading with a row for each number."""

    def read(record: Record) -> tuple[Sequence[str], list[list[str]]]:
        return ("", "measured"), [[name, _show(record, path, form)] for name, path, form in items]

    return read


def _read_data_path(record: Record) -> tuple[Sequence[str], list[list[str]]]:
    ways = {
        "usual": "the usual way, from PNG",
        "png": "ours, from PNG",
        "jpeg": "ours, from JPEG",
        "cache": "ours, from the raw cache",
        "float_png": "ours, from PNG, as normalised floats",
        "float_jpeg": "ours, from JPEG, as normalised floats",
        "float_cache": "ours, from the raw cache, as normalised floats",
    }
    rows = [
        [
            title,
            _show(record, f"crops_per_s/{way}", "{:.1f}"),
            _show(record, f"ratio/{way}", "{:.1f}"),
        ]
        for way, title in ways.items()
    ]
    return ("", "crops/s", "times the usual way"), rows


def _read_training_step(record: Record) -> tuple[Sequence[str], list[list[str]]]:
    columns = {
        "parameters (M)": ("parameters_m", "{:.1f}"),
        "ours, images/s": ("ours_images_per_s", "{:.2f}"),
        "usual, images/s": ("usual_fp32_images_per_s", "{:.2f}"),
        "ours / usual": ("ours_over_usual_fp32", "{:.2f}"),
        "ours, share of a product": ("ours_share_of_product", "{:.0%}"),
        "with the loader / ours": ("end_to_end_share", "{:.2f}"),
        "ours, memory (GiB)": ("ours_peak_gib", "{:.2f}"),
    }
    if any("usual_amp_images_per_s" in found for _, found in _networks(record)):  # on CUDA
        columns |= {
            "ours compiled, images/s": ("ours_compiled_images_per_s", "{:.2f}"),
            "usual AMP, images/s": ("usual_amp_images_per_s", "{:.2f}"),
            "ours / usual AMP": ("ours_over_usual_amp", "{:.2f}"),
        }
    rows = [
        [name, *(_show(found, path, form) for path, form in columns.values())]
        for name, found in _networks(record)
    ]
    return ("network", *columns), rows


def _read_inference(record: Record) -> tuple[Sequence[str], list[list[str]]]:
    columns = {
        "images/s": ("images_per_s", "{:.2f}"),
        "share of a product": ("share_of_product", "{:.0%}"),
        "memory (GiB)": ("peak_gib", "{:.2f}"),
    }
    rows = [
        [f"{name}, {way}", *(_show(it, f"{way}_{path}", form) for path, form in columns.values())]
        for name, it in _networks(record)
        for way in ("whole", "flip", "scales", "window", "all", "usual")
        if f"{way}_images_per_s" in it
    ]
    rows += [  # one image each, in a process of its own
        [name, _show({"": 1 / it["seconds"]}, "", "{:.2f}"), NONE, _show(it, "peak_gib", "{:.2f}")]
        for name, it in record.items()
        if isinstance(it, Mapping) and "seconds" in it
    ]
    return ("network, way", *columns), rows


def _read_crop_schedules(record: Record) -> tuple[Sequence[str], list[list[str]]]:
    rows = [
        [
            name,
            _show(it, "hours", "{:.1f}"),
            _show(it, "speedup", "{:.2f}"),
            _show(it, "area_limit", "{:.2f}"),
            _show(it, "paper", "{:.1f}"),
        ]
        for name, it in record.items()
        if isinstance(it, Mapping) and "hours" in it
    ]
    if "check" in record:
        check = record["check"]
        rows += [
            [
                f"{name}, {check['epochs']} epochs by the clock",
                NONE,
                _show(it, "speedup", "{:.2f}"),
                _show(it, "area_limit", "{:.2f}"),
                NONE,
            ]
            for name, it in check.items()
            if isinstance(it, Mapping)
        ]
    return ("schedule", "hours", "speed-up", "by the area alone", "paper"), rows


def _read_serving(record: Record) -> tuple[Sequence[str], list[list[str]]]:
    columns = {
        "median (ms)": ("median_ms", "{:.0f}"),
        "95th percentile (ms)": ("p95_ms", "{:.0f}"),
        "requests/s": ("requests_per_s", "{:.1f}"),
        "median / forward": ("median_over_forward", "{:.1f}"),
    }
    rows = [
        [name, *(_show(it, path, form) for path, form in columns.values())]
        for name, it in record.items()
        if isinstance(it, Mapping) and "median_ms" in it
    ]
    return ("form, clients", *columns), rows


def _networks(record: Record) -> list[tuple[str, Record]]:
    return [
        (name, it)
        for name, it in record.items()
        if isinstance(it, Mapping) and "product_gflop_per_s" in it
    ]


TABLES: Mapping[str, Callable[[Record], tuple[Sequence[str], list[list[str]]]]] = {
    "demo": _list(
        ("seconds, from the command to its end", "seconds", "{:.0f}"),
        ("memory of all processes (GiB)", "peak_gib", "{:.1f}"),
    ),
    "tutorial": _list(
        ("seconds to look at the pictures", "prepare_seconds", "{:.0f}"),
        ("seconds to train, label and compare", "seconds", "{:.0f}"),
        ("memory of all processes (GiB)", "peak_gib", "{:.1f}"),
        ("mIoU in percent on the 3 test pictures, teacher", "miou/teacher", "{:.2f}"),
        ("control", "miou/control", "{:.2f}"),
        ("student", "miou/student", "{:.2f}"),
    ),
    "rehearsal": _list(
        ("seconds to draw and prepare the frames", "export_and_prepare_seconds", "{:.0f}"),
        ("seconds of the teacher's epoch of one step, dev measured", "seconds", "{:.0f}"),
        ("memory of all processes (GiB)", "peak_gib", "{:.1f}"),
    ),
    "serving": _read_serving,
    "confusion_matrix": _list(
        ("ours (ms)", "ours_ms", "{:.1f}"),
        ("torchmetrics (ms)", "usual_ms", "{:.1f}"),
        ("torchmetrics without its checks (ms)", "usual_unchecked_ms", "{:.1f}"),
        ("torchmetrics / ours", "ratio", "{:.1f}"),
    ),
    "crop": _list(
        ("ours: cut, then resize (ms)", "ours_ms", "{:.1f}"),
        ("usual: resize, then cut (ms)", "usual_ms", "{:.1f}"),
        ("usual / ours", "ratio", "{:.1f}"),
    ),
    "data_path": _read_data_path,
    "training_step": _read_training_step,
    "crop_schedules": _read_crop_schedules,
    "inference": _read_inference,
    "pseudo_label": _list(
        ("flip: the bare network (images/s)", "flip/bare_images_per_s", "{:.1f}"),
        ("flip: labelled, on disk (images/s)", "flip/labelled_images_per_s", "{:.1f}"),
        ("flip: share", "flip/share", "{:.0%}"),
        ("scales: the bare network (images/s)", "scales/bare_images_per_s", "{:.1f}"),
        ("scales: labelled, on disk (images/s)", "scales/labelled_images_per_s", "{:.1f}"),
        ("scales: share", "scales/share", "{:.0%}"),
        ("to keep one image, on one core (ms)", "encode/all_ms", "{:.1f}"),
        ("images of a made-up set", "manifest/images", "{:,}"),
        ("to open it (s)", "manifest/open_s", "{:.2f}"),
        ("to choose by `cbst` (s)", "manifest/cbst_s", "{:.2f}"),
        ("to choose by `dars` (s)", "manifest/dars_s", "{:.2f}"),
    ),
    "scan": _list(
        ("labels alone (frames/s and core)", "per_core/labels", "{:.1f}"),
        ("labels and digests (frames/s and core)", "per_core/with_digests", "{:.1f}"),
        ("images too, as `prepare` does (frames/s and core)", "per_core/with_images", "{:.1f}"),
        ("1 thread (frames/s)", "scan_per_s/1 thread", "{:.1f}"),
        ("2 threads (frames/s)", "scan_per_s/2 threads", "{:.1f}"),
        ("2 processes (frames/s)", "scan_per_s/2 processes", "{:.1f}"),
    ),
    "scenes": _list(
        ("images/s", "images_per_second", "{:.0f}"),
        ("ms an image", "ms_per_image", "{:.1f}"),
    ),
}
"""How each record is read: the columns and the rows of its table."""
