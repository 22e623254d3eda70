"""LitServe: https://lightning.ai/docs/litserve.

litserve_server.py MODEL.onnx INPUT DTYPE PORT
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime

PATH, INPUT, DTYPE, PORT = sys.argv[1:5]


class Onnx(litserve.LitAPI):  # type: ignore[misc]
    """A model.onnx."""

    def setup(self, device: str) -> None:
        """Opens it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(PATH, options)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe takes another type for the query's
        """The document's array."""
        return np.asarray(request["data"], DTYPE)

    def predict(self, x: Any) -> Any:
        """Runs it."""
        return self.session.run(["output_0"], {INPUT: x})[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """A document."""
        return {"data": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Onnx(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(PORT), generate_client_file=False, log_level="warning")
