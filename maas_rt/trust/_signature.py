"""The signature section: who signed a file's table, as csrc/artifact/FORMAT.md lays it out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from maas_rt._errors import InvalidArgumentError, SignatureError

from ._chains import check_chain, printable, subject
from ._keys import (
    ALGORITHMS,
    Algorithm,
    Keys,
    Signer,
    Trusted,
    algorithm_of,
    described,
    key_id,
    key_of,
    read_trusted,
    sign,
    verify,
)

_HEAD = struct.Struct("<II")  # version, signatures
_RECORD = struct.Struct("<II32s")  # algorithm, certificates, key id
_LENGTH = struct.Struct("<I")
_VERSION = 1
_MOST = 16  # signatures of a file, certificates of one


@dataclass(frozen=True)
class Signature:
    """One signature of a section: the algorithm, the id of the signer's key, the signer's certificates, if any."""

    algorithm: Algorithm
    key: bytes
    value: bytes
    certificates: tuple[x509.Certificate, ...]

    def __str__(self) -> str:
        return described(self.algorithm, self.key, self.certificates)


@dataclass(frozen=True)
class Accepted:
    """A signature that holds, and why it counts: its key is trusted, or the certificate of `root` vouches for it."""

    signer: str
    root: str | None = None

    def __str__(self) -> str:
        return f"{self.signer}, for whom {self.root} vouches" if self.root else self.signer


def section_size(signers: Sequence[Signer]) -> int:
    """The bytes of the section that these will have signed."""
    return len(write_section([(signer, bytes(signer.algorithm.bytes)) for signer in signers]))


def sign_table(table: bytes, signers: Sequence[Signer]) -> bytes:
    """The section, with a signature of each."""
    return write_section([(signer, sign(signer.key, table)) for signer in signers])


def write_section(signatures: Sequence[tuple[Signer, bytes]]) -> bytes:
    """The section of signers and what they signed with."""
    if not 0 < len(signatures) <= _MOST or any(len(signer.certificates) > _MOST for signer, _ in signatures):
        raise InvalidArgumentError(f"a file has 1 to {_MOST} signatures, with {_MOST} certificates each at most")
    out = bytearray(_HEAD.pack(_VERSION, len(signatures)))
    for signer, value in signatures:
        out += _RECORD.pack(signer.algorithm.number, len(signer.certificates), key_id(signer.public)) + value
        for certificate in signer.certificates:
            data = certificate.public_bytes(Encoding.DER)
            out += _LENGTH.pack(len(data)) + data
    return bytes(out)


def read_section(data: bytes) -> list[Signature]:
    """The signatures of a section, none of them checked; SignatureError for a section that is not understood."""
    try:
        version, count = _HEAD.unpack_from(data)
        if version != _VERSION or not 0 < count <= _MOST:
            raise SignatureError("the signature section is of a version that is not known: update maas-rt")
        at, found = _HEAD.size, []
        for _ in range(count):
            number, certificates, identity = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            row = next((row for row in ALGORITHMS if row.number == number), None)
            if row is None or certificates > _MOST:
                raise SignatureError(f"the signature is of algorithm {number}, which is not known: update maas-rt")
            value = data[at : at + row.bytes]
            at += row.bytes
            chain = []
            for _ in range(certificates):
                (size,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size + size
                chain.append(x509.load_der_x509_certificate(data[at - size : at]))
            found.append(Signature(row, identity, value, tuple(chain)))
    except SignatureError:
        raise
    except Exception:  # struct's, or any of those that `cryptography` has for certificates
        raise SignatureError("the signature section is damaged") from None
    if at != len(data):
        raise SignatureError("the signature section is damaged")
    return found


def check_table(table: bytes, section: bytes, trusted: Trusted) -> Accepted:
    """The first signature of the section that holds for the table and is of somebody who is trusted.

    Raises:
        SignatureError: there is none; the sentence says what was wrong with each.
    """
    reasons = []
    for signature in read_section(section):
        try:
            return _check(table, signature, trusted)
        except SignatureError as error:
            reasons.append(str(error))
        except Exception as error:  # of one certificate that cannot be read: another signature may hold
            reasons.append(f"the signature cannot be checked: {printable(str(error))}")
    raise SignatureError("; ".join(reasons))


def _check(table: bytes, signature: Signature, trusted: Trusted) -> Accepted:
    key, root = trusted.key(signature.key), None
    if key is None:
        if not signature.certificates or not trusted.roots:
            raise SignatureError(f"it is signed by {signature}, which is not among the keys that are trusted")
        root = subject(check_chain(signature.certificates, trusted.roots))
        key = key_of(signature.certificates[0])
    if algorithm_of(key) != signature.algorithm or key_id(key) != signature.key:
        raise SignatureError(f"the signature names {signature}, and its certificate is of another key")
    if not verify(key, table, signature.value):
        raise SignatureError(f"the signature by {signature} is one of other contents: the file was changed")
    # Certificates beside a key that is trusted by itself were not looked at: whoever wrote the file chose the name in them.
    return Accepted(described(signature.algorithm, signature.key, signature.certificates if root else ()), root)


class Checker:
    """What load asks about a file's signature: `checker(table, section)`, True for one of those in `keys`.

    `refused` then says why one was not accepted.
    """

    def __init__(self, keys: Keys) -> None:
        self._trusted = read_trusted(keys)
        self.refused: SignatureError | None = None

    def __call__(self, table: bytes, section: bytes) -> bool:
        try:
            check_table(table, section, self._trusted)
        except SignatureError as error:
            self.refused = error
            return False
        except Exception as error:  # of a certificate that cannot be read: no acceptance
            self.refused = SignatureError(f"the signature cannot be checked: {error}")
            return False
        return True
