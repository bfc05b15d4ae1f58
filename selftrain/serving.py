"""The model that MLflow serves, as code: `tracking.Run.log_model` points MLflow at this file.

A request comes from anybody, so it is bounded: see `require_images`. What MLflow does before it
asks the model, above all to parse JSON, is bounded by what stands in front of the server
(SECURITY.md).
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from selftrain.checkpoint import NETWORK, load_network
from selftrain.errors import InputError
from selftrain.inference import Predictor
from selftrain.machine import enough_memory

MOST_IMAGES = 256
"""Images of a request."""
MOST_PIXELS = 2**26
"""Pixels of a request, over all its images: 192 MiB as uint8."""
MOST_PIXELS_OF_IMAGE = 2**24
"""Pixels of an image, as of 4096x4096, and of images that go through the network together: with 19
classes their probabilities take 1.2 GiB."""
LONGEST_SIDE = 2**14
"""Pixels of an image's longer side."""


class SegmentationModel(PythonModel):  # type: ignore[misc]  # mlflow publishes no types
    """Images uint8 (B, H, W, 3), RGB -> class ids uint8 (B, H, W)."""

    def load_context(self, context: Any) -> None:
        """Load the network from the model's own artifacts."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, card = load_network(Path(context.artifacts[NETWORK]), device)
        self._predictor = Predictor(
            network, device, frame_scale=card.scale, short_side=card.short_side
        )

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.uint8]:
        """Label a batch of images of one size.

        Raises:
            MlflowException: the input is not what `require_images` allows, or this machine has too
                little memory for it; a server answers with 400.
        """
        # A plain array in the hint: any other makes mlflow warn that it infers no signature.
        try:
            images = require_images(model_input)
            count, height, width = images.shape[:3]
            labels = np.empty((count, height, width), dtype=np.uint8)
            together = max(1, MOST_PIXELS_OF_IMAGE // (height * width))
            with enough_memory("send fewer images at a time, or smaller ones"):
                for first in range(0, count, together):
                    some = slice(first, first + together)
                    labels[some] = self._label(images[some])
        except InputError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return labels

    def _label(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        labels, _ = self._predictor.labels(turned)
        return np.asarray(labels.cpu().numpy(), dtype=np.uint8)


def require_images(found: object) -> NDArray[np.uint8]:
    """Return what a request holds if it is images of a size that is served.

    Raises:
        InputError: it is no array uint8 (B, H, W, 3), it holds no pixel, or more than is served.
    """
    wanted = "send images as one array uint8 (B, H, W, 3), RGB, 0..255"
    if not isinstance(found, np.ndarray):
        raise InputError(f"The request holds {type(found).__name__}, not an array: {wanted}.")
    shape = "x".join(map(str, found.shape))
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3:
        raise InputError(f"The request is an array {found.dtype} {shape or '()'}: {wanted}.")
    images, height, width = found.shape[:3]
    if found.size == 0:
        raise InputError(f"The request is an array {shape}, without a pixel: {wanted}.")
    if max(height, width) > LONGEST_SIDE or height * width > MOST_PIXELS_OF_IMAGE:
        raise InputError(
            f"The request's images are {width}x{height}, but at most {MOST_PIXELS_OF_IMAGE} pixels "
            f"and a side of {LONGEST_SIDE} are served: send smaller images, or cut them."
        )
    if images > MOST_IMAGES or images * height * width > MOST_PIXELS:
        raise InputError(
            f"The request holds {images} images of {width}x{height}, but at most {MOST_IMAGES} "
            f"images and {MOST_PIXELS} pixels are served at once: send fewer at a time."
        )
    return found


mlflow.models.set_model(SegmentationModel())
