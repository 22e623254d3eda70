"""Keys and certificates that sign and vouch: how they are read, and what each algorithm does."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from maas_rt._errors import Error, InvalidArgumentError, SignatureError

from ._chains import subject

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey
# Whose signatures are accepted: PEM files or folders of them, PEM text as bytes, objects of `cryptography`, or several of these.
Keys = Any

_PASSWORD = "MAAS_RT_KEY_PASSWORD"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_KEY_TEXT = re.compile(r"-----BEGIN|^\s*(?:[0-9a-fA-F]{64}|[A-Za-z0-9+/]{43}=)\s*$")
_SUFFIXES = (".pem", ".crt", ".cer", ".pub")


@dataclass(frozen=True)
class Algorithm:
    """A row: its number in a signature section, its name, the bytes of a signature, and of a curve its name and hash."""

    number: int
    name: str
    bytes: int
    curve: str = ""
    hash: Callable[[], hashes.HashAlgorithm] = hashes.SHA256


ALGORITHMS = (
    Algorithm(1, "Ed25519", 64),
    Algorithm(2, "ECDSA P-256", 64, "secp256r1", hashes.SHA256),
    Algorithm(3, "ECDSA P-384", 96, "secp384r1", hashes.SHA384),
    Algorithm(4, "ECDSA P-521", 132, "secp521r1", hashes.SHA512),
)
_NAMES = "Ed25519 or ECDSA P-256, P-384 or P-521"


def algorithm_of(key: object, where: str = "the key") -> Algorithm:
    """The row of a private or public key; InvalidArgumentError for one that signs nothing here, as RSA."""
    if isinstance(key, (Ed25519PrivateKey, Ed25519PublicKey)):
        return ALGORITHMS[0]
    if isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        for row in ALGORITHMS[1:]:
            if row.curve == key.curve.name:
                return row
    raise InvalidArgumentError(f"{where} is a {type(key).__name__}; signatures are made with {_NAMES}")


def sign(key: PrivateKey, message: bytes) -> bytes:
    """A signature of the algorithm's size; of ECDSA r and s, big-endian, one after the other (IEEE P1363)."""
    row = algorithm_of(key)
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(row.hash())))
    return r.to_bytes(row.bytes // 2, "big") + s.to_bytes(row.bytes // 2, "big")


def verify(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether `sign` made the signature with the key's private one."""
    row = algorithm_of(key)
    if len(signature) != row.bytes:
        return False
    if not isinstance(key, Ed25519PublicKey):
        half = row.bytes // 2
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        return verify_der(key, message, utils.encode_dss_signature(r, s))
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def verify_der(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
    """The same of an ECDSA signature as X.509 and others write it."""
    try:
        key.verify(signature, message, ec.ECDSA(algorithm_of(key).hash()))
    except InvalidSignature:
        return False
    return True


def key_id(key: PublicKey) -> bytes:
    """SHA-256 of the key as SubjectPublicKeyInfo, in DER."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).digest()


def key_of(certificate: x509.Certificate) -> PublicKey:
    """The key that a signer's certificate is of; SignatureError for one that signs nothing here, as RSA."""
    try:
        key = certificate.public_key()
        algorithm_of(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        why = f": {error}" if isinstance(error, Error) else ""
        raise SignatureError(f"the certificate of {subject(certificate)} is of a key that is not known{why}") from None
    return key  # type: ignore[return-value]


def fingerprint(identity: bytes) -> str:
    """A key's id as ssh-keygen prints such: `SHA256:` and base64."""
    return "SHA256:" + base64.b64encode(identity).decode().rstrip("=")


def described(algorithm: Algorithm, identity: bytes, certificates: Sequence[x509.Certificate]) -> str:
    """A signer in words: "CN=Models (Ed25519 key SHA256:...)"."""
    name = f"{algorithm.name} key {fingerprint(identity)}"
    return f"{subject(certificates[0])} ({name})" if certificates else name


@dataclass(frozen=True)
class Trusted:
    """Keys that are trusted as they are, and certificates of those who may vouch for others."""

    keys: tuple[PublicKey, ...]
    roots: tuple[x509.Certificate, ...]

    def key(self, identity: bytes) -> PublicKey | None:
        """The trusted key of that id."""
        return next((key for key in self.keys if key_id(key) == identity), None)


def read_trusted(keys: Keys) -> Trusted:
    """The keys and certificates of `keys`.

    Raises:
        InvalidArgumentError: there is none, or something is neither, as a private key.
        Error: a file cannot be read.
    """
    found: list[PublicKey] = []
    roots: list[x509.Certificate] = []
    for each in _flat(keys):
        if isinstance(each, x509.Certificate):
            roots.append(each)
        else:
            found.append(each)
    if not found and not roots:
        raise InvalidArgumentError("require_signature names no key: give PEM files of public keys or certificates")
    return Trusted(tuple(found), tuple(roots))


def portable(keys: Keys) -> tuple[str | bytes, ...]:
    """The same as names of files and PEM text, which another process can read as well; InvalidArgumentError for what is neither."""
    if isinstance(keys, (str, os.PathLike)):
        return (os.path.abspath(_path(keys)),)
    if isinstance(keys, bytes):
        return (keys,)
    if isinstance(keys, (Sequence, Set)):
        return tuple(found for each in keys for found in portable(each))
    (each,) = _flat(keys)
    if isinstance(each, x509.Certificate):
        return (each.public_bytes(serialization.Encoding.PEM),)
    return (each.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),)


def _path(keys: str | os.PathLike[str]) -> str:
    """An empty name, as of a variable that is not set, would be the current directory, and all keys in it."""
    path = os.fsdecode(keys)
    if not path:
        raise InvalidArgumentError("require_signature is an empty name: give a PEM file or a folder of them")
    return path


def _flat(keys: Keys) -> Iterator[PublicKey | x509.Certificate]:
    if isinstance(keys, (str, os.PathLike)):
        path = Path(_path(keys))
        files = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES) if path.is_dir() else [path]
        for file in files:
            yield from _public_blocks(read_file(file), str(file))
    elif isinstance(keys, bytes):
        yield from _public_blocks(keys, "the PEM text")
    elif isinstance(keys, x509.Certificate):
        yield keys
    elif isinstance(keys, (Sequence, Set)):
        for each in keys:
            yield from _flat(each)
    elif isinstance(keys, (Ed25519PublicKey, ec.EllipticCurvePublicKey)):
        algorithm_of(keys)
        yield keys
    else:
        raise InvalidArgumentError(
            f"require_signature holds a {type(keys).__name__} and takes PEM files, public keys and certificates"
        )


def _public_blocks(text: bytes, where: str) -> Iterator[PublicKey | x509.Certificate]:
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        raise InvalidArgumentError(f"{where} holds no PEM block; expected a public key or a certificate")
    for block in blocks:
        kind = block[1].decode()
        try:
            if kind == "CERTIFICATE":
                yield x509.load_pem_x509_certificate(block[0])
                continue
            if kind == "PUBLIC KEY":
                key = serialization.load_pem_public_key(block[0])
                algorithm_of(key, f"the key in {where}")
                yield key  # type: ignore[misc]
                continue
        except (ValueError, UnsupportedAlgorithm) as error:
            if isinstance(error, Error):
                raise
            raise InvalidArgumentError(f"{where} holds a {kind.lower()} that cannot be read: {error}") from None
        raise InvalidArgumentError(f"{where} holds a {kind.lower()}; expected a public key or a certificate")


@dataclass(frozen=True)
class Signer:
    """A private key, and the certificates that vouch for it: its own first, then those of its issuers."""

    key: PrivateKey
    certificates: tuple[x509.Certificate, ...] = ()

    @property
    def algorithm(self) -> Algorithm:
        return algorithm_of(self.key)

    @property
    def public(self) -> PublicKey:
        return self.key.public_key()

    def __str__(self) -> str:
        return described(self.algorithm, key_id(self.public), self.certificates)


def read_signer(key: Any, certificates: Any = None) -> Signer:
    """A signer of a PEM file (or PEM bytes, or a key of `cryptography`), and PEM files of its certificates.

    A key that is protected by a password: it is the environment's MAAS_RT_KEY_PASSWORD.
    """
    private = read_private(key, "the key")
    algorithm_of(private, f"{key} " if isinstance(key, (str, os.PathLike)) else "the key")
    chain = tuple(each for each in _flat(certificates) if isinstance(each, x509.Certificate)) if certificates else ()
    signer = Signer(private, chain)
    if chain and chain[0].public_key() != signer.public:
        raise InvalidArgumentError("the first certificate is of another key than the one that is to sign")
    return signer


def read_private(source: Any, what: str) -> Any:
    """A private key of `cryptography`, read from a PEM file or bytes where it is none yet."""
    if isinstance(source, (str, os.PathLike)):
        refuse_key_text(source)
        what, source = str(source), read_file(source)
    if not isinstance(source, bytes):
        return source
    password = os.environ.get(_PASSWORD)
    try:
        return serialization.load_pem_private_key(source, password.encode() if password else None)
    except TypeError as error:
        needs = "not given" in str(error)
        if not needs:  # a password for a key that has none
            return serialization.load_pem_private_key(source, None)
        raise InvalidArgumentError(f"{what} is protected by a password: set {_PASSWORD} to it") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = f"that {_PASSWORD} opens" if password else "in PEM"
        raise InvalidArgumentError(f"{what} is no private key {wrong}") from None


def refuse_key_text(source: str | os.PathLike[str]) -> None:
    """A key itself where a name is due would be told in errors as the file that there is not."""
    text = os.fspath(source)
    if isinstance(text, str) and _KEY_TEXT.search(text):
        raise InvalidArgumentError("this is the key itself as text: give its bytes, or the name of its file")


def read_file(path: str | os.PathLike[str], most: int = 1 << 20) -> bytes:
    """A small file's bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise Error(f"{os.fspath(path)} could not be read: {error.strerror or error}") from error
