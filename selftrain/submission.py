"""Predictions as the Cityscapes test server takes them.

A zip of one PNG a frame: 8-bit label ids (not train ids), of the full frame's size, named
<city>_<sequence>_<frame>*.png with exactly one file a frame. So say the server's instructions (as
its keepers quote them in mcordts/cityscapesScripts, issues 65 and 117) and `getPrediction` of the
official evaluation, which runs on the server.
"""

import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data.cityscapes import HEIGHT, WIDTH
from selftrain.data.sample import ClassTable, Sample
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.labels import IGNORE_INDEX
from selftrain.pictures import encode_png

ENDING = "_pred_labelIds.png"


def write_submission(
    file: Path,
    predictions: Iterable[tuple[Sample, NDArray[np.uint8]]],
    classes: ClassTable,
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> int:
    """Write predictions into a zip for the test server, all of them or nothing.

    The zip is put together in memory, where 1525 frames take some tens of megabytes.

    Args:
        file: The zip to write.
        predictions: Test frames with their maps (H, W) of train ids 0..K-1, one at a time. A map
            of another size than the full frame's is resized to it without mixing ids.
        classes: Its `train_ids` say which label id a train id stands for.
        height: Of the full frame, in pixels.
        width: Likewise.

    Returns:
        The number of frames written.

    Raises:
        InputError: there are no predictions, a name is not a Cityscapes frame's or comes twice, a
            map has other proportions than the frame, the classes have no label ids, or the file
            cannot be written.
    """
    ids = _label_ids(classes)
    written: set[str] = set()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNGs are packed already
        for sample, prediction in predictions:
            _require_frame(sample, written)
            full = _to_full_size(prediction, height, width, sample)
            # Without a date of its own an entry takes today's: equal predictions, equal zips.
            entry = zipfile.ZipInfo(f"{sample.name}{ENDING}", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, encode_png(ids[full]))
            written.add(sample.name)
    if not written:
        raise InputError(
            "There are no test frames to submit: leftImg8bit_trainvaltest.zip brings them in "
            "leftImg8bit/test; unpack it again."
        )
    write_atomically(file, buffer.getvalue())
    return len(written)


def _label_ids(classes: ClassTable) -> NDArray[np.uint8]:
    """Return the label id of each train id (K,)."""
    label_ids = {
        train_id: file_id
        for file_id, train_id in classes.train_ids.items()
        if train_id != IGNORE_INDEX
    }
    if sorted(label_ids) != list(range(len(classes))):
        raise InputError(
            f"The classes {', '.join(classes.names)} have no Cityscapes label ids, which a "
            "submission consists of: predict with a model that was trained on Cityscapes' classes."
        )
    return np.array([label_ids[train_id] for train_id in range(len(classes))], dtype=np.uint8)


def _require_frame(sample: Sample, written: set[str]) -> None:
    if not re.fullmatch(r"[^_/]+_\d{6}_\d{6}", sample.name):
        raise InputError(
            f"{sample.image} is not named as a Cityscapes frame, "
            "<city>_<sequence>_<frame>_leftImg8bit.png: the test server knows only those."
        )
    if sample.name in written:
        raise InputError(
            f"{sample.name} would be submitted twice, but the test server takes one prediction a "
            "frame: predict each test frame once."
        )


def _to_full_size(
    prediction: NDArray[np.uint8], height: int, width: int, sample: Sample
) -> NDArray[np.uint8]:
    rows, columns = prediction.shape
    # Scaled sides are rounded to whole pixels: each may be off by half of one.
    if abs(rows * width - columns * height) > (height + width) / 2:
        raise InputError(
            f"The prediction for {sample.image} is {columns}x{rows}, but the test server wants "
            f"{width}x{height}: predict the whole frame, with both sides scaled alike."
        )
    if (rows, columns) == (height, width):
        return prediction
    full = cv2.resize(prediction, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return full.astype(np.uint8, copy=False)
