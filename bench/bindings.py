"""What a new binding of shapes costs: `python -m bench.bindings`, on a chain of many layers with an open batch.

A run of sizes that the session has not seen lays its memory out anew; the next run of the same sizes finds the layout. What the first takes
beyond the second, over the second, is printed; the least of many, because whatever else the machine does only adds. The target is 3.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from maas_rt import compiler

TARGET = 3.0


def chain(layers: int, width: int = 16) -> bytes:
    """A model of so many dense layers, each a step of its own."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        weights.append(numpy_helper.from_array(rng.standard_normal((width, width), np.float32) / width**0.5, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return compiler.compile(model, dynamic={"x0": {0: (1, 4096)}}, verify=False).to_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1200)
    parser.add_argument("--sizes", type=int, default=200)
    options = parser.parse_args()
    session = maas_rt.load(chain(options.layers), threads=1).session()
    first = repeated = float("inf")
    for n in range(1, options.sizes + 1):  # more than a session keeps layouts of
        x = np.ones((n, 16), np.float32)
        for number in range(2):
            begin = time.perf_counter()
            session.run({"x0": x})
            seconds = time.perf_counter() - begin
            first, repeated = (min(first, seconds), repeated) if number == 0 else (first, min(repeated, seconds))
    ratio = (first - repeated) / repeated
    print(
        f"{options.layers} steps: a run {repeated * 1e6:.0f} µs, of new sizes {first * 1e6:.0f} µs: the layout costs {ratio:.2f} runs (target {TARGET:g})"
    )


if __name__ == "__main__":
    main()
