"""ncnn, from pnnx's conversion of a batch of one; it has no batch axis, so a batch is a loop over its items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    import ncnn

    net = ncnn.Net()
    option = net.opt
    option.num_threads = threads
    option.lightmode = option.use_packing_layout = True
    option.use_winograd_convolution = option.use_sgemm_convolution = True
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_packed = option.use_bf16_storage = False
    for name, status in (
        ("model.ncnn.param", net.load_param(str(folder / "model.ncnn.param"))),
        ("model.ncnn.bin", net.load_model(str(folder / "model.ncnn.bin"))),
    ):
        if status != 0:
            unknown = ", ".join(_not_converted(folder / "model.ncnn.param")) or "none by their names"
            raise RuntimeError(
                f"ncnn does not load {name} (status {status}); operators that pnnx did not convert: {unknown}"
            )
    items = [_mats(ncnn, inputs, i) for i in range(len(next(iter(inputs.values()))))]
    names = list(net.output_names())

    def call() -> list[list[Any]]:
        results = []
        for mats in items:
            extractor = net.create_extractor()
            for name, mat in mats.items():
                extractor.input(name, mat)
            results.append([_extract(extractor, name) for name in names])
        return results

    def outputs() -> list[np.ndarray]:
        return [np.stack([np.array(mat) for mat in mats]) for mats in zip(*call())]

    return call, outputs


def _not_converted(path: Path) -> list[str]:
    """Operators that pnnx left under torch's names (`torch.sum`, `Tensor.index`, `aten::...`), for which ncnn has no layer."""
    kinds = {line.split()[0] for line in path.read_text().splitlines()[2:] if line.strip()}
    return sorted(kind for kind in kinds if "." in kind or "::" in kind)


def _mats(ncnn: Any, inputs: Arrays, item: int) -> dict[str, Any]:
    """Inputs of one item, as ncnn takes them: in0, in1, ... in the order of the model's arguments; whole numbers of 32 bits."""
    arrays = [np.ascontiguousarray(value[item]) for value in inputs.values()]
    narrow = [a.astype(np.int32) if a.dtype == np.int64 else a for a in arrays]
    return {f"in{i}": ncnn.Mat(a).clone() for i, a in enumerate(narrow)}


def _extract(extractor: Any, name: str) -> Any:
    status, mat = extractor.extract(name)
    if status != 0:
        raise RuntimeError(f"ncnn ended with status {status} computing {name}")
    return mat
