"""The model that MLflow serves, as code: `tracking.Run.log_model` points MLflow at this file."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from selftrain.checkpoint import NETWORK, load_network
from selftrain.inference import Predictor


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
        """Label a batch of images of one size."""
        # A plain array in the hint: any other makes mlflow warn that it infers no signature.
        images = torch.from_numpy(np.ascontiguousarray(model_input.transpose(0, 3, 1, 2)))
        labels, _ = self._predictor.labels(images)
        return np.asarray(labels.cpu().numpy(), dtype=np.uint8)


mlflow.models.set_model(SegmentationModel())
