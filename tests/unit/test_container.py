"""The container: alignment, determinism, and a reader that trusts nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from pathlib import Path

import pytest

from maas_rt import Error, FormatError, InvalidArgumentError, _container
from maas_rt._container import Section, SectionKind

SECTIONS = [
    Section(SectionKind.MANIFEST, b"{}"),
    Section(SectionKind.PLAN, b"plan"),
    Section(SectionKind.CODE, [b"co", bytearray(b"de")], "x86-64-v3"),
    Section(SectionKind.WEIGHTS, memoryview(b"w" * 100)),
]
DATA = b"".join(_container.write(SECTIONS))


def test_what_is_written_is_read() -> None:
    read = _container.read(DATA, verify_weights=True)
    assert [(s.kind, s.target, bytes(s.data)) for s in read.sections] == [
        (SectionKind.MANIFEST, "", b"{}"),
        (SectionKind.PLAN, "", b"plan"),
        (SectionKind.CODE, "x86-64-v3", b"code"),
        (SectionKind.WEIGHTS, "", b"w" * 100),
    ]
    assert bytes(read.section(SectionKind.CODE, "x86-64-v3")) == b"code"
    assert read.find(SectionKind.SIGNATURE) is None
    with pytest.raises(FormatError, match="no section"):
        read.section(SectionKind.SIGNATURE)


def test_sections_are_aligned_and_gaps_are_zero() -> None:
    read = _container.read(DATA)
    assert [s.offset % 64 for s in read.sections] == [0, 0, 0, 0]
    assert read.sections[-1].offset == 4096
    end = 64 + 96 * 4
    for section in read.sections:
        assert not any(DATA[end : section.offset])
        end = section.offset + section.size
    assert end == len(DATA)


@pytest.mark.parametrize(
    ("size", "step"), [(0, 4096), (1, 4096), (2**20 - 1, 4096), (2**20, 65536), (2**20 + 1, 65536)]
)
def test_weights_begin_on_pages_that_large_ones_have_alone(size: int, step: int) -> None:
    sections = [*SECTIONS[:3], Section(SectionKind.WEIGHTS, bytes(size))]
    assert _container.read(b"".join(_container.write(sections))).sections[-1].offset == step


@pytest.mark.parametrize(
    ("size", "offset", "good"), [(100, 65536, True), (100, 8192, True), (100, 4160, False), (2**20, 8192, False)]
)
def test_weights_off_their_pages_are_refused(size: int, offset: int, good: bool) -> None:
    """Those of files from when all began on 64 KiB are where they may be."""
    data = bytearray(b"".join(_container.write([*SECTIONS[:3], Section(SectionKind.WEIGHTS, bytes(size))], 65536)))
    del data[offset:65536]
    struct.pack_into("<Q", data, 64 + 96 * 3 + 40, offset)
    struct.pack_into("<Q", data, 16, len(data))
    if good:
        assert _container.read(resealed(data), verify_weights=True).sections[-1].offset == offset
    else:
        with pytest.raises(FormatError, match="place"):
            _container.read(resealed(data))


def test_the_same_sections_give_the_same_bytes() -> None:
    assert b"".join(_container.write(SECTIONS)) == DATA


def test_save_and_read_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.mrt"
    _container.save(path, SECTIONS)
    assert path.read_bytes() == DATA
    assert os.listdir(tmp_path) == ["m.mrt"]
    assert bytes(_container.read(path).section(SectionKind.PLAN)) == b"plan"


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.mrt"
    path.write_bytes(b"old")

    class Interrupted(Section):
        calls = 0

        def pieces(self) -> list[memoryview]:
            Interrupted.calls += 1
            if Interrupted.calls > 1:  # hashed, then fails while it is written
                raise KeyboardInterrupt
            return super().pieces()

    with pytest.raises(KeyboardInterrupt):
        _container.save(path, [*SECTIONS[:3], Interrupted(SectionKind.WEIGHTS, b"w")])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.mrt"]


def test_places_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(Error, match="is a directory"):
        _container.save(tmp_path, SECTIONS)
    with pytest.raises(Error, match="No such file or directory"):
        _container.save(tmp_path / "absent" / "m.mrt", SECTIONS)
    with pytest.raises(Error, match="is a directory"):
        _container.read(tmp_path)
    with pytest.raises(Error, match="No such file or directory"):
        _container.read(tmp_path / "absent.mrt")
    (tmp_path / "empty.mrt").touch()
    with pytest.raises(FormatError, match="empty"):
        _container.read(tmp_path / "empty.mrt")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Error, match=r"m\.mrt could not be written: No space left on device"):
        _container.save(tmp_path / "m.mrt", SECTIONS)
    assert os.listdir(tmp_path) == []


def test_every_truncation_is_refused() -> None:
    for n in [*range(500), *range(500, len(DATA), 997), len(DATA) - 1]:
        with pytest.raises(FormatError):
            _container.read(DATA[:n])


def test_every_flipped_byte_is_refused() -> None:
    """Each is under a hash or has to be zero: those of the table, the sections, the gaps, and what follows the last section."""
    damaged = bytearray(DATA) + bytes(10)
    struct.pack_into("<Q", damaged, 16, len(damaged))
    assert len(_container.read(damaged, verify_weights=True).sections) == 4
    for at in range(len(damaged)):
        damaged[at] ^= 0x40
        with pytest.raises(FormatError):
            _container.read(damaged, verify_weights=True)
        damaged[at] ^= 0x40
    assert _container.read(damaged, verify_weights=True).signed


def test_padding_of_the_table_is_zero() -> None:
    for at, said in ((64 + 88, "reserved bytes"), (64 + 96 * 2 + 39, "is not padded with zeros")):
        damaged = bytearray(DATA)
        damaged[at] = 1
        with pytest.raises(FormatError, match=said):
            _container.read(resealed(damaged))


def test_damaged_weights_are_found_on_request_only() -> None:
    damaged = bytearray(DATA)
    damaged[-1] ^= 1
    assert _container.read(damaged).find(SectionKind.WEIGHTS) is not None
    with pytest.raises(FormatError, match="hash"):
        _container.read(damaged, verify_weights=True)


def resealed(data: bytearray) -> bytes:
    """With the table's hash made right again, as an attacker would."""
    count = struct.unpack_from("<I", data, 12)[0]
    data[24:56] = hashlib.sha256(data[64 : 64 + 96 * count]).digest()
    return bytes(data)


@pytest.mark.parametrize("offset", [0, 64, 65, 2**40, 2**64 - 64])
def test_sections_outside_their_place_are_refused(offset: int) -> None:
    data = bytearray(DATA)
    struct.pack_into("<Q", data, 64 + 96 + 40, offset)
    with pytest.raises(FormatError, match="place"):
        _container.read(resealed(data))


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, len(DATA)])
def test_sections_that_leave_the_file_are_refused(size: int) -> None:
    data = bytearray(DATA)
    struct.pack_into("<Q", data, 64 + 96 * 3 + 48, size)
    with pytest.raises(FormatError, match="place"):
        _container.read(resealed(data))


def test_newer_formats_and_unknown_kinds_are_refused_by_name() -> None:
    data = bytearray(DATA)
    struct.pack_into("<I", data, 8, 2)
    with pytest.raises(FormatError, match="format 2"):
        _container.read(data)
    unknown = b"".join(_container.write([*SECTIONS, Section(99, b"new")]))
    with pytest.raises(FormatError, match="kind 99"):
        _container.read(unknown)
    skippable = b"".join(_container.write([*SECTIONS, Section(99, b"new", flags=_container.OPTIONAL_FLAG)]))
    assert len(_container.read(skippable).sections) == 5


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (SECTIONS[1:], "exactly one manifest"),
        ([*SECTIONS, SECTIONS[1]], "exactly one plan"),
        ([*SECTIONS, SECTIONS[3]], "at most one weights"),
        ([*SECTIONS, SECTIONS[2]], "one code section per target"),
        ([*SECTIONS, Section(SectionKind.CODE, b"", "x" * 33)], "at most 32 bytes"),
        ([SECTIONS[0]] * 257, "at most 256 sections"),
    ],
)
def test_sections_that_do_not_go_together_are_refused(sections: list[Section], sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        list(_container.write(sections))
