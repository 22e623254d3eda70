"""Recipes as TOML: written, read back and done again to the same bytes; and what is no recipe is told in one sentence."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import Half, Int8, Int8Dynamic, Prune, Recipe, WeightOnly, compile, compress
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from maas_rt import CompileError, InvalidArgumentError, _container
from maas_rt._cli import main

SMALL, EIGHT, HALVED = WeightOnly(group=None, method="gptq", tolerance=1.0), Int8(tolerance=1.0), Prune(0.5, "block")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(quantize=Int8()),
        Recipe(quantize=Int8Dynamic(granularity="tensor"), layers={"head": None}),
        Recipe(layers={"a.0[[]*": SMALL, "b*": EIGHT, "c": SMALL, 'say "x"': Half(dtype="bfloat16")}),
        Recipe(layers={"a": Int8(), "b": Int8()}, prune=HALVED, prune_layers={"a": None, "b": Prune(0.75, "1:4")}),
        Recipe(quantize=EIGHT, prune=Prune(1 / 3, method="magnitude"), layers={"z": EIGHT, "a": None, "m.*": SMALL}),
    ],
)
def test_what_is_written_is_read(recipe: Recipe) -> None:
    read = Recipe.from_toml(recipe.to_toml())
    assert read == recipe
    assert list(read.layers) == list(recipe.layers)  # the first pattern that fits is the one that counts
    assert len(read.methods) == len(recipe.methods) and len(read.prunings) == len(recipe.prunings)
    assert read.to_toml() == recipe.to_toml()


def test_data_are_given_when_it_is_read() -> None:
    data = {"x": np.ones((4, 2), np.float32)}
    text = Recipe(quantize=Int8(calibration=[data]), prune=Prune(calibration=[data])).to_toml()
    assert "calibration" not in text
    assert Recipe.from_toml(text).data is None
    assert Recipe.from_toml(text, calibration=data).data is data


def test_a_recipe_that_people_write() -> None:
    read = Recipe.from_toml(
        """
        version = 1
        quantize = "int8"        # as it is by default
        prune = "half"

        [methods.half]
        kind = "prune"
        sparsity = 0.5
        pattern = "block"

        [methods.small]
        kind = "weight_only"
        group = "channel"
        tolerance = 1

        [layers]
        "head.*" = "small"
        stem = "float"
        last = "int8"

        [prune_layers]
        "stem" = "dense"
        """
    )
    eight, small, half = Int8(), WeightOnly(group=None, tolerance=1.0), Prune(0.5, "block")
    layers = {"head.*": small, "stem": None, "last": eight}
    assert read == Recipe(quantize=eight, layers=layers, prune=half, prune_layers={"stem": None})
    assert read.layers["last"] is read.quantize  # one method, done once
    assert type(read.layers["head.*"].tolerance) is float  # type: ignore[union-attr]


METHOD = 'version = 1\n[methods.m]\nkind = "int8"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version = ", "the recipe is not TOML: "),
        ("version = 1\nversion = 1", "the recipe is not TOML: "),
        ("", "the recipe has no version, expected version = 1 at its top"),
        ("version = 2", "has version 2, and this compiler reads 1: take a newer maas_rt"),
        ("version = 2\nnew = 1", "has version 2"),
        ("version = 0", "has version 0"),
        ('version = "1"', "the recipe's version is '1', expected a whole number"),
        ("version = true", "the recipe's version is True, expected a whole number"),
        ("version = 1\nquantise = 'int8'", r"the recipe has 'quantise', expected version, .* \(did you mean quantize\?\)"),
        ("version = 1\nquantize = 8", "the recipe's quantize is 8, expected a text"),
        ("version = 1\nquantize = 'int9'", r"the recipe's quantize is 'int9', .* \(did you mean int8\?\)"),
        ("version = 1\nquantize = 'prune'", "'prune', expected a method that quantizes: one of int8, "),
        ("version = 1\nprune = 'int8'", "the recipe's prune is 'int8', expected a method that prunes: one of prune"),
        ("version = 1\nmethods = 1", "the recipe's methods is 1, expected a table"),
        ("version = 1\n[methods]\nm = 'int8'", "the recipe's method 'm' is 'int8', expected a table"),
        ("version = 1\n[methods.m]\nbits = 4", "the recipe's method 'm' has no kind, expected one of int8, "),
        ("version = 1\n[methods.m]\nkind = 'weights'", "the recipe's method 'm' has the kind 'weights', expected one of"),
        ("version = 1\n[methods.float]\nkind = 'half'", "the recipe's method 'float' has a name that stands for no"),
        (METHOD + "bits = 4", "the recipe's method 'm' has 'bits', expected kind, version, activation_bits"),
        (METHOD + "smoth = true", r"has 'smoth', .* \(did you mean smooth\?\)"),
        (METHOD + "smooth = 1", "smooth of the recipe's method 'm' is 1, expected true or false"),
        (METHOD + "activation_bits = 8.0", "is 8.0, expected a whole number"),
        (METHOD + "activation_bits = 9", "the recipe's method 'm': Int8: activation_bits is 9, expected 7 or 8"),
        (METHOD + "tolerance = '0.1'", "tolerance of the recipe's method 'm' is '0.1', expected a number"),
        (METHOD + "tolerance = nan", "tolerance is nan, expected a number above 0"),
        (METHOD + "version = 2", "Int8: version is 2, and this compiler knows 1: take a newer maas_rt"),
        (METHOD + "calibration = []", "has 'calibration', expected kind"),
        ("version = 1\n[layers]\nenc.0 = 'int8'", '\'enc\' is a table, .* has quotes, as "enc.0" = ...'),
        ("version = 1\n[layers]\na = 'dense'", r"\[layers\] of the recipe: 'a' is 'dense', .* half, float"),
        ("version = 1\n[layers]\na = false", r"\[layers\] of the recipe: 'a' is False, expected a text"),
        ("version = 1\n[prune_layers]\na = 'float'", "'a' is 'float', expected a method that prunes: one of prune, dense"),
        ("version = 1\nquantize = ''", "the recipe's quantize is '', expected a method that quantizes"),
        ("version = " + "9" * 5000, "the recipe is not TOML: "),
        ("version = 1\nlayers = " + "[" * 20000, "the recipe is not TOML: "),
        (METHOD + "tolerance = " + "9" * 400, "tolerance of the recipe's method 'm' is a whole number of more than 64 bits"),
        (METHOD, "nothing has the recipe's method 'm': name it in quantize, prune, layers, prune_layers, or take it out"),
        ("version = 1\n[methods.m]\nkind = 'weight_only'\ngroup = 'chanel'", "'chanel', expected a whole number, or 'channel'"),
        ("version = 1\nlayers = ['a']", "the recipe's layers is .*, expected a table"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_told(text: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        Recipe.from_toml(text)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_told() -> None:
    with pytest.raises(InvalidArgumentError, match="the recipe is a PosixPath, expected the text of a TOML document"):
        Recipe.from_toml(Path("recipe.toml"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Recipe, Int8, Int8Dynamic, WeightOnly, Half, Prune])
def test_newer_versions_are_refused_in_python_too(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{kind.__name__}: version is 2, and this compiler knows 1"):
        kind(version=2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recipe(layers=["head"]), r"Recipe: layers is \['head'\], expected a mapping from patterns of names"),  # type: ignore[arg-type]
        (lambda: Recipe(layers={1: Int8()}), "Recipe: layers is {1: Int8"),  # type: ignore[dict-item]
        (lambda: Recipe(prune_layers=None), "Recipe: prune_layers is None, expected a mapping"),  # type: ignore[arg-type]
        (lambda: WeightOnly(symmetric="no"), "WeightOnly: symmetric is 'no', expected True or False"),  # type: ignore[arg-type]
        (lambda: Int8(smooth=1), "Int8: smooth is 1, expected True or False"),  # type: ignore[arg-type]
        (lambda: Int8(activation_bits=8.0), "Int8: activation_bits is 8.0, expected 7 or 8"),  # type: ignore[arg-type]
        (lambda: WeightOnly(bits=np.int64(4)), "WeightOnly: bits is .*4.*, expected 4 or 8"),
    ],
)
def test_what_is_no_recipe_in_python_is_told(make: Any, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        make()


WIDTHS = (16, 128, 128, 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three products, calibration data, and a function that scores."""
    folder = tmp_path_factory.mktemp("recipes")
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i, (k, n) in enumerate(pairwise(WIDTHS)):
        weights.append(numpy_helper.from_array(rng.standard_normal((k, n), np.float32) / np.float32(k**0.5), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"], name=f"block.{i}"))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i}" if i < len(WIDTHS) - 2 else "y"]))
        last = f"t{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTHS[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, WIDTHS[-1]])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    np.savez(folder / "calib.npz", x=rng.standard_normal((32, WIDTHS[0]), np.float32))
    np.savez(folder / "held_out.npz", x=rng.standard_normal((16, WIDTHS[0]), np.float32))
    (folder / "score.py").write_text(
        "import numpy as np\n"
        f"X = np.load({str(folder / 'held_out.npz')!r})['x']\n"
        "WANT = []\n"
        "def score(run):\n"
        "    got = np.concatenate([run({'x': X[i : i + 1]})['y'] for i in range(len(X))])\n"
        "    WANT.append(got)\n"  # the float model is the first
        "    return 1 - float(np.linalg.norm(got - WANT[0]) / np.linalg.norm(WANT[0]))\n"
    )
    return folder


def sections(file: Any) -> tuple[list[tuple[int, str, bytes]], dict[str, Any]]:
    """All but the manifest, and the manifest."""
    read = _container.read(file, verify_weights=True).sections
    (manifest,) = (json.loads(bytes(each.data)) for each in read if each.kind == _container.SectionKind.MANIFEST)
    rest = [(int(s.kind), s.target, bytes(s.data)) for s in read if s.kind != _container.SectionKind.MANIFEST]
    return rest, manifest


def test_the_recipe_of_a_search_gives_its_model_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the search's own figures, times among them, in the manifest's `compression`."""
    out = files / "out.mrt"
    command = [
        "compress",
        str(files / "m.onnx"),
        "--data",
        str(files / "calib.npz"),
        "--eval",
        f"{files}/score.py:score",
    ]
    search = ["--objective", "size", "--max-drop", "0.08", "--time", "240s", "--sparsity", "block", "--quiet"]
    assert main([*command, "-o", str(out), *search]) == 0
    assert f"recipe: {out}.toml" in capsys.readouterr().out
    again = ["compile", str(files / "m.onnx"), "--recipe", f"{out}.toml", "--calibration", str(files / "calib.npz")]
    assert main([*again, "-o", str(files / "again.mrt"), "--name", "out", "--quiet"]) == 0
    first, found = sections(out)
    second, replayed = sections(files / "again.mrt")
    assert first == second
    assert found.pop("compression")["methods"] and found["recipe"]
    assert found == replayed
    assert len({type(each) for each in Recipe.from_toml((files / "out.mrt.toml").read_text()).methods}) == 2


def test_what_was_written_does_the_same(files: Path) -> None:
    """Methods that prune and that quantize, several of each, for one layer and for all that are left."""
    data = dict(np.load(files / "calib.npz"))
    recipe = Recipe(
        quantize=EIGHT,
        layers={"block_2": SMALL},
        prune=HALVED,
        prune_layers={"*_0": None, "block_2": Prune(0.3, method="magnitude", tolerance=1.0)},
        calibration=data,
    )
    again = Recipe.from_toml(recipe.to_toml(), calibration=data)
    first, second = (compile(files / "m.onnx", recipe=each).to_bytes() for each in (recipe, again))
    assert first == second


def test_an_existing_recipe_is_not_replaced(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "kept.mrt.toml").write_text("version = 1\n")
    command = [
        "compress",
        str(files / "m.onnx"),
        "--data",
        str(files / "calib.npz"),
        "--eval",
        f"{files}/score.py:score",
    ]
    assert main([*command, "-o", str(files / "kept.mrt"), "--quiet"]) == 1
    assert "kept.mrt.toml exists: give --overwrite" in capsys.readouterr().err
    assert not (files / "kept.mrt").exists()


def test_a_search_that_leaves_all_in_float_has_a_recipe_too(files: Path) -> None:
    data = dict(np.load(files / "calib.npz"))
    examples = {"x": data["x"][:1]}
    budget = {"max_drop": 0.0, "precision": "int8", "sparsity": "none", "objective": "size"}
    reference = maas_rt.load(compile(files / "m.onnx"))
    want = reference.run(examples)["y"]

    def score(run: Any) -> float:
        return -float(np.abs(run(examples)["y"] - want).max())

    found = compress(files / "m.onnx", data, score, budget, example_inputs=examples)
    recipe = Recipe.from_toml(found.recipe.to_toml(), calibration=data)
    again = compile(files / "m.onnx", examples, recipe=recipe)
    assert again.with_manifest(compression=found.manifest["compression"]).to_bytes() == found.to_bytes()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("block.3", "'block.3', which the model does not have: the nearest are block_2, block_1, block_0"),
        ("blok.*", "the nearest are block"),
        ("zzz", "which the model does not have: it has block_0, block_1, block_2"),
    ],
)
@pytest.mark.parametrize("where", ["layers", "prune_layers"])
def test_layers_that_the_model_does_not_have_are_told_with_the_nearest(
    files: Path, where: str, pattern: str, says: str
) -> None:
    named = "half" if where == "layers" else "prune"
    recipe = Recipe.from_toml(
        f'version = 1\n[{where}]\n"{pattern}" = "{named}"', calibration=dict(np.load(files / "calib.npz"))
    )
    with pytest.raises(InvalidArgumentError, match=re.escape(says)):
        compile(files / "m.onnx", recipe=recipe)


@pytest.mark.parametrize(
    ("text", "more", "says"),
    [
        (None, [], "the recipe .*r.toml cannot be read: No such file or directory"),
        (b"\xff", [], "r.toml is no recipe: it is not text in UTF-8"),
        (b"version = 3", [], "r.toml: the recipe has version 3"),
        (b"\xef\xbb\xbfversion = 3", [], "r.toml: the recipe has version 3"),
        (b"version = 1", ["--recipe", ""], "the recipe  cannot be read: Is a directory"),
        (
            b"version = 1",
            ["--int8-rounding", "gptq"],
            "--int8-bits, --int8-method, --int8-rounding and --int8-float-share are for --int8",
        ),
        (b"version = 1", ["--weights", "int4"], "--recipe and --weights are given, expected one of them"),
        (b"version = 1", ["--prune", "0.5", "--prune-method", "magnitude"], "--recipe and --prune are given"),
        (b"version = 1", ["--group", "8"], "--group, --method, --asymmetric and --scales are for --weights"),
        (b"version = 1\nquantize = 'int8'", [], "no calibration data: give .* or --calibration, sets of the model's"),
    ],
)
def test_what_the_command_cannot_take_is_told(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes | None, more: list[str], says: str
) -> None:
    if text is not None:
        (tmp_path / "r.toml").write_bytes(text)
    command = ["compile", str(files / "m.onnx"), "-o", str(tmp_path / "m.mrt"), "--recipe", str(tmp_path / "r.toml")]
    assert main([*command, "--quiet", *more]) == 1
    told = capsys.readouterr().err
    assert re.search(says, told) and told.count("\n") == 1, told
    assert not (tmp_path / "m.mrt").exists()


def test_data_without_what_reads_them_are_told(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "compile",
        str(files / "m.onnx"),
        "-o",
        str(tmp_path / "m.mrt"),
        "--calibration",
        str(files / "calib.npz"),
    ]
    assert main([*command, "--quiet"]) == 1
    assert "--calibration is for --recipe, --weights and --prune" in capsys.readouterr().err
    with pytest.raises(CompileError, match=r"recipe is a str, expected a maas_rt\.compiler\.Recipe"):
        compile(files / "m.onnx", recipe="version = 1")
