"""Fuzzes the ONNX import path: mutated public models are imported, some are compiled and compared with their reference.

python -m tests.fuzz_onnx SECONDS [SEED]       with atheris (extra `fuzz`) where it is installed: guided by coverage
python -m tests.fuzz_onnx SECONDS SEED --plain without it: the same mutations, drawn at random; the first of each kind is told, as by both
python -m tests.fuzz_onnx --file FILE...       again on what was found

Each model must end in a result or in a maas_rt.Error of one sentence, within a minute and MEMORY bytes, and no result may differ from the
reference's. Mutations are made on the protobuf's fields, so that they reach the converters: nodes dropped, doubled, renamed, other
attributes, dimensions, element types, inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import multiprocessing
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from tests._fuzz_processes import run_in_processes

MEMORY = 4 << 30  # bytes beyond what the imports take
SECONDS = 60  # of one model
LARGEST = 20_000  # bytes of a model to begin with
COMPILED = 8  # one model of so many is compiled, not only imported
NUMBERS = (0, 1, 2, 3, 5, 7, 64, 1000, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
REALS = (0.0, 1.0, 0.5, 2.0, 1e-30, 1e30, float("inf"), float("nan"))
# What a finding says where the reference is known to differ from ONNX's text on mutated models, or the text says nothing.
REFERENCE_FAULTS = (
    ("(OneHot)", "depth float"),  # a depth that is no whole number is rounded up, where the text casts it (down)
    (
        "(GridSample)",
        "NaN on one side only",
    ),  # a place that is NaN: torch's NaN here, 0 in ONNX Runtime, an error in onnx.reference
    # A weight that is no number, beyond the edge: NaN in onnx.reference, nothing in torch, and either in ONNX Runtime.
    ("(Conv)", "NaN on one side only"),
    ("(Loop)", "its shape is"),  # numbers that a loop collects are rows of one there, matrices are joined
)


# ---- mutations


def mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    """One to three changes, in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(model, rng)


def _graph(model: onnx.ModelProto, rng: random.Random) -> onnx.GraphProto:
    """The main graph, or one inside of a node."""
    graph = model.graph
    while rng.random() < 0.5:
        inner = [a.g for n in graph.node for a in n.attribute if a.type == AttributeProto.GRAPH]
        if not inner:
            break
        graph = rng.choice(inner)
    return graph


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    nodes = list(_graph(model, rng).node) + [n for f in model.functions for n in f.node]
    return rng.choice(nodes) if nodes else model.graph.node.add(op_type="Identity")


def _names(model: onnx.ModelProto, rng: random.Random) -> list[str]:
    graph = _graph(model, rng)
    made = [o for n in graph.node for o in n.output]
    return [*made, *[i.name for i in graph.input], *[t.name for t in graph.initializer], "", "nowhere"]


def drop_node(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    if graph.node:
        del graph.node[rng.randrange(len(graph.node))]


def double_node(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    if graph.node:
        copy = graph.node.add()
        copy.CopyFrom(rng.choice(graph.node[:-1]))
        if rng.random() < 0.8:
            for i, name in enumerate(copy.output):
                copy.output[i] = name + "_again"


def other_operator(model: onnx.ModelProto, rng: random.Random) -> None:
    names = sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain})
    _node(model, rng).op_type = rng.choice([*names, "", "Nothing"])


def other_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if len(node.input) > 1 and rng.random() < 0.4:
        i, j = rng.sample(range(len(node.input)), 2)
        node.input[i], node.input[j] = node.input[j], node.input[i]
    elif node.input and rng.random() < 0.6:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model, rng))
    elif node.input and rng.random() < 0.5:
        del node.input[rng.randrange(len(node.input))]
    else:
        node.input.append(rng.choice(_names(model, rng)))


def other_outputs(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.output and rng.random() < 0.5:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(model, rng))
    else:
        node.output.append(rng.choice(["extra", *_names(model, rng)]))


def drop_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def other_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """Another value, in most cases of the same type."""
    node = _node(model, rng)
    if not node.attribute:
        try:
            schema = onnx.defs.get_schema(node.op_type)
        except onnx.defs.SchemaError:
            return
        if not schema.attributes:
            return
        name = rng.choice(sorted(schema.attributes))
        node.attribute.add(name=name, type=int(schema.attributes[name].type.value))
    a = rng.choice(node.attribute)
    kind = (
        a.type if rng.random() < 0.9 else rng.choice([AttributeProto.INT, AttributeProto.INTS, AttributeProto.STRING])
    )
    a.type = kind
    if kind == AttributeProto.INT:
        a.i = _number(rng)
    elif kind == AttributeProto.FLOAT:
        a.f = rng.choice(REALS) * rng.choice((1, -1))
    elif kind == AttributeProto.STRING:
        words = [
            b"",
            b"linear",
            b"nearest",
            b"SAME_UPPER",
            b"reflect",
            b"bidirectional",
            b"mean",
            b"\xff\xfe",
            b"ij,jk->ik",
            b"->",
            a.s[:-1],
        ]
        a.s = rng.choice(words)
    elif kind == AttributeProto.INTS:
        if a.ints and rng.random() < 0.7:
            a.ints[rng.randrange(len(a.ints))] = _number(rng)
        elif a.ints and rng.random() < 0.5:
            del a.ints[rng.randrange(len(a.ints))]
        else:
            a.ints.append(_number(rng))
    elif kind == AttributeProto.TENSOR:
        _change_tensor(a.t, rng)


def other_tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        _change_tensor(rng.choice(model.graph.initializer), rng)
    else:
        input_as_constant(model, rng)


def input_as_constant(model: onnx.ModelProto, rng: random.Random) -> None:
    """An input with known extents becomes a constant, so that what is folded from constants is reached."""
    known = [i for i in model.graph.input if i.type.HasField("tensor_type")]
    if not known:
        return
    info = rng.choice(known)
    dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
    kind = info.type.tensor_type.elem_type
    if any(d < 0 or d > 100 for d in dims) or int(np.prod(dims, initial=1)) > 10_000 or kind == TensorProto.STRING:
        return
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except (KeyError, TypeError):
        return
    draw = np.random.default_rng(rng.randrange(1 << 30))
    values = np.asarray(draw.integers(0, 4, dims) if rng.random() < 0.8 else draw.normal(0, 1e4, dims))
    with np.errstate(all="ignore"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(dtype), info.name))


def _change_tensor(tensor: TensorProto, rng: random.Random) -> None:
    what = rng.random()
    if what < 0.25 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = _number(rng)
    elif what < 0.4:
        tensor.data_type = rng.choice([1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 17, 22, 0, 99])
    elif what < 0.9:
        try:
            array = np.array(onnx.numpy_helper.to_array(tensor))
        except Exception:  # an earlier change made it unreadable
            return
        if array.size and array.dtype.kind in "iuf":
            at = rng.randrange(array.size)
            with np.errstate(all="ignore"):
                value = rng.choice(REALS) if array.dtype.kind == "f" else _number(rng)
                array.reshape(-1)[at : at + 1] = np.array([value]).astype(array.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    elif tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]


def other_input_type(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.input:
        return
    kind = rng.choice(model.graph.input).type
    if not kind.HasField("tensor_type"):
        return
    dims = kind.tensor_type.shape.dim
    what = rng.random()
    if what < 0.3:
        kind.tensor_type.elem_type = rng.choice([1, 2, 3, 6, 7, 9, 10, 11, 16, 8, 17, 22, 0, 99])
    elif what < 0.6 and dims:
        rng.choice(dims).dim_value = _number(rng)
    elif what < 0.8 and dims:
        rng.choice(dims).dim_param = rng.choice(["n", "m"])
    elif what < 0.9 and dims:
        del dims[rng.randrange(len(dims))]
    else:
        dims.add(dim_value=rng.choice((1, 2, 3)))


def other_opset(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((1, 7, 9, 11, 13, 16, 18, 21, 23, 25, 27))


def other_output(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    name = rng.choice(_names(model, rng))
    if graph.output and rng.random() < 0.5:
        rng.choice(graph.output).name = name
    else:
        graph.output.add(name=name)


def _number(rng: random.Random) -> int:
    value = rng.choice(NUMBERS) if rng.random() < 0.6 else rng.randrange(-4, 12)
    return max(-value, -(2**63)) if rng.random() < 0.25 else value


MUTATIONS = (
    drop_node, double_node, other_operator, other_inputs, other_inputs, other_outputs, drop_attribute, other_attribute, other_attribute,
    other_attribute, other_tensor, other_tensor, input_as_constant, input_as_constant, other_input_type, other_input_type, other_opset,
    other_output,
)  # fmt: skip


# ---- one model


def corpus() -> list[bytes]:
    """The small models of ONNX's own node tests."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    models = [case.model.SerializeToString() for case in cases if case.model is not None]
    return [raw for raw in models if len(raw) <= LARGEST]


def prepare() -> None:
    """Import what is tested, then bound this process's memory; verification gives each side ten seconds."""
    import maas_rt.compiler
    from maas_rt.compiler import _configs, _pipeline
    from maas_rt.compiler.importers.onnx import import_onnx

    from tests.compiler._limited import limit_memory

    assert maas_rt.compiler and _pipeline and import_onnx
    _configs.VerifyOptions = partial(_configs.VerifyOptions, seconds=10.0)  # type: ignore[assignment,misc]
    warnings.simplefilter("ignore")
    faulthandler.enable()
    limit_memory(MEMORY)


def check(raw: bytes, compiled: bool | None = None) -> str:
    """ "" if it compiled, else the refusal; AssertionError or whatever escaped where the promise is broken."""
    from maas_rt.compiler import compile as compile_model
    from maas_rt.compiler.importers.onnx import import_onnx

    import maas_rt

    model = onnx.ModelProto()
    model.ParseFromString(raw)
    if compiled is None:
        compiled = hashlib.sha256(raw).digest()[0] % COMPILED == 0
    try:
        if compiled:
            compile_model(model)
        else:
            import_onnx(model)
    except maas_rt.VerificationError as error:
        if not any(all(part in str(error) for part in parts) for parts in REFERENCE_FAULTS):
            raise AssertionError(f"a wrong number: {error}") from error
        return str(error)
    except (maas_rt.CompileError, maas_rt.InvalidArgumentError) as error:
        assert "\n" not in str(error), f"more than one line: {error}"
        return str(error)
    return ""


class Findings:
    """What was found, by kind; the first of each is written into a folder and told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.kinds: dict[str, int] = {}

    def add(self, what: str, raw: bytes) -> None:
        kind = what.rpartition(" at ")[2] or what
        found = re.search(r"operator \S* \((\w+)\)", what)  # of a wrong number
        kind = found[1] if found else kind
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.kinds[kind] == 1:
            path = self._folder / f"{hashlib.sha256(raw).hexdigest()[:12]}.onnx"
            path.write_bytes(raw)
            print(f"{path}: {what}", flush=True)


def described(error: BaseException) -> str:
    """Its class, its words, and where it was raised."""
    where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {str(error)[:300]} at {' '.join(where[-4:])}"


# ---- without atheris


def _work(seed: int, until: float, models: list[bytes], now: Any, found: Any) -> None:
    prepare()
    number = 0
    while time.monotonic() < until:
        rng = random.Random(f"{seed}/{number}")
        number += 1
        model = onnx.ModelProto.FromString(rng.choice(models))
        mutate(model, rng)
        raw = model.SerializeToString()
        now.put((time.monotonic(), raw))
        try:
            check(raw)
        except BaseException as error:
            found.put((described(error), raw))
    now.put((time.monotonic(), None))


def plain(seconds: float, seed: int, folder: Path) -> int:
    """Mutate at random for so long, in processes that are replaced when one crashes or hangs. The number of findings."""
    models = corpus()
    until = time.monotonic() + seconds
    findings = Findings(folder)

    def report(what: str, case: bytes | None) -> None:
        findings.add(what, case or b"")  # none where a process ended before its first

    done = run_in_processes(_work, models, until=until, seed=seed, limit=SECONDS, report=report)
    print(f"{done} models, {sum(findings.kinds.values())} findings of {len(findings.kinds)} kinds")
    return len(findings.kinds)


# ---- with atheris


def guided(seconds: int, seed: int, folder: Path) -> int:
    """libFuzzer's loop, which goes on past refusals and wrong numbers that should not be, and ends where its process does, or at what
    takes too long. The number of findings' kinds."""
    fork = multiprocessing.get_context("fork")
    kinds = fork.Value("i", 0)
    process = fork.Process(target=_guided, args=(seconds, seed, folder, kinds))  # libFuzzer ends it
    process.start()
    process.join()
    ended = process.exitcode != 0
    print(f"findings of {kinds.value} kinds{', and an end before its time' if ended else ''}")
    return int(kinds.value) + ended


def _guided(seconds: int, seed: int, folder: Path, kinds: Any) -> None:
    import atheris

    with atheris.instrument_imports(include=["maas_rt.compiler.importers"]):
        prepare()
    findings = Findings(folder)
    with tempfile.TemporaryDirectory() as seeds:
        for number, raw in enumerate(corpus()):
            (Path(seeds) / f"{number}").write_bytes(raw)

        def change(data: bytes, size: int, number: int) -> bytes:
            model = onnx.ModelProto()
            try:
                model.ParseFromString(data)
            except Exception:
                return data
            mutate(model, random.Random(number))
            raw: bytes = model.SerializeToString()
            return raw if len(raw) <= size else data

        def one(data: bytes) -> None:
            try:
                onnx.ModelProto.FromString(data)
            except Exception:
                return
            try:
                check(data)
            except Exception as error:
                findings.add(described(error), data)
                kinds.value = len(findings.kinds)

        limits = [
            f"-max_total_time={seconds}",
            f"-timeout={SECONDS}",
            "-rss_limit_mb=0",
            f"-max_len={4 * LARGEST}",
            "-len_control=0",
        ]
        atheris.Setup(
            [
                sys.argv[0],
                *limits,
                f"-seed={seed}",
                f"-artifact_prefix={folder}/",
                "-verbosity=1",
                "-print_final_stats=1",
                seeds,
            ],
            one,
            custom_mutator=change,
        )
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=int, default=60)
    parser.add_argument("seed", nargs="?", type=int, default=int(time.time()))
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--file", nargs="+", type=Path, help="check these models and end")
    args = parser.parse_args()
    if args.file:
        prepare()
        for path in args.file:
            print(f"{path}: {check(path.read_bytes(), compiled=True) or 'compiled'}")
        return 0
    folder = Path("build/fuzz_onnx")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {args.seed}")
    if not args.plain and importlib.util.find_spec("atheris") is not None:
        return 1 if guided(args.seconds, args.seed, folder) else 0
    return 1 if plain(args.seconds, args.seed, folder) else 0


if __name__ == "__main__":
    sys.exit(main())
