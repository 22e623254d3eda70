"""kserve's REST client against the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from tests import _tiny
from tests.service._serving import Served, serving_beside

_HOW = "needs KServe's client: pip install kserve, in an environment of its own, for it holds back protobuf, pandas and psutil"
kserve = pytest.importorskip("kserve", reason=_HOW)
types = pytest.importorskip("kserve.protocol.infer_type", reason=_HOW)
httpx = pytest.importorskip("httpx", reason=_HOW)

ROWS = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
EXPECTED = _tiny.reference_mlp(ROWS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    (root / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    with serving_beside(root) as server:
        yield server


@pytest.fixture
async def client(server: Served) -> AsyncIterator[Any]:
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0))
    yield client
    await client.close()


@pytest.fixture
def url(server: Served) -> str:
    return f"http://127.0.0.1:{server.port}"


def _request(rows: Any, binary: bool) -> Any:
    tensor = kserve.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return kserve.InferRequest("mlp", [tensor], request_id="seven")


async def test_health_and_readiness(client: Any, url: str) -> None:
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, "mlp") and not await client.is_model_ready(url, "nope")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
async def test_infer(client: Any, url: str, binary_in: bool, binary_out: bool) -> None:
    request = _request(ROWS, binary_in)
    request.request_outputs = [types.RequestedOutput("y", {"binary_data": binary_out})]
    result = await client.infer(url, request, model_name="mlp")
    assert (result.id, result.model_name) == ("seven", "mlp")
    np.testing.assert_allclose(result.outputs[0].as_numpy(), EXPECTED, rtol=1e-4, atol=1e-5)


async def test_what_is_refused_is_told(client: Any, url: str) -> None:
    """The sentence, too, which this client reads of a certain type alone."""
    for model, rows, status, sentence in (
        ("nope", ROWS, 404, "no model 'nope'"),
        ("mlp", ROWS[:, :3], 400, "the model takes 16"),
        ("mlp", ROWS[:0], 400, "input 'x'"),
    ):
        with pytest.raises(httpx.HTTPStatusError, match=sentence) as caught:
            await client.infer(url, _request(rows, False), model_name=model)
        assert caught.value.response.status_code == status
