"""The requests of a load as files that wrk sends, in each server's own form, and the check that what comes back is right."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.service._models import Case

DATATYPES = {"float32": "FP32", "int64": "INT64"}


@dataclass(frozen=True)
class Requests:
    """A folder for load.lua. `path` is what they are sent to."""

    folder: Path
    count: int
    path: str


def write(folder: Path, case: Case, form: str, path: str, headers: dict[str, str]) -> Requests:
    """Requests with each of a case's inputs.

    Args:
        form: "oip-json" or "oip-binary" for the Open Inference Protocol, answers in the same form, "oip-grpc" for its ModelInfer; "plain" for
            {"data": [...]}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = "application/octet-stream" if form == "oip-binary" else "application/json"
    lines = {"Content-Type": kind, **headers}
    (folder / "headers").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    for number, array in enumerate(case.inputs):
        body, length = _body(case, array, form)
        (folder / f"{number}.body").write_bytes(body)
        if length is not None:
            (folder / f"{number}.length").write_text(str(length))
    return Requests(folder, len(case.inputs), path)


def _body(case: Case, array: np.ndarray, form: str) -> tuple[bytes, int | None]:
    if form == "oip-grpc":
        return _message(case, array), None
    if form == "plain":
        return json.dumps({"data": array.tolist()}).encode(), None
    tensor: dict[str, Any] = {"name": case.input, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
    if form == "oip-json":
        return json.dumps({"inputs": [{**tensor, "data": array.reshape(-1).tolist()}]}).encode(), None
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    wanted = [{"name": case.output, "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    return text + array.tobytes(), len(text)


def _message(case: Case, array: np.ndarray) -> bytes:
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name=case.name)
    request.inputs.add(name=case.input, datatype=DATATYPES[array.dtype.name], shape=array.shape)
    request.outputs.add(name=case.output)
    request.raw_input_contents.append(array.tobytes())
    message: bytes = request.SerializeToString()
    return message


def ask_grpc(port: int, requests: Requests, number: int) -> np.ndarray:
    """The answer to one of them over gRPC. Raises RuntimeError if it is none."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb

    from bench.service import _grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            raw = channel.unary_unary(_grpc.METHOD)(
                (requests.folder / f"{number}.body").read_bytes(),
                metadata=_grpc.metadata_of(requests.folder),
                timeout=60,
            )
        except grpc.RpcError as error:
            raise RuntimeError(f"{error.code()} {error.details()}") from None
    response = pb.ModelInferResponse.FromString(raw)
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], np.float32)
    return np.asarray(response.outputs[0].contents.fp32_contents, np.float32)


def ask(port: int, requests: Requests, number: int) -> tuple[dict[str, str], bytes]:
    """The headers and the body of the answer to one of them. Raises OSError; RuntimeError if it is not 200."""
    lines = (requests.folder / "headers").read_text().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    length = requests.folder / f"{number}.length"
    if length.exists():
        headers["Inference-Header-Content-Length"] = length.read_text()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", requests.path, (requests.folder / f"{number}.body").read_bytes(), headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {body[:200].decode(errors='replace')}")
        return {name.lower(): value for name, value in response.getheaders()}, body
    finally:
        connection.close()


def numbers(headers: dict[str, str], body: bytes) -> np.ndarray:
    """Those of an answer over HTTP, in any form."""
    length = headers.get("inference-header-content-length")
    if length is not None:
        return np.frombuffer(body[int(length) :], np.float32)
    document = json.loads(body)
    data = document["outputs"][0]["data"] if "outputs" in document else document["data"]
    return np.asarray(data, np.float32).reshape(-1)


def difference(case: Case, number: int, found: np.ndarray) -> float:
    """How far an answer is from what the model gives, as the largest difference over the largest number."""
    wanted = case.expected[number].reshape(-1)
    if found.shape != wanted.shape:
        raise RuntimeError(f"{found.size} numbers instead of {wanted.size}")
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
