"""Key sets (JWKS, RFC 7517): the public keys of an issuer of JWTs, from a file or a URL."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from .._errors import InvalidArgumentError
from ._pyjwt import RSAPublicKey, jwt
from ._watched import Watched

# What each type of key can be used with, the first by default. None of them is symmetric: a secret that two sides share signs API keys' way.
_FITTING = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
ALGORITHMS = tuple(dict.fromkeys(name for names in _FITTING.values() for name in names))
_MOST_BYTES = 1 << 20
_MOST_KEYS = 100
_RSA_BITS = 2048
_PATIENCE = 10.0  # seconds for a fetch
_SECOND = 1_000_000_000
_AGAIN_NS = 30 * _SECOND  # between two fetches, whatever tokens ask for
_OLD_NS = 300 * _SECOND  # a set is fetched anew, for issuers publish a key before they use it
_STALE_NS = 24 * 3600 * _SECOND  # a set is no longer believed: a key may have been withdrawn since


@dataclass(frozen=True)
class VerifyKey:
    """A public key and the one algorithm that it is used with."""

    id: str | None
    algorithm: str
    key: Any


KeySet = tuple[VerifyKey, ...]


class KeySource(Protocol):
    """Where an issuer's keys come from."""

    def get(self, now: int) -> KeySet | None:
        """The keys; None while they are not known. `now` is the time in ns since 1970."""

    def missed(self, now: int) -> bool:
        """A token names a key that is not among them. Whether it may be in a moment."""


def read_key_set(text: bytes, allowed: Sequence[str]) -> KeySet:
    """The keys of a document that can verify with one of the allowed algorithms; each is pinned to one, its own `alg` or the first that fits.

    Raises:
        InvalidArgumentError: it is no key set, or holds no such key.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgumentError("it is not JSON in UTF-8") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MOST_KEYS:
        raise InvalidArgumentError(f'it must be an object with a list "keys", of {_MOST_KEYS} at most')
    found = tuple(key for key in (_key(entry, allowed) for entry in entries) if key is not None)
    if not found:
        raise InvalidArgumentError(f"none of its {len(entries)} keys is a public key for {', '.join(allowed)}")
    return found


class FileKeys:
    """Of a file, which is read again when it changes."""

    def __init__(self, path: Path, allowed: Sequence[str]) -> None:
        def read() -> KeySet:
            try:
                return read_key_set(path.read_bytes(), allowed)
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"{path}: {error}") from None

        self._watched = Watched([path], read, "the key set")

    def get(self, now: int) -> KeySet:
        return self._watched.get(now)

    def missed(self, now: int) -> bool:
        return False


class UrlKeys:
    """Of a URL, fetched by a thread of its own: nobody waits for it, and tokens that name unknown keys bring no more than a fetch every 30 s.

    Args:
        fetch: the bytes at a URL; raises OSError.
    """

    def __init__(self, url: str, allowed: Sequence[str], fetch: Callable[[str], bytes] | None = None) -> None:
        check_url(url)
        self._url = url
        self._allowed = tuple(allowed)
        self._fetch = fetch or _fetch
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched = 0  # when what we have was asked for
        self._tried: int | None = None
        self._thread: threading.Thread | None = None

    def get(self, now: int) -> KeySet | None:
        if self._keys is None or now - self._fetched > _OLD_NS:
            self._refresh(now)
        return self._keys if now - self._fetched <= _STALE_NS else None

    def missed(self, now: int) -> bool:
        return self._refresh(now)

    def join(self, seconds: float) -> None:
        """Waits for the fetch that is under way, if one is."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _refresh(self, now: int) -> bool:
        """Starts a fetch if it is time; whether one is under way."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return True
            if self._tried is not None and 0 <= now - self._tried < _AGAIN_NS:
                return False
            self._tried = now
            self._thread = threading.Thread(target=self._take, args=(now,), name="maas-rt key set", daemon=True)
            self._thread.start()
            return True

    def _take(self, now: int) -> None:
        log = logging.getLogger(__name__)
        try:
            keys = read_key_set(self._fetch(self._url), self._allowed)
        except (OSError, HTTPException, InvalidArgumentError) as error:
            log.error("the key set at %s: %s", self._url, getattr(error, "reason", None) or error)
        except Exception:  # of a thread that nobody waits for
            log.exception("the key set at %s", self._url)
        else:
            self._fetched, self._keys = now, keys


def check_url(url: str) -> None:
    """Raises InvalidArgumentError unless nobody on the way can put keys of his own there: https, or http on this machine."""
    with suppress(ValueError):  # as of an address whose bracket is not closed
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            return
        if parts.scheme == "http" and parts.hostname and _is_here(parts.hostname):
            return
    raise InvalidArgumentError(
        f"the key set's URL is {url} and must be https://...: who can change the answer can sign tokens"
    )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(entry: Any, allowed: Sequence[str]) -> VerifyKey | None:
    """A key of a set; None for what is not for us: encryption, another algorithm, a symmetric key, one that is too short or broken."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    kind, curve, stated, identifier = (entry.get(name) for name in ("kty", "crv", "alg", "kid"))
    fitting = _FITTING.get((kind, None if kind == "RSA" else curve), ()) if isinstance(kind, str) else ()
    usable = [name for name in allowed if name in fitting and stated in (None, name)]
    if not usable or not (identifier is None or isinstance(identifier, str)):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=usable[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if hasattr(key, "private_numbers") or hasattr(key, "private_bytes"):
        key = key.public_key()
    if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS:
        return None
    return VerifyKey(identifier, usable[0], key)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """To go elsewhere may be to go to http; whoever configures the URL can give the last one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        raise urllib.error.URLError(f"it leads on to {newurl}: give that as the URL, if it is right")


def _fetch(url: str) -> bytes:
    end = time.monotonic() + _PATIENCE
    text = bytearray()
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=_PATIENCE) as response:
        while chunk := response.read1(1 << 16):
            text += chunk
            if len(text) > _MOST_BYTES:
                raise OSError(f"it is larger than {_MOST_BYTES >> 10} KiB")
            if time.monotonic() > end:
                raise TimeoutError(f"it takes longer than {_PATIENCE:.0f} s")
    return bytes(text)
