"""Loads a code section with ctypes alone, as a host that has no TVM would: the oracle of the generated-code tests."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6, "c": 5}
_DLTENSOR_PTR = 7  # kTVMFFIDLTensorPtr
_INT = 1  # kTVMFFIInt


class _Env(ctypes.Structure):
    _fields_ = [("sync", ctypes.c_void_p), ("num_task", ctypes.c_int32)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Any(ctypes.Structure):
    _fields_ = [("type_index", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_int64)]


_TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Env), ctypes.c_void_p)
_LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_ALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
_FREE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_RAISE = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int)
_STOPPED = ctypes.CFUNCTYPE(ctypes.c_int)


class CodeSection:
    """A code section in memory; `launches` counts its parallel loops, `tasks` is into how many parts each is cut; `questions` counts how
    often it asked whether to stop, which it is told to after `most_questions`, if that is not negative."""

    def __init__(self, image: bytes, tasks: int = 3) -> None:
        self.launches = 0
        self.workspace = 0
        self.error = ""
        self.tasks = tasks
        self.questions = 0
        self.most_questions = -1
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "code.so"
        path.write_bytes(image)
        self._lib = ctypes.CDLL(str(path), mode=0x2)  # RTLD_NOW | RTLD_LOCAL
        self._libc = ctypes.CDLL(None)
        self._libc.aligned_alloc.restype = ctypes.c_void_p
        self._libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self._libc.free.argtypes = [ctypes.c_void_p]
        self._hooks = {
            "__TVMBackendParallelLaunch": _LAUNCH(self._launch),
            "__TVMBackendAllocWorkspace": _ALLOC(self._alloc),
            "__TVMBackendFreeWorkspace": _FREE(self._free),
            "__mrt_error_set_raised": _RAISE(self._raised),
            "__mrt_stopped": _STOPPED(self._stopped),
        }
        for name, hook in self._hooks.items():
            try:
                variable = ctypes.c_void_p.in_dll(self._lib, name)
            except ValueError:
                continue
            variable.value = ctypes.cast(hook, ctypes.c_void_p).value

    def call(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any], numbers: Sequence[int] = ()) -> int:
        """The function's return code; `outputs` (contiguous arrays) are written, `error` holds what it complained of."""
        tensors = [self._tensor(array) for array in (*inputs, *outputs)]
        args = (_Any * (len(tensors) + len(numbers)))()
        for i, (tensor, _) in enumerate(tensors):
            args[i].type_index = _DLTENSOR_PTR
            args[i].value = ctypes.addressof(tensor)
        for i, number in enumerate(numbers, len(tensors)):
            args[i].type_index = _INT
            args[i].value = number
        result = _Any()
        return int(getattr(self._lib, f"__tvm_ffi_{name}")(None, args, len(args), ctypes.byref(result)))

    def _tensor(self, array: Any) -> tuple[_DLTensor, Any]:
        assert array.flags["C_CONTIGUOUS"]
        shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
        code, bits = _CODES.get(array.dtype.kind, 4), array.dtype.itemsize * 8
        tensor = _DLTensor(array.ctypes.data, 1, 0, array.ndim, code, bits, 1, shape, None, 0)
        return tensor, (shape, array)

    def _launch(self, function: int, data: int, count: int) -> int:
        self.launches += 1
        number = count or self.tasks
        env = _Env(None, number)
        task = ctypes.cast(function, _TASK)
        return max(abs(task(i, ctypes.byref(env), data)) for i in range(number))

    def _alloc(self, kind: int, device: int, size: int, code: int, bits: int) -> int:
        self.workspace += 1
        pointer = self._libc.aligned_alloc(64, (size + 63) // 64 * 64 or 64)
        ctypes.memset(pointer, 0xAB, size)  # what a workspace holds is nobody's zero
        return int(pointer)

    def _free(self, kind: int, device: int, pointer: int) -> int:
        self._libc.free(pointer)
        return 0

    def _stopped(self) -> int:
        self.questions += 1
        return int(0 <= self.most_questions < self.questions)

    def _raised(self, kind: bytes, parts: Any, count: int) -> None:
        self.error = kind.decode() + ": " + b"".join(parts[i] for i in range(count)).decode()
