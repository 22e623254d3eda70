"""Models through the C API and cffi alone: for interpreters that have no compiled extension.

    m = maas_rt.capi.load("model.mrt", threads=1)
    y = m(x)

The surface is that of maas_rt.load's Model as far as one-shot runs go; both bindings share one loaded library.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas_rt._capi_ffi import check, ffi, lib, text
from maas_rt._errors import Error, InvalidArgumentError, ModelNotFoundError
from maas_rt._options import LoadOptions, asked, checked_options
from maas_rt._tensor_info import TensorInfo, with_multiples

__all__ = ["CancelToken", "Model", "load", "version"]

Array = NDArray[Any]

_CODE_POLICY = {"allow": 0, "signed": 1, "refuse": 2}
_VERIFY = {"default": 0, "full": 1}
_TAG = 16  # of an encrypted chunk
# DLPack's codes by numpy's kind.
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}


def version() -> str:
    """The library's version."""
    return text(lib.mrt_version())


class CancelToken:
    """Stops the runs it was given to, between two steps; any thread may set it."""

    def __init__(self) -> None:
        out = ffi.new("mrt_cancel**")
        check(lib.mrt_cancel_create(out))
        self._handle = ffi.gc(out[0], lib.mrt_cancel_free)

    def cancel(self) -> None:
        """Stop them."""
        lib.mrt_cancel_set(self._handle)

    def clear(self) -> None:
        """Let later runs go on."""
        lib.mrt_cancel_clear(self._handle)


class Model:
    """A loaded model; many threads may call it at once. Made by `load`."""

    def __init__(self, program: Any, threads: int) -> None:
        self._program = program
        self._threads = threads
        self._bytes: Any = None
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        symbols = self.manifest.get("symbols") or {}
        inputs = (self._info(lib.mrt_program_input_info, i) for i in range(lib.mrt_program_input_count(program, 0)))
        outputs = (self._info(lib.mrt_program_output_info, i) for i in range(lib.mrt_program_output_count(program, 0)))
        self.inputs, self.outputs = with_multiples(inputs, symbols), with_multiples(outputs, symbols)
        self._idle.append(self._new_session())

    @property
    def draws(self) -> bool:
        """Whether runs draw random numbers, which a seed decides."""
        return bool(lib.mrt_program_draws(self._program))

    @property
    def manifest(self) -> dict[str, Any]:
        """What the file says about itself."""
        manifest: dict[str, Any] = json.loads(text(lib.mrt_program_manifest(self._program)))
        return manifest

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Runs on inputs in order or by name; returns the output, or a dict if there are several."""
        if len(arrays) > len(self.inputs):
            raise InvalidArgumentError(
                f"the model was called with {len(arrays)} inputs and has {len(self.inputs)}: {self._names()}"
            )
        given = {info.name: array for info, array in zip(self.inputs, arrays, strict=False)}
        for name in named.keys() & given.keys():
            raise InvalidArgumentError(f"input {name!r} is given twice")
        results = self.run({**given, **named})
        return results[self.outputs[0].name] if len(self.outputs) == 1 else results

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Array] | None = None,
        deadline: float | None = None,
        cancel: CancelToken | None = None,
        seed: int | None = None,
    ) -> dict[str, Array]:
        """Runs on a dict of arrays by input name and returns a dict by output name.

        Args:
            out: writable contiguous numpy arrays that results are written into.
            deadline: seconds from now after which the run stops between two steps.
            seed: of the random numbers that the model draws, an integer from 0 to 2**64 - 1; None: the system gives one.
        """
        for what, given in (("inputs", inputs), ("out", out or {})):
            if not isinstance(given, Mapping):
                raise InvalidArgumentError(f"{what} is a {type(given).__name__} and must be a dict of arrays by name")
        if cancel is not None and not isinstance(cancel, CancelToken):
            raise InvalidArgumentError(f"cancel is a {type(cancel).__name__} and must be a maas_rt.capi.CancelToken")
        for name in inputs:
            if all(name != info.name for info in self.inputs):
                raise InvalidArgumentError(f"the model has no input {name!r}; its inputs are: {self._names()}")
        for info in self.inputs:
            if info.name not in inputs:
                raise InvalidArgumentError(f"input {info.name!r} is missing; the inputs are: {self._names()}")
        for name in out or {}:
            if all(name != info.name for info in self.outputs):
                raise InvalidArgumentError(f"the model has no output {name!r}")
        alive: list[Any] = []
        arrays = [_as_array(info.name, inputs[info.name]) for info in self.inputs]
        ins = ffi.new("mrt_tensor[]", max(1, len(arrays)))
        for i, array in enumerate(arrays):
            _fill(ins[i], array, alive)
        outs = ffi.new("mrt_tensor[]", max(1, len(self.outputs)))
        for i, info in enumerate(self.outputs):
            if out and info.name in out:
                _fill(outs[i], _check_buffer(info, out[info.name]), alive)
                outs[i].bytes = out[info.name].nbytes
        options = ffi.new("mrt_run_options*")
        options.struct_size = ffi.sizeof("mrt_run_options")
        if seed is not None:
            options.seeded, options.seed = 1, _check_seed(seed)
        options.cancel = cancel._handle if cancel is not None else ffi.NULL
        options.exact_outputs = 1
        options.deadline_ns = 0 if deadline is None else _deadline(deadline)
        session = self._take()
        try:
            check(lib.mrt_session_run(session, ins, len(arrays), outs, len(self.outputs), options))
            return {info.name: self._result(info, outs[i], out) for i, info in enumerate(self.outputs)}
        finally:
            with self._lock:
                self._idle.append(session)

    def _result(self, info: TensorInfo, tensor: Any, out: Mapping[str, Array] | None) -> Array:
        if out and info.name in out:
            return out[info.name]
        shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        array = np.empty(shape, _numpy_dtype(tensor.dtype, info.name))
        ffi.memmove(ffi.cast("void*", array.ctypes.data), tensor.data, array.nbytes)
        return array

    def _names(self) -> str:
        return ", ".join(info.name for info in self.inputs) or "none"

    def _info(self, getter: Any, index: int) -> TensorInfo:
        info = ffi.new("mrt_value_info*")
        check(getter(self._program, 0, index, info))
        dims = [info.dims[i] for i in range(info.ndim)]
        return TensorInfo(
            text(info.name),
            _dtype_name(info.dtype),
            tuple(d.extent if d.extent >= 0 else text(d.expr) if d.expr else "?" for d in dims),
            tuple((d.extent, d.extent) if d.extent >= 0 else (d.min, d.max if d.max >= 0 else None) for d in dims),
        )

    def _new_session(self) -> Any:
        options = ffi.new("mrt_session_options*")
        options.struct_size = ffi.sizeof("mrt_session_options")
        options.threads = self._threads
        out = ffi.new("mrt_session**")
        check(lib.mrt_session_create(self._program, options, out))
        return ffi.gc(out[0], lib.mrt_session_free)

    def _take(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._new_session()


def load(
    model: str | os.PathLike[str] | bytes,
    *,
    threads: int | None = None,
    code: str = "allow",
    verify: str = "default",
    require_signature: Any = None,
    key: Any = None,
    lock: bool = True,
    copy: bool = False,
    resident: int | None = None,
) -> Model:
    """Loads a path or a file's bytes; the options are those of maas_rt.load.

    Raises:
        ModelNotFoundError: there is no such file.
        FormatError, CodeRefusedError, SignatureError, DecryptionError, TargetError: the file is refused.
        Error: it cannot be read.
    """
    is_path = isinstance(model, (str, os.PathLike))
    chosen = checked_options(
        mapped=is_path,
        code=code,
        verify=verify,
        require_signature=require_signature,
        key=key,
        lock=lock,
        copy=copy,
        resident=resident,
    )
    wanted = 0 if threads is None else threads
    if isinstance(wanted, bool) or not isinstance(wanted, (int, np.integer)) or not 0 <= wanted < 2**31:
        raise InvalidArgumentError(f"threads is {threads!r} and must be an integer of at least 0 (0: all)")
    if not is_path and not isinstance(model, (bytes, bytearray, memoryview)):
        raise InvalidArgumentError(f"load takes a path or bytes, and got a {type(model).__name__}")
    if isinstance(model, memoryview) and not model.c_contiguous:
        raise InvalidArgumentError("the memoryview of a model's bytes must be contiguous: give bytes(view)")
    out = ffi.new("mrt_program**")
    if isinstance(model, (str, os.PathLike)):
        with _native_options(os.fsdecode(model), chosen) as options:
            try:
                check(lib.mrt_program_load(os.fsencode(model), options, out))
            except Error:
                if not os.path.exists(model):
                    raise ModelNotFoundError(os.fsdecode(model)) from None
                raise
        return Model(ffi.gc(out[0], lib.mrt_program_free), int(wanted))
    room, begin, size = _aligned(model)
    data = ffi.cast("void*", room.ctypes.data + begin)
    with _native_options("the model in memory", chosen) as options:
        check(lib.mrt_program_load_memory(data, size, options, ffi.NULL, ffi.NULL, out))
    loaded = Model(ffi.gc(out[0], lib.mrt_program_free), int(wanted))
    loaded._bytes = room  # borrowed by the program
    return loaded


@contextlib.contextmanager
def _native_options(name: str, chosen: LoadOptions) -> Iterator[Any]:
    """The options as the library takes them, for one load."""
    options = ffi.new("mrt_load_options*")
    options.struct_size = ffi.sizeof("mrt_load_options")
    options.code = _CODE_POLICY[chosen.code]
    options.verify = _VERIFY[chosen.verify]
    options.copy = chosen.copy
    options.resident_bytes = chosen.resident
    options.unlocked = not chosen.lock
    with asked(name, chosen) as (checker, opener):
        if checker is not None:

            @ffi.callback("mrt_signature_fn", error=0)  # type: ignore[untyped-decorator]
            def check_signature(_: Any, table: Any, table_bytes: int, signature: Any, signature_bytes: int) -> bool:
                return checker(ffi.buffer(table, table_bytes)[:], ffi.buffer(signature, signature_bytes)[:])

            options.check_signature = check_signature
        if opener is not None:

            @ffi.callback("mrt_unwrap_fn", error=0)  # type: ignore[untyped-decorator]
            def unwrap(_: Any, section: Any, size: int) -> bool:
                return bool(opener.unwrap(ffi.buffer(section, size)[:]))

            @ffi.callback("mrt_open_fn", error=0)  # type: ignore[untyped-decorator]
            def open_chunk(
                _: Any, nonce: Any, bound: Any, bound_bytes: int, sealed: Any, size: int, plain: Any
            ) -> bool:
                data = memoryview(ffi.buffer(sealed, size))
                room = memoryview(ffi.buffer(plain, size - _TAG)) if size > _TAG else bytearray()
                return bool(opener.open(ffi.buffer(nonce, 12)[:], ffi.buffer(bound, bound_bytes)[:], data, room))

            options.unwrap_key, options.open_chunk = unwrap, open_chunk
        yield options


def _aligned(data: bytes | bytearray | memoryview) -> tuple[NDArray[np.uint8], int, int]:
    """A copy of the bytes at an address that is a multiple of 64: the memory, where they begin, how many they are."""
    source = np.frombuffer(data, np.uint8)
    room = np.empty(source.size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    room[begin : begin + source.size] = source
    return room, begin, source.size


def _deadline(seconds: Any) -> int:
    """The monotonic time in nanoseconds so many seconds from now; 0, which is none, for over a century."""
    try:
        ns = float(seconds) * 1e9
    except (TypeError, ValueError):
        ns = math.nan
    if math.isnan(ns):
        raise InvalidArgumentError(f"deadline is {seconds!r} and must be a number of seconds from now")
    return 0 if ns > 4e18 else max(1, time.monotonic_ns() + int(max(ns, -4e18)))


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise InvalidArgumentError(f"seed is {seed!r} and must be an integer from 0 to 2**64 - 1")
    return int(seed)


def _plain_view(value: Any) -> Any:
    """torch's views that are conjugated or negated only when they are read, of which DLPack says nothing, as what they stand for."""
    for bit, resolve in (("is_conj", "resolve_conj"), ("is_neg", "resolve_neg")):
        if hasattr(value, bit) and hasattr(value, resolve) and getattr(value, bit)():
            value = getattr(value, resolve)()
    return value


def _as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidArgumentError(f"input {name!r} is a masked array, and a tensor has no mask: give x.filled(VALUE)")
    if isinstance(value, np.ndarray):
        array = value
    elif hasattr(value, "__dlpack__") or hasattr(value, "__array_interface__"):
        try:
            array = np.from_dlpack(_plain_view(value)) if hasattr(value, "__dlpack__") else np.asarray(value)
            without_memory = array.size > 0 and hasattr(value, "data_ptr") and value.data_ptr() == 0
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgumentError(f"input {name!r} cannot be read: {error}") from error
        if without_memory:  # numpy gives it some, of any contents
            raise InvalidArgumentError(
                f"input {name!r} is a tensor without memory, whose elements are only implied: give one that holds them"
            )
    else:
        raise InvalidArgumentError(
            f"input {name!r} is a {type(value).__name__} and must be an array: numpy's, or any with __dlpack__ or "
            "__array_interface__"
        )
    if array.dtype.kind not in _CODES:
        raise InvalidArgumentError(f"input {name!r} has dtype {array.dtype}, which is no tensor's: convert it")
    native = array.dtype.isnative and array.flags.aligned
    if not native or any(stride % array.itemsize for stride in array.strides):
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
    return array


def _check_buffer(info: TensorInfo, buffer: Any) -> Array:
    usable = isinstance(buffer, np.ndarray) and buffer.flags.writeable and buffer.flags.c_contiguous
    if not usable or not buffer.flags.aligned or not buffer.dtype.isnative:
        raise InvalidArgumentError(f"the buffer for output {info.name!r} must be a writable, contiguous numpy array")
    if buffer.dtype.name != info.dtype:
        raise InvalidArgumentError(
            f"the buffer for output {info.name!r} has dtype {buffer.dtype.name} and must have {info.dtype}"
        )
    return buffer  # type: ignore[no-any-return]


def _fill(tensor: Any, array: Array, alive: list[Any]) -> None:
    """Points a mrt_tensor at an array; `alive` collects what it points to."""
    shape = ffi.new("int64_t[]", list(array.shape) or 1)
    alive += [array, shape]
    tensor.data = ffi.cast("void*", array.ctypes.data)
    tensor.dtype.code = _CODES[array.dtype.kind]
    tensor.dtype.bits = array.dtype.itemsize * 8
    tensor.dtype.lanes = 1
    tensor.ndim = array.ndim
    tensor.shape = shape
    if not array.flags.c_contiguous:
        strides = ffi.new("int64_t[]", [stride // array.itemsize for stride in array.strides])
        alive.append(strides)
        tensor.strides = strides


def _dtype_name(dtype: Any) -> str:
    if dtype.code in _KINDS and dtype.bits >= 8:
        return str(np.dtype(f"{_KINDS[dtype.code]}{dtype.bits // 8}").name)
    named = {
        10: "float8_e4m3fn",
        11: "float8_e4m3fnuz",
        12: "float8_e5m2",
        13: "float8_e5m2fnuz",
        14: "float8_e8m0fnu",
        17: "float4_e2m1fn",
    }
    if dtype.code in named:
        return named[dtype.code]
    return f"{({4: 'bfloat', 1: 'uint'}).get(dtype.code, 'int')}{dtype.bits}"


def _numpy_dtype(dtype: Any, name: str) -> np.dtype[Any]:
    if dtype.code not in _KINDS or dtype.bits < 8:
        raise InvalidArgumentError(f"output {name!r} has dtype {_dtype_name(dtype)}, which numpy alone does not have")
    return np.dtype(f"{_KINDS[dtype.code]}{dtype.bits // 8}")
