"""MLServer's custom inference runtime: https://mlserver.readthedocs.io/en/latest/user-guide/custom.html."""

from __future__ import annotations

from typing import Any

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):  # type: ignore[misc]
    """A model.onnx."""

    async def load(self) -> bool:
        """Opens it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.settings.parameters.uri), options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs it."""
        inputs: dict[str, Any] = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        (y,) = self.session.run(["output_0"], inputs)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output_0", y)])
