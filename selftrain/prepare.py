"""Look at a benchmark's data before anything is trained on them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from selftrain import progress, tracking
from selftrain.data.sample import Reader, Splits
from selftrain.data.statistics import count_label
from selftrain.files import write_atomically
from selftrain.pictures import encode_png, overlay, side_by_side

PICTURES = 4
"""Overlays of the first labelled images."""


def prepare(splits: Splits, reader: Reader, folder: Path, run: tracking.Run) -> None:
    """Read every image and every label but the pool's, and leave a summary.

    The evaluation splits are read to check them; no choice is made on them. Leaves in `folder`:
    `summary.json` (images of each split), `class_pixels.csv` (labelled pixels of each class) and
    overlays.

    Raises:
        InputError: an image or a label is unreadable, of another size, or holds an illegal id.
    """
    labelled = {"labelled": splits.labelled, "dev": splits.dev, **splits.evaluation}
    summary = {"unlabelled": len(splits.unlabelled)} | {
        name: len(samples) for name, samples in labelled.items()
    }
    pixels = pd.DataFrame({"class": reader.classes.names})
    with progress.bar("prepare", sum(summary.values())) as bar:
        for name, samples in labelled.items():
            total = np.zeros(len(pixels), dtype=np.int64)
            for sample in samples:
                _, label = reader.pair(sample)
                total += count_label(label, len(total))
                bar.advance()
            pixels[name] = total
        for sample in splits.unlabelled:
            reader.image(sample)
            bar.advance()
    for sample in splits.labelled[:PICTURES]:
        image, label = reader.pair(sample)
        shown = {"image": image, "labels": overlay(image, label, reader.classes.colors)}
        path = folder / "overlays" / f"{sample.name}.png"
        write_atomically(path, encode_png(side_by_side(shown)))
    run.log_metrics({f"data/{name}": count for name, count in summary.items()})
    write_atomically(folder / "class_pixels.csv", pixels.to_csv(index=False).encode())
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    for name, count in summary.items():
        progress.say(f"  {name}: {count} images")
