"""The HTTP service: Open Inference Protocol v2 over REST, on a model that was compiled for the test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

import maas_rt
from maas_rt.service import Repository, create_app
from tests import _tiny


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """double.mrt (y = x @ w, dynamic batch) as version 1 of `double`, and as versions 2 and 10 of `many`."""
    import torch
    from maas_rt.compiler import compile

    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.linear(x)
            return {"y": y, "best": y.argmax(1)}

    root = tmp_path_factory.mktemp("models")
    artifact = compile(Net(), {"x": torch.zeros(2, 3)}, dynamic={"x": {0: (1, 8)}})
    artifact.save(root / "double.mrt")
    (root / "many").mkdir()
    artifact.save(root / "many" / "2.mrt")
    artifact.save(root / "many" / "10.mrt")
    return root


@pytest.fixture
async def client(directory: Path):
    async with TestClient(TestServer(create_app(Repository(directory), max_body=4096))) as client:
        yield client


def _request(data: object = (1.0, 2.0, 3.0), **changes: object) -> dict[str, object]:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": list(data) if isinstance(data, tuple) else data}
    return {"inputs": [{**tensor, **changes}]}


async def test_health_and_server_metadata(client: TestClient) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/double/ready", "/v2/models/many/versions/2/ready"):
        assert (await client.get(path)).status == 200, path
    body = await (await client.get("/v2")).json()
    assert body["name"] == "maas-rt"
    assert body["version"] == maas_rt.__version__


async def test_model_metadata_names_dynamic_dimensions(client: TestClient) -> None:
    body = await (await client.get("/v2/models/double")).json()
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert [o["name"] for o in body["outputs"]] == ["y", "best"]
    assert body["outputs"][1]["datatype"] == "INT64"


async def test_the_highest_version_is_the_default_by_number_not_by_text(client: TestClient) -> None:
    assert (await (await client.get("/v2/models/many")).json())["versions"] == ["2", "10"]
    answer = await (await client.post("/v2/models/many/infer", json=_request())).json()
    assert answer["model_version"] == "10"


@pytest.mark.parametrize("data", [[1.0, 2, 3.5, 4, 5, 6], [[1.0, 2, 3.5], [4, 5, 6]]])
async def test_infer_flat_and_nested(client: TestClient, directory: Path, data: list) -> None:
    response = await client.post("/v2/models/double/infer", json={**_request(data, shape=[2, 3]), "id": "seven"})
    assert response.status == 200
    answer = await response.json()
    expected = maas_rt.load(directory / "double.mrt").run({"x": np.array(data, np.float32).reshape(2, 3)})
    assert answer["id"] == "seven"
    got = {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in answer["outputs"]}
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-6)
    np.testing.assert_array_equal(got["best"], expected["best"])


async def test_only_the_outputs_that_were_asked_for(client: TestClient) -> None:
    answer = await (
        await client.post("/v2/models/double/infer", json={**_request(), "outputs": [{"name": "best"}]})
    ).json()
    assert [o["name"] for o in answer["outputs"]] == ["best"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", '"inputs"'),
        (b"[" * 2000, "not valid JSON"),
        ({"inputs": [3]}, r"inputs\[0\]"),
        (_request(name="z"), "no input 'z'"),
        ({"inputs": []}, "missing input 'x'"),
        (_request(datatype="FP64"), "'FP64', the model takes 'FP32'"),
        (_request(shape=[1, -3]), "0 or more"),
        (_request(shape=[1, 4]), "4 in dimension 1, the model takes 3"),
        (_request(shape=[2, 3]), "3 elements"),
        (_request(shape=[3, 1]), "x"),
        (_request((1.0, "2", 3.0)), '"2" is no float32'),
        (_request((1.0, None, 3.0)), "null is no float32"),
        (_request((True, 1.0, 3.0)), "true is no float32"),
        (_request([[1.0], 2.0, 3.0]), "mixes"),
        (_request("abc"), "must be a list"),
        ({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32"}]}, 'no "data"'),
        ({**_request(), "outputs": [{"name": "nope"}]}, "no output 'nope'"),
        ({**_request(), "id": 7}, '"id"'),
        (_request(tuple([0.0] * 27), shape=[9, 3]), "x"),  # above the declared largest batch
    ],
)
async def test_bad_requests_get_one_sentence_and_400(client: TestClient, body: object, sentence: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post("/v2/models/double/infer", data=data)
    assert response.status == 400
    error = (await response.json())["error"]
    assert re.search(sentence, error), error
    assert "Traceback" not in error and "\n" not in error


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nope", 404),
        ("/v2/models/double/versions/3", 404),
        ("/v1/models", 404),
        ("/v2/models/double/infer", 405),
    ],
)
async def test_what_is_not_there(client: TestClient, path: str, status: int) -> None:
    response = await client.get(path)
    assert response.status == status
    assert "error" in await response.json()
    assert response.headers.get("Allow") == ("POST" if status == 405 else None)


async def test_too_large_a_body_is_413(client: TestClient) -> None:
    response = await client.post("/v2/models/double/infer", data=b" " * 5000)
    assert response.status == 413
    assert "error" in await response.json()


async def test_a_body_that_does_not_unpack_is_400(client: TestClient) -> None:
    response = await client.post("/v2/models/double/infer", data=b"\x1f\x8b00", headers={"Content-Encoding": "gzip"})
    assert response.status == 400
    assert "cannot be read" in (await response.json())["error"]


async def test_many_requests_at_once_get_their_own_answers(client: TestClient, directory: Path) -> None:
    model = maas_rt.load(directory / "double.mrt")

    async def ask(i: int) -> None:
        answer = await (await client.post("/v2/models/double/infer", json=_request((float(i), 1.0, 2.0)))).json()
        expected = model.run({"x": np.array([[i, 1, 2]], np.float32)})["y"]
        np.testing.assert_allclose(np.array(answer["outputs"][0]["data"]), expected.ravel(), rtol=1e-6)

    await asyncio.gather(*(ask(i) for i in range(50)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_stops_on_a_signal(directory: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "maas_rt", "serve", str(directory), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert process.stderr is not None
        assert any("listening on http://127.0.0.1:" in line for line in process.stderr)
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_directory_with_a_bad_file_or_none_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.mrt").write_bytes(content)
    done = subprocess.run([sys.executable, "-m", "maas_rt", "serve", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("maas-rt serve: error: ")
    assert done.stderr.count("\n") == 1
    assert ("bad.mrt" if content is not None else "holds no model") in done.stderr


# ---- seeds ----------------------------------------------------------------------------------------------------------


async def test_a_seed_among_the_parameters(tmp_path: Path) -> None:
    """A model that draws random numbers is given the seed of a request, and tells the one that it used."""
    (tmp_path / "noise.mrt").write_bytes(_tiny.noise())
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    x = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [0.0] * 6}
    row = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.0] * 16}
    async with TestClient(TestServer(create_app(Repository(tmp_path)))) as client:

        async def infer(model: str, tensor: object, **fields: object) -> tuple[int, dict]:
            response = await client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], **fields})
            return response.status, await response.json()

        _, given = await infer("noise", x, parameters={"seed": 42, "priority": 1})
        assert given["parameters"] == {"seed": 42}
        _, same = await infer("noise", x, parameters={"seed": 42})
        assert same == given
        _, drawn = await infer("noise", x)
        _, other = await infer("noise", x, parameters={})
        assert len({str(each["outputs"]) for each in (given, drawn, other)}) == 3
        assert 0 <= drawn["parameters"]["seed"] < 2**53
        _, again = await infer("noise", x, parameters=drawn["parameters"])
        assert again == drawn
        status, plain = await infer("mlp", row, parameters={"seed": 1})
        assert status == 200 and "parameters" not in plain
        for wrong in (-1, 2**64, 1.5, "42", True, [1]):
            status, body = await infer("noise", x, parameters={"seed": wrong})
            assert status == 400 and 'the parameter "seed"' in body["error"]
        status, body = await infer("noise", x, parameters=[1])
        assert (status, body["error"]) == (400, '"parameters" must be an object')
