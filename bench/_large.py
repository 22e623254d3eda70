"""Models of more than 100 MB of float32 weights, one of each kind that the compiler packs in its own way, for `bench.memory`.

`SOURCES[name]` writes what is compiled into a folder, in one process, and compiles it, in another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Layer = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Source:
    """`write(folder)` gives the bytes that the weights have as float32; `compile(folder, progress)` the artifact."""

    write: Callable[[str], int]
    compile: Callable[[str, Any], Any]


def onnx_source(layers: Sequence[Layer], *, external: bool = False, **options: Any) -> Source:
    def write(folder: str) -> int:
        return _write_onnx(os.path.join(folder, "m.onnx"), layers, external)

    def run(folder: str, progress: Any) -> Any:
        from maas_rt.compiler import compile

        return compile(os.path.join(folder, "m.onnx"), progress=progress, **options)

    return Source(write, run)


class _Chain:
    """The nodes and tensors of an ONNX model, layer by layer."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.weights = 0
        self.last = "x"
        self._rng = np.random.default_rng(0)

    def weight(self, shape: tuple[int, ...], dtype: Any = np.float32) -> str:
        """A random initializer, which counts as float32."""
        from onnx import numpy_helper

        values = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        self.weights += values.nbytes
        return self._add(numpy_helper.from_array(values.astype(dtype), f"w{len(self.tensors)}"))

    def integers(self, shape: tuple[int, ...], dtype: Any, most: int, counts: int) -> str:
        """Random integers, each of which holds `counts` weights."""
        from onnx import numpy_helper

        values = self._rng.integers(0, most, shape, dtype, endpoint=True)
        self.weights += 4 * counts * values.size
        return self._add(numpy_helper.from_array(values, f"w{len(self.tensors)}"))

    def small(self, values: Any) -> str:
        from onnx import numpy_helper

        return self._add(numpy_helper.from_array(np.asarray(values), f"w{len(self.tensors)}"))

    def _add(self, tensor: Any) -> str:
        self.tensors.append(tensor)
        return str(tensor.name)

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        from onnx import helper

        names = [f"h{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]


def _embedding(c: _Chain, shape: tuple[int, ...]) -> str:
    return c.node("Gather", [c.weight(shape), c.last])


def _tied(c: _Chain, shape: tuple[int, ...]) -> str:
    return c.node("MatMul", [c.last, c.node("Transpose", [c.tensors[0].name], perm=[1, 0])])


def _product(c: _Chain, shape: tuple[int, ...]) -> str:
    return c.node("Tanh", [c.node("MatMul", [c.last, c.weight(shape)])])


def _half(c: _Chain, shape: tuple[int, ...]) -> str:
    return c.node("Tanh", [c.node("MatMul", [c.last, c.weight(shape, np.float16)])])


def _convolution(c: _Chain, shape: tuple[int, ...]) -> str:
    pads = [(extent - 1) // 2 for extent in shape[2:]] * 2
    return c.node("Relu", [c.node("Conv", [c.last, c.weight(shape)], pads=pads)])


def _depthwise(c: _Chain, shape: tuple[int, ...]) -> str:
    return c.node("Relu", [c.node("Conv", [c.last, c.weight(shape)], pads=[shape[2] // 2] * 4, group=shape[0])])


def _transposed(c: _Chain, shape: tuple[int, ...]) -> str:
    return c.node("Relu", [c.node("ConvTranspose", [c.last, c.weight(shape)], pads=[1] * 4)])


def _recurrent(c: _Chain, kind: str, gates: int, shape: tuple[int, ...]) -> str:
    inputs, hidden = shape
    w, r = c.weight((1, gates * hidden, inputs)), c.weight((1, gates * hidden, hidden))
    y = c.node(kind, [c.last, w, r], hidden_size=hidden)  # [steps, 1, batch, hidden]
    return c.node("Squeeze", [y, c.small(np.array([1], np.int64))])


def _dynamic_int8(c: _Chain, shape: tuple[int, ...]) -> str:
    q = c.node("DynamicQuantizeLinear", [c.last], 3)
    name = q[:-2]
    w = c.integers(shape, np.uint8, 255, 1)
    sums = c.node("MatMulInteger", [f"{name}_0", w, f"{name}_2", c.small(np.uint8(128))])
    scaled = c.node("Mul", [c.node("Cast", [sums], to=1), c.node("Mul", [f"{name}_1", c.small(np.float32(0.0003))])])
    return c.node("Tanh", [scaled])


def _four_bits(c: _Chain, shape: tuple[int, ...]) -> str:
    k, n = shape
    q = c.integers((n, k // 32, 16), np.uint8, 255, 2)
    scales = c.small(np.full((n, k // 32), 0.004, np.float32).reshape(-1))
    y = c.node("MatMulNBits", [c.last, q, scales], domain="com.microsoft", K=k, N=n, bits=4, block_size=32)
    return c.node("Tanh", [y])


LAYERS: dict[str, Callable[[_Chain, tuple[int, ...]], str]] = {
    "embedding": _embedding,
    "tied": _tied,
    "product": _product,
    "half": _half,
    "convolution": _convolution,
    "depthwise": _depthwise,
    "transposed": _transposed,
    "lstm": lambda c, shape: _recurrent(c, "LSTM", 4, shape),
    "gru": lambda c, shape: _recurrent(c, "GRU", 3, shape),
    "dynamic_int8": _dynamic_int8,
    "four_bits": _four_bits,
}


def _input(kind: str, shape: tuple[int, ...]) -> tuple[int, list[Any]]:
    """Element type and shape of what a first layer reads."""
    if kind == "embedding":
        return 7, ["n"]
    if kind in ("convolution", "depthwise", "transposed"):
        side = 4 if kind == "depthwise" else 16  # so that it is the weights that take the memory
        return 1, [1, shape[0 if kind != "convolution" else 1], side, side]
    if kind in ("lstm", "gru"):
        return 1, [4, 1, shape[0]]
    return 10 if kind == "half" else 1, ["n", shape[0]]


def _write_onnx(path: str, layers: Sequence[Layer], external: bool) -> int:
    import onnx
    from onnx import helper

    chain = _Chain()
    for kind, shape in layers:
        chain.last = LAYERS[kind](chain, shape)
    data = _input(*layers[0])
    graph = helper.make_graph(
        chain.nodes, "g", [helper.make_tensor_value_info("x", *data)],
        [helper.make_tensor_value_info(chain.last, 10 if layers[0][0] == "half" else 1, None)], chain.tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location=os.path.basename(path) + ".data")
    return chain.weights


# ---- sources of torch ------------------------------------------------------------------------------------------------------

_WIDTH, _DEPTH = 2048, 10


def module() -> Any:
    """The architecture of the torch sources."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.Tanh()) for _ in range(_DEPTH))).eval()


def _write_nothing(folder: str) -> int:
    return 4 * _WIDTH * _WIDTH * _DEPTH


def _write_safetensors(folder: str) -> int:
    from safetensors.torch import save_file

    save_file(module().state_dict(), os.path.join(folder, "m.safetensors"))
    return _write_nothing(folder)


def _write_torch(folder: str) -> int:
    import torch

    torch.save(module().state_dict(), os.path.join(folder, "m.pth"))
    return _write_nothing(folder)


def _write_pt2(folder: str) -> int:
    import torch

    exported = torch.export.export(module(), (torch.ones(1, _WIDTH),))
    torch.export.save(exported, os.path.join(folder, "m.pt2"))
    return _write_nothing(folder)


def _from(name: str, **options: Any) -> Callable[[str, Any], Any]:
    def run(folder: str, progress: Any) -> Any:
        import torch
        from maas_rt.compiler import compile

        return compile(os.path.join(folder, name), [torch.ones(1, _WIDTH)], progress=progress, **options)

    return run


def _compile_module(folder: str, progress: Any) -> Any:
    import torch
    from maas_rt.compiler import compile

    return compile(module(), [torch.ones(1, _WIDTH)], progress=progress)


def _compile_int8(folder: str, progress: Any) -> Any:
    from maas_rt.compiler import Int8, Recipe, compile

    inputs = [{"x": np.random.default_rng(i).standard_normal((4, _WIDTH)).astype(np.float32)} for i in range(4)]
    recipe = Recipe(quantize=Int8(calibration=inputs, activation_bits=8, tolerance=1.0))
    return compile(os.path.join(folder, "m.onnx"), recipe=recipe, progress=progress)


_PRODUCTS: list[Layer] = [("product", (2048, 2048))] * 10
_BODY: list[Layer] = [("product", (512, 2048)), ("product", (2048, 512))] * 12
_FACTORY = "bench._large:module"

SOURCES: dict[str, Source] = {
    "products": onnx_source(_PRODUCTS),
    "products_external": onnx_source(_PRODUCTS, external=True),
    "products_unverified": onnx_source(_PRODUCTS, verify=False),
    "convolutions": onnx_source([("convolution", (512, 512, 3, 3))] * 16),
    "pointwise": onnx_source([("convolution", (2048, 2048, 1, 1))] * 8),
    "depthwise": onnx_source([("depthwise", (16384, 1, 7, 7))] * 40),
    "transposed": onnx_source([("transposed", (512, 512, 3, 3))] * 14),
    "lstm": onnx_source([("lstm", (1024, 1024))] * 5),
    "gru": onnx_source([("gru", (1024, 1024))] * 6),
    "language": onnx_source([("embedding", (64000, 512)), *_BODY, ("product", (512, 64000))]),
    "tied": onnx_source([("embedding", (64000, 512)), *_BODY, ("tied", ())], external=True),
    "half": onnx_source([("half", (2048, 2048))] * 10),
    "dynamic_int8": onnx_source([("dynamic_int8", (2048, 2048))] * 10),
    "four_bits": onnx_source([("four_bits", (2048, 2048))] * 10),
    "int8_recipe": Source(onnx_source(_PRODUCTS).write, _compile_int8),
    "module": Source(_write_nothing, _compile_module),
    "pt2": Source(_write_pt2, _from("m.pt2")),
    "safetensors": Source(_write_safetensors, _from("m.safetensors", factory=_FACTORY)),
    "checkpoint": Source(_write_torch, _from("m.pth", factory=_FACTORY)),
}
