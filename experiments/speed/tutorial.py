"""How long does somebody wait who follows docs/tutorial.md, and what comes out?

Draws the tutorial's pictures (30 with masks, 500 without) into a fresh folder, looks at them and
trains teacher, control and student, by the commands of the page. The weights that MobileNetV2
starts from must be there, or are downloaded in the time that is measured.

    python -m experiments.speed.tutorial [--record results/speed/tutorial.json] [-- KNOBS ...]

Goal: 10 minutes on 2 cores.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import cv2

from experiments.speed.measure import machine_facts, report, watch
from selftrain.data import scenes

PICTURES, MASKS = 530, 30
SIZES = (
    "--teacher.crop.size=128",
    "--teacher.epochs=30",
    "--student.crop.size=128",
    "--student.epochs=30",
)
"""Of the page's command."""


def draw_pictures(root: Path) -> None:
    """Draw the pictures, as the page does."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    classes = {"classes": scenes.classes().names}
    (root / "classes.json").write_text(json.dumps(classes))
    for number in range(PICTURES):
        image, mask = scenes.draw(seed=1, index=number)
        cv2.imwrite(str(root / "images" / f"{number:03}.jpg"), image[..., ::-1])
        if number < MASKS:
            cv2.imwrite(str(root / "labels" / f"{number:03}.png"), mask)


def measure(knobs: list[str]) -> dict[str, object]:
    """Follow the page; return seconds and peak memory, and the mIoU in percent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_pictures(folder / "pictures")
        data = ["--benchmark=folder", f"--machine.data_root={folder / 'pictures'}", *knobs]
        looked, _ = watch(["prepare", *data], folder)
        seconds, peak = watch(["main", *SIZES, *data], folder)
        reached = read_scores(folder / "outputs")
    return {
        "what": " ".join(["python -m selftrain main --benchmark=folder", *SIZES, *knobs]),
        "prepare_seconds": looked,
        "seconds": seconds,
        "peak_gib": peak / 2**30,
        "miou": reached,
        "machine": machine_facts(),
    }


def read_scores(outputs: Path) -> dict[str, float]:
    """Return the test mIoU, in percent, of each network that `main` has compared."""
    (path,) = outputs.glob("main-*/comparison.csv")
    with path.open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["metric"] == "test mIoU")
    return {name: float(row[name]) for name in ("teacher", "control", "student")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the tutorial.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("knobs", nargs="*", help="more knobs for both commands, after --")
    arguments = parser.parse_args()
    report(measure(arguments.knobs), arguments.record)
