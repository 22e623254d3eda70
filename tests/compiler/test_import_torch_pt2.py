"""The .pt2 reader: real archives, and ones that would run code in torch's own reader, or are damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.importers import import_model
from torch import nn
from torch.export import Dim

import maas_rt
from tests.compiler._imported_oracle import compare


class Model(nn.Module):
    """Weights (two of them tied), a buffer that is not persistent, a lifted constant, a branch, sizes, nested results."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.low = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.second(torch.relu(self.first(x))) + self.shift + torch.tensor([1.0, 2.0, 3.0, 4.0]) + self.low.float()
        z = torch.cond(y.sum() > 0, lambda v: v + 1, lambda v: v * 2, (y,))
        return {"y": y.reshape(x.shape[0] * 2, 2), "z": (z, x.shape[0])}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    shapes = {"x": {0: Dim("rows", min=1, max=32)}}
    torch.export.save(torch.export.export(Model(), (torch.randn(3, 4),), dynamic_shapes=shapes), path)
    return path


def test_a_real_archive(archive: Path) -> None:
    model = import_model(archive)
    assert model.input_names == ["x"] and model.output_names == ["y", "z.0", "z.1"]
    assert [(s.min, s.max) for s in model.symbols.values()] == [(1, 32)]
    assert model.provenance["kind"] == "pt2" and "model.pt2" not in json.dumps(model.provenance)
    assert compare(model) == {}
    assert compare(model, {"x": np.full((1, 4), -3, np.float32)}) == {}


@pytest.mark.parametrize("name", ["derived", "sizes", "state", "image"])
def test_more_real_archives(tmp_path: Path, name: str) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 1

    class Sized(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, y])[: x.shape[0] // 2 + 1] * (x.shape[0] + y.shape[0] ** 2)

    rows = Dim("rows", min=3, max=9)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.BatchNorm2d(2), nn.AvgPool2d(2)).eval()
    cases: dict[str, tuple[nn.Module, tuple[Any, ...], Any]] = {
        "derived": (nn.Flatten(0), (torch.ones(6, 2),), ({0: 2 * rows},)),
        "sizes": (Sized(), (torch.ones(4, 2), torch.ones(5, 2)), ({0: rows}, {0: Dim("more", min=3, max=9)})),
        "state": (Counter(), (torch.ones(2),), None),
        "image": (net, (torch.ones(1, 1, 16, 20),), ({2: Dim("h", min=9, max=40), 3: Dim("w", min=9, max=40)},)),
    }
    module, inputs, shapes = cases[name]
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), path)
    model = import_model(path)
    assert compare(model) == {}
    assert [s.name for s in model.states] == (["total"] if name == "state" else [])


# What must not run.


def edited(archive: Path, target: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """A copy of the archive with members changed, by the end of their names."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            for ending, change in changes.items():
                if item.filename.endswith(ending):
                    data = change(data)
            new.writestr(item.filename, data)
    return target


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode())

    return change


def refused(path: Path) -> str:
    with pytest.raises(maas_rt.ImportModelError) as caught:
        import_model(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def pickled_weight(data: bytes) -> bytes:
    config = json.loads(data)
    next(iter(config["config"].values()))["use_pickle"] = True
    return json.dumps(config).encode()


def test_bombs_in_pickled_members(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bomb = saved(Bomb(mark))
    weight = {"model_weights_config.json": pickled_weight, "weights/weight_0": lambda _: bomb}
    constant = {"model_constants_config.json": pickled_weight, "constants/tensor_0": lambda _: bomb}
    sample = {"sample_inputs/model.pt": lambda _: saved(((torch.ones(3, 4), Bomb(mark)), {}))}
    for i, changes in enumerate((weight, constant, sample)):
        assert "posix.system" in refused(edited(archive, tmp_path / f"{i}.pt2", changes))
    raw = {"sample_inputs/model.pt": lambda _: pickle.dumps(Bomb(mark))}
    refused(edited(archive, tmp_path / "raw.pt2", raw))
    opaque = {"model_constants_config.json": lambda d: d.replace(b'"tensor_0"', b'"opaque_obj_0"')}
    refused(edited(archive, tmp_path / "opaque.pt2", opaque))
    custom = {"model_constants_config.json": lambda d: d.replace(b'"tensor_0"', b'"custom_obj_0"')}
    refused(edited(archive, tmp_path / "custom.pt2", custom))
    assert not mark.exists()


def test_pickled_tensors_are_read(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as z:
        config = json.loads(z.read("model/data/weights/model_weights_config.json"))["config"]
    name, entry = next(iter(config.items()))
    value = Model().state_dict()[name] * 0 + 2
    changes = {"model_weights_config.json": pickled_weight, f"weights/{entry['path_name']}": lambda _: saved(value)}
    if sum(e["path_name"] == entry["path_name"] for e in config.values()) == 1:
        assert compare(import_model(edited(archive, tmp_path / "p.pt2", changes))) == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"torch.ops.aten.relu.default"', '"torch.os.system"'),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"'),
        ('"torch.ops.aten.relu.default"', '"torch.hub.load"'),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.no_such_thing.default"'),
        ('"torch.ops.aten.relu.default"', '"_operator.methodcaller"'),
        ('"torch.ops.aten.relu.default"', '"#evil:op"'),
        ('"torch.ops.aten.relu.default"', '"torch.ops.higher_order.triton_kernel_wrapper_mutation"'),
        ('"name": "x"', "\"name\": \"x=__import__('os').system('touch MARK')\""),
        ('"name": "relu"', "\"name\": \"relu = open('MARK', 'w')\\n    y\""),
        ("Symbol('s77'", "__import__('os').system('touch MARK') + Symbol('s77'"),
        ("Symbol('s77', positive=True, integer=True)", "(lambda: open('MARK', 'w'))()"),
        ("Symbol('s77', positive=True, integer=True)", "().__class__.__bases__[0].__subclasses__()"),
        ("Symbol('s77', positive=True, integer=True)", "Symbol('open(chr(77))')"),
        ("Symbol('s77', positive=True, integer=True)", "Pow(Integer(9), Pow(Integer(9), Integer(99)))"),
        ("Symbol('s77', positive=True, integer=True)", "9**9**9**9"),
        ("Symbol('s77', positive=True, integer=True)", "[i for i in (1,)]"),
        ("Symbol('s77', positive=True, integer=True)", "f'{1}'"),
        ("builtins.dict", "collections.defaultdict"),
        ("builtins.tuple", "torch.return_types.max"),
        ('"first.bias"', "\"first.bias\\\"); __import__('os').system('touch MARK'); (\\\"\""),
    ],
)
def test_text_that_would_become_code(archive: Path, tmp_path: Path, old: str, new: str) -> None:
    mark = tmp_path / "ran"
    escaped = old if old.startswith('"') else json.dumps(old)[1:-1]
    change = replaced(escaped, (new if old.startswith('"') else json.dumps(new)[1:-1]).replace("MARK", str(mark)))
    refused(edited(archive, tmp_path / "m.pt2", {"models/model.json": change}))
    assert not mark.exists() and not (Path.cwd() / "MARK").exists()


def test_guards_are_not_run(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def change(data: bytes) -> bytes:
        program = json.loads(data)
        program["guards_code"] = [f"__import__('os').system('touch {mark}')"]
        return json.dumps(program).encode()

    with pytest.raises(maas_rt.ImportModelError, match="of its inputs, which is not understood"):
        import_model(edited(archive, tmp_path / "m.pt2", {"models/model.json": change}))
    assert not mark.exists()


def test_metadata_is_free_text_and_stays_that(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def change(data: bytes) -> bytes:
        program = json.loads(data)
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"]["stack_trace"] = (
                f'File "a.py", line 1, in f\n"""\n__import__("os").system("touch {mark}")\r\nx'
            )
            node["metadata"]["custom"] = "{broken"
            node["metadata"]["from_node"] = "[broken"
        return json.dumps(program).encode()

    model = import_model(edited(archive, tmp_path / "m.pt2", {"models/model.json": change}))
    assert compare(model) == {} and not mark.exists()


def test_damage(archive: Path, tmp_path: Path) -> None:
    data, path = archive.read_bytes(), tmp_path / "m.pt2"
    for cut in (0, 1, 100, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        refused(path)
    path.write_bytes(b"PK\x03\x04" + b"no archive" * 50)
    refused(path)
    folder = tmp_path / "folder.pt2"
    folder.mkdir()
    refused(folder)
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as other:
        other.writestr("hello/world", b"1")
    refused(tmp_path / "other.pt2")
    for changes in (
        {"models/model.json": lambda d: d[: len(d) // 2]},
        {"models/model.json": lambda _: b"[1, 2]"},
        {"models/model.json": lambda _: b'{"graph_module": {}}'},
        {"models/model.json": lambda _: b'{"graph_module": ' * 20_000},
        {"model_weights_config.json": lambda _: b'{"config": {"a": 3}}'},
        {"model_weights_config.json": lambda d: d.replace(b'"as_int": 4', b'"as_int": 4000000000')},
        {"model_weights_config.json": lambda d: d.replace(b'"path_name": "weight_0"', b'"path_name": "../../x"')},
        {"weights/weight_0": lambda d: d[:-3]},
        {"sample_inputs/model.pt": lambda d: d[:-30]},
        {"sample_inputs/model.pt": lambda _: saved([1, 2])},
    ):
        refused(edited(archive, path, changes))  # type: ignore[arg-type]


def test_flipped_bits(archive: Path, tmp_path: Path) -> None:
    """The zip's checksums cover the members; a flip elsewhere may go unnoticed, but never crashes."""
    data, path = archive.read_bytes(), tmp_path / "m.pt2"
    for position in range(11, len(data), max(1, len(data) // 12)):
        flipped = bytearray(data)
        flipped[position] ^= 0x04
        path.write_bytes(bytes(flipped))
        try:
            import_model(path)
        except maas_rt.Error as error:
            assert "\n" not in str(error)


def test_ordered_dicts_are_arguments_too(tmp_path: Path) -> None:
    class Takes(nn.Module):
        def forward(self, items: dict[str, torch.Tensor]) -> torch.Tensor:
            return items["a"] * items["b"]

    path = tmp_path / "m.pt2"
    items = OrderedDict(a=torch.ones(2), b=torch.ones(2) * 3)
    torch.export.save(torch.export.export(Takes(), (items,)), path)
    assert compare(import_model(path)) == {}
