"""Pictures on which it shows that the student repairs a confusion of its control."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.confusion import Confusions, Pair
from analysis.rows import ArmRun, evaluation_splits
from selftrain import distributed
from selftrain.checkpoint import NETWORK, load_network
from selftrain.config import Config
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.datasets import open_data
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.inference import Predictor, frames, pixels_together
from selftrain.knobs import override
from selftrain.machine import count_workers
from selftrain.panels import Compared, comparison_figure
from selftrain.pictures import encode_jpeg, rasterize
from selftrain.tracking import KEY_TAG, MODEL, Recorded, download

NOTE = (
    "Image, teacher, control, student, truth, and what the student repairs and breaks of its "
    "control, of the lowest seed. A row for each of the most repaired pairs: the image in which "
    "the student is right on most pixels that the control takes for the other class, less those "
    "where it is the other way round. A pair without such an image is passed over."
)
PAIRS = 3
"""Pairs that have a picture."""
_ARMS = ("teacher", "control", "student")
_MOST_BYTES = 200_000
Labels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of a pair."""

    pair: Pair
    position: int
    """Of the image in its split."""
    pixels: int
    """That the student has repaired, less those it has spoilt."""


def picture_file(folder: Path) -> Path:
    """Return where the pictures are kept."""
    return folder / "pictures" / "figure4_class_confusion.jpg"


def _list_file(folder: Path) -> Path:
    return picture_file(folder).with_suffix(".csv")


def list_pictures(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the pictures: pair, image, pixels, and the networks' keys."""
    path = _list_file(folder)
    if not path.is_file():
        return []
    records = pd.read_csv(path, dtype=str, na_filter=False).to_dict("records")
    return [{str(name): str(value) for name, value in record.items()} for record in records]


def describe_pictures(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a sentence on pictures that were drawn, or none."""
    if not rows:
        return []
    shown = "; ".join(f"{it['pair']}, {it['image']}: {it['pixels']} pixels" for it in rows)
    return [f"Pictures: {shown}."]


def draw_pictures(
    runs: Sequence[ArmRun], confusions: Confusions, pairs: Sequence[Pair], folder: Path
) -> list[str]:
    """Draw the most repaired pairs with the networks of the lowest seed that has all three.

    Nothing is done if these networks have been drawn before.

    Args:
        runs: Of the study.
        confusions: Its matrices.
        pairs: The most repaired first.
        folder: Of the benchmark's results.

    Returns:
        Why there are no pictures, if there are none.
    """
    trio = _find_trio(runs)
    if trio is None:
        return ["No pictures: no seed has runs of teacher, control and student in the stores."]
    keys = {arm: run.tags[KEY_TAG] for arm, (run, _) in trio.items()}
    drawn = list_pictures(folder)
    if not pairs or (drawn and all(drawn[0].get(arm) == key for arm, key in keys.items())):
        return []
    try:
        with tempfile.TemporaryDirectory() as temporary:
            found = _draw(trio, confusions, pairs, keys, folder, Path(temporary))
    except InputError as error:
        return [f"No pictures: {error}"]
    return [] if found else ["No pictures: no image shows that the student repairs a confusion."]


def _find_trio(runs: Sequence[ArmRun]) -> dict[str, tuple[Recorded, Recorded]] | None:
    """Return the arms' training and evaluation runs, all of one seed."""
    for seed in sorted({run.seed for run in runs}):
        found = {
            run.arm: (run.trained, run.evaluated)
            for run in runs
            if run.seed == seed and run.trained is not None and run.evaluated is not None
        }
        if set(_ARMS) <= set(found):
            return {arm: found[arm] for arm in _ARMS}
    return None


def _draw(
    trio: Mapping[str, tuple[Recorded, Recorded]],
    confusions: Confusions,
    pairs: Sequence[Pair],
    keys: Mapping[str, str],
    folder: Path,
    temporary: Path,
) -> bool:
    """Draw the pictures; return whether there are any."""
    evaluated = trio["student"][1]
    config = _read_config(evaluated, temporary)
    data = open_data(config)
    if list(data.splits.classes.names) != list(confusions.names):
        raise InputError(f"{config.benchmark} has other classes than the confusion matrices.")
    split = evaluation_splits(evaluated.metrics)[0]
    samples = data.splits.evaluation[split]
    predictors = {
        arm: _open_network(run, config, temporary / arm) for arm, (run, _) in trio.items()
    }
    chosen = choose_images(
        samples, data.reader, predictors["control"], predictors["student"], pairs, config
    )[:PAIRS]
    if not chosen:
        return False
    rows = []
    for shown in chosen:
        image, truth = data.reader.pair(samples[shown.position])
        labels = {arm: it.label_picture(image) for arm, it in predictors.items()}
        title = confusions.title(shown.pair)
        rows.append(Compared(title=title, image=image, truth=truth, labels=labels))
    figure = comparison_figure(rows, data.splits.classes, before="control", after="student")
    # The list first: pictures without one would not be shown.
    listed = pd.DataFrame(
        [
            {
                "pair": confusions.title(it.pair),
                "image": samples[it.position].name,
                "pixels": it.pixels,
                **keys,
            }
            for it in chosen
        ]
    )
    write_atomically(_list_file(folder), listed.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(picture_file(folder), _encode_small(rasterize(figure)))
    return True


def _read_config(run: Recorded, temporary: Path) -> Config:
    file = download(f"runs:/{run.run_id}/config.json", temporary / "config", run.store)
    return override(Config(), json.loads(file.read_bytes()))


def _open_network(run: Recorded, config: Config, folder: Path) -> Predictor:
    fetched = download(f"runs:/{run.run_id}/{MODEL}", folder, run.store)
    device = distributed.choose_device(config.machine.device)
    network, _ = load_network(fetched / "artifacts" / NETWORK, device)
    return Predictor.of(network, device, config.evaluate.inference, config.machine)


def choose_images(
    samples: Sequence[Sample],
    reader: Reader,
    control: Predictor,
    student: Predictor,
    pairs: Sequence[Pair],
    config: Config,
) -> list[Shown]:
    """Return for each pair the image on which the student has repaired most of its pixels.

    A pair of which it has repaired none, or no more than it has spoilt, is left out.
    """
    best = {pair: Shown(pair=pair, position=0, pixels=0) for pair in pairs}
    read = frames(
        samples,
        reader,
        with_labels=True,
        pixels=pixels_together(student.device),
        workers=count_workers(config.machine),
        share=(0, 1),
    )
    for batch in read:
        assert batch.labels is not None  # they were asked for
        before = control.labels(batch.images)[0].cpu().numpy()
        after = student.labels(batch.images)[0].cpu().numpy()
        for row, position in enumerate(batch.positions):
            for pair in pairs:
                pixels = count_repaired(batch.labels[row], before[row], after[row], pair)
                if pixels > best[pair].pixels:
                    best[pair] = Shown(pair=pair, position=position, pixels=pixels)
    return [shown for shown in best.values() if shown.pixels > 0]


def count_repaired(truth: Labels, before: Labels, after: Labels, pair: Pair) -> int:
    """Return how many pixels of a pair are no longer taken for the other, less those that now are.

    Args:
        truth: (H, W) true classes; likewise the two predictions.
        before: Of the control.
        after: Of the student.
        pair: The two classes.
    """
    count = 0
    for one, other in (pair, pair[::-1]):
        mine = truth == one
        count += int(np.count_nonzero(mine & (before == other) & (after == one)))
        count -= int(np.count_nonzero(mine & (before == one) & (after == other)))
    return count


def _encode_small(picture: NDArray[np.uint8]) -> bytes:
    """Return a JPEG file that a repository can hold."""
    for quality in (90, 80, 70, 60, 50):
        file = encode_jpeg(picture, quality=quality)
        if len(file) <= _MOST_BYTES:
            break
    return file
