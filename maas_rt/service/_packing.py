"""Messages in gzip and deflate, unpacked within a limit."""

from __future__ import annotations

import zlib

from ._errors import Kind, ServiceError, bad_request

ENCODINGS = {"gzip": 31, "deflate": 15}  # by zlib's wbits, the better first
ACCEPTED_ENCODINGS = ", ".join(ENCODINGS)
_LEVEL = 4
_PIECE = 4096  # bytes that are unpacked at a time


def unpacked(body: bytes | bytearray | memoryview, encoding: str, limit: int) -> bytearray:
    """What was packed, if it is at most `limit` bytes.

    Raises:
        ServiceError: BAD_REQUEST, TOO_LARGE.
    """
    wbits = ENCODINGS[encoding]
    if encoding == "deflate" and not is_zlib(body):
        wbits = -15  # as some clients understand the word
    found = bytearray()
    view, at = memoryview(body), 0
    try:
        while True:
            unpacker = zlib.decompressobj(wbits)
            while not unpacker.eof:
                # A piece at a time: what follows the end is copied, which for the whole rest, at each of many ends, has no bound.
                piece = view[at : at + _PIECE]
                if not piece:
                    raise bad_request(f"the body cannot be read: its {encoding} has no end")
                found += unpacker.decompress(piece, limit + 1 - len(found))
                if len(found) > limit:
                    raise too_large(limit)
                at += len(piece) - len(unpacker.unused_data)
            if at == len(view):
                return found
            if encoding != "gzip":  # which may be several, one after the other
                raise bad_request(f"the body cannot be read: {len(view) - at} bytes follow its {encoding}")
    except zlib.error:
        raise bad_request(f"the body cannot be read: it is no {encoding}") from None


def packed(body: bytes, encoding: str) -> bytes:
    """A body in one of the encodings."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, ENCODINGS[encoding])
    return packer.compress(body) + packer.flush()


def is_zlib(body: bytes | bytearray | memoryview) -> bool:
    """Whether it begins as zlib's streams do (RFC 1950)."""
    return bool(body[:1]) and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def too_large(limit: int) -> ServiceError:
    """The refusal of a body of more bytes."""
    return ServiceError(Kind.TOO_LARGE, f"the body is larger than this server accepts: {limit} bytes are the most")
