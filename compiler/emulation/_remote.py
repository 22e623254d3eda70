"""Calls of the library in another process, over a pipe; csrc/tools/remote.c is the other end and says what goes over it."""

from __future__ import annotations

import json
import math
import signal
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from maas_rt._errors import CompileError, from_status

from .._dtypes import dtype_code

__all__ = ["Remote"]

Array = npt.NDArray[Any]

_REGISTRY, _PACK, _RUN, _LOAD, _EXECUTE = range(1, 6)
_ABSENT = struct.pack("<i", -1)


class Remote:
    """A process that runs the library. Use it as a context manager, or `close` it.

    Every method raises what the library's own binding would, and CompileError where the process ends.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115, it is closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was not sent yet, to a process that has ended
                    continue
        self._process.kill()
        self._process.wait()
        self._complaints.close()

    def registry(self) -> dict[str, Any]:
        """As `maas_rt._kernels.describe`."""
        self._ask(struct.pack("<I", _REGISTRY))
        found: dict[str, Any] = json.loads(self._text())
        return found

    def pack(self, contract: str, packing: str, weight: Array, attrs: Mapping[str, Any] | None = None) -> bytes:
        """As `maas_rt._kernels.pack`."""
        request = [struct.pack("<I", _PACK), _text(contract), _text(packing), _tensor(weight), _attributes(attrs or {})]
        self._ask(b"".join(request))
        return self._tensor("uint8").tobytes()

    def run(
        self,
        contract: str,
        inputs: Sequence[Array | bytes | None],
        outputs: Sequence[tuple[tuple[int, ...], Any]],
        attrs: Mapping[str, Any] | None = None,
        isa: str | None = None,
        threads: int = 1,
    ) -> list[Array]:
        """As `maas_rt._kernels.run`; `outputs` are (shape, dtype)."""
        arrays = [np.frombuffer(each, np.uint8) if isinstance(each, bytes) else each for each in inputs]
        names = [np.dtype(dtype).name for _, dtype in outputs]
        request = [
            struct.pack("<I", _RUN) + _text(contract) + _text(isa or "") + struct.pack("<i", threads),
            struct.pack("<I", len(arrays)),
            *(_ABSENT if each is None else _tensor(each) for each in arrays),
            struct.pack("<I", len(outputs)),
            *(_described(name, shape) + struct.pack("<Q", 0) for name, (shape, _) in zip(names, outputs)),
            _attributes(attrs or {}),
        ]
        self._ask(b"".join(request))
        return [self._tensor(name) for name in names]

    def load(self, path: str) -> None:
        """The model that `execute` runs."""
        self._ask(struct.pack("<I", _LOAD) + _text(path))

    def execute(
        self,
        inputs: Sequence[Array],
        dtypes: Sequence[str],
        *,
        threads: int = 1,
        seconds: float = 0.0,
        seed: int | None = None,
    ) -> list[Array]:
        """Outputs, of these element types, for inputs in the model's order; states have their initial values."""
        request = [
            struct.pack("<IidBQ", _EXECUTE, threads, seconds, seed is not None, seed or 0),
            struct.pack("<I", len(inputs)),
            *map(_tensor, inputs),
        ]
        self._ask(b"".join(request))
        (count,) = struct.unpack("<I", self._exactly(4))
        if count != len(dtypes):
            raise CompileError(f"the model gave {count} outputs, expected {len(dtypes)}")
        return [self._tensor(name) for name in dtypes]

    def _ask(self, request: bytes) -> None:
        """Send it, and raise what the answer says."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        status, sentence = self._text(), self._text()
        if status != "MRT_OK":
            raise from_status(status, sentence)

    def _text(self) -> str:
        (size,) = struct.unpack("<I", self._exactly(4))
        return self._exactly(size).decode()

    def _tensor(self, dtype: str) -> Array:
        """Of an element type that is known; a code that is another is an error."""
        rank, code, bits = struct.unpack("<iBB", self._exactly(6))
        shape = struct.unpack(f"<{rank}q", self._exactly(8 * rank))
        (size,) = struct.unpack("<Q", self._exactly(8))
        data = self._exactly(size)
        if (code, bits) != tuple(map(int, dtype_code(dtype))):
            raise CompileError(f"a tensor has the element type {code} of {bits} bits, expected {dtype}")
        kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
        return np.frombuffer(bytearray(data), kind, math.prod(shape)).reshape(shape)

    def _exactly(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self._ended()
        return data

    def _ended(self) -> CompileError:
        status = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        return CompileError(f"the library in another process ended ({how}): {(lines or ['it said nothing'])[-1][:200]}")


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _described(dtype: str, shape: Sequence[int]) -> bytes:
    code, bits = dtype_code(dtype)
    return struct.pack(f"<iBB{len(shape)}q", len(shape), code, bits, *shape)


def _tensor(array: Array) -> bytes:
    data = array.tobytes()
    return _described(array.dtype.name, array.shape) + struct.pack("<Q", len(data)) + data


def _attributes(attrs: Mapping[str, Any]) -> bytes:
    parts = [struct.pack("<I", len(attrs))]
    for key, value in attrs.items():
        parts.append(_text(key))
        if isinstance(value, str):
            parts.append(b"\2" + _text(value))
            continue
        numbers = list(value) if isinstance(value, (Sequence, np.ndarray)) else [value]
        real = any(not isinstance(number, (int, np.integer)) for number in numbers)
        parts.append(struct.pack(f"<BI{len(numbers)}{'d' if real else 'q'}", real, len(numbers), *numbers))
    return b"".join(parts)
