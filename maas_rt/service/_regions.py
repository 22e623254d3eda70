"""Regions of system shared memory that clients have registered, and the bytes in them.

A client on this machine makes an object of POSIX shared memory, registers a part of it as a region, and then says where its tensors lie instead of
sending them. Objects are read and written as files and never mapped: one that its client makes smaller while it is mapped ends the
process (SIGBUS), and what was copied does not change while it is checked.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._errors import Kind, ServiceError, bad_request, shown
from ._shelf import Shelf

OFF = "that is off: start the server with --shared-memory, or send the data of tensors"
KEY_PATTERN = r"^/?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
LONGEST_NAME = 256  # characters of a region's
MOST_BYTES = 2**63 - 1
_FOLDER = "/dev/shm"  # where Linux keeps what shm_open opens
_LONGEST_KEY = 255  # bytes, without the slash before it: as long as the name of a file may be
_KEY = re.compile(KEY_PATTERN)
_READ_WRITE_GROUP = stat.S_IRGRP | stat.S_IWGRP
_READ_WRITE_OTHERS = stat.S_IROTH | stat.S_IWOTH
_BLOCK = 512  # bytes that st_blocks counts
_PIECE = 1 << 30  # bytes of one call: Linux moves at most 2 GiB


class Region:
    """`size` bytes of an object, from `offset` on. The object stays open as long as somebody has the region."""

    def __init__(self, name: str, key: str, offset: int, size: int, descriptor: int, file: str = "") -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.size = size
        self.descriptor = descriptor
        self.file = file  # under which other processes have it
        status = os.fstat(descriptor)
        self.object = status.st_dev, status.st_ino
        # A request may still read what another one unregisters: its number must not come to mean another file meanwhile.
        weakref.finalize(self, os.close, descriptor)

    def told(self) -> dict[str, Any]:
        """As the protocol tells of it; and `unlinked`: its object has no name any more, and goes once nobody has it."""
        unlinked = self.unlinked_bytes() is not None
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.size, "unlinked": unlinked}

    def unlinked_bytes(self) -> int | None:
        """The memory of its object, if that has no name any more: it is there for those alone who have it open, as this server."""
        status = os.fstat(self.descriptor)
        return status.st_blocks * _BLOCK if status.st_nlink == 0 else None


@dataclass(frozen=True)
class Span:
    """`size` bytes of a region, from `offset` on. `what` names it in errors, as "input 'x'"."""

    region: Region
    offset: int
    size: int
    what: str

    @property
    def begin(self) -> int:
        """Of its first byte, in the object."""
        return self.region.offset + self.offset

    def read(self) -> memoryview:
        """A copy of the bytes. Raises BAD_REQUEST if the object has been made smaller."""
        data = np.empty(self.size, np.uint8).data
        done = 0
        while done < self.size:
            count = os.preadv(self.region.descriptor, [data[done : done + _PIECE]], self.begin + done)
            if count == 0:
                raise self._smaller()
            done += count
        return data

    def check_room(self, size: int) -> None:
        """That so many bytes can be written. Raises BAD_REQUEST."""
        if size > self.size:
            raise bad_request(f'{self.what} has {size} bytes, and "shared_memory_byte_size" is {self.size}')
        # To write beyond the end would make it larger again.
        if os.fstat(self.region.descriptor).st_size < self.begin + size:
            raise self._smaller()

    def write(self, data: memoryview) -> None:
        """Writes bytes for which there is room to its begin."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.region.descriptor, data[done : done + _PIECE], self.begin + done)
            except OSError as error:  # the memory of the machine, or of its container, is at an end
                text = f"{self.what} cannot be written to region {shown(self.region.name)}: {error.strerror}"
                raise ServiceError(Kind.OVERLOADED, text, 1) from None

    def _smaller(self) -> ServiceError:
        region = self.region
        return bad_request(
            f"{self.what} lies beyond the end of the shared memory {shown(region.key)}, which has been made smaller since region "
            f"{shown(region.name)} was registered"
        )


@dataclass(frozen=True)
class KeptRegion:
    """A region, as one process tells it to others. `file`: the object, on their shelf."""

    owner: str
    name: str
    key: str
    offset: int
    size: int
    file: str


class Regions:
    """All regions. Each belongs to the client that has registered it: no other one finds it. Any thread may call anything.

    Args:
        largest: bytes of one request's inputs.
        all_bytes: those of all requests that are not answered yet.
        limit: the most regions, each of which is an open file; of one client that has a name `share`.
        unlinked: bytes of objects without a name above which no region is registered: those of clients that died are mostly such, and only the
            server still has them.
        shelf: where other processes find the objects of regions that are registered here, and this one those of theirs.
    """

    def __init__(
        self,
        largest: int = 64 << 20,
        all_bytes: int = 1 << 30,
        limit: int = 512,
        share: int = 64,
        unlinked: int = 1 << 30,
        shelf: Shelf | None = None,
    ) -> None:
        self._largest = largest
        self._all_bytes = all_bytes
        self._limit = limit
        self._share = share
        self._unlinked = unlinked
        self._shelf = shelf
        self._held = 0
        self._lock = threading.Lock()
        self._regions: dict[tuple[str, str], Region] = {}

    def register(self, owner: str, name: str, key: str, offset: int, size: int) -> None:
        """Makes a part of the object `key` a region.

        Raises:
            ServiceError: BAD_REQUEST; NOT_FOUND if there is no such object, OVERLOADED if there are too many regions.
        """
        if not 0 < size <= MOST_BYTES or not 0 <= offset <= MOST_BYTES - size:
            raise bad_request(
                f'region {shown(name)}: "byte_size" is {size} and "offset" {offset}; a region has 1 byte or more, and ends within 2**63 - 1 bytes'
            )
        with self._lock:
            if (owner, name) in self._regions:
                raise bad_request(f"region {shown(name)} is registered already: unregister it first")
            if len(self._regions) >= self._limit:
                raise _too_many(f"{self._limit} regions are registered, the most that there may be")
            if owner and sum(owner == each for each, _ in self._regions) >= self._share:
                raise _too_many(f"{self._share} regions of this client are registered, the most that it may have")
            held = self._unlinked_bytes()
            if held >= self._unlinked:
                raise _too_many(
                    f"{held} bytes of shared memory are held by regions whose objects have been unlinked, and no more are registered above {self._unlinked}"
                )
            region = Region(name, key, offset, size, _open(key))
            there = os.fstat(region.descriptor).st_size
            if offset + size > there:
                raise bad_request(
                    f"region {shown(name)} was to end at byte {offset + size}, and the shared memory {shown(key)} has {there}"
                )
            if self._shelf is not None:
                region.file = self._shelf.share(region.descriptor)
                weakref.finalize(region, self._shelf.drop, region.file)  # if nobody was told of it until then
            self._regions[owner, name] = region

    def unregister(self, owner: str | None, name: str | None = None) -> None:
        """Forgets a region of a client, or all of them; without an owner those of all clients. One that there is not is no error, as with Triton."""
        with self._lock:
            for each in [key for key in self._regions if owner in (None, key[0]) and name in (None, key[1])]:
                del self._regions[each]

    def told(self, owner: str, name: str | None = None) -> list[dict[str, Any]]:
        """A client's regions, or the one of a name. Raises NOT_FOUND."""
        if name is not None:
            return [self._find(owner, name).told()]
        with self._lock:
            return [region.told() for (each, _), region in sorted(self._regions.items()) if each == owner]

    def span(self, owner: str, name: str, offset: int, size: int, what: str) -> Span:
        """A part of a region. Raises NOT_FOUND, and BAD_REQUEST for what is not within it."""
        region = self._find(owner, name)
        if offset + size > region.size:
            raise bad_request(
                f"{what} ends at byte {offset + size} of region {shown(name)}, which has {region.size} bytes"
            )
        return Span(region, offset, size, what)

    def kept(self) -> tuple[KeptRegion, ...]:
        """All of them, for other processes."""
        with self._lock:
            return tuple(_kept(owner, region) for (owner, _), region in sorted(self._regions.items()))

    def keep(self, kept: Iterable[KeptRegion]) -> None:
        """Has those that another process has, and no others. One thread's; requests do not wait for it.

        Raises:
            Superseded: there is something newer to be kept.
        """
        assert self._shelf is not None
        wanted = {(each.owner, each.name): each for each in kept}
        with self._lock:
            there = {key: each for key, each in self._regions.items() if wanted.get(key) == _kept(key[0], each)}
        for key, each in wanted.items():
            if key not in there:
                descriptor = os.dup(self._shelf.get(each.file))
                self._shelf.drop(each.file)
                there[key] = Region(each.name, each.key, each.offset, each.size, descriptor, each.file)
        with self._lock:
            self._regions = there

    def hold(self, size: int) -> None:
        """So many bytes are about to be read, and are held until `release`. Raises TOO_LARGE, and OVERLOADED beside what others hold."""
        if size > self._largest:
            text = f"the inputs in shared memory have {size} bytes, and {self._largest} are the most of one request"
            raise ServiceError(Kind.TOO_LARGE, text)
        with self._lock:
            if self._held + size > self._all_bytes:
                raise ServiceError(Kind.OVERLOADED, "the server holds as many bytes of requests as it may", 1)
            self._held += size

    def release(self, size: int) -> None:
        """They are let go of."""
        with self._lock:
            self._held -= size

    def close(self) -> None:
        """Forgets all of them."""
        with self._lock:
            self._regions.clear()

    def _unlinked_bytes(self) -> int:
        """Of all objects that have no name any more, each once. With the lock."""
        objects = {region.object: region for region in self._regions.values()}
        return sum(region.unlinked_bytes() or 0 for region in objects.values())

    def _find(self, owner: str, name: str) -> Region:
        with self._lock:
            region = self._regions.get((owner, name))
        if region is None:
            raise ServiceError(
                Kind.NOT_FOUND, f"this client has registered no region {shown(name)} of system shared memory"
            )
        return region


def _kept(owner: str, region: Region) -> KeptRegion:
    return KeptRegion(owner, region.name, region.key, region.offset, region.size, region.file)


def check_name(name: str) -> None:
    """That it can be a region's. Raises BAD_REQUEST."""
    if not 0 < len(name) <= LONGEST_NAME:
        raise bad_request(f"a region's name has 1 to {LONGEST_NAME} characters, and this one has {len(name)}")


def _too_many(text: str) -> ServiceError:
    return ServiceError(Kind.OVERLOADED, f"{text}: unregister one", 1)


def _open(key: str) -> int:
    """The descriptor of an object that this process's user may read and write, be it not as root."""
    name = key.removeprefix("/")
    if not _KEY.fullmatch(key) or len(name) > _LONGEST_KEY:
        raise bad_request(
            f'"key" is {shown(key)} and must be the name of an object of shared memory, as "/tensors": letters, digits, "_", "-" and single '
            f"dots between them, {_LONGEST_KEY} at most"
        )
    what = f"the shared memory {shown(key)}"
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(f"{_FOLDER}/{name}", flags)
    except OSError as error:
        raise _not_opened(what, error) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not _is_for_us(status):
        os.close(descriptor)
        raise _no_object(what) if not stat.S_ISREG(status.st_mode) else _not_ours(what)
    return descriptor


def _not_opened(what: str, error: OSError) -> ServiceError:
    if error.errno == errno.ENOENT:
        return ServiceError(Kind.NOT_FOUND, f"{what} is not there, as the server sees it")
    if error.errno in (errno.EACCES, errno.EPERM):
        return _not_ours(what)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ServiceError(Kind.OVERLOADED, f"{what} cannot be opened: the server has as many files open as it may", 1)
    return _no_object(what)  # a symbolic link, a directory, a socket


def _no_object(what: str) -> ServiceError:
    return bad_request(f"{what} is no regular file: what shm_open has made is one")


def _not_ours(what: str) -> ServiceError:
    return bad_request(f"{what} belongs to another user, and its mode does not let the server's user read and write it")


def _is_for_us(status: os.stat_result) -> bool:
    """Whether its owner is this process's, or lets it read and write: what root could do besides does not count."""
    if status.st_uid == os.geteuid():
        return True
    mode = status.st_mode
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return mode & _READ_WRITE_GROUP == _READ_WRITE_GROUP
    return mode & _READ_WRITE_OTHERS == _READ_WRITE_OTHERS
