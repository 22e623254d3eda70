"""Reads a 64-bit little-endian ELF shared object: for which machine it is, what a code section needs and what it offers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["DynamicSymbols", "dynamic_symbols", "machine_of"]

_SHT_DYNSYM = 11
_MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine


@dataclass(frozen=True)
class DynamicSymbols:
    """Names in the dynamic symbol table."""

    undefined: frozenset[str]
    defined: frozenset[str]


def machine_of(image: bytes) -> str:
    """The processor that an object is for, as `uname -m` says it, or its number. Raises ValueError if it is no such ELF file."""
    if image[:6] != b"\x7fELF\x02\x01" or len(image) < 64:
        raise ValueError("not a 64-bit little-endian ELF file")
    (number,) = struct.unpack_from("<H", image, 18)
    return _MACHINES.get(number, f"machine {number}")


def dynamic_symbols(image: bytes) -> DynamicSymbols:
    """The dynamic symbols of a linked object (System V ABI, chapters 4 and 5). Raises ValueError if it is no such ELF file."""
    machine_of(image)
    section_offset, section_size, section_count = (
        struct.unpack_from("<Q", image, 40)[0],
        *struct.unpack_from("<HH", image, 58),
    )
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", image, section_offset + i * section_size) for i in range(section_count)
    ]
    undefined: set[str] = set()
    defined: set[str] = set()
    for _, kind, _, _, offset, size, link, _, _, entry in sections:
        if kind != _SHT_DYNSYM:
            continue
        strings = sections[link][4]
        for at in range(offset + entry, offset + size, entry):
            name_at, _, _, index = struct.unpack_from("<IBBH", image, at)
            begin = strings + name_at
            name = image[begin : image.index(b"\0", begin)].decode()
            if not name:  # a section's
                continue
            (undefined if index == 0 else defined).add(name)
    return DynamicSymbols(frozenset(undefined), frozenset(defined))
