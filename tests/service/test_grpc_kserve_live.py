"""KServe's client against the service over gRPC, in a process of its own: its messages have the names of tritonclient's."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import _tiny
from tests.service._serving import serving_beside

_HOW = "needs kserve's client: pip install --no-deps kserve, and the many packages that it imports"
_PROGRAM = """
import asyncio, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main(target):
    rows = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    async with InferenceGRPCClient(target) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("mlp") and not await client.is_model_ready("nope")
        for binary in (True, False):
            x = InferInput("x", list(rows.shape), "FP32")
            x.set_data_from_numpy(rows, binary_data=binary)
            answer = await client.infer(InferRequest("mlp", [x], request_id="seven"))
            assert (answer.id, answer.model_name) == ("seven", "mlp")
            np.save(sys.stdout.buffer, answer.outputs[0].as_numpy())

asyncio.run(main(sys.argv[1]))
"""


def test_all_that_it_asks(tmp_path: Path) -> None:
    if importlib.util.find_spec("kserve") is None:
        pytest.skip(_HOW)
    pytest.importorskip("grpc", reason="needs grpcio: pip install grpcio, as the extra grpc does")

    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    with serving_beside(tmp_path, grpc={}) as server:
        target = server.grpc.places[0].removeprefix("grpc://")
        run = subprocess.run([sys.executable, "-c", _PROGRAM, target], capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    rows = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    out = io.BytesIO(run.stdout)
    for _ in range(2):
        np.testing.assert_allclose(np.load(out), _tiny.reference_mlp(rows), rtol=1e-4, atol=1e-5)
