"""KServe's server with a custom model: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/custom-predictor.

kserve_server.py NAME MODEL.onnx --http_port PORT ...
"""

from __future__ import annotations

import sys
from typing import Any

import kserve
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse


class Onnx(kserve.Model):  # type: ignore[misc]
    """A model.onnx."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.ready = True

    def predict(self, payload: InferRequest, *rest: Any, **more: Any) -> InferResponse:
        """Runs it."""
        inputs = {each.name: each.as_numpy() for each in payload.inputs}
        (y,) = self.session.run(["output_0"], inputs)
        wanted = {each.name: each.parameters for each in payload.request_outputs or ()}
        output = InferOutput("output_0", list(y.shape), "FP32")
        binary = bool((wanted.get("output_0") or {}).get("binary_data", False))
        output.set_data_from_numpy(y, binary_data=binary)
        return InferResponse(payload.id or "", self.name, [output])


if __name__ == "__main__":
    name, path = sys.argv[1:3]
    del sys.argv[1:3]
    kserve.ModelServer(enable_grpc=True).start([Onnx(name, path)])
