"""sign, check, encrypt and decrypt: files in, files out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from maas_rt import _container
from maas_rt._container import ENCRYPTED_FLAG, Section, SectionKind, StoredSection
from maas_rt._errors import DecryptionError, FormatError, InvalidArgumentError, SignatureError

from ._bundle import check_bundle
from ._encryption import KEY_BYTES, Opened, Recipient, Sealed, read_header, sealed_size, unwrap, write_header
from ._keys import Keys, Signer, read_signer, read_trusted
from ._providers import as_providers, public_of, secret_of
from ._signature import Accepted, check_table, read_section, section_size, sign_table

Path = str | os.PathLike[str]


def sign(model: Path, output: Path | None = None, *, key: Any, certificates: Any = None) -> Signer:
    """Signs a file's table, which holds the hash of each section; a signature that was there is replaced.

    Args:
        output: the signed file; None: in place (another file is renamed over it).
        key: the private key: a PEM file, or a key of `cryptography`.
        certificates: PEM files of its certificate and of those of its issuers, in this order.

    Raises:
        InvalidArgumentError: the key is none that signs.
        FormatError: the file is damaged.
    """
    signer = read_signer(key, certificates)
    sections = [_again(each) for each in _read_whole(model).sections if each.kind != SectionKind.SIGNATURE]
    signed = _container.signed(sections, section_size([signer]), lambda table: sign_table(table, [signer]))
    _container.save(model if output is None else output, signed)
    return signer


@dataclass(frozen=True)
class SectionReport:
    """A section as the table says it is, and whether its data have the hash that is there."""

    name: str
    target: str
    bytes: int
    encrypted: bool
    holds: bool


@dataclass(frozen=True)
class Report:
    """What `check` found. `accepted` is the signature that holds and is trusted; `refused` says why there is none."""

    sections: tuple[SectionReport, ...]
    signers: tuple[str, ...]
    recipients: tuple[str, ...]
    accepted: Accepted | None
    refused: str | None

    @property
    def holds(self) -> bool:
        """Whether every section has its hash."""
        return all(section.holds for section in self.sections)


def check(model: Path, keys: Keys = None, *, bundle: Path | None = None) -> Report:
    """Who signed a file, and whether each section's hash holds. No key for decryption is needed.

    Args:
        keys: public keys and certificates whose signatures count; None: nobody's do, the signers are told.
        bundle: a detached signature as the OpenSSF model-signing tools write them; the file's own is then not asked for.

    Raises:
        FormatError: not a model.mrt, or its table is damaged.
    """
    container = _container.read(model, verify_sections=False)
    section = container.find(SectionKind.SIGNATURE)
    encryption = container.find(SectionKind.ENCRYPTION)
    accepted, refused, signers = None, None, []
    try:
        if section is not None:
            signers = [str(each) for each in read_section(bytes(section.data))]
        if bundle is not None:
            accepted = check_bundle(model, bundle, read_trusted(keys))
        elif section is None:
            refused = "it is not signed"
        elif keys is not None:
            accepted = check_table(container.signed, bytes(section.data), read_trusted(keys))
        else:
            refused = "no key was given to check the signature with"
    except SignatureError as error:
        refused = str(error)
    sections = tuple(SectionReport(s.name, s.target, s.size, s.encrypted, s.holds()) for s in container.sections)
    recipients = tuple(map(str, read_header(bytes(encryption.data))[1])) if encryption is not None else ()
    return Report(sections, tuple(signers), recipients, accepted, refused)


def encrypt(
    model: Path,
    output: Path,
    recipients: Sequence[Recipient | Path | X25519PublicKey],
    *,
    require_signature: Keys = None,
) -> bool:
    """Encrypts a file for whoever has one of the keys: X25519 public keys (PEM files too), and Recipients.

    Returns whether the file was signed: its signature is one of the plain file and left out. Sign the encrypted one.

    Args:
        require_signature: whose signature the file must have, as for `load`; None: it is not looked at.

    Raises:
        InvalidArgumentError: no recipient, or the file is encrypted already.
        SignatureError: the file has no signature of one of these.
        FormatError: the file is damaged.
    """
    container = _read_whole(model, require_signature)
    if container.find(SectionKind.ENCRYPTION) is not None:
        raise InvalidArgumentError(f"{os.fspath(model)} is encrypted already: decrypt it first")
    content = os.urandom(KEY_BYTES)
    header = Section(SectionKind.ENCRYPTION, write_header(content, [_recipient(each) for each in recipients]))
    plain = [each for each in container.sections if each.kind != SectionKind.SIGNATURE]
    entries = [(s.kind, s.flags | ENCRYPTED_FLAG, s.target, sealed_size(s.size), bytes(32)) for s in plain]
    size, digest = header.measured()
    bound = _container.bound_digest([*entries, (SectionKind.ENCRYPTION, 0, "", size, digest)])
    sealed = [
        Section(s.kind, Sealed(s.data, content, number, bound), s.target, s.flags | ENCRYPTED_FLAG)
        for number, s in enumerate(plain)
    ]
    _container.save(output, [*sealed, header])
    return len(plain) != len(container.sections)


def decrypt(model: Path, output: Path, keys: Any, *, require_signature: Keys = None) -> bool:
    """Writes a file in clear; `keys` are those that `load` takes. Returns whether it was signed: the signature is one of the encrypted bytes, and
    left out.

    Args:
        require_signature: whose signature the encrypted file must have, as for `load`; it is checked before a key is asked for. None: it is
            not looked at, and nothing tells any more who vouched for what was decrypted.

    Raises:
        DecryptionError: the file is not for these keys.
        SignatureError: the file has no signature of one of those that are required.
        FormatError: the file is damaged, or was changed.
    """
    container = _read_whole(model, require_signature)
    if container.find(SectionKind.ENCRYPTION) is None:
        raise InvalidArgumentError(f"{os.fspath(model)} is not encrypted")
    try:
        _container.save(output, plain_sections(container, keys), mode=0o600)  # what was secret stays its owner's
    except DecryptionError as error:
        raise DecryptionError(f"{os.fspath(model)}: {error}") from None
    return container.find(SectionKind.SIGNATURE) is not None


def plain_sections(container: _container.Container, keys: Any) -> list[Section]:
    """The sections of an encrypted file as they were before, decrypted as they are read."""
    content = unwrap(bytes(container.section(SectionKind.ENCRYPTION)), as_providers(keys))
    bound = _container.bound_digest((s.kind, s.flags, s.target, s.size, s.sha256) for s in container.sections)
    out = []
    for number, s in enumerate(container.sections):
        if s.encrypted:
            opened = Opened(s.data, content, number, bound, s.name)
            out.append(Section(s.kind, opened, s.target, s.flags & ~ENCRYPTED_FLAG))
        elif s.kind not in (SectionKind.SIGNATURE, SectionKind.ENCRYPTION):
            out.append(_again(s))
    return out


def _recipient(given: Recipient | Path | X25519PublicKey) -> Recipient:
    if isinstance(given, Recipient):
        return given
    return Recipient(public=given if isinstance(given, X25519PublicKey) else public_of(given))


def shared_recipient(provider: Any, key_id: str = "") -> Recipient:
    """Whoever has the shared key that a provider gives for the id."""
    (source,) = as_providers(provider)
    secret = secret_of(source, key_id)
    if not isinstance(secret, bytes):
        raise InvalidArgumentError("a private X25519 key is no shared key: give its public one as a recipient")
    return Recipient(shared=secret, id=key_id)


def _read_whole(model: Path, signers: Keys = None) -> _container.Container:
    """The sections, all of them hashed; of a file that one of the signers, if there are any, has signed."""
    container = _container.read(model, verify_weights=True)
    if signers is not None:
        section = container.find(SectionKind.SIGNATURE)
        if section is None:
            raise SignatureError(f"{os.fspath(model)} has no signature, and one is required")
        try:
            check_table(container.signed, bytes(section.data), read_trusted(signers))
        except SignatureError as error:
            raise SignatureError(f"{os.fspath(model)}: {error}") from None
    for each in container.sections:
        if each.encrypted and (container.find(SectionKind.ENCRYPTION) is None or each.size == 0):
            raise FormatError(f"{os.fspath(model)} is damaged: a section is not encrypted as the others are")
    return container


def _again(section: StoredSection) -> Section:
    return Section(section.kind, section.data, section.target, section.flags)
