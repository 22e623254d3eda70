"""Options of load that both bindings check alike."""

from __future__ import annotations

from maas_rt._errors import InvalidArgumentError

__all__ = ["check_resident"]


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
