"""Programs: opened from a file or from bytes, and sent to other processes by path or as bytes."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import maas_rt._native as _native
from maas_rt._errors import Error, FormatError, InvalidArgumentError, ModelNotFoundError

Checker = Callable[[bytes, bytes], bool]

_HEADER_BYTES = 64
_TABLE_HASH = slice(24, 56)  # FORMAT.md: it covers the hashes of all sections, the weights' among them


@dataclass(frozen=True)
class Source:
    """Where a program came from, and how it was opened. `path` is None for one that came as bytes."""

    path: str | None
    identity: bytes
    code: str
    verify: str
    check_signature: Checker | None
    copy: bool
    resident: int


# What this process opened first of each source and still uses, so that a model and its states that arrive one by one fit
# together.
_open_programs: weakref.WeakValueDictionary[Source, _native.Program] = weakref.WeakValueDictionary()


def open_file(
    path: str, code: str, verify: str, check_signature: Checker | None, copy: bool, resident: int
) -> _native.Program:
    """Opens a file; ModelNotFoundError where there is none."""
    try:
        program = _native.Program.load_file(os.fsencode(path), code, verify, check_signature, copy, resident)
    except Error as error:
        if error.status == "MRT_ERROR_IO" and not os.path.exists(path):
            raise ModelNotFoundError(path) from None
        raise
    with open(path, "rb") as file:
        identity = file.read(_HEADER_BYTES)[_TABLE_HASH]
    source = Source(os.path.abspath(path), identity, code, verify, check_signature, copy, resident)
    return _remember(program, source)


def open_bytes(
    data: bytes | bytearray | memoryview, code: str, verify: str, check_signature: Checker | None
) -> _native.Program:
    """Opens the bytes of a file; they are copied."""
    program = _native.Program.load_bytes(data, code, verify, check_signature)
    identity = bytes(memoryview(data).cast("B")[_TABLE_HASH])
    return _remember(program, Source(None, identity, code, verify, check_signature, True, 0))


def _remember(program: _native.Program, source: Source) -> _native.Program:
    program.source = source
    _open_programs.setdefault(source, program)
    return program


def reduce_program(program: _native.Program) -> tuple[Any, ...]:
    """How pickle sends a program: the path of its file, or else its bytes."""
    source: Source = program.source
    return _receive, (source, program.data() if source.path is None else None)


def _receive(source: Source, data: bytes | None) -> _native.Program:
    found = _open_programs.get(source)
    if found is not None:
        return found
    if source.path is None:
        assert data is not None
        return open_bytes(data, source.code, source.verify, source.check_signature)
    program = open_file(source.path, source.code, source.verify, source.check_signature, source.copy, source.resident)
    if program.source.identity != source.identity:
        raise FormatError(
            f"{source.path!r} is another file now than when the model was loaded that was sent here by its path: load "
            "it again, or load it as bytes, which are sent themselves"
        )
    return program


def reduce_state(state: _native.State) -> tuple[Any, ...]:
    """How pickle sends a state: its program, and its values by name."""
    return restore_state, (state.program, state_values(state))


def state_values(state: _native.State) -> dict[str, Any]:
    """Copies of a state's values, by name."""
    names = state.keys()
    return {name: state[name].copy() for name in names}


def set_state_value(state: _native.State, name: str, value: Any) -> None:
    """`state[name] = value`: exactly its shape and dtype."""
    view, given = state[name], np.asarray(value)
    if given.shape != view.shape or given.dtype != view.dtype:
        raise InvalidArgumentError(
            f"state {name!r} is {view.dtype}{list(view.shape)} and cannot be set to a value that is "
            f"{given.dtype}{list(given.shape)}"
        )
    view[...] = given


def restore_state(program: _native.Program, values: dict[str, Any]) -> _native.State:
    """A state of the program that holds these values."""
    state = _native.State(program)
    for name, value in values.items():
        state[name][...] = value
    return state
