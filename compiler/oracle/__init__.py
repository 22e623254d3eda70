"""The frameworks that a model is held against, in a process of their own: what they do there harms nobody here.

A framework may end its process (ONNX Runtime does, on an LSTM of batch 0), take all memory, or never return. So a worker process,
one for each thread that asks at the same time, runs them, and answers with arrays over a socket:

    _wire.py      what goes over the socket: JSON and the bytes of arrays, never a pickle
    _sessions.py  the implementations: ONNX Runtime, ONNX's own reference
    _inference.py ONNX's inference of types, for nodes of which only it knows what is wrong
    _worker.py    the worker's main: its limits, and the loop that answers
    _process.py   this side: start, ask, kill, and in words how a worker ended

Nothing here imports torch or TVM: the worker starts in half a second, and is kept from one model to the next.
"""

from __future__ import annotations

from ._process import Oracle, OracleEndedError, OracleError, infer_types, start_worker

__all__ = ["Oracle", "OracleEndedError", "OracleError", "infer_types", "start_worker"]
