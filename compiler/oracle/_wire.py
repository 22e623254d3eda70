"""What goes over the socket: a JSON object, then the bytes of the arrays that it describes. Open files may come with it.

The reader believes nothing but numbers: no pickle is read, so that a worker whose framework a hostile model took over cannot run
anything on the other side.
"""

from __future__ import annotations

import array
import json
import math
import socket
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["ClosedError", "receive", "send"]

Array = npt.NDArray[Any]

_HEAD = struct.Struct("<Q")
_MAX_HEADER = 1 << 30
_MAX_FILES = 64
_KINDS = "biufc"


class ClosedError(Exception):
    """The other side is gone."""


def send(link: socket.socket, message: dict[str, Any], arrays: Sequence[Array] = (), files: Sequence[int] = ()) -> None:
    """Raises ClosedError if nobody is there."""
    parts = [np.ascontiguousarray(each).reshape(np.shape(each)) for each in arrays]
    shapes = [[each.dtype.name, list(each.shape)] for each in parts]
    header = json.dumps({"message": message, "arrays": shapes}).encode()
    try:
        socket.send_fds(link, [_HEAD.pack(len(header))], list(files))
        link.sendall(header)
        for each in parts:
            if each.nbytes:
                link.sendall(each.reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise ClosedError(str(error)) from error


def receive(link: socket.socket) -> tuple[dict[str, Any], list[Array], list[int]]:
    """(message, arrays, open files). Raises ClosedError if the other side ends before it has said all of it."""
    try:
        head, files = _receive_head(link)
        (size,) = _HEAD.unpack(head)
        if size > _MAX_HEADER:
            raise ClosedError("it does not speak this protocol")
        header = json.loads(bytes(_exactly(link, size)))
        arrays = [_array(link, dtype, shape) for dtype, shape in header["arrays"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClosedError(str(error)) from error
    return header["message"], arrays, files


def _receive_head(link: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    data, ancillary, _, _ = link.recvmsg(_HEAD.size, socket.CMSG_SPACE(_MAX_FILES * size))
    files = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(content[: len(content) - len(content) % size])
    if not data:
        raise ClosedError("it has ended")
    return data + bytes(_exactly(link, _HEAD.size - len(data))), list(files)


def _array(link: socket.socket, dtype: str, shape: Sequence[int]) -> Array:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    if kind.kind not in _KINDS and not hasattr(ml_dtypes, dtype):
        raise ValueError(f"an array of {dtype}")
    count = math.prod(int(extent) for extent in shape)
    out: Array = np.frombuffer(_exactly(link, count * kind.itemsize), np.uint8).view(kind).reshape(shape)
    return out


def _exactly(link: socket.socket, size: int) -> bytearray:
    out = bytearray(size)
    view, at = memoryview(out), 0
    while at < size:
        count = link.recv_into(view[at:])
        if not count:
            raise ClosedError("it has ended")
        at += count
    return out
