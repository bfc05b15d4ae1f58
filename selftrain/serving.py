"""The model that MLflow serves, as code: `tracking.Run.log_model` points MLflow at this file.

It takes images as one array, and gives class ids; or pictures as files, and gives a record for
each. MLflow knows one signature for a model: the one that `delivery.py` logs lets both through,
under the name `image`, and what they hold is checked in `request.py`.

What MLflow does before it asks the model, above all to parse JSON, is bounded by what stands in
front of the server (SECURITY.md).
"""

import base64
import threading
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from selftrain.checkpoint import NETWORK, load_network
from selftrain.data.histogram import count_values
from selftrain.errors import InputError
from selftrain.inference import Predictor
from selftrain.machine import enough_memory
from selftrain.request import (
    IMAGE,
    MOST_PIXELS_OF_IMAGE,
    read_picture,
    require_files,
    require_images,
)


class Refusal(MlflowException):  # type: ignore[misc]  # mlflow publishes no types
    """A request that is not answered; a server answers with 400 and this sentence.

    The sentence stays as it is: MLflow's server would put the request's data in front of it, such
    as the whole text of a picture.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """Return the sentence."""
        return str(self._sentence)

    @message.setter
    def message(self, text: str) -> None:
        if "_sentence" not in vars(self):
            self._sentence = text


class SegmentationModel(PythonModel):  # type: ignore[misc]  # mlflow publishes no types
    """Images uint8 (B, H, W, 3), RGB -> class ids uint8 (B, H, W); or files -> records."""

    def load_context(self, context: Any) -> None:
        """Load the network from the model's own artifacts."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, card = load_network(Path(context.artifacts[NETWORK]), device)
        self._classes = card.classes
        self._predictor = Predictor(
            network, device, frame_scale=card.scale, short_side=card.short_side
        )
        # A server asks from several threads: the bounds of a request are those of all of them.
        self._turn = threading.Lock()

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.uint8] | list[dict[str, object]]:
        """Label images.

        Args:
            context: Of MLflow; not used.
            model_input: Images as an array uint8 (B, H, W, 3), or PNG and JPEG files (B,) as bytes
                or in base64; either may be under the name `image`.
            params: Of MLflow; there are none.

        Returns:
            For an array class ids (B, H, W). For files a record each: `mask`, a PNG in base64 with
            the class ids, of the size of the picture when it stands upright; `classes`, the names
            in the order of the ids; `shares`, the share of each in the picture's pixels.

        Raises:
            Refusal: the input is not what `request.py` allows, or this machine has too little
                memory for it.
        """
        # A plain array in the hint: any other makes mlflow warn that it infers no signature.
        given: object = model_input
        found = given.get(IMAGE) if isinstance(given, dict) else given
        try:
            with enough_memory("send fewer images at a time, or smaller ones"):
                if isinstance(found, np.ndarray) and found.dtype == object and found.ndim == 1:
                    files = require_files(found)
                    return [self._describe(file, number) for number, file in enumerate(files, 1)]
                return self._label_all(require_images(found))
        except InputError as error:
            raise Refusal(str(error)) from error

    def _label_all(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        count, height, width = images.shape[:3]
        labels = np.empty((count, height, width), dtype=np.uint8)
        together = max(1, MOST_PIXELS_OF_IMAGE // (height * width))
        for first in range(0, count, together):
            some = slice(first, first + together)
            labels[some] = self._label(images[some])
        return labels

    def _describe(self, file: bytes, number: int) -> dict[str, object]:
        """Return the record of a picture."""
        labels = self._label(read_picture(file, number)[None])[0]
        pixels = count_values([labels], [len(self._classes)])
        return {
            "mask": base64.b64encode(cv2.imencode(".png", labels)[1].tobytes()).decode("ascii"),
            "classes": self._classes,
            "shares": (pixels / labels.size).tolist(),
        }

    def _label(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with self._turn:
            labels, _ = self._predictor.labels(turned)
        return np.asarray(labels.cpu().numpy(), dtype=np.uint8)


mlflow.models.set_model(SegmentationModel())
