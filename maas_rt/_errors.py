"""Every exception that maas_rt raises on purpose.

    Error(RuntimeError)
     ├─ InvalidArgumentError(Error, ValueError)        a shape, dtype, name or option is wrong
     ├─ FormatError                                    not a model.mrt, damaged, newer, written to while it was mapped
     ├─ ModelNotFoundError(Error, FileNotFoundError)   there is no file of that name
     ├─ TargetError                                    this CPU lacks what the file needs
     ├─ CodeRefusedError                               the file holds code and code="refuse"
     ├─ SignatureError                                 the signature is missing or was not accepted
     ├─ DecryptionError                                the file is encrypted, and no key was given or none that opens it
     ├─ CancelledError                                 cancelled before it was complete
     ├─ DeadlineExceededError(Error, TimeoutError)     the deadline passed before it was complete
     ├─ MissingExtraError(Error, ImportError)          an optional dependency is missing; says the pip line
     └─ CompileError                                   raised by maas_rt.compiler
         ├─ UnsupportedOperatorError                   .operators: all of them
         ├─ CheckpointError                            .missing, .surplus, .misshapen
         ├─ ImportModelError                           the source file is broken, hostile or not understood
         │   └─ SourceNotFoundError(ImportModelError, FileNotFoundError)   there is no such file
         └─ VerificationError                          .operator, .relative_error

Each message is one sentence: what was wrong, where, what was expected, what to do. What the native library reports
carries its status name in `.status`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import NamedTuple


class Error(RuntimeError):
    """The root. `status` is the C API's name of the failure, as "MRT_ERROR_SHAPE"; None where Python found it."""

    status: str | None = None


class InvalidArgumentError(Error, ValueError):
    """A shape, dtype, name or option is not what the model or the function accepts."""


class FormatError(Error):
    """The file is not a model.mrt that this runtime reads: foreign, damaged, or of a newer format."""


class ModelNotFoundError(Error, FileNotFoundError):
    """There is no file of that name; `filename` holds it."""

    def __init__(self, filename: str, what: str = "a model.mrt file") -> None:
        super().__init__(f"{filename!r} does not exist: give the path of {what}")
        self.errno = errno.ENOENT
        self.filename = filename

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[ModelNotFoundError], tuple[str]]:
        return type(self), (str(self.filename),)


class TargetError(Error):
    """This CPU or operating system lacks what the file was compiled for."""


class CodeRefusedError(Error):
    """The file holds code and the load options refuse it."""


class SignatureError(Error):
    """The signature is missing or was not accepted."""


class DecryptionError(Error):
    """The file is encrypted, and no key was given or none that opens it."""


class CancelledError(Error):
    """The run was cancelled before it was complete."""


class DeadlineExceededError(Error, TimeoutError):
    """The deadline passed before the run was complete."""


class MissingExtraError(Error, ImportError):
    """An optional dependency is not installed; the message holds the pip line that installs it.

    Args:
        what: the thing that needs it, as "maas_rt.capi".
        extra: the extra's name in pyproject.toml, as "capi".
        module: the module that could not be imported.
    """

    def __init__(self, what: str, extra: str, module: str) -> None:
        super().__init__(f"{what} needs {module}, which is not installed: run `pip install 'maas-rt[{extra}]'`")
        self.extra = extra
        self.name = module


class CompileError(Error):
    """A model could not be compiled."""


class UnsupportedOperator(NamedTuple):
    """One operator that a compile has no conversion for: its name, where it is first used, how often it is used."""

    name: str
    place: str
    uses: int


class UnsupportedOperatorError(CompileError):
    """The model uses operators that are not supported; `operators` holds all of them."""

    def __init__(self, message: str, operators: Iterable[tuple[str, str, int]] = ()) -> None:
        super().__init__(message)
        self.operators: tuple[UnsupportedOperator, ...] = tuple(UnsupportedOperator(*each) for each in operators)


class CheckpointError(CompileError):
    """A checkpoint does not fit the model: names that are missing, surplus, or of another shape."""

    def __init__(
        self,
        message: str,
        missing: Iterable[str] = (),
        surplus: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.missing: tuple[str, ...] = tuple(missing)
        self.surplus: tuple[str, ...] = tuple(surplus)
        self.misshapen: tuple[str, ...] = tuple(misshapen)


class ImportModelError(CompileError):
    """The source model is broken, hostile, or not understood."""


class SourceNotFoundError(ImportModelError, FileNotFoundError):
    """There is no file of the model that was to be compiled; `filename` holds its name."""

    def __init__(self, filename: str) -> None:
        super().__init__(f"there is no file {filename}: give the path of a model")
        self.errno = errno.ENOENT
        self.filename = filename

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[SourceNotFoundError], tuple[str]]:
        return type(self), (str(self.filename),)


class VerificationError(CompileError):
    """The artifact computes something else than the source framework; nothing was written.

    `operator` is the first operator whose result differs ("" if it could not be found), `relative_error` the worst
    element's error against the output's scale.
    """

    def __init__(self, message: str, operator: str = "", relative_error: float = float("nan")) -> None:
        super().__init__(message)
        self.operator = operator
        self.relative_error = relative_error


_BY_STATUS: dict[str, type[Error]] = {
    "MRT_ERROR_INVALID_ARGUMENT": InvalidArgumentError,
    "MRT_ERROR_SHAPE": InvalidArgumentError,
    "MRT_ERROR_DTYPE": InvalidArgumentError,
    "MRT_ERROR_CAPACITY": InvalidArgumentError,
    "MRT_ERROR_NO_STATE": InvalidArgumentError,
    "MRT_ERROR_FORMAT": FormatError,
    "MRT_ERROR_VERSION": FormatError,
    "MRT_ERROR_HASH": FormatError,
    "MRT_ERROR_CHANGED": FormatError,
    "MRT_ERROR_CODE_REFUSED": CodeRefusedError,
    "MRT_ERROR_SIGNATURE": SignatureError,
    "MRT_ERROR_KEY": DecryptionError,
    "MRT_ERROR_TARGET": TargetError,
    "MRT_ERROR_CANCELLED": CancelledError,
    "MRT_ERROR_DEADLINE": DeadlineExceededError,
}


def from_status(status: str, message: str) -> Error:
    """The exception for a status name of the C API, as "MRT_ERROR_SHAPE", and its sentence."""
    error = _BY_STATUS.get(status, Error)(message)
    error.status = status
    return error
