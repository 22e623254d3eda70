"""The requests of a load as files that wrk sends, in each server's own form, and the check that what comes back is right."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.service._models import Case

Answer = list[np.ndarray]


@dataclass(frozen=True)
class Requests:
    """A folder for load.lua. `path` is what they are sent to."""

    folder: Path
    count: int
    path: str


def write(folder: Path, case: Case, form: str, path: str, headers: dict[str, str]) -> Requests:
    """Requests with each of a case's inputs.

    Args:
        form: "oip-json" or "oip-binary" for the Open Inference Protocol, answers in the same form; "plain" for {"data": [...]}.
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
    if form == "plain":
        return json.dumps({"data": array.tolist()}).encode(), None
    datatype = {"float32": "FP32", "int64": "INT64"}[array.dtype.name]
    tensor: dict[str, Any] = {"name": case.input, "shape": list(array.shape), "datatype": datatype}
    if form == "oip-json":
        return json.dumps({"inputs": [{**tensor, "data": array.reshape(-1).tolist()}]}).encode(), None
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    wanted = [{"name": case.output, "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    return text + array.tobytes(), len(text)


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


def difference(case: Case, number: int, headers: dict[str, str], body: bytes) -> float:
    """How far an answer is from what the model gives, as the largest difference over the largest number."""
    length = headers.get("inference-header-content-length")
    if length is not None:
        found = np.frombuffer(body[int(length) :], np.float32)
    else:
        document = json.loads(body)
        data = document["outputs"][0]["data"] if "outputs" in document else document["data"]
        found = np.asarray(data, np.float32).reshape(-1)
    wanted = case.expected[number].reshape(-1)
    if found.shape != wanted.shape:
        raise RuntimeError(f"{found.size} numbers instead of {wanted.size}")
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
