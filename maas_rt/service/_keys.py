"""API keys: random tokens, of which a file holds the hashes.

    {"keys": [{"id": "9a1f5c0e7b21d4f3", "name": "shop", "sha256": "...", "allow": ["infer:team-*"], "created": "2026-11-30T12:00:00Z",
               "expires": null, "revoked": null, "limits": {"rate": 50, "burst": 100, "in_flight": 8}}]}

A token is mrt_ID_SECRET: the id finds the hash, is told in logs and is no secret. The secret has 256 random bits, which nobody can search:
SHA-256 is enough, a slow hash would only slow down the service.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from .._errors import Error, InvalidArgumentError
from .._whole_file import whole_file
from ._errors import Kind, ServiceError
from ._folder_lock import locked_folder
from ._grants import Client, Grant, read_grants
from ._limiter import Limits

PREFIX = "mrt_"
_TOKEN = re.compile(PREFIX + r"([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SECOND = 1_000_000_000
_FIELDS = {"id", "name", "sha256", "allow", "created", "expires", "revoked", "limits"}
_NEEDED = {"id", "name", "sha256", "allow"}


@dataclass(frozen=True)
class Key:
    """A key without its secret. Times are whole seconds since 1970."""

    id: str
    name: str
    digest: bytes
    grants: tuple[Grant, ...]
    created: int | None = None
    expires: int | None = None
    revoked: int | None = None
    limits: Limits | None = None

    def state(self, now: int) -> str:
        """ "valid", "expired" or "revoked"; `now` in ns."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires * _SECOND else "valid"

    @cached_property
    def client(self) -> Client:
        return Client(f"key:{self.id}", self.grants, self.limits)


Keys = Mapping[str, Key]  # by their ids
_NOBODY = Key("", "", bytes(32), ())  # what an unknown id is compared with, in the time of a known one


def find(keys: Keys, token: str, now: int) -> Client:
    """Whose token it is.

    Raises:
        ServiceError: UNAUTHENTICATED; of a token that is unknown, nothing more is told.
    """
    match = _TOKEN.fullmatch(token)
    key = keys.get(match[1], _NOBODY) if match else _NOBODY
    if not hmac.compare_digest(_digest(token), key.digest) or key is _NOBODY:
        raise ServiceError(Kind.UNAUTHENTICATED, "the token is not one that this server knows")
    state = key.state(now)
    if state != "valid":
        raise ServiceError(Kind.UNAUTHENTICATED, f"the API key {key.id} is {state}")
    return key.client


def read_keys(path: Path) -> Keys:
    """The keys of a file, by id.

    Raises:
        InvalidArgumentError: it is no file of keys, or others than its owner may write to it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o022:
            raise InvalidArgumentError(f"{path} may be written by others than its owner: run chmod go-w {path}")
        text = file.read()
    try:
        return _parse(text)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None


def new_key(
    path: Path, name: str, grants: Sequence[Grant], now: int, expires: int | None = None, limits: Limits | None = None
) -> str:
    """Adds a key to a file, which is made if it is not there, and returns its token: nobody can be told it again.

    Args:
        expires: in seconds since 1970; None: never.

    Raises:
        InvalidArgumentError: the name, or the file.
        Error: the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{name!r} is no name of a key: use letters, digits, '_', '.', '@' and '-', 63 at most"
        )
    if not grants:
        raise InvalidArgumentError("a key that may do nothing is of no use: give a grant, as infer:team-*")
    identifier = secrets.token_hex(8)
    token = f"{PREFIX}{identifier}_{secrets.token_urlsafe(32)}"
    key = Key(identifier, name, _digest(token), tuple(grants), now // _SECOND, expires, None, limits)
    with _changing(path) as keys:
        if any(each.name == name and each.state(now) == "valid" for each in keys.values()):
            raise InvalidArgumentError(f"{path} has a valid key {name!r}: revoke it, or choose another name")
        keys[identifier] = key
    return token


def revoke_key(path: Path, which: str, now: int) -> Key:
    """Revokes the key of this id, or the valid one of this name. To revoke it twice is to revoke it once.

    Raises:
        InvalidArgumentError: there is none, or the file is no file of keys.
        Error: the file cannot be written.
    """
    if not path.exists():
        raise InvalidArgumentError(f"{path} does not exist: give the file of the keys")
    with _changing(path) as keys:
        named = [each for each in keys.values() if each.name == which and each.revoked is None]
        # There may be expired ones of the same name: to revoke those, too, harms nobody.
        found = [keys[which]] if which in keys else named
        if not found:
            raise InvalidArgumentError(
                f"{path} has no key {which!r} that could be revoked: `maas-rt token list` shows them"
            )
        for key in found:
            keys[key.id] = key if key.revoked is not None else replace(key, revoked=now // _SECOND)
        return keys[found[-1].id]


def parse_time(text: str) -> int:
    """Seconds since 1970 of 2026-11-30T12:00:00Z, or of the date alone. Raises InvalidArgumentError."""
    for form in (_TIME, "%Y-%m-%d"):
        with contextlib.suppress(ValueError):
            return int(datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp())
    raise InvalidArgumentError(f"{text!r} is no time: write 2026-11-30 or 2026-11-30T12:00:00Z, in UTC")


def show_time(seconds: int) -> str:
    """The inverse."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(_TIME)


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Key]]:
    """The keys of a file, which is replaced by what the block makes of them; one who changes it at a time, so that no revocation is lost."""
    with locked_folder(path.resolve().parent):
        was = path.stat() if path.exists() else None
        keys = dict(read_keys(path)) if was else {}
        yield keys
        with whole_file(path, mode=0o600) as file:
            if was is not None:
                try:
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
                except PermissionError:
                    raise Error(
                        f"{path} belongs to another user, who could no longer read it: run this as that user"
                    ) from None
            file.write(_dump(keys))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _parse(text: bytes) -> Keys:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgumentError("it is not JSON in UTF-8; `maas-rt token new` makes such a file") from None
    if not isinstance(document, dict) or set(document) != {"keys"} or not isinstance(document["keys"], list):
        raise InvalidArgumentError('it must be an object with a list "keys"; `maas-rt token new` makes such a file')
    keys: dict[str, Key] = {}
    for number, fields in enumerate(document["keys"]):
        try:
            key = _key(fields)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"keys[{number}]: {error}") from None
        if key.id in keys:
            raise InvalidArgumentError(f"keys[{number}]: there are two keys {key.id}")
        keys[key.id] = key
    return keys


def _key(fields: Any) -> Key:
    if not isinstance(fields, dict) or not _NEEDED <= set(fields) <= _FIELDS:
        raise InvalidArgumentError(
            f"it must be an object with {', '.join(sorted(_NEEDED))}, and of others {', '.join(sorted(_FIELDS - _NEEDED))} alone"
        )
    text = [fields["id"], fields["name"], fields["sha256"]]
    if not all(isinstance(each, str) for each in text):
        raise InvalidArgumentError("id, name and sha256 must be texts")
    identifier, name, digest = text
    if not re.fullmatch("[0-9a-f]{16}", identifier) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise InvalidArgumentError("id must be 16 and sha256 64 hexadecimal digits")
    allow = fields["allow"]
    if not isinstance(allow, list) or not all(isinstance(each, str) for each in allow):
        raise InvalidArgumentError('allow must be a list of grants, as ["infer:team-*"]')
    times = {}
    for field in ("created", "expires", "revoked"):
        value = fields.get(field)
        if value is not None and not isinstance(value, str):
            raise InvalidArgumentError(f"{field} must be a time, as 2026-11-30T12:00:00Z")
        times[field] = None if value is None else parse_time(value)
    return Key(
        identifier, name, bytes.fromhex(digest), read_grants(allow), **times, limits=_limits(fields.get("limits"))
    )


def _limits(fields: Any) -> Limits | None:
    if fields is None:
        return None
    if not isinstance(fields, dict) or not set(fields) <= {"rate", "burst", "in_flight"}:
        raise InvalidArgumentError("limits must be an object with rate, burst and in_flight")
    wrong = [
        name
        for name, value in fields.items()
        if type(value) is not int and (name != "rate" or type(value) is not float)
    ]
    if wrong:
        raise InvalidArgumentError(f"limits: {wrong[0]} must be a number")
    return Limits(**fields)


def _dump(keys: Keys) -> bytes:
    def shown(key: Key) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": key.id,
            "name": key.name,
            "sha256": key.digest.hex(),
            "allow": [str(grant) for grant in key.grants],
        }
        for field in ("created", "expires", "revoked"):
            seconds = getattr(key, field)
            fields[field] = None if seconds is None else show_time(seconds)
        if key.limits is not None:
            fields["limits"] = {"rate": key.limits.rate, "burst": key.limits.burst, "in_flight": key.limits.in_flight}
        return fields

    return (json.dumps({"keys": [shown(key) for key in keys.values()]}, indent=1) + "\n").encode()
