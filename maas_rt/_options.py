"""Options of load that both bindings check alike, and what the library asks of them while it loads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from maas_rt._errors import Error, InvalidArgumentError

__all__ = ["LoadOptions", "asked", "checked_options"]

_CODE = ("allow", "signed", "refuse")
_VERIFY = ("default", "full")


@dataclass(frozen=True)
class LoadOptions:
    """How a file is opened; what `load` says of each holds. Keys are tuples, of what another process can read, too."""

    code: str = "allow"
    verify: str = "default"
    check_signature: Callable[[bytes, bytes], bool] | None = None
    require_signature: Any = None
    key: Any = field(default=None, hash=False, repr=False)
    lock: bool = True
    copy: bool = False
    resident: int = 0


def checked_options(
    *,
    mapped: bool,
    code: str,
    verify: str,
    check_signature: Callable[[bytes, bytes], bool] | None = None,
    require_signature: Any,
    key: Any,
    lock: bool,
    copy: bool,
    resident: int | None,
) -> LoadOptions:
    """The options of a load; `mapped`: of a file that is mapped unless it is copied.

    Raises:
        InvalidArgumentError: one is none that there is, or two contradict each other.
        MissingExtraError: a key is given, and the extra `trust` is not installed.
    """
    if code not in _CODE:
        raise InvalidArgumentError(f"code is {code!r} and must be 'allow', 'signed' or 'refuse'")
    if verify not in _VERIFY:
        raise InvalidArgumentError(f"verify is {verify!r} and must be 'default' or 'full'")
    if check_signature is not None and not callable(check_signature):
        raise InvalidArgumentError(f"check_signature is {check_signature!r} and must be a function, or None")
    for name, given in (("copy", copy), ("lock", lock)):
        if not isinstance(given, bool):
            raise InvalidArgumentError(f"{name} is {given!r} and must be True or False")
    kept = _check_resident(resident, copy or not mapped)
    if require_signature is not None:
        if check_signature is not None:
            raise InvalidArgumentError("require_signature and check_signature are both given: one decides")
        from maas_rt.trust._keys import portable

        require_signature = portable(require_signature)
    if key is not None:
        from maas_rt.trust._providers import as_providers

        key = as_providers(key)
    return LoadOptions(code, verify, check_signature, require_signature, key, lock, copy, kept)


@contextlib.contextmanager
def asked(name: str, options: LoadOptions) -> Iterator[tuple[Callable[[bytes, bytes], bool] | None, Any]]:
    """What the library asks while it loads: a check of the signature, and an opener of what is encrypted; each None where
    there is nothing to ask. Where they refuse, their reason is the error's."""
    check: Any = options.check_signature
    opener: Any = None
    if options.require_signature is not None:
        from maas_rt.trust._signature import Checker

        check = Checker(options.require_signature)
    if options.key is not None:
        from maas_rt.trust._encryption import Opener

        opener = Opener(options.key)
    try:
        yield check, opener
    except Error as error:
        reason = None
        if error.status == "MRT_ERROR_SIGNATURE":
            reason = getattr(check, "refused", None)
        if error.status == "MRT_ERROR_KEY":
            reason = getattr(opener, "failed", None)
        if reason is None:
            raise
        refusal = type(reason)(f"{name} is refused: {reason}")
        refusal.status = error.status
        raise refusal from None


def _check_resident(resident: int | None, copied: bool) -> int:
    """The bytes of a mapped file's weights that may stay in memory, 0 for any; `copied`: the file is not mapped."""
    if resident is None:
        return 0
    if isinstance(resident, bool) or not isinstance(resident, int) or not 0 < resident < 2**63:
        raise InvalidArgumentError(f"resident is {resident!r} and must be a number of bytes above 0, or None")
    if copied:
        raise InvalidArgumentError(
            "resident is for a mapped file, whose pages can be fetched again: load a path, without copy"
        )
    return resident
