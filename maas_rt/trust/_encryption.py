"""Encryption at rest: sections in chunks of AES-256-GCM, and a content key that is wrapped for those who may read them.

csrc/artifact/FORMAT.md lays it out. Chunks follow the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar: Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, CRYPTO 2015): the nonce holds the section's and the
chunk's numbers and whether it is the last, so that none repeats under a key, which is drawn anew for each file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from maas_rt._errors import DecryptionError, Error, FormatError, InvalidArgumentError

from ._providers import Provider, secret_of

CHUNK = 1 << 20
TAG = 16
KEY_BYTES = 32

_HEAD = struct.Struct("<II32s")  # version, recipients, the content key's commitment
_RECIPIENT = struct.Struct("<II32s48s")  # kind, bytes of the id, public key or salt, wrapped key
_VERSION = 1
_MOST = 64
_MOST_ID = 16384
_X25519, _SHARED = 1, 2
_NO_NONCE = bytes(12)  # of keys that are used once


def sealed_size(size: int) -> int:
    """The bytes that a section of so many takes when it is encrypted."""
    return size + TAG * max(1, -(-size // CHUNK))


def plain_size(size: int) -> int:
    """The bytes that an encrypted section holds."""
    return size - TAG * -(-size // (CHUNK + TAG))


def nonce(section: int, chunk: int, last: bool) -> bytes:
    """Of a chunk: the section's number in the table, the chunk's, and whether it is the section's last."""
    return struct.pack("<IIxxxB", section, chunk, last)


# ---- recipients ----


@dataclass(frozen=True)
class Recipient:
    """Who can open a file: the owner of an X25519 key (`public`), or whoever has a shared key of 32 bytes (`shared`).

    `id` tells the owner, or a key provider, which key it is; anybody can read it.
    """

    public: X25519PublicKey | None = None
    shared: bytes | None = field(default=None, repr=False)
    id: str = ""

    def __post_init__(self) -> None:
        if (self.public is None) == (self.shared is None):
            raise InvalidArgumentError("a recipient has either a public key or a shared one")
        if self.shared is not None and len(self.shared) != KEY_BYTES:
            raise InvalidArgumentError(f"a shared key has {KEY_BYTES} bytes, not {len(self.shared)}")
        if len(self.id.encode()) > _MOST_ID:
            raise InvalidArgumentError(f"the id of a key has at most {_MOST_ID} bytes")

    def wrap(self, content: bytes) -> bytes:
        """The record that lets it find the content key."""
        if self.public is not None:
            ephemeral = X25519PrivateKey.generate()
            first = ephemeral.public_key().public_bytes_raw()
            wrapping = _x25519_key(ephemeral.exchange(self.public), first, self.public)
        else:
            assert self.shared is not None
            first = os.urandom(32)
            wrapping = _shared_key(self.shared, first)
        name = self.id.encode()
        wrapped = AESGCM(wrapping).encrypt(_NO_NONCE, content, None)
        return _RECIPIENT.pack(_X25519 if self.public is not None else _SHARED, len(name), first, wrapped) + name


@dataclass(frozen=True)
class Wrapped:
    """A record of the encryption section."""

    kind: int
    first: bytes
    key: bytes
    id: str

    def __str__(self) -> str:
        what = {_X25519: "an X25519 key", _SHARED: "a shared key"}.get(self.kind, f"a key of kind {self.kind}")
        return f"{what} {self.id!r}" if self.id else what

    def open(self, secret: bytes | X25519PrivateKey) -> bytes | None:
        """The content key, or None if the secret is another one."""
        try:
            if isinstance(secret, X25519PrivateKey):
                shared = secret.exchange(X25519PublicKey.from_public_bytes(self.first))
                wrapping = _x25519_key(shared, self.first, secret.public_key())
            else:
                wrapping = _shared_key(secret, self.first)
            return AESGCM(wrapping).decrypt(_NO_NONCE, self.key, None)
        except (InvalidTag, ValueError):  # ValueError: a public key of low order
            return None


def write_header(content: bytes, recipients: Sequence[Recipient]) -> bytes:
    """The encryption section of a content key."""
    if not 0 < len(recipients) <= _MOST:
        raise InvalidArgumentError(f"a file is encrypted for 1 to {_MOST} keys, not {len(recipients)}")
    return _HEAD.pack(_VERSION, len(recipients), _commitment(content)) + b"".join(r.wrap(content) for r in recipients)


def read_header(section: bytes) -> tuple[bytes, list[Wrapped]]:
    """The commitment and the records of an encryption section; FormatError for one that is not understood."""
    try:
        version, count, commitment = _HEAD.unpack_from(section)
        if version != _VERSION or not 0 < count <= _MOST:
            raise FormatError("the encryption section is of a version that is not known: update maas-rt")
        at, found = _HEAD.size, []
        for _ in range(count):
            kind, size, first, key = _RECIPIENT.unpack_from(section, at)
            at += _RECIPIENT.size + size
            if at > len(section) or size > _MOST_ID:
                raise FormatError("the encryption section is damaged")
            found.append(Wrapped(kind, first, key, section[at - size : at].decode("utf-8")))
    except (struct.error, UnicodeDecodeError):
        raise FormatError("the encryption section is damaged") from None
    if at != len(section):
        raise FormatError("the encryption section is damaged")
    return commitment, found


def unwrap(section: bytes, keys: Sequence[Provider]) -> bytes:
    """The content key of an encryption section, by the first of the keys that opens a record.

    Raises:
        DecryptionError: none does; Error: a provider failed.
    """
    commitment, records = read_header(section)
    failures: list[Error] = []
    for provider in keys:
        secrets: dict[str, bytes | X25519PrivateKey | None] = {}
        for record in records:
            if record.id not in secrets:
                secrets[record.id] = _secret(provider, record.id, failures)
            secret = secrets[record.id]
            if secret is None or (record.kind == _X25519) != isinstance(secret, X25519PrivateKey):
                continue
            content = record.open(secret)
            if content is not None and hmac.compare_digest(_commitment(content), commitment):
                return content
    if failures:
        raise failures[0]
    raise DecryptionError(
        f"the file is encrypted for {' and '.join(map(str, records))}, and no key that was given is one of them"
    )


def _secret(provider: Provider, key_id: str, failures: list[Error]) -> bytes | X25519PrivateKey | None:
    """What a provider gives; a KMS need not know every id of a file."""
    try:
        return secret_of(provider, key_id)
    except Error as error:
        failures.append(error)
        return None


def _derived(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, purpose).derive(secret)


def _x25519_key(shared: bytes, ephemeral: bytes, recipient: X25519PublicKey) -> bytes:
    return _derived(shared, ephemeral + recipient.public_bytes_raw(), b"maas_rt 1 x25519")


def _shared_key(secret: bytes, salt: bytes) -> bytes:
    return _derived(secret, salt, b"maas_rt 1 shared key")


def _commitment(content: bytes) -> bytes:
    """Ties the section to one content key: AES-GCM alone lets two keys open the same ciphertext."""
    return _derived(content, b"", b"maas_rt 1 commitment")


# ---- chunks ----


class _Pieces(ABC):
    """A Stream of maas_rt._container, made anew whenever it is read."""

    @abstractmethod
    def pieces(self) -> Iterator[bytes]: ...

    @cached_property
    def sha256(self) -> bytes:
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.digest()


@dataclass(frozen=True)
class Sealed(_Pieces):
    """A section's data, encrypted piece by piece."""

    source: memoryview
    key: bytes = field(repr=False)
    section: int
    bound: bytes

    @property
    def size(self) -> int:
        return sealed_size(self.source.nbytes)

    def pieces(self) -> Iterator[bytes]:
        cipher = AESGCM(self.key)
        for number, begin, last in _chunks(self.source.nbytes, CHUNK):
            piece = self.source[begin : begin + CHUNK]
            yield cipher.encrypt(nonce(self.section, number, last), piece, self.bound)


@dataclass(frozen=True)
class Opened(_Pieces):
    """The other way; `name` is the section's, for messages."""

    source: memoryview
    key: bytes = field(repr=False)
    section: int
    bound: bytes
    name: str

    @property
    def size(self) -> int:
        return plain_size(self.source.nbytes)

    def pieces(self) -> Iterator[bytes]:
        cipher = AESGCM(self.key)
        step = CHUNK + TAG
        for number, begin, last in _chunks(self.source.nbytes, step):
            try:
                yield cipher.decrypt(nonce(self.section, number, last), self.source[begin : begin + step], self.bound)
            except (InvalidTag, ValueError):
                raise FormatError(
                    f"chunk {number + 1} of the {self.name} section cannot be decrypted; it was changed, cut, or is of "
                    "another place, file or key"
                ) from None


def _chunks(size: int, step: int) -> Iterator[tuple[int, int, bool]]:
    """(number, begin, whether it is the last) of each."""
    for number in range(max(1, -(-size // step))):
        yield number, number * step, (number + 1) * step >= size


class Opener:
    """What load asks of an encrypted file: `unwrap(section)`, then `open` for each chunk, each True where it succeeds.

    `failed` then holds what went wrong with the keys.
    """

    def __init__(self, keys: Sequence[Provider]) -> None:
        self._keys = keys
        self._cipher: AESGCM | None = None
        self.failed: Error | None = None

    def unwrap(self, section: bytes) -> bool:
        try:
            self._cipher = AESGCM(unwrap(section, self._keys))
        except Error as error:
            self.failed = error
            return False
        return True

    def open(self, nonce: bytes, associated: bytes, sealed: memoryview, plain: memoryview) -> bool:
        cipher: Any = self._cipher
        try:
            cipher.decrypt_into(nonce, sealed, associated, plain)
        except InvalidTag:
            return False
        return True
