"""BentoML: https://docs.bentoml.com. The model is told by MODEL, INPUT and DTYPE of the environment."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Onnx:
    """A model.onnx."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api
    def infer(self, data: list[Any]) -> dict[str, Any]:
        """Runs it on the document's array."""
        x = np.asarray(data, os.environ["DTYPE"])
        return {"data": self.session.run(["output_0"], {os.environ["INPUT"]: x})[0].tolist()}
