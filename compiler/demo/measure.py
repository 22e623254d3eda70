"""The demo's table: each way to run the same model on the same images, with accuracy, size, load time and latency."""

from __future__ import annotations

import http.client
import json
import logging
import re
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import maas_rt

from ..importers.checkpoint import load_checkpoint
from .data import Images, Labels
from .model import build

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One way to run. Latency is the median of one image at one thread, in microseconds."""

    way: str
    accuracy: float | None
    size: int | None
    load_ms: float | None
    latency_us: float | None
    note: str = ""


def every_way(work: Path, checkpoint: Path, target: Path, images: Images, labels: Labels) -> list[Row]:
    """All rows, eager torch first. A way that is not to be had here becomes a row that says why."""
    torch.set_num_threads(1)
    module = build()
    load_checkpoint(module, checkpoint)
    module.eval()
    return [
        _row_or_failure("eager torch", [work / "digits.pt"], lambda: _eager(work, module, images, labels)),
        _row_or_failure("ONNX Runtime", [work / "digits.onnx"], lambda: _onnxruntime(work, module, images, labels)),
        python_row("maas_rt, Python", target, images, labels),
        _row_or_failure(
            "maas_rt, C", [work / "classify", work / "images.f32"], lambda: _c(work, target, images, labels)
        ),
        _row_or_failure("maas_rt, HTTP", [], lambda: _http(work, images, labels)),
    ]


def _row_or_failure(name: str, files: list[Path], way: Callable[[], Row]) -> Row:
    """The row of a way, or one that says why there is none, as where the disk is full; files that it began are removed then."""
    try:
        return way()
    except (OSError, RuntimeError, http.client.HTTPException, subprocess.SubprocessError) as error:
        for file in files:
            file.unlink(missing_ok=True)
        message = (str(error).splitlines() or [type(error).__name__])[0]
        return Row(name, None, None, None, None, f"did not finish: {message[:160]}")


def _accuracy(scores: Scores, labels: Labels) -> float:
    return float((scores.argmax(1) == labels).mean())


def _latency(call: Callable[[], object], seconds: float = 1.0) -> float:
    """Median time of a call in microseconds, over about `seconds`."""
    for _ in range(20):
        call()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def _eager(work: Path, module: torch.nn.Module, images: Images, labels: Labels) -> Row:
    path = work / "digits.pt"
    torch.save(module.state_dict(), path)
    start = time.perf_counter()
    fresh = build()
    fresh.load_state_dict(torch.load(path, weights_only=True))
    fresh.eval()
    load_ms = (time.perf_counter() - start) * 1e3
    with torch.inference_mode():
        scores: Scores = fresh(torch.from_numpy(images)).numpy()
        one = torch.from_numpy(images[:1])
        latency = _latency(lambda: fresh(one))
    return Row("eager torch", _accuracy(scores, labels), path.stat().st_size, load_ms, latency)


def _onnxruntime(work: Path, module: torch.nn.Module, images: Images, labels: Labels) -> Row:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx.export needs it)
    except ModuleNotFoundError as error:
        return Row("ONNX Runtime", None, None, None, None, f"{error.name} is not installed")
    path = work / "digits.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.from_numpy(images[:2]),),
            str(path),
            input_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=512)},),
            external_data=False,
            verbose=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    load_ms = (time.perf_counter() - start) * 1e3
    scores = session.run(None, {"image": images})[0]
    latency = _latency(lambda: session.run(None, {"image": images[:1]}))
    return Row("ONNX Runtime", _accuracy(scores, labels), path.stat().st_size, load_ms, latency)


def python_row(way: str, target: Path, images: Images, labels: Labels) -> Row:
    """A file run in this process."""
    start = time.perf_counter()
    model = maas_rt.load(target, threads=1)
    load_ms = (time.perf_counter() - start) * 1e3
    scores = np.concatenate([model(images[i : i + 60]) for i in range(0, len(images), 60)])
    one = images[:1]
    return Row(way, _accuracy(scores, labels), target.stat().st_size, load_ms, _latency(lambda: model(one)))


def _c(work: Path, target: Path, images: Images, labels: Labels) -> Row:
    """Build the C example against the installed library, and let it classify the images."""
    package = Path(maas_rt.__file__).parent
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return Row("maas_rt, C", None, None, None, None, "no C compiler (apt install gcc)")
    program = work / "classify"
    subprocess.run(
        [compiler, "-O2", "-o", str(program), str(package / "examples" / "classify.c"), f"-I{package / 'include'}"]
        + [f"-L{package}", "-lmaas_rt", f"-Wl,-rpath,{package.resolve()}"],
        check=True,
    )
    raw = work / "images.f32"
    images.tofile(raw)
    done = subprocess.run(
        [str(program), str(target), str(raw), "--threads", "1", "--top", "1", "--bench"],
        check=True,
        capture_output=True,
        text=True,
    )
    predicted = np.array([int(m) for m in re.findall(r"^item \d+: class (\d+)", done.stdout, re.M)])
    facts = dict(re.findall(r"^(load_ms|p50_us): ([0-9.]+)$", done.stdout, re.M))
    return Row(
        "maas_rt, C",
        float((predicted == labels).mean()),
        target.stat().st_size,
        float(facts["load_ms"]),
        float(facts["p50_us"]),
    )


def _http(work: Path, images: Images, labels: Labels) -> Row:
    """Serve the directory in a process of its own, ask for every image over one connection."""
    command = [sys.executable, "-m", "maas_rt", "serve", str(work), "--port", "0", "--threads", "1"]
    start = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        port = None
        for line in server.stderr:
            if found := re.search(r"listening on http://[^:]+:(\d+)/", line):
                port = int(found.group(1))
                break
        if port is None:
            return Row("maas_rt, HTTP", None, None, None, None, "the service did not start")
        load_ms = (time.perf_counter() - start) * 1e3
        connection = http.client.HTTPConnection("127.0.0.1", port)
        scores = np.concatenate([_ask(connection, images[i : i + 60]) for i in range(0, len(images), 60)])
        latency = _latency(lambda: _ask(connection, images[:1]))
    finally:
        server.terminate()
        server.wait(10)
    return Row("maas_rt, HTTP", _accuracy(scores, labels), (work / "digits.mrt").stat().st_size, load_ms, latency)


def _ask(connection: http.client.HTTPConnection, images: Images) -> Scores:
    body: dict[str, Any] = {
        "inputs": [{"name": "image", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}]
    }
    connection.request("POST", "/v2/models/digits/infer", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        raise maas_rt.Error(f"the service answered {response.status}: {answer}")
    output = answer["outputs"][0]
    scores: Scores = np.asarray(output["data"], np.float32).reshape(output["shape"])
    return scores


def table(rows: list[Row]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'':16}{'accuracy':>9}{'file':>11}{'load':>11}{'latency':>13}", "─" * 60]
    for row in rows:
        if row.latency_us is None:
            lines.append(f"{row.way:16}{row.note}")
            continue
        assert row.accuracy is not None and row.size is not None and row.load_ms is not None
        lines.append(
            f"{row.way:16}{row.accuracy:>9.4f}{row.size / 1024:>7.0f} KiB{row.load_ms:>8.1f} ms{row.latency_us:>10.1f} µs"
        )
    lines.append("latency: median of one image, one thread; HTTP's load is the start of the whole service")
    return "\n".join(lines)
