"""The README's figure: the three steps of self-training, from the products of a finished run.

    python -m analysis.framework docs/framework.png [--benchmark scenes ...]

It takes the same knobs as `python -m selftrain main`, finds that command's products by their
keys, and makes them first where they are missing.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from selftrain import tracking
from selftrain.checkpoint import load_network
from selftrain.command_line import parse
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.inference import Predictor
from selftrain.pictures import colorize, encode_png, rows_figure
from selftrain.pipeline import Pipeline

Picture = NDArray[np.uint8]


def draw(pipeline: Pipeline, position: int = 0) -> bytes:
    """Return the figure as a PNG file.

    Args:
        pipeline: Whose products are shown.
        position: Which image of each split is shown; fixed, not picked by its looks.
    """
    splits, reader = pipeline.data.splits, pipeline.data.reader
    colors = splits.classes.colors
    labelled, truth = reader.pair(splits.labelled[position])
    pseudo = PseudoLabelSet.open(pipeline.pseudo_labels.folder)
    image, pseudo_label = reader.pair(pseudo.samples([splits.unlabelled[position]])[0])
    tested = splits.evaluation["test"][position]
    test_image, test_truth = reader.pair(tested)
    rows: list[tuple[str, list[tuple[str, Picture]]]] = [
        (
            "a  teacher",
            [("image", labelled), ("label", colorize(truth, colors))],
        ),
        (
            "b  pseudo labels",
            [("image", image), ("pseudo label", colorize(pseudo_label, colors))],
        ),
        (
            "c  student",
            [
                ("image", test_image),
                ("truth", colorize(test_truth, colors)),
                ("teacher", _predict(pipeline.teacher.folder, pipeline, tested)),
                ("student", _predict(pipeline.student.folder, pipeline, tested)),
            ],
        ),
    ]
    return encode_png(rows_figure(rows, legends=[(splits.classes.names, colors)]))


def _predict(folder: Path, pipeline: Pipeline, sample: Sample) -> Picture:
    network, card = load_network(folder, torch.device("cpu"))
    image = pipeline.data.reader.image(sample)
    images = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    labels, _ = Predictor(network, torch.device("cpu")).labels(images)
    return colorize(labels[0].numpy(), card.class_table().colors)


def main(argv: list[str]) -> None:
    """Draw the figure into the file that the first argument names."""
    if not argv or argv[0].startswith("-"):
        raise InputError("Name the file to write: python -m analysis.framework FILE.png.")
    _, config = parse(["main", *argv[1:]], {"main": ""})
    tracking.connect()
    with tracking.parent_run("framework figure"):
        write_atomically(Path(argv[0]), draw(Pipeline(config)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
