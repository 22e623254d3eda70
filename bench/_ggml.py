"""llama.cpp's q4_0 product through ggml's C interface, from the extension module of xllamacpp, which exports it (a build for AVX2)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._environments import python

_F32, _Q4_0 = 0, 2  # ggml_type
_POINTERS = (
    "ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_backend_cpu_buffer_type",
    "ggml_backend_alloc_ctx_tensors_from_buft", "ggml_backend_cpu_init", "_Z35ggml_backend_cpu_repack_buffer_typev",
)  # fmt: skip
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


class _Parameters(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


@cache
def _library() -> Any:
    (path,) = Path(python("llama_cpp")).parent.parent.glob("lib/python*/site-packages/xllamacpp/xllamacpp.abi3.so")
    library = ctypes.CDLL(str(path))
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_log_set(_QUIET, None)
    return library


def _pointer(value: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(value if isinstance(value, int) else value.ctypes.data)


class Products:
    """y [m, n] = x · w of q4_0 weights, one thread, on each of several copies of them in turn. `repacked`: stored as its own loader of models
    stores them for this CPU."""

    def __init__(self, x: NDArray[np.float32], w: NDArray[np.float32], copies: int, repacked: bool) -> None:
        self._ggml = _library()
        (m, k), n = x.shape, w.shape[1]
        self._shape = (m, n)
        self._backend = _pointer(self._ggml.ggml_backend_cpu_init())
        self._ggml.ggml_backend_cpu_set_n_threads(self._backend, 1)
        kind = (
            self._ggml._Z35ggml_backend_cpu_repack_buffer_typev if repacked else self._ggml.ggml_backend_cpu_buffer_type
        )
        weights = self._context()
        tensors = [self._tensor(weights, _Q4_0, k, n) for _ in range(copies)]
        self._ggml.ggml_backend_alloc_ctx_tensors_from_buft(weights, _pointer(kind()))
        rows, packed = np.ascontiguousarray(w.T), np.empty(n * k // 32 * 18, np.uint8)
        self._ggml.ggml_quantize_chunk(_Q4_0, _pointer(rows), _pointer(packed), *map(ctypes.c_int64, (0, n, k)), None)
        for tensor in tensors:
            self._set(tensor, packed)
        rest = self._context()
        a = self._tensor(rest, _F32, k, m)
        self._results = [_pointer(self._ggml.ggml_mul_mat(rest, tensor, a)) for tensor in tensors]
        self._graphs = []
        for result in self._results:
            self._graphs.append(_pointer(self._ggml.ggml_new_graph(rest)))
            self._ggml.ggml_build_forward_expand(self._graphs[-1], result)
        self._ggml.ggml_backend_alloc_ctx_tensors_from_buft(rest, _pointer(self._ggml.ggml_backend_cpu_buffer_type()))
        self._set(a, np.ascontiguousarray(x))

    def runs(self) -> list[Callable[[], Any]]:
        """One for each copy."""
        compute = self._ggml.ggml_backend_graph_compute
        return [lambda graph=graph: compute(self._backend, graph) for graph in self._graphs]  # type: ignore[misc]

    def result(self, copy: int) -> NDArray[np.float32]:
        y = np.empty(self._shape, np.float32)
        self._ggml.ggml_backend_tensor_get(
            self._results[copy], _pointer(y), ctypes.c_size_t(0), ctypes.c_size_t(y.nbytes)
        )
        return y

    def _context(self) -> ctypes.c_void_p:
        return _pointer(self._ggml.ggml_init(_Parameters(64 << 20, None, True)))

    def _tensor(self, context: ctypes.c_void_p, kind: int, *extents: int) -> ctypes.c_void_p:
        return _pointer(self._ggml.ggml_new_tensor_2d(context, kind, *map(ctypes.c_int64, extents)))

    def _set(self, tensor: ctypes.c_void_p, data: NDArray[Any]) -> None:
        self._ggml.ggml_backend_tensor_set(tensor, _pointer(data), ctypes.c_size_t(0), ctypes.c_size_t(data.nbytes))
