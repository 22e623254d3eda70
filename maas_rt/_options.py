"""Options of load that both bindings check alike."""

from __future__ import annotations

from maas_rt._errors import InvalidArgumentError

__all__ = ["check_choices", "check_resident"]

_CODE = ("allow", "signed", "refuse")
_VERIFY = ("default", "full")


def check_choices(code: object, verify: object, check_signature: object, copy: object) -> None:
    """Those that are one of few, or of one type."""
    if code not in _CODE:
        raise InvalidArgumentError(f"code is {code!r} and must be 'allow', 'signed' or 'refuse'")
    if verify not in _VERIFY:
        raise InvalidArgumentError(f"verify is {verify!r} and must be 'default' or 'full'")
    if check_signature is not None and not callable(check_signature):
        raise InvalidArgumentError(f"check_signature is {check_signature!r} and must be a function, or None")
    if not isinstance(copy, bool):
        raise InvalidArgumentError(f"copy is {copy!r} and must be True or False")


def check_resident(resident: int | None, copied: bool) -> int:
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
