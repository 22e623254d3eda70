"""Reading an ONNX file that nobody vouches for: size and structure checks, external data, order of the nodes.

External data has been escaped from four times (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34447) and once by a hard
link (GHSA-cmw6-hcpp-c6jp). Here every path component is opened beneath the model's folder without following symbolic links, the
file must be a regular one with a link count of 1, and what a tensor asks for must lie inside it.
"""

from __future__ import annotations

import heapq
import itertools
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto

from maas_rt._errors import ImportModelError

from ._data import LARGE_FILE, Data, is_kept, skeleton
from ._errors import broken_model
from ._schema import check_attributes, check_counts

__all__ = ["check_model", "graphs_of", "names_read", "read_model", "sort_nodes"]

_MAX_FILE = 2 << 30  # protobuf's own limit
MAX_NODES = 1 << 18
MAX_GRAPH_DEPTH = 64
_MAX_TENSOR_BYTES = 1 << 40

# Bits of one element, for what raw_data must hold.
_BITS = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
for _name, _bits in (("FLOAT8E8M0", 8), ("UINT2", 2), ("INT2", 2)):
    if hasattr(TensorProto, _name):
        _BITS[getattr(TensorProto, _name)] = _bits


def read_model(path: Path) -> tuple[onnx.ModelProto, Data]:
    """Parse a file and find its external data, which is loaded where it is small, as the file's own large initializers are;
    ImportModelError if it is not an ONNX model or reaches outside of its folder."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ImportModelError(f"{path} is not a regular file: give the path of an .onnx file")
        if size > _MAX_FILE:
            raise ImportModelError(
                f"{path} has {size} bytes: an ONNX file has at most 2 GiB, weights beyond it go into external data"
            )
        data = Data()
        raw, places, fd = _read(path, size)
    except OSError as why:
        raise ImportModelError(f"cannot read {path}: {why.strerror or why}") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
        del raw
        own = [(model.graph.initializer[number], *place) for number, place in places.items()]
        own = [each for each in own if each[0].data_location != TensorProto.EXTERNAL]
        _load_externals(model, path.resolve().parent, data)
        for tensor, offset, length in own:
            if not (is_kept(tensor, length) and data.place(tensor, fd, offset, length)):
                tensor.raw_data = _read_at(fd, offset, length)
    except (DecodeError, RecursionError) as why:
        raise ImportModelError(
            f"{path} is not an ONNX model: its protobuf cannot be decoded ({str(why).splitlines()[0]})"
        ) from None
    finally:
        if fd >= 0:
            os.close(fd)
    if not model.ByteSize() or not (model.graph.node or model.graph.output):
        raise ImportModelError(f"{path} is not an ONNX model: it holds no graph")
    return model, data


def _load_externals(model: onnx.ModelProto, folder: Path, data: Data) -> None:
    for tensor in _tensors(model, of_main=False):
        if tensor.data_location == TensorProto.EXTERNAL:
            _load_external(tensor, folder, None)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _load_external(tensor, folder, data)


def _read(path: Path, size: int) -> tuple[bytes, dict[int, tuple[int, int]], int]:
    """(the protobuf, the places of what it lacks of its initializers, the file that these are in or -1)."""
    if size < LARGE_FILE:
        return path.read_bytes(), {}, -1
    fd = os.open(path, os.O_RDONLY)
    try:
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            found = skeleton(view)
    except BaseException:
        os.close(fd)
        raise
    if found is None:
        os.close(fd)
        return path.read_bytes(), {}, -1
    return found[0], found[1], fd


def check_model(model: onnx.ModelProto, data: Data | None = None) -> None:
    """Everything that can be said without converting: opsets, sizes of constants, names defined once, attribute types, nesting."""
    newest = onnx.defs.onnx_opset_version()
    if not model.opset_import:
        raise broken_model("it imports no operator set")
    for opset in model.opset_import:
        if opset.version < 1:
            raise broken_model(f"it imports version {opset.version} of operator set '{opset.domain or 'ai.onnx'}'")
        if opset.domain in ("", "ai.onnx"):
            if opset.version > newest:
                raise ImportModelError(
                    f"the ONNX model needs operator set {opset.version}, the installed onnx knows up to {newest}: update onnx, or export "
                    "for an older set"
                )
    total = 0
    for graph, depth in graphs_of(model):
        total += len(graph.node)
        if depth > MAX_GRAPH_DEPTH:
            raise broken_model(f"its graphs are nested deeper than {MAX_GRAPH_DEPTH}")
        if total > MAX_NODES:
            raise broken_model(f"it has more than {MAX_NODES} nodes")
        _check_names(graph)
    defined: set[tuple[str, str, str]] = set()
    for function in model.functions:
        key = (function.domain, function.name, getattr(function, "overload", ""))
        if key in defined:
            raise broken_model(f"function '{function.name}' is defined twice")
        defined.add(key)
    for tensor in _tensors(model):
        _check_tensor(tensor, data)
    opsets = _versions(model.opset_import)
    _check_nodes(model.graph.node, opsets, defined)
    for function in model.functions:
        _check_nodes(function.node, {**opsets, **_versions(function.opset_import)}, defined)


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in imports}


def _check_nodes(nodes: Iterable[onnx.NodeProto], opsets: dict[str, int], functions: set[tuple[str, str, str]]) -> None:
    """Every node, those of subgraphs too, against what the specification says of its operator."""
    stack = [iter(nodes)]
    while stack:
        for node in stack.pop():
            domain = "" if node.domain == "ai.onnx" else node.domain
            local = (node.domain, node.op_type, getattr(node, "overload", "")) in functions
            version = 0 if local else opsets.get(domain, 0)
            check_attributes(node, version, domain)
            check_counts(node, version, domain)
            stack.extend(iter(g.node) for g in _attribute_graphs(node))


def _check_names(graph: onnx.GraphProto) -> None:
    """Every value of a graph is defined once."""
    defined: set[str] = set()
    for info in graph.input:
        if info.name in defined or not info.name:
            raise broken_model(
                f"graph '{graph.name}' has two inputs '{info.name}'" if info.name else "a graph input has no name"
            )
        defined.add(info.name)
    initial: set[str] = set()
    for tensor in graph.initializer:
        if tensor.name in initial:
            raise broken_model(f"graph '{graph.name}' defines initializer '{tensor.name}' twice")
        initial.add(tensor.name)
    defined |= initial
    for node in graph.node:
        for name in node.output:
            if name and name in defined:
                raise broken_model(
                    f"graph '{graph.name}' defines '{name}' twice, again by node '{node.name or node.op_type}'"
                )
            if name:
                defined.add(name)
    outputs = [o.name for o in graph.output]
    if len(set(outputs)) != len(outputs):
        raise broken_model(f"graph '{graph.name}' names an output twice")


def _check_tensor(tensor: TensorProto, data: Data | None) -> None:
    """The stored data has the size that dims and data_type say."""
    name = tensor.name or "without a name"
    count = 1
    for d in tensor.dims:
        if d < 0:
            raise broken_model(f"constant '{name}' has a negative dimension ({d})")
        count *= d
        if count > _MAX_TENSOR_BYTES:
            raise broken_model(
                f"constant '{name}' has dimensions {list(tensor.dims)}, whose product is beyond all memory"
            )
    if tensor.data_location == TensorProto.EXTERNAL and data is not None and name in data:
        have: float = data.size(name)
        want: float = count * _BITS[tensor.data_type] // 8
    elif tensor.data_location == TensorProto.EXTERNAL:
        raise broken_model(f"constant '{name}' lies in an external file; load the model from its path")
    elif tensor.data_type == TensorProto.STRING:
        have, want = len(tensor.string_data), count
    elif tensor.data_type not in _BITS:
        raise broken_model(f"constant '{name}' has the unknown element type {tensor.data_type}")
    elif tensor.HasField("raw_data"):
        have, want = len(tensor.raw_data), (count * _BITS[tensor.data_type] + 7) // 8
    else:
        have, want = _element_counts(tensor, count)
    if have != want:
        raise broken_model(
            f"constant '{name}' holds {have} elements or bytes of data where its dimensions {list(tensor.dims)} need {want}"
        )


def _element_counts(tensor: TensorProto, count: int) -> tuple[int, int]:
    """(elements stored in the typed field, elements needed)."""
    kind = tensor.data_type
    if kind in (TensorProto.FLOAT, TensorProto.COMPLEX64):
        return len(tensor.float_data), count * (2 if kind == TensorProto.COMPLEX64 else 1)
    if kind in (TensorProto.DOUBLE, TensorProto.COMPLEX128):
        return len(tensor.double_data), count * (2 if kind == TensorProto.COMPLEX128 else 1)
    if kind == TensorProto.INT64:
        return len(tensor.int64_data), count
    if kind in (TensorProto.UINT32, TensorProto.UINT64):
        return len(tensor.uint64_data), count
    per = 8 // _BITS[kind] if _BITS[kind] < 8 else 1
    return len(tensor.int32_data), -(-count // per)


def graphs_of(model: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto, int]]:
    """Every graph and its depth, without recursion."""
    stack = [(model.graph, 0)]
    for function in model.functions:
        for node in function.node:
            stack.extend((g, 1) for g in _attribute_graphs(node))
    while stack:
        graph, depth = stack.pop()
        yield graph, depth
        for node in graph.node:
            stack.extend((g, depth + 1) for g in _attribute_graphs(node))


def _attribute_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def _tensors(model: onnx.ModelProto, *, of_main: bool = True) -> Iterator[TensorProto]:
    """Every tensor; without `of_main` not the initializers of the model's own graph."""
    nodes: list[onnx.NodeProto] = [n for f in model.functions for n in f.node]
    for graph, depth in graphs_of(model):
        if depth > MAX_GRAPH_DEPTH:
            raise broken_model(f"its graphs are nested deeper than {MAX_GRAPH_DEPTH}")
        if depth or of_main:
            yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        nodes.extend(graph.node)
    defaults = [a for f in model.functions for a in f.attribute_proto]
    for a in itertools.chain(defaults, (a for node in nodes for a in node.attribute)):
        if a.ref_attr_name:  # it stands for an attribute of a call, and holds nothing
            continue
        if a.type == AttributeProto.TENSOR:
            yield a.t
        elif a.type == AttributeProto.TENSORS:
            yield from a.tensors
        elif a.type == AttributeProto.SPARSE_TENSOR:
            yield a.sparse_tensor.values
            yield a.sparse_tensor.indices


# ---- external data


def _load_external(tensor: TensorProto, folder: Path, data: Data | None) -> None:
    """Replace the reference by the data; what is large is left to `data`, if that is given."""
    info = {e.key: e.value for e in tensor.external_data}
    location = info.get("location", "")
    try:
        offset, length = int(info.get("offset") or 0), int(info["length"]) if info.get("length") else None
    except ValueError:
        raise broken_model(f"constant '{tensor.name}' has an external offset or length that is not a number") from None
    if offset < 0 or (length is not None and length < 0):
        raise broken_model(f"constant '{tensor.name}' has a negative external offset or length")
    fd = _open_beneath(folder, location, tensor.name)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise broken_model(f"external data '{location}' of constant '{tensor.name}' is not a regular file")
        if status.st_nlink != 1:
            raise broken_model(
                f"external data '{location}' of constant '{tensor.name}' is a hard link to another file: copy it"
            )
        bits = _BITS.get(tensor.data_type)
        if bits is None:
            raise broken_model(
                f"constant '{tensor.name}' of element type {tensor.data_type} cannot lie in an external file"
            )
        count = 1
        for d in tensor.dims:
            count *= max(int(d), 0)
        want = (count * bits + 7) // 8
        length = want if length is None else length
        if length != want:
            raise broken_model(
                f"constant '{tensor.name}' states {length} bytes of external data where its dimensions need {want}"
            )
        if offset + length > status.st_size:
            raise broken_model(
                f"external data '{location}' has {status.st_size} bytes, constant '{tensor.name}' lies at {offset} to {offset + length}"
            )
        if data is not None and is_kept(tensor, length):
            if not data.place(tensor, fd, offset, length):
                data.keep(tensor, _read_at(fd, offset, length))
            return
        tensor.raw_data = _read_at(fd, offset, length)
    finally:
        os.close(fd)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def _open_beneath(folder: Path, location: str, name: str) -> int:
    """A file descriptor of folder/location, opened component by component without following symbolic links."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\x00" in location or location.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
        raise broken_model(f"external data '{location}' of constant '{name}' lies outside of the model's folder")
    parts = [p for p in parts if p not in ("", ".")]
    if not parts:
        raise broken_model(f"constant '{name}' names no file for its external data")
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if last else os.O_DIRECTORY)
            try:
                nxt = os.open(part, flags, dir_fd=folder_fd)
            except OSError as why:
                raise broken_model(
                    f"external data '{location}' of constant '{name}' cannot be opened beneath the model's folder without following "
                    f"links ({why.strerror})"
                ) from None
            os.close(folder_fd)
            folder_fd = nxt
    except BaseException:
        os.close(folder_fd)
        raise
    return folder_fd


def _read_at(fd: int, offset: int, length: int) -> bytes:
    chunks = []
    while length:
        chunk = os.pread(fd, min(length, 1 << 30), offset)
        if not chunk:
            raise broken_model("an external data file became shorter while it was read")
        chunks.append(chunk)
        offset += len(chunk)
        length -= len(chunk)
    return b"".join(chunks)


# ---- order


def sort_nodes(graph: onnx.GraphProto, outer: set[str]) -> list[onnx.NodeProto]:
    """The nodes so that each comes after those it reads from (ONNX asks for it, not every file keeps it); a cycle is refused."""
    defined = outer | {i.name for i in graph.input} | {t.name for t in graph.initializer}
    defined |= {s.values.name for s in graph.sparse_initializer} | {""}
    nodes = list(graph.node)
    needs = [set(n.input) | _captured(n) for n in nodes]
    seen = set(defined)
    ordered = True
    for node, need in zip(nodes, needs, strict=True):
        if not need <= seen:
            ordered = False
            break
        seen.update(node.output)
    if ordered:
        return nodes
    maker = {name: i for i, n in enumerate(nodes) for name in n.output if name}
    waits: list[int] = []
    readers: dict[int, list[int]] = {}
    for i, need in enumerate(needs):
        sources = {maker[name] for name in need if name in maker and name not in defined}
        waits.append(len(sources))
        for s in sources:
            readers.setdefault(s, []).append(i)
        for name in need:
            if name not in maker and name not in defined and name in nodes[i].input:
                where = nodes[i].name or nodes[i].op_type
                raise broken_model(f"node '{where}' ({nodes[i].op_type}) reads '{name}', which nothing defines")
    heap = [i for i, w in enumerate(waits) if not w]  # smallest first: the file's own order where it is possible
    heapq.heapify(heap)
    out = []
    while heap:
        i = heapq.heappop(heap)
        out.append(nodes[i])
        for r in readers.get(i, ()):
            waits[r] -= 1
            if not waits[r]:
                heapq.heappush(heap, r)
    if len(out) != len(nodes):
        stuck = next(n for i, n in enumerate(nodes) if waits[i])
        raise broken_model(f"node '{stuck.name or stuck.op_type}' ({stuck.op_type}) is part of a cycle")
    return out


def names_read(*graphs: onnx.GraphProto | onnx.FunctionProto, results: bool = True) -> set[str]:
    """Every name that a node or a result of the graphs, or of subgraphs in them, reads, whatever it names there; without `results` not
    those that are only results of the first graph."""
    out: set[str] = set()
    stack = list(graphs)
    while stack:
        graph = stack.pop()
        if results or graph is not graphs[0]:
            out.update(o if isinstance(o, str) else o.name for o in graph.output)
        for node in graph.node:
            out.update(node.input)
            stack.extend(_attribute_graphs(node))
    return out


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that the subgraphs of a node read from outside of themselves."""
    out: set[str] = set()
    stack = [(g, frozenset[str]()) for g in _attribute_graphs(node)]
    while stack:
        graph, outer = stack.pop()
        own = set(outer) | {i.name for i in graph.input} | {t.name for t in graph.initializer}
        own |= {name for n in graph.node for name in n.output}
        for inner in graph.node:
            out.update(name for name in inner.input if name and name not in own)
            stack.extend((g, frozenset(own)) for g in _attribute_graphs(inner))
        out.update(o.name for o in graph.output if o.name not in own)
    return out
