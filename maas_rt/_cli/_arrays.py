"""Arrays for commands: read and write .npz files."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidArgumentError
from .._model import Model, State

Arrays = dict[str, NDArray[np.generic]]


def read_npz(path: str) -> Arrays:
    """The arrays of an .npz file by name; a lone .npy is called "input". Pickled objects are refused."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise InvalidArgumentError(f"{path} is not a readable .npz or .npy file: write one with numpy.savez") from None
    if isinstance(loaded, np.ndarray):
        return {"input": loaded}
    with loaded:
        try:
            return {name: loaded[name] for name in loaded.files}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidArgumentError(f"{path} is damaged or holds objects that are no arrays: {error}") from None


def same_file(one: str, other: str) -> bool:
    """Whether two names lead to one place, be there a file or not."""
    return os.path.realpath(one) == os.path.realpath(other)


def of_model(arrays: Arrays, model: Model) -> Arrays:
    """Inputs read from a file as the model names them, a lone .npy's too, and has their elements."""
    if set(arrays) == {"input"} and len(model.inputs) == 1:
        arrays = {model.inputs[0].name: arrays["input"]}
    dtypes = {info.name: info.dtype for info in model.inputs}
    return {name: _typed(array, dtypes.get(name, "")) for name, array in arrays.items()}


def _typed(array: NDArray[np.generic], dtype: str) -> NDArray[np.generic]:
    """Elements that numpy alone does not know, as bfloat16, are nameless bytes in its files."""
    if array.dtype.kind != "V" or array.dtype.names is not None:
        return array
    try:
        known = np.dtype(dtype)
    except TypeError:
        try:
            import ml_dtypes
        except ModuleNotFoundError:
            return array
        known = np.dtype(getattr(ml_dtypes, dtype, "V"))
    return array.view(known) if known.itemsize == array.dtype.itemsize else array


def add_seed(parser: argparse.ArgumentParser) -> None:
    """The option --seed of a command that runs models."""
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the random numbers that the model draws, 0 to 2**64 - 1 (default: another one for each run)",
    )


def at_least_one(thing: str) -> Callable[[str], int]:
    """Reads an option's number of things."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is no {thing}; expected 1 or more")
        return int(text)

    return read


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m", "1h" or a plain number of seconds."""
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected one as 90s, 10m or 1h")
    return seconds


def parse_seconds(text: str) -> float:
    """Seconds of "5ms", "200us" or "0.2s"."""
    number = text.rstrip("usm")
    factor = {"s": 1.0, "ms": 1e-3, "us": 1e-6}.get(text[len(number) :], 0.0)
    try:
        seconds = float(number) * factor
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected one as 5ms, 200us or 0.2s")
    return seconds


def parse_size(text: str) -> int:
    """Bytes of "2MB", "500KB" (powers of 1000), "2MiB", "500KiB" (of 1024) or a plain number."""
    number = text.rstrip("KMGiB")
    factors = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    try:
        size = int(float(number) * factors.get(text[len(number) :], 0))
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected one as 2MB, 500KB or 2MiB")
    return size


def sized(n: int) -> str:
    """A number of bytes in words."""
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:.2f} GiB"


def pluralised(n: int, thing: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def parse_shape(text: str) -> tuple[str, tuple[int, ...], str | None]:
    """`name:1,3,224,224` or `name:1,128:int64` -> (name, shape, dtype or None)."""
    parts = text.rsplit(":", 2)
    dtype = None
    if len(parts) == 3 and not _is_shape(parts[2]):
        name, shape, dtype = parts
    else:
        name, _, shape = text.rpartition(":")
    if not name or not _is_shape(shape):
        raise InvalidArgumentError(f"{text!r} is not NAME:D0,D1,... (as x:1,3,224,224), optionally with :DTYPE")
    return name, tuple(int(d) for d in shape.split(",") if d), dtype


def _is_shape(text: str) -> bool:
    return all(part.strip().isdigit() for part in text.split(",")) or text == ""


def make_state(model: Model, path: str | None = None) -> State | None:
    """What a run of the model needs: None for most; for one that keeps states, the initial ones, or those of an .npz file."""
    if not model.states:
        return None
    state = model.state()
    arrays = read_npz(path) if path is not None else {}
    if path is not None and set(arrays) != set(state.keys()):
        raise InvalidArgumentError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}, expected the model's states {', '.join(state.keys())}"
        )
    for name, array in arrays.items():
        value = state[name]
        array = _typed(array, value.dtype.name)
        if array.shape != value.shape or array.dtype != value.dtype:
            raise InvalidArgumentError(
                f"{path}: state {name!r} is {array.dtype}{list(array.shape)}, expected {value.dtype}{list(value.shape)}"
            )
        value[...] = array
    return state
