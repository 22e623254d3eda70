"""The one boundary of the compiler: whatever goes wrong inside leaves it as a maas_rt.Error, the original behind it as its cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maas_rt._errors import CompileError, Error, MissingExtraError

from ._deep import heed

__all__ = ["boundary", "fault", "first_line"]


@contextmanager
def boundary(stage: str, operator: str = "") -> Iterator[None]:
    """What leaves the block is a maas_rt.Error, or no Exception at all (Ctrl-C); anything else is turned into one that names the
    stage and, where it is known, the operator. Also a decorator. An interrupt that waits is raised before it."""
    heed()
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise fault(error, stage, operator) from error


def fault(error: Exception, stage: str, operator: str = "") -> Error:
    """The project's own error for an exception that nobody foresaw."""
    where = f"stage '{stage}'" + (f" at {operator}" if operator else "")
    if isinstance(error, MemoryError):
        return CompileError(
            f"this machine's memory does not suffice for {where}: free some, or compile on a machine that has more"
        )
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "maas_rt":
        return MissingExtraError("maas_rt.compiler", "compiler", error.name)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return CompileError(f"{where} failed: {place}{error.strerror}")
    return CompileError(
        f"{where} failed ({type(error).__name__}: {first_line(error)}): this is a fault of maas_rt, please report it with the model"
    )


def first_line(error: BaseException, length: int = 200) -> str:
    """What an exception says, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= length else text[:length].rstrip() + " ..."
