"""Where a server is, and how it is reached: the address, TLS, the token."""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .._errors import InvalidArgumentError
from .._version import __version__
from ..service._errors import shown
from ..service._headers import TIMEOUT
from ..service._packing import ENCODINGS
from ._calls import Call
from ._retry import Deadline, Retry

Token = str | Callable[[], str]
_MOST_MS = 10**10 - 1  # of TIMEOUT
_RETRY = Retry()


@dataclass(frozen=True)
class Target:
    """An address. `socket`: the path of a Unix socket; `root`: what stands before each path; `tls`: None for plain HTTP."""

    host: str
    port: int
    authority: str
    root: str = ""
    socket: str | None = None
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """What stands before the path of a call."""
        return f"{'http' if self.tls is None else 'https'}://{self.authority}{self.root}"

    @property
    def is_private(self) -> bool:
        """What is sent there cannot be read on its way."""
        return self.tls is not None or self.socket is not None or _is_loopback(self.host)


def target(url: str, tls: ssl.SSLContext | None) -> Target:
    """The address that a URL names.

    Args:
        url: http://HOST[:PORT][/ROOT], https://..., HOST:PORT, or unix:PATH.
        tls: for https.

    Raises:
        InvalidArgumentError
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        path = path[2:] if path.startswith("//") else path
        if not path:
            raise _bad(url, "it names no path")
        return Target("localhost", 0, "localhost", socket=path)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad(url, str(error)) from None
    if parts.scheme not in ("http", "https") or not host:
        raise _bad(url, "it is neither http nor https, or names no host")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidArgumentError(
            "the URL of a server has no name, password, query or fragment in it: give a token as `token`"
        )
    if not all(33 <= ord(each) < 127 for each in parts.netloc):
        raise _bad(url, "its host has characters that no name of a machine has")
    if port is None:
        port = 80 if parts.scheme == "http" else 443
    root = quote(parts.path.rstrip("/"), safe="/%~!$&'()*+,;=:@")
    return Target(host, port, parts.netloc, root, tls=tls if parts.scheme == "https" else None)


def _bad(url: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{shown(url)} is no address of a server ({why}): give http://HOST:PORT, https://HOST:PORT or unix:PATH"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def tls_context(ca: str | Path | None, certificate: str | Path | None, key: str | Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, by the system's authorities or those of a file, with a certificate of the client's own if there is one.

    Raises:
        InvalidArgumentError: a file cannot be read, or does not hold what it should.
    """
    if key is not None and certificate is None:
        raise InvalidArgumentError("there is a `key` without a `certificate`")
    for path in (ca, certificate, key):
        if path is not None and not os.path.isfile(path):
            raise InvalidArgumentError(f"there is no file {str(path)!r}")
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgumentError(f"{str(ca)!r} has no certificates of authorities: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        try:
            # A key that is locked is refused: to ask for its password is no business of a library.
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidArgumentError(
                f"{str(certificate)!r} and its key are no certificate and key that can be used: {error}"
            ) from None
    return context


class Options:
    """What the clients have in common: where the server is, and how it is asked."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: Token | None = None,
        timeout: float = 60.0,
        retry: Retry | None = _RETRY,
        connections: int = 16,
        compress: str | None = None,
        accept: str | None = None,
        max_answer: int = 1 << 31,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
    ) -> None:
        """
        Args:
            url: http://HOST[:PORT][/ROOT], https://..., HOST:PORT, or unix:PATH for a Unix socket.
            token: an API key or JWT, or a function that gives one, asked before each try and quick.
            timeout: seconds that a call may take, all of its tries and waits together; math.inf: no bound. The server is told what is left.
            retry: how often a call is tried again; None: never.
            connections: the most at once; a call waits for one of them.
            compress: "gzip" or "deflate": bodies of inferences from 1 KiB on are packed.
            accept: "gzip" or "deflate": answers may be packed.
            max_answer: bytes of an answer, unpacked; more is InvalidAnswerError.
            ca: a PEM file with the authorities that sign servers' certificates; None: the system's.
            certificate, key: PEM files, where the server asks clients for a certificate.
            tls: a context of one's own, instead of those files.
            insecure: a token may go to another machine over plain HTTP, where everybody on the way can read it.

        Raises:
            InvalidArgumentError: an argument is wrong, or a file that one names.
        """
        for name, value in (("compress", compress), ("accept", accept)):
            if value not in (None, *ENCODINGS):
                raise InvalidArgumentError(f"{name} is {value!r} and must be {' or '.join(map(repr, ENCODINGS))}")
        if connections < 1 or max_answer < 1:
            raise InvalidArgumentError(f"connections is {connections}, max_answer {max_answer}: both are 1 or more")
        if tls is not None and (ca, certificate, key) != (None, None, None):
            raise InvalidArgumentError("`tls` has its own authorities and certificate: give it, or the files")
        Deadline(timeout)
        plain = target(url, None)
        if url.lower().startswith("https:"):
            self._target = target(url, tls or tls_context(ca, certificate, key))
        elif (ca, certificate, key, tls) != (None, None, None, None):
            raise InvalidArgumentError(
                f"there are certificates for {shown(url)}, which speaks no TLS: give an address with https://"
            )
        else:
            self._target = plain
        if token is not None and not (self._target.is_private or insecure):
            raise InvalidArgumentError(
                f"the token would go to {plain.authority} in clear, where everybody on the way can read it: use https://, or say insecure=True"
            )
        if isinstance(token, str):
            _header_text(token)
        self._token = token
        self._timeout = timeout
        self._retry = retry or Retry(times=0)
        self._connections = connections
        self._compress = compress
        self._accept = accept
        self._max_answer = max_answer
        self._start()

    def _start(self) -> None:
        """Makes what a client keeps."""

    def __repr__(self) -> str:
        where = f"unix:{self._target.socket}" if self._target.socket is not None else self._target.url
        return f"{type(self).__name__}({where!r})"

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _headers(self, call: Call[Any], deadline: Deadline) -> dict[str, str]:
        """Those of one try, but for what frames its body."""
        headers = {"Host": self._target.authority, "User-Agent": f"maas-rt/{__version__}", **call.headers}
        if self._accept is not None:
            headers["Accept-Encoding"] = self._accept
        token = self._token() if callable(self._token) else self._token
        if token is not None:
            headers["Authorization"] = f"Bearer {_header_text(token)}"
        left = deadline.check()
        if left is not None:
            headers[TIMEOUT] = str(min(_MOST_MS, math.ceil(left * 1000)))
        return headers


def _header_text(token: str) -> str:
    if not isinstance(token, str) or not token or not all(33 <= ord(each) < 127 for each in token):
        raise InvalidArgumentError(
            "the token is no text of ASCII letters, digits and signs, without spaces and ends of lines"
        )
    return token
