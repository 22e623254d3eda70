"""TLS: version 1.2 or newer, with certificates that are read again when their files change, and client certificates where asked for."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .._errors import InvalidArgumentError
from ._watched import Watched

# Of TLS 1.2: what has forward secrecy and authenticated encryption. TLS 1.3 has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Args:
        certificate: the server's, with the chain below it.
        key: its private key, not encrypted.
        clients: certificates of the authorities that sign clients'; None: clients need no certificate.
    """

    certificate: Path
    key: Path
    clients: Path | None = None


class Pem(NamedTuple):
    """What the files hold."""

    certificate: bytes
    key: bytes
    clients: bytes | None


def read_pem(files: TlsFiles) -> Pem:
    """The files, after a look at them as `server_context` has it.

    Raises:
        InvalidArgumentError: they cannot be used, or were written to meanwhile.
        OSError
    """
    before = _bytes(files)
    _load(files)
    if _bytes(files) != before:
        raise InvalidArgumentError(f"{files.certificate} and {files.key} were written to while they were read")
    return before


def _bytes(files: TlsFiles) -> Pem:
    clients = None if files.clients is None else files.clients.read_bytes()
    return Pem(files.certificate.read_bytes(), files.key.read_bytes(), clients)


def server_context(files: TlsFiles, now: Callable[[], int] = time.time_ns) -> ssl.SSLContext:
    """The context of a server. Each handshake uses what the files held when they were last good: the certificate and key of one pair, and the
    authorities of one moment; connections that stand go on.

    Raises:
        InvalidArgumentError: the files cannot be used.
    """
    paths = [path for path in (files.certificate, files.key, files.clients) if path is not None]
    watched = Watched(paths, lambda: _load(files), "the TLS certificate")

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = watched.get(now())

    # Called in each handshake, be there a server name in it or not. A context of its own: what was loaded into one stays there.
    context = _load(files)
    context.sni_callback = choose
    return context


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        raise InvalidArgumentError(
            f"{files.certificate} and {files.key} are no certificate and key in PEM that belong together ({_reason(error)})"
        ) from None
    if files.clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # A ticket would let a client in again whose certificate is no longer accepted.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        try:
            context.load_verify_locations(files.clients)
        except ssl.SSLError as error:
            raise InvalidArgumentError(f"{files.clients} holds no certificates in PEM ({_reason(error)})") from None
    return context


def _no_password() -> str:
    raise InvalidArgumentError("the TLS key is encrypted, and a server has nobody to ask: give a key that is not")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
