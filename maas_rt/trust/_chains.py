"""Certificate chains: from a signer's certificate to a root that is trusted.

The checks of RFC 5280, section 6.1, that chains of code signing need. `cryptography.x509.verification` makes those of
the Web alone, which know neither Ed25519 nor code signing.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from maas_rt._errors import SignatureError

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_MOST = 8  # certificates of one chain
_STEPS = 64  # looks at issuers: certificates of one name and key that vouch for each other would make thousands of ways
_CODE = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_SLACK = datetime.timedelta(minutes=5)  # of clocks, before a certificate begins to be valid
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
_STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


def check_chain(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime.datetime | None = None
) -> x509.Certificate:
    """The root that vouches for chain[0], by way of the others where needed.

    Raises:
        SignatureError: there is none, or a certificate on the way may not do what it is to do, or not now.
    """
    now = now or datetime.datetime.now(datetime.timezone.utc)
    leaf = chain[0]
    _check_leaf(leaf)
    reasons: list[str] = []
    root = _climb(leaf, [*roots, *chain[1:_MOST]], list(roots), now, 0, reasons, iter(range(_STEPS)))
    if root is None:
        why = f": {reasons[0]}" if reasons else ""
        raise SignatureError(f"no trusted certificate vouches for the signer {subject(leaf)}{why}")
    return root


def subject(certificate: x509.Certificate) -> str:
    """Whose certificate it is, as "CN=Models,O=Example"."""
    try:
        text = certificate.subject.rfc4514_string() or f"(serial number {certificate.serial_number:x})"
        return printable(text)
    except ValueError:
        return "(a name that cannot be read)"


def printable(text: str) -> str:
    """Text of a file that nobody vouches for, without what moves a terminal's cursor or begins a line."""
    return "".join(each if each.isprintable() else f"\\{ord(each):02X}" for each in text)


def _climb(
    certificate: x509.Certificate,
    issuers: list[x509.Certificate],
    roots: list[x509.Certificate],
    now: datetime.datetime,
    below: int,
    reasons: list[str],
    steps: Iterator[int],
) -> x509.Certificate | None:
    """The trusted certificate at the end of a way up; `below`: certificates of issuers on the way so far; `steps` are those that are left."""
    problem = _problem(certificate, now)
    if problem:
        reasons.append(problem)
        return None
    if certificate in roots:
        return certificate
    if below == _MOST:
        return None
    for issuer in issuers:
        if issuer.subject != certificate.issuer or issuer == certificate:
            continue
        if next(steps, None) is None:
            reasons.insert(0, "its certificates make too many ways to follow")
            return None
        problem = _link_problem(certificate, issuer, below)
        if problem:
            reasons.append(problem)
            continue
        rest = [each for each in issuers if each != issuer]
        found = _climb(issuer, rest, roots, now, below + 1, reasons, steps)
        if found is not None:
            return found
    return None


def _problem(certificate: x509.Certificate, now: datetime.datetime) -> str:
    """What is wrong with a certificate by itself, "" if nothing."""
    name = subject(certificate)
    if now + _SLACK < certificate.not_valid_before_utc:
        return f"the certificate of {name} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    if now > certificate.not_valid_after_utc:
        return f"the certificate of {name} was valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    try:
        extensions = list(certificate.extensions)
    except ValueError as error:
        return f"the certificate of {name} cannot be read ({error})"
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            return (
                f"the certificate of {name} has a critical extension {extension.oid.dotted_string}, which is not known"
            )
    return ""


def _link_problem(certificate: x509.Certificate, issuer: x509.Certificate, below: int) -> str:
    """Why the issuer may not vouch for the certificate, "" if it may and does."""
    name = subject(issuer)
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return f"{name} is no authority: its certificate may not vouch for others"
    if constraints.path_length is not None and below > constraints.path_length:
        return f"{name} may not vouch for so long a chain"
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return f"the key of {name} may not sign certificates"
    purposes = _extension(issuer, x509.ExtendedKeyUsage)
    if purposes is not None and not _CODE & set(purposes):
        return f"{name} may not vouch for code signing (its extended key usage)"
    key = issuer.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        return f"the key of {name} has only {key.key_size} bits"
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _STRONG):
        return f"the certificate of {subject(certificate)} is signed with {algorithm.name}, which is broken"
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return f"the certificate of {subject(certificate)} was not signed by {name}"
    return ""


def _check_leaf(leaf: x509.Certificate) -> None:
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise SignatureError(f"the certificate of {subject(leaf)} is not for signatures (its key usage)")
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and not _CODE & set(purposes):
        raise SignatureError(f"the certificate of {subject(leaf)} is not for code signing (its extended key usage)")


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):  # one that cannot be read is refused by _problem
        return None
