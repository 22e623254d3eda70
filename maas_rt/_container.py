"""The file model.mrt: a header, a table of sections, the sections. csrc/artifact/FORMAT.md is its definition.

`write(sections)` yields the file's bytes piece by piece, without copying the weights; `save(path, sections)` puts them
into a file that appears whole or not at all; `read(file)` checks a file and gives its sections.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from maas_rt._errors import Error, FormatError, InvalidArgumentError
from maas_rt._whole_file import whole_file

MAGIC = b"\x89MRT\r\n\x1a\n"
FORMAT_VERSION = 1
MAX_SECTIONS = 256
ALIGNMENT = 64
WEIGHTS_ALIGNMENT = 65536
SMALL_WEIGHTS, SMALL_WEIGHTS_ALIGNMENT = 1 << 20, 4096  # fewer bytes, and where those begin
OPTIONAL_FLAG = 1
ENCRYPTED_FLAG = 2

_HEADER = struct.Struct("<8sIIQ32s8x")
_ENTRY = struct.Struct("<II32sQQ32s8x")
_PIECE = 1 << 20
_TABLE_HASH = slice(24, 56)

Buffer = bytes | bytearray | memoryview


class Stream(Protocol):
    """Data that is not in memory at once; its size and hash are known."""

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> bytes: ...

    def pieces(self) -> Iterable[bytes | memoryview]: ...


class SectionKind(IntEnum):
    MANIFEST = 1
    PLAN = 2
    WEIGHTS = 3
    CODE = 4
    SIGNATURE = 5
    OBJECT = 6
    DEVICE_SOURCE = 7
    ENCRYPTION = 8


@dataclass(frozen=True)
class Section:
    """A part of a file to be written.

    `data` is one buffer, several that follow each other, or a stream of such; flags bit 0: a reader that does not know the kind skips it.
    """

    kind: int
    data: Buffer | Sequence[Buffer] | Stream
    target: str = ""
    flags: int = 0

    def pieces(self) -> Iterator[memoryview]:
        """The data as flat byte views, nothing copied."""
        for part in self._parts():
            if memoryview(part).nbytes:
                yield memoryview(part).cast("B")

    def _parts(self) -> Iterable[Buffer]:
        data = self.data
        if isinstance(data, (bytes, bytearray, memoryview)):
            return [data]
        return data.pieces() if hasattr(data, "pieces") else data

    def measured(self) -> tuple[int, bytes]:
        """(bytes, SHA-256)."""
        if not isinstance(self.data, (bytes, bytearray, memoryview, Sequence)):
            return self.data.size, self.data.sha256
        digest, size = hashlib.sha256(), 0
        for piece in self.pieces():
            digest.update(piece)
            size += piece.nbytes
        return size, digest.digest()


@dataclass(frozen=True)
class StoredSection:
    """A part of a file that was read. `kind` is a SectionKind, or a plain number where a newer one may be skipped."""

    kind: int
    target: str
    flags: int
    offset: int
    size: int
    sha256: bytes
    data: memoryview

    @property
    def name(self) -> str:
        """The kind in words: "manifest", "device_source", "kind 99"."""
        return self.kind.name.lower() if isinstance(self.kind, SectionKind) else f"kind {self.kind}"

    @property
    def encrypted(self) -> bool:
        """Whether `data` is a ciphertext."""
        return bool(self.flags & ENCRYPTED_FLAG)

    def holds(self) -> bool:
        """Whether the data have the hash that the table says."""
        return hashlib.sha256(self.data).digest() == self.sha256


@dataclass(frozen=True)
class Container:
    """What `read` returns: the sections in the file's order, their data views of it; and the bytes that a signature is made over."""

    sections: tuple[StoredSection, ...]
    signed: bytes = b""

    def find(self, kind: int, target: str = "") -> StoredSection | None:
        """The first section of a kind (and target, where given), or None."""
        return next((s for s in self.sections if s.kind == kind and target in ("", s.target)), None)

    def section(self, kind: int, target: str = "") -> memoryview:
        """The data of a section that must be there; FormatError if it is not."""
        found = self.find(kind, target)
        if found is None:
            raise FormatError(f"the file has no section of kind {kind!r}{' for ' + target if target else ''}")
        return found.data


def write(sections: Iterable[Section], weights_at: int = 0) -> Iterator[bytes | memoryview]:
    """The bytes of a file with these sections, in this order, piece by piece: header and table, then data and gaps.

    The same sections give the same bytes. Weights are at `weights_at` if that is given, and there is room before it.

    Raises:
        InvalidArgumentError: sections that FORMAT.md does not allow beside each other, or a target of over 32 bytes.
    """
    parts = list(sections)
    table, offsets, total = _layout(parts, weights_at)
    yield _HEADER.pack(MAGIC, FORMAT_VERSION, len(parts), total, hashlib.sha256(table).digest()) + table
    at = _HEADER.size + len(table)
    for part, offset in zip(parts, offsets, strict=True):
        if offset > at:
            yield bytes(offset - at)
        at = offset
        for piece in part.pieces():
            yield piece
            at += piece.nbytes


def signed(sections: Iterable[Section], size: int, sign: Callable[[bytes], bytes]) -> list[Section]:
    """The sections and a signature over header and table, made by `sign`, which returns `size` bytes.

    What is signed is what the runtime gives to check_signature: bytes 0 to the end of the table, with the header's
    table hash and the signature's own hash as zeros.
    """
    parts = [*sections, Section(SectionKind.SIGNATURE, bytes(size))]
    table, _, total = _layout(parts)
    signature = sign(_signed_bytes(_HEADER.pack(MAGIC, FORMAT_VERSION, len(parts), total, bytes(32)) + table))
    if len(signature) != size:
        raise InvalidArgumentError(f"the signature has {len(signature)} bytes and was announced with {size}")
    return [*parts[:-1], Section(SectionKind.SIGNATURE, signature)]


def _signed_bytes(header_and_table: bytes | memoryview) -> bytes:
    """Those with what depends on the signature as zeros."""
    out = bytearray(header_and_table)
    out[_TABLE_HASH] = bytes(32)
    for at in range(_HEADER.size, len(out), _ENTRY.size):
        if _ENTRY.unpack_from(out, at)[0] == SectionKind.SIGNATURE:
            out[at + 56 : at + 88] = bytes(32)
    return bytes(out)


def bound_digest(entries: Iterable[tuple[int, int, str, int, bytes]]) -> bytes:
    """What every chunk of an encrypted file is bound to: magic, version, and the table's (kind, flags, target, stored size,
    SHA-256) but the signature's, with the hashes of what is encrypted as zeros."""
    digest = hashlib.sha256(_HEADER.pack(MAGIC, FORMAT_VERSION, 0, 0, bytes(32))[:12])
    for kind, flags, target, size, sha256 in entries:
        if kind != SectionKind.SIGNATURE:
            known = bytes(32) if flags & ENCRYPTED_FLAG else sha256
            digest.update(_ENTRY.pack(kind, flags, target.encode("utf-8"), 0, size, known))
    return digest.digest()


def _layout(parts: list[Section], weights_at: int = 0) -> tuple[bytes, list[int], int]:
    """The section table, where each section begins, and the file's size."""
    _check_kinds([(each.kind, each.target) for each in parts], InvalidArgumentError)
    at = _HEADER.size + _ENTRY.size * len(parts)
    table = bytearray()
    offsets: list[int] = []
    for part in parts:
        target = part.target.encode("utf-8")
        if len(target) > 32 or b"\0" in target:
            raise InvalidArgumentError(f"the section target {part.target!r} must be at most 32 bytes without NUL")
        size, digest = part.measured()
        at = _aligned(max(at, weights_at) if part.kind == SectionKind.WEIGHTS else at, _alignment(part.kind, size))
        offsets.append(at)
        table += _ENTRY.pack(part.kind, part.flags, target, at, size, digest)
        at += size
    return bytes(table), offsets, at


def save(path: str | os.PathLike[str], sections: Iterable[Section], mode: int = 0o666) -> None:
    """Writes the file beside its name and renames it into place; whatever happens, no half file is left. `mode` as of whole_file.

    Raises:
        Error: the file could not be written (no such folder, no space left, ...).
    """
    write_whole(path, write(sections), mode)


def write_whole(path: str | os.PathLike[str], pieces: Iterable[bytes | memoryview], mode: int = 0o666) -> None:
    """The same of any bytes, piece by piece."""
    with whole_file(path, mode) as file:
        for piece in pieces:
            file.write(piece)


def read(
    file: str | os.PathLike[str] | Buffer, *, verify_weights: bool = False, verify_sections: bool = True
) -> Container:
    """The sections of a file, whose data are views of the mapped file (or of the given buffer).

    Everything but the weights is hashed, or zero; the weights too if `verify_weights`, the table alone without `verify_sections`.

    Raises:
        FormatError: not a model.mrt, damaged, or made for a newer runtime.
        Error: the file cannot be read.
    """
    if isinstance(file, (bytes, bytearray, memoryview)):
        name, view = "the model in memory", memoryview(file).cast("B")
    else:
        name, view = str(file), _map(Path(file))
    if view.nbytes < _HEADER.size or bytes(view[:8]) != MAGIC:
        raise FormatError(f"{name} is not a model.mrt: it does not begin with the format's magic number")
    _, version, count, size, table_hash = _HEADER.unpack_from(view)
    if version > FORMAT_VERSION:
        raise FormatError(f"{name} has format {version} and this runtime reads up to {FORMAT_VERSION}: update maas-rt")
    if version < 1 or count > MAX_SECTIONS or any(view[56:64]):
        raise FormatError(f"{name} is damaged: its header holds impossible numbers")
    if size != view.nbytes:
        raise FormatError(f"{name} is truncated or damaged: its header says {size} bytes, and it has {view.nbytes}")
    end = _HEADER.size + _ENTRY.size * count
    if end > size or hashlib.sha256(view[_HEADER.size : end]).digest() != table_hash:
        raise FormatError(f"{name} is damaged: its section table does not have the hash that its header says")
    entries = [_ENTRY.unpack_from(view, _HEADER.size + _ENTRY.size * i) for i in range(count)]
    if any(any(view[at + 88 : at + 96]) for at in range(_HEADER.size, end, _ENTRY.size)):
        raise FormatError(f"{name} is damaged: reserved bytes of its section table are not zero")
    sections: list[StoredSection] = []
    for i, (kind, flags, target, offset, length, digest) in enumerate(entries):
        place = f"section {i} (kind {kind})"
        if offset < end or offset % _alignment(kind, length) or offset > size or length > size - offset:
            raise FormatError(f"{name} is damaged: {place} lies outside its place in the file")
        if not _is_zero(view[end:offset]):
            raise FormatError(f"{name} is damaged: the gap before {place} is not zero")
        end = offset + length
        data = view[offset:end]
        hashed = verify_sections and (kind != SectionKind.WEIGHTS or verify_weights)
        if hashed and hashlib.sha256(data).digest() != digest:
            raise FormatError(f"{name} is damaged: {place} does not have the hash that the table says")
        if kind not in SectionKind._value2member_map_ and not flags & OPTIONAL_FLAG:
            raise FormatError(f"{name} holds {place}, which this runtime does not know: update maas-rt")
        try:
            text = target.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{name} is damaged: the target of {place} is not UTF-8") from None
        if "\0" in text:
            raise FormatError(f"{name} is damaged: the target of {place} is not padded with zeros")
        known = SectionKind(kind) if kind in SectionKind._value2member_map_ else kind
        sections.append(StoredSection(known, text, flags, offset, length, digest, data))
    if not _is_zero(view[end:]):
        raise FormatError(f"{name} is damaged: what follows its last section is not zero")
    _check_kinds([(each.kind, each.target) for each in sections], FormatError)
    return Container(tuple(sections), _signed_bytes(view[: _HEADER.size + _ENTRY.size * count]))


class Table(NamedTuple):
    """What the head of a file says: the hash of its table, its size, and kind, target and size of each section."""

    hash: bytes
    size: int
    sections: tuple[tuple[int, str, int], ...]


def read_table(file: str | os.PathLike[str]) -> Table | None:
    """The table of a file; None where it cannot be read or is none. It is read, not mapped: a file that is cut meanwhile ends no process.
    Whether it is a good file, load says."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEADER.size + _ENTRY.size * MAX_SECTIONS)
    except OSError:
        return None
    if len(head) < _HEADER.size or head[:8] != MAGIC:
        return None
    _, _, count, size, table_hash = _HEADER.unpack_from(head)
    end = min(len(head), _HEADER.size + _ENTRY.size * count)
    entries = [_ENTRY.unpack_from(head, at) for at in range(_HEADER.size, end - _ENTRY.size + 1, _ENTRY.size)]
    sections = (
        (kind, target.rstrip(b"\0").decode("utf-8", "replace"), length) for kind, _, target, _, length, _ in entries
    )
    return Table(table_hash, size, tuple(sections))


def is_encrypted(file: str | os.PathLike[str]) -> bool:
    """Whether a file's table names an encryption section."""
    table = read_table(file)
    return table is not None and any(kind == SectionKind.ENCRYPTION for kind, _, _ in table.sections)


def _is_zero(view: memoryview) -> bool:
    """Whether all of it is, which may be as long as the file."""
    return all(view[at : at + _PIECE] == bytes(min(_PIECE, view.nbytes - at)) for at in range(0, view.nbytes, _PIECE))


def _alignment(kind: int, size: int) -> int:
    """Of where a section of `size` stored bytes begins."""
    if kind != SectionKind.WEIGHTS:
        return ALIGNMENT
    return WEIGHTS_ALIGNMENT if size >= SMALL_WEIGHTS else SMALL_WEIGHTS_ALIGNMENT


def _aligned(at: int, step: int) -> int:
    return (at + step - 1) // step * step


def _check_kinds(kinds: list[tuple[int, str]], error: type[Error]) -> None:
    """Manifest and plan exactly once, weights, signature and encryption at most once, code at most once per target."""
    if len(kinds) > MAX_SECTIONS:
        raise error(f"a model.mrt has at most {MAX_SECTIONS} sections, not {len(kinds)}")
    numbers = [kind for kind, _ in kinds]
    for kind in (SectionKind.MANIFEST, SectionKind.PLAN):
        if numbers.count(kind) != 1:
            raise error(f"a model.mrt has exactly one {kind.name.lower()} section, not {numbers.count(kind)}")
    for kind in (SectionKind.WEIGHTS, SectionKind.SIGNATURE, SectionKind.ENCRYPTION):
        if numbers.count(kind) > 1:
            raise error(f"a model.mrt has at most one {kind.name.lower()} section, not {numbers.count(kind)}")
    code = [target for kind, target in kinds if kind == SectionKind.CODE]
    if len(set(code)) != len(code):
        raise error(f"a model.mrt has one code section per target at most, and not {', '.join(sorted(code))}")


def _map(path: Path) -> memoryview:
    try:
        if path.is_dir():
            raise Error(f"{path} is a directory and must be a model.mrt file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{path} is not a model.mrt: it is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise Error(f"{path} could not be read: {error.strerror or error}") from error
