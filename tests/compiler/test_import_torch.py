"""The torch importer's contract: names, symbols, states, tied weights, nested graphs, recurrent layers, prefixes, refusals."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from maas_rt.compiler.importers import ImportedModel, Source, import_model
from torch import nn
from torch.export import Dim

import maas_rt
from tests.compiler._imported_oracle import compare, relative_error, run_imported


def lambda_module(function: Any) -> nn.Module:
    class Lambda(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return function(x)

    return Lambda()


def constants(model: ImportedModel) -> list[tuple[int, ...]]:
    """Shapes of the distinct constants of rank 2."""
    found: list[Any] = []

    def visit(expr: Any) -> None:
        if (
            isinstance(expr, tvm.ir.GenericConst)
            and len(expr.ty.shape.values) == 2
            and not any(expr.same_as(f) for f in found)
        ):
            found.append(expr)

    tvm.relax.analysis.post_order_visit(model.mod["main"], visit)
    return [tuple(int(v) for v in expr.ty.shape.values) for expr in found]


class Named(nn.Module):
    def forward(self, image: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        y = image * scale
        return {"logits": y, "parts": (y + 1, [y.sum(), None]), "flag": y.shape[0]}


def test_names_follow_the_model() -> None:
    model = import_model(Named(), {"image": torch.ones(2, 3), "scale": torch.ones(3)})
    assert model.input_names == ["image", "scale"]
    assert model.output_names == ["logits", "parts.0", "parts.1.0", "flag"]
    assert compare(model) == {}
    assert isinstance(model.source, Source)
    assert import_model(lambda_module(torch.sin), (torch.ones(2),)).output_names == ["output_0"]
    assert import_model(lambda_module(lambda x: (x, x + 1)), torch.ones(2)).output_names == ["output_0", "output_1"]


def test_bindings_are_named_after_operators() -> None:
    text = import_model(lambda_module(lambda x: torch.relu(x.sin())), torch.ones(2)).mod.script()
    assert "relu" in text and "sin" in text


def test_the_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = copy.deepcopy(module.state_dict())
    model = import_model(module, torch.randn(4, 3))
    assert module.training and all(part.training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    module[0].weight.data.zero_()  # the import has its own copy
    assert compare(model) == {}


@pytest.mark.parametrize(
    "dynamic",
    [
        {"x": {0: (1, 32)}},
        "x:0=1..32",
        ["x:0=1..32"],
        {"x": {0: Dim("rows", min=1, max=32)}},
        {"x": {0: Dim.DYNAMIC(min=1, max=32)}},
    ],
)
def test_dynamic_dimensions(dynamic: Any) -> None:
    model = import_model(nn.Linear(4, 2), {"input": torch.randn(1, 4)}, dynamic=_renamed(dynamic, "input"))
    ((name, spec),) = model.symbols.items()
    assert (spec.min, spec.max) == (1, 32)
    assert name == ("rows" if "rows" in str(dynamic) else "input_dim0")
    assert model.example_inputs is not None and model.example_inputs["input"].shape == (1, 4)
    for rows in (1, 2, 7):
        assert compare(model, {"input": np.random.default_rng(0).standard_normal((rows, 4), np.float32)}) == {}


def _renamed(dynamic: Any, name: str) -> Any:
    if isinstance(dynamic, str):
        return dynamic.replace("x:", f"{name}:")
    return [d.replace("x:", f"{name}:") for d in dynamic] if isinstance(dynamic, list) else {name: dynamic["x"]}


def test_dimensions_that_must_agree_become_one() -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    model = import_model(Two(), (torch.ones(1, 3), torch.ones(1, 3)), dynamic={"a": {0: (1, 8)}, "b": {0: (1, 8)}})
    assert list(model.symbols) == ["a_dim0"]


def test_derived_dimensions() -> None:
    rows = Dim("rows", min=3, max=8)

    class Halves(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b.reshape(-1, 2).sum(1)

    shapes = {"a": {0: rows}, "b": {0: 2 * rows}}
    model = import_model(torch.export.export(Halves(), (torch.ones(3), torch.ones(6)), dynamic_shapes=shapes))
    assert list(model.symbols) == ["rows"]
    assert compare(model, {"a": np.ones(5, np.float32), "b": np.arange(10, dtype=np.float32)}) == {}

    even = torch.export.export(
        lambda_module(lambda x: x.reshape(-1, 2).sum(1)), (torch.ones(6),), dynamic_shapes=({0: 2 * rows},)
    )
    model = import_model(even)
    assert [(s.min, s.max, s.multiple) for s in model.symbols.values()] == [
        (3, 8, 1)
    ]  # of rows: 2 * rows is solved for it
    assert compare(model, {"x": np.arange(10, dtype=np.float32)}) == {}


def test_keyword_arguments_of_no_name_may_be_dynamic() -> None:
    class Open(nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return inputs["a"][:, 1:] * inputs["b"][:, -1:]

    model = import_model(
        Open(), {"a": torch.ones(2, 4), "b": torch.ones(2, 4)}, dynamic=["a:0=1..8", "b:0=1..8", "a:1=2..9"]
    )
    draw = np.random.default_rng(0).standard_normal
    assert compare(model, {"a": draw((5, 7), np.float32), "b": draw((5, 4), np.float32)}) == {}


def test_image_size_may_vary() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = import_model(
        net, {"input": torch.randn(1, 3, 16, 16)}, dynamic={"input": {0: (1, 4), 2: (8, 64), 3: (8, 64)}}
    )
    assert len(model.symbols) == 3
    assert compare(model, {"input": np.random.default_rng(0).standard_normal((2, 3, 19, 33), np.float32)}) == {}


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ({"y": {0: (1, 4)}}, "no input named 'y'"),
        ("x:first=1..4", "expected input:dim=min..max"),
        ({"x": {0: (5, 2)}}, "which is empty"),
        ({"x": {7: (1, 4)}}, "2 dimensions"),
        ({"x": {0: "a b"}}, "expected a name"),
        ({"x": 3}, "expected {dim: (min, max)}"),
    ],
)
def test_senseless_dynamic_dimensions(dynamic: Any, words: str) -> None:
    with pytest.raises(maas_rt.Error, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        import_model(lambda_module(torch.sin), (torch.ones(2, 3),), dynamic=dynamic)
    assert "\n" not in str(caught.value)


def test_a_dimension_that_the_model_fixes() -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="dynamic dimensions"):
        import_model(nn.Linear(4, 2), {"input": torch.ones(3, 4)}, dynamic={"input": {1: (2, 9)}})


def test_tied_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 5)
            self.head = nn.Linear(5, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens))

    model = import_model(Tied(), {"tokens": torch.tensor([[1, 2]])})
    assert constants(model) == [(11, 5)]
    assert model.source.input_ranges() == {"tokens": (0, 10)}
    assert compare(model) == {}


class Masked(nn.Module):
    """A mask of integers, as transformers make it of large negative numbers."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inverted = 1.0 - mask[:, None, :].to(x.dtype)
        return torch.softmax(x + inverted.masked_fill(inverted.to(torch.bool), torch.finfo(x.dtype).min), -1)


def test_masks_are_drawn_of_zeros_and_ones() -> None:
    model = import_model(Masked(), {"x": torch.randn(2, 3, 5), "mask": torch.ones(2, 5, dtype=torch.int64)})
    assert model.source.input_ranges() == {"mask": (0, 1)}


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.tensor([1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x
        return self.total * 2


def test_buffers_that_change_are_states() -> None:
    model = import_model(Counter(), torch.ones(2))
    assert [(s.name, s.initial.tolist()) for s in model.states] == [("total", [1.0, 2.0])]
    found = run_imported(model, {"x": np.array([3.0, 4.0], np.float32)})
    assert found["output_0"].tolist() == [8.0, 12.0] and found["state:total"].tolist() == [4.0, 6.0]
    for _ in range(2):  # the oracle starts afresh each time
        assert model.source.run({"x": np.array([3.0, 4.0], np.float32)})["output_0"].tolist() == [8.0, 12.0]


def test_fixed_arguments_are_no_inputs() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, factor: int, mode: str, offset: float) -> torch.Tensor:
            return x * factor + offset if mode == "on" else x

    model = import_model(Scaled(), (torch.ones(3), 4, "on", 0.5))
    assert model.input_names == ["x"] and compare(model) == {}


def test_sizes_as_inputs() -> None:
    class Sized(nn.Module):
        def forward(self, x: torch.Tensor, count: int) -> torch.Tensor:
            return x[:count] * count

    program = torch.export.export(Sized(), (torch.arange(9.0), 4), dynamic_shapes={"x": None, "count": Dim.DYNAMIC})
    model = import_model(program)
    assert model.input_names == ["x", "count"]
    x = np.arange(9, dtype=np.float32)
    assert run_imported(model, {"x": x, "count": np.array(3)})["output_0"].tolist() == [0.0, 3.0, 6.0]


def test_branches() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            return torch.cond(y.sum() > 0, lambda v: torch.relu(self.one(v)) + y, lambda v: self.other(v), (y,)) + 1

    model = import_model(Branch(), (torch.ones(2, 3),))
    for sign in (1, -1):
        assert compare(model, {"x": np.full((2, 3), sign, np.float32)}) == {}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True},
        {"bias": False, "bidirectional": True, "num_layers": 2},
    ],
)
def test_recurrent_layers(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    first = options.get("batch_first", False)
    layer = kind(5, 4, **options)
    x = torch.randn(3, 6, 5)
    model = import_model(layer, {"input": x}, dynamic={"input": {0 if first else 1: (1, 8)}})
    assert f"maas.{kind.__name__.lower()}" in model.mod.script()
    assert compare(model) == {}
    depth = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    start = torch.randn(depth, 3 if first else 6, 4)
    given = (x, (start, start * 2)) if kind is nn.LSTM else (x, start)
    assert compare(import_model(layer, given)) == {}
    assert compare(import_model(layer, (x[0],))) == {}


def test_plain_recurrence_is_unrolled() -> None:
    torch.manual_seed(0)
    assert compare(import_model(nn.RNN(5, 4, num_layers=2), (torch.randn(3, 2, 5),))) == {}
    cell = nn.LSTMCell(5, 4)
    assert compare(import_model(cell, (torch.randn(2, 5),))) == {}


def test_prefixes_bisect() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LSTM(8, 3, batch_first=True))
    model = import_model(net, {"input": torch.randn(2, 5, 4)}, dynamic={"input": {0: (1, 4)}})
    source = model.source
    assert source.operators() >= 3
    names = []
    for count in range(1, source.operators() + 1):
        part, name = source.prefix(count)
        names.append(name)
        assert part.input_names == model.input_names
        assert compare(part, model.example_inputs) == {}
    assert any("aten.linear.default" in name for name in names) and any("aten.lstm.input" in name for name in names)


def test_all_unsupported_operators_are_listed() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            y = torch.linalg.svd(x).U
            z = torch.randn(3, 3, dtype=torch.complex64).real + torch.linalg.eigvals(x).real
            return y.sum() + torch.linalg.eigh(x).eigenvectors.sum() + z + torch.linalg.eigvals(x + 1).real

    with pytest.raises(maas_rt.UnsupportedOperatorError) as caught:
        import_model(Odd(), (torch.ones(3, 3),))
    names = {operator.name.split(" ")[0]: operator for operator in caught.value.operators}
    assert any("linalg_eig.default" in name and operator.uses == 2 for name, operator in names.items())
    assert all(any(part in name for name in names) for part in ("svd", "randn", "eigh"))
    assert all("test_import_torch.py" in operator.place for operator in names.values())
    assert "\n" not in str(caught.value)


def test_a_use_that_no_converter_foresaw_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.importers.torch._registry import CONVERTERS, Converter

    def surprised(c: Any, x: Any) -> Any:
        raise IndexError("list index out of range")

    name = "aten.relu.default"
    monkeypatch.setitem(CONVERTERS, name, Converter(name, surprised, ("x",)))
    with pytest.raises(maas_rt.UnsupportedOperatorError, match=r"aten\.relu\.default \[IndexError: list index"):
        import_model(nn.ReLU(), (torch.ones(3),))


def test_dropout_in_training_draws() -> None:
    program = torch.export.export(nn.Dropout(0.5).train(), (torch.ones(3),))
    assert import_model(program).draws and not import_model(nn.Dropout(0.5).train(), (torch.ones(3),)).draws


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((nn.Linear(2, 2),), "example inputs"),
        ((nn.Linear(2, 2), {"y": torch.ones(2)}), "no input named 'y'"),
        ((nn.Linear(2, 2), (torch.ones(2), torch.ones(2))), "do not fit the model"),
        ((nn.Linear(2, 2), torch.ones(3)), "cannot trace the model"),
        ((torch.jit.script(nn.Linear(2, 2)), torch.ones(1, 2)), "is TorchScript"),
        ((object(),), "cannot compile an object"),
        (("no/such/file.pt2",), "there is no file"),
        ((__file__,), "no known kind"),
    ],
)
def test_wrong_arguments_are_one_sentence(given: tuple[Any, ...], words: str) -> None:
    with pytest.raises(maas_rt.Error, match=words) as caught:
        import_model(*given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [1, -2])
def test_a_second_element_has_to_be_there(index: int) -> None:
    """torch's least size of 2 is an assumption for some models, which run with 1 as well, and what it found out for others."""

    class Second(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, index] * 2 + x[:, 0], y + 1

    dims = {"x": {1: torch.export.Dim.DYNAMIC}, "y": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(Second(), (torch.ones(3, 4), torch.ones(5)), dynamic_shapes=dims)
    bounds = sorted(spec.min for spec in import_model(program).symbols.values())
    assert bounds == [1, 2]


def test_a_missing_file_is_a_file_not_found() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        import_model("no/such/file.onnx")
    assert isinstance(caught.value, maas_rt.Error) and caught.value.filename == "no/such/file.onnx"


def test_an_exported_program_says_its_own_shapes() -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),))
    with pytest.raises(maas_rt.InvalidArgumentError, match="carries its dynamic shapes"):
        import_model(program, dynamic={"input": {0: (1, 4)}})


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


def test_nested_arguments_and_results() -> None:
    class Nested(nn.Module):
        def forward(self, items: list[torch.Tensor], more: dict[str, torch.Tensor], *rest: torch.Tensor) -> Any:
            return Pair(items[0] + more["a"], items[1] * rest[0])

    ones = torch.ones(2, 3)
    model = import_model(
        Nested(),
        ([ones, ones * 2], {"a": ones * 3}, ones * 4),
        dynamic={"items": [{0: (1, 4)}, None], "more": {"a": {0: (1, 4)}}},
    )
    assert len(model.input_names) == 4 and len(model.symbols) == 1
    assert compare(model) == {}


def test_a_small_transformer_with_a_dynamic_sequence() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    model = import_model(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), {"src": torch.randn(1, 5, 16)},
                         dynamic={"src": {0: (1, 4), 1: (1, 64)}})  # fmt: skip
    assert "nn.attention" in model.mod.script()
    for shape in ((1, 1, 16), (3, 9, 16)):
        assert compare(model, {"src": np.random.default_rng(0).standard_normal(shape, np.float32)}) == {}


def test_decoding_with_a_cache_keeps_its_state() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("keys", torch.zeros(1, 2, 8, 4))

        def forward(self, q: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            self.keys.index_copy_(2, position, q)
            return F.scaled_dot_product_attention(q, self.keys, self.keys)

    q, position = torch.randn(1, 2, 1, 4), torch.tensor([3])
    model = import_model(Decoder(), (q, position))
    assert [s.name for s in model.states] == ["keys"]
    assert compare(model) == {}


def test_relative_error_is_not_blind() -> None:
    nan = np.array([np.nan, 1.0], np.float32)
    assert relative_error(nan, np.ones(2, np.float32)) == float("inf")
    assert relative_error(np.array([1, 2]), np.array([1, 3])) == float("inf")
