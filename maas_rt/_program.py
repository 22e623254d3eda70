"""Programs: opened from a file or from bytes, and sent to other processes by path or as bytes."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import maas_rt._native as _native
from maas_rt._errors import Error, FormatError, InvalidArgumentError, ModelNotFoundError
from maas_rt._options import LoadOptions, asked

_HEADER_BYTES = 64
_IN_MEMORY = "'(memory)'"  # what the library calls a file that has no name
_TABLE_HASH = slice(24, 56)  # FORMAT.md: it covers the hashes of all sections, the weights' among them


@dataclass(frozen=True)
class Source:
    """Where a program came from, and how it was opened. `path` is None for one that came as bytes."""

    path: str | None
    identity: bytes
    options: LoadOptions


# What this process opened first of each source and still uses, so that a model and its states that arrive one by one fit
# together.
_open_programs: weakref.WeakValueDictionary[Source, _native.Program] = weakref.WeakValueDictionary()


def open_file(path: str, options: LoadOptions) -> _native.Program:
    """Opens a file; ModelNotFoundError where there is none."""
    name = os.fsencode(path)
    with asked(path, options) as (check, opener):
        try:
            program = _native.Program.load_file(
                name, options.code, options.verify, check, opener, options.lock, options.copy, options.resident
            )
        except Error as error:
            if error.status == "MRT_ERROR_IO" and not os.path.exists(path):
                raise ModelNotFoundError(path) from None
            raise
    with open(path, "rb") as file:
        identity = file.read(_HEADER_BYTES)[_TABLE_HASH]
    return _remember(program, Source(os.path.abspath(path), identity, options))


def open_bytes(data: bytes | bytearray | memoryview, options: LoadOptions) -> _native.Program:
    """Opens the bytes of a file; they are copied."""
    with asked("the model in memory", options) as (check, opener):
        program = _native.Program.load_bytes(data, options.code, options.verify, check, opener, options.lock)
    identity = bytes(memoryview(data).cast("B")[_TABLE_HASH])
    return _remember(program, Source(None, identity, replace(options, copy=True, resident=0)))


def open_sealed(descriptor: int, name: str, options: LoadOptions) -> _native.Program:
    """Opens a file in memory that nobody can change (sealed); it is mapped, not copied. `name`: for errors."""
    with asked(name, options) as (check, opener):
        try:
            program = _native.Program.load_sealed(descriptor, options.code, options.verify, check, opener, options.lock)
        except Error as error:
            if _IN_MEMORY not in str(error):
                raise
            named = type(error)(str(error).replace(_IN_MEMORY, repr(name)))
            named.status = error.status
            raise named from None
    identity = os.pread(descriptor, _HEADER_BYTES, 0)[_TABLE_HASH]
    return _remember(program, Source(None, identity, replace(options, copy=True, resident=0)))


def _remember(program: _native.Program, source: Source) -> _native.Program:
    program.source = source
    _open_programs.setdefault(source, program)
    return program


def reduce_program(program: _native.Program) -> tuple[Any, ...]:
    """How pickle sends a program: the path of its file, or else its bytes. A key is not sent, only where it lies."""
    source: Source = program.source
    if source.options.key is not None:
        from maas_rt.trust._providers import is_secret

        if is_secret(source.options.key):
            raise InvalidArgumentError(
                "a model that was decrypted with a key in memory cannot be sent to another process, for its key would go "
                "with it: load it with the name of the key's file, 'env:NAME' or 'command:LINE'"
            )
    return _receive, (source, program.data() if source.path is None else None)


def _receive(source: Source, data: bytes | None) -> _native.Program:
    found = _open_programs.get(source)
    if found is not None:
        return found
    if source.path is None:
        assert data is not None
        return open_bytes(data, source.options)
    program = open_file(source.path, source.options)
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
