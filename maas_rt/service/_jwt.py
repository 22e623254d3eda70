"""JSON Web Tokens (RFC 7519, as access tokens after RFC 9068): whose they are, and what their scopes grant.

A token is believed if an issuer of the configuration signed it, with a key of that issuer's set and the algorithm that the key is pinned to;
if it is meant for this server; and if its time is now, within a minute. What its header says chooses among the keys, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import threading
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import InvalidArgumentError
from ._errors import Kind, ServiceError, shown
from ._grants import Client, Grant, read_grants
from ._jwks import ALGORITHMS, FileKeys, KeySet, KeySource, UrlKeys, VerifyKey
from ._pyjwt import jwt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEEWAY = 60  # seconds by which the issuer's clock and ours may differ
_LONGEST = 8192  # bytes of a token
_LONGEST_SUBJECT = 128  # characters; of a longer one a hash is the client's name
_HASHED = "sha256:"
_MOST_CANDIDATES = 4  # keys that a token without a key's id is held against
_REMEMBERED = 1024  # tokens whose signature is not computed again
_SECOND = 1_000_000_000
_FIELDS = ("issuer", "audience", "jwks", "algorithms", "claim", "allow")
# The claims of time are ours to check, by the clock that we are handed.
_OPTIONS: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "iss", "aud"]}


@dataclass(frozen=True)
class Issuer:
    """Somebody whose tokens are believed.

    Args:
        issuer: what the claim `iss` of its tokens is.
        audience: one of these is the claim `aud` or in it.
        keys: its public keys.
        claim: the claim that holds grants, a text with spaces between them or a list; words in it that are none are somebody else's scopes.
        allow: what all of its tokens may do besides.
    """

    issuer: str
    audience: tuple[str, ...]
    keys: KeySource
    claim: str = "scope"
    allow: tuple[Grant, ...] = ()


class Issuers:
    """The issuers, and the tokens that were verified of late. Any thread may call anything."""

    def __init__(self, issuers: Mapping[str, Issuer]) -> None:
        self._issuers = dict(issuers)
        self._lock = threading.Lock()
        # Of each token's hash, so that a memory dump holds none: the issuer's keys when it was verified, and its claims.
        self._verified: OrderedDict[bytes, tuple[KeySet, Issuer, dict[str, Any]]] = OrderedDict()

    @classmethod
    def read(cls, path: Path) -> Issuers:
        """Of a TOML file with a table [[issuer]] for each. Raises InvalidArgumentError, OSError."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidArgumentError(f"{path} is not TOML in UTF-8: {error}") from None
        tables = document.get("issuer")
        if set(document) != {"issuer"} or not isinstance(tables, list) or not tables:
            raise InvalidArgumentError(f"{path} must hold a table [[issuer]] for each issuer, and nothing else")
        found: dict[str, Issuer] = {}
        for number, table in enumerate(tables):
            try:
                issuer = _read_issuer(table, path.parent)
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"{path}, issuer {number + 1}: {error}") from None
            if issuer.issuer in found:
                raise InvalidArgumentError(f"{path}, issuer {number + 1}: {issuer.issuer} is there twice")
            found[issuer.issuer] = issuer
        return cls(found)

    def start(self, now: int) -> None:
        """Begins to fetch the keys that come from URLs, before the first token is there."""
        for issuer in self._issuers.values():
            issuer.keys.get(now)

    def find(self, token: str, now: int) -> Client:
        """Whose token it is.

        Raises:
            ServiceError: UNAUTHENTICATED; NOT_READY while the issuer's keys are being fetched.
        """
        if len(token) > _LONGEST or not token.isascii():
            raise _refused("it is no JWT")
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            known = self._verified.get(digest)
        if known is not None and known[0] is known[1].keys.get(now):
            _, issuer, claims = known
        else:
            issuer, keys, claims = self._verify(token, now)
            with self._lock:
                self._verified[digest] = (keys, issuer, claims)
                while len(self._verified) > _REMEMBERED:
                    self._verified.popitem(last=False)
        _check_time(claims, now)
        name = f"jwt:{issuer.issuer}#{_subject(claims, digest)}"
        return Client(name, (*issuer.allow, *_scopes(claims.get(issuer.claim))))

    def _verify(self, token: str, now: int) -> tuple[Issuer, KeySet, dict[str, Any]]:
        header, claims = _unverified(token)
        issuer = self._issuers.get(claims["iss"]) if isinstance(claims.get("iss"), str) else None
        if issuer is None:
            raise _refused(f"its issuer is {shown(claims.get('iss'))}, whose tokens this server does not take")
        if "crit" in header:
            raise _refused("its header asks for extensions (crit), of which this server has none")
        keys = issuer.keys.get(now)
        if keys is None:
            raise _wait()
        candidates = _candidates(keys, header)
        if not candidates:
            if issuer.keys.missed(now):
                raise _wait()
            raise _refused(
                f"its key {shown(header.get('kid'))} with algorithm {shown(header.get('alg'))} is none of the issuer's"
            )
        for key in candidates:
            try:
                claims = jwt.decode(
                    token, key.key, [key.algorithm], options=_OPTIONS, audience=issuer.audience, issuer=issuer.issuer
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidAudienceError:
                raise _refused("it is for another audience") from None
            except jwt.MissingRequiredClaimError as error:
                raise _refused(f"it has no claim {error.claim}") from None
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                raise _refused("it is malformed") from None
            return issuer, keys, claims
        raise _refused("its signature does not hold")


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token that nobody has checked."""
    parts = token.split(".")
    if len(parts) != 3:
        raise _refused("it is no JWT")
    try:
        header, claims = (json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (ValueError, RecursionError):
        raise _refused("it is no JWT") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _refused("it is no JWT")
    return header, claims


def _candidates(keys: KeySet, header: Mapping[str, Any]) -> list[VerifyKey]:
    """The keys that the token may mean. Each is used with its own algorithm, whatever the header says."""
    fitting = [key for key in keys if key.algorithm == header.get("alg")]
    identifier = header.get("kid")
    if identifier is None:
        return fitting if len(fitting) <= _MOST_CANDIDATES else []
    return [key for key in fitting if key.id == identifier][:_MOST_CANDIDATES]


def _check_time(claims: Mapping[str, Any], now: int) -> None:
    times = {name: _time(claims[name], name) for name in ("exp", "nbf", "iat") if name in claims}
    seconds = now / _SECOND
    if seconds >= times["exp"] + LEEWAY:
        raise _refused("it has expired")
    if seconds < max(times.get("nbf", 0), times.get("iat", 0)) - LEEWAY:
        raise _refused("it is not valid yet; is one of the clocks wrong?")


def _time(value: Any, name: str) -> float:
    if (
        type(value) not in (int, float) or not abs(value) < 1e301
    ):  # none of NaN, infinity, and integers that no float holds
        raise _refused(f"its claim {name} is no time")
    return float(value) if abs(value) < 1e15 else math.copysign(1e15, value)


def _subject(claims: Mapping[str, Any], digest: bytes) -> str:
    """Whom a token of this digest is about, in a short name that no other subject has; itself, if it does not say."""
    given = next((str(claims[name]) for name in ("sub", "client_id", "azp") if claims.get(name)), None)
    if given is None:
        return _HASHED + digest.hex()
    if len(given) <= _LONGEST_SUBJECT and not given.startswith(_HASHED):
        return given
    return _HASHED + hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()


def _scopes(value: Any) -> tuple[Grant, ...]:
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    found = []
    for word in words:
        try:
            found.append(Grant.read(word))
        except (InvalidArgumentError, AttributeError):
            continue  # another service's
    return tuple(found)


def _refused(why: str) -> ServiceError:
    return ServiceError(Kind.UNAUTHENTICATED, f"the token is not valid: {why}")


def _wait() -> ServiceError:
    return ServiceError(Kind.NOT_READY, "the keys of the token's issuer are being fetched", 1)


def _read_issuer(table: Any, folder: Path) -> Issuer:
    if not isinstance(table, dict) or not {"issuer", "audience", "jwks"} <= set(table) <= set(_FIELDS):
        raise InvalidArgumentError(
            f"it must have issuer, audience and jwks, and of others {', '.join(_FIELDS[3:])} alone"
        )
    name, jwks, claim = table["issuer"], table["jwks"], table.get("claim", "scope")
    if not all(isinstance(each, str) and each for each in (name, jwks, claim)):
        raise InvalidArgumentError("issuer, jwks and claim must be texts")
    audience = _texts(table["audience"] if isinstance(table["audience"], list) else [table["audience"]], "audience")
    if not audience:
        raise InvalidArgumentError("audience is empty: name what the issuer's tokens call this server")
    algorithms = _texts(table.get("algorithms", list(ALGORITHMS)), "algorithms")
    unknown = [each for each in algorithms if each not in ALGORITHMS]
    if unknown or not algorithms:
        raise InvalidArgumentError(
            f"algorithms has {', '.join(unknown) or 'none'} and may have {', '.join(ALGORITHMS)}"
        )
    keys = UrlKeys(jwks, algorithms) if "://" in jwks else FileKeys(folder / jwks, algorithms)
    return Issuer(name, audience, keys, claim, read_grants(_texts(table.get("allow", []), "allow")))


def _texts(value: Any, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise InvalidArgumentError(f"{field} must be a list of texts")
    return tuple(value)
