"""Where a key comes from: a file, the environment, a command, or a function of the host's (a KMS).

A provider gives 32 bytes (raw, as 64 hexadecimal digits, or in base64) or an X25519 private key in PEM.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from maas_rt._errors import Error, InvalidArgumentError

from ._keys import read_file, read_private, refuse_key_text

# A path, "file:PATH", "env:NAME", "command:LINE", the key itself, or a function that gives one for a key's id.
Provider = str | os.PathLike[str] | bytes | X25519PrivateKey | Callable[[str], Any]

_KEY_BYTES = 32
_COMMAND_SECONDS = 60


def as_providers(keys: Any) -> tuple[Provider, ...]:
    """One provider or several, as a tuple; paths are absolute, for another process may be elsewhere."""
    several = keys if isinstance(keys, Sequence) and not isinstance(keys, (str, bytes)) else [keys]
    for each in several:
        known = isinstance(each, (str, os.PathLike, bytes, X25519PrivateKey)) or callable(each)
        if not known:
            raise InvalidArgumentError(
                f"key is a {type(each).__name__} and must be a path, 'env:NAME', 'command:LINE', bytes or a function"
            )
        if isinstance(each, str):
            refuse_key_text(each)
    if not several:
        raise InvalidArgumentError("key names no key: give a path, 'env:NAME', 'command:LINE', bytes or a function")
    return tuple(_absolute(each) for each in several)


def _absolute(provider: Provider) -> Provider:
    if isinstance(provider, os.PathLike) or (
        isinstance(provider, str) and not provider.startswith(("env:", "command:"))
    ):
        return os.path.abspath(os.fsdecode(provider).removeprefix("file:"))
    return provider


def is_secret(keys: tuple[Provider, ...]) -> bool:
    """Whether a key itself is among them, not the place where it lies."""
    return any(isinstance(each, (bytes, X25519PrivateKey)) for each in keys)


def secret_of(provider: Provider, key_id: str = "") -> bytes | X25519PrivateKey:
    """The key that a provider gives for an id.

    Raises:
        InvalidArgumentError: what it gives is no key; Error: it gives nothing.
    """
    if isinstance(provider, X25519PrivateKey):
        return provider
    if isinstance(provider, bytes):
        return _parsed(provider, "the key")
    if isinstance(provider, (str, os.PathLike)):
        kind, _, rest = os.fspath(provider).partition(":")
        if kind == "env" and rest:
            text = os.environ.get(rest)
            if text is None:
                raise Error(f"the key is to be in the environment's {rest}, which is not set")
            return _parsed(text.encode(), f"the environment's {rest}", raw=False)  # 32 letters are no key
        if kind == "command" and rest:
            return _parsed(_output(rest, key_id), "what the key's command prints")
        return _parsed(read_file(provider), os.fspath(provider))
    try:
        given = provider(key_id)
    except Exception as error:
        raise Error(f"the key's function failed: {type(error).__name__}: {error}") from error
    return given if isinstance(given, X25519PrivateKey) else _parsed(given, "what the key's function returns")


def public_of(path: str | os.PathLike[str]) -> X25519PublicKey:
    """An X25519 public key of a PEM file."""
    try:
        key = serialization.load_pem_public_key(read_file(path))
    except ValueError:
        key = None
    if not isinstance(key, X25519PublicKey):
        raise InvalidArgumentError(f"{os.fspath(path)} is no X25519 public key in PEM, which files are encrypted for")
    return key


def _parsed(given: object, what: str, raw: bool = True) -> bytes | X25519PrivateKey:
    if not isinstance(given, (bytes, bytearray, memoryview)):
        raise InvalidArgumentError(f"{what} is a {type(given).__name__}; expected bytes")
    data = bytes(given)
    if data.lstrip().startswith(b"-----BEGIN"):
        key = read_private(data, what)
        if not isinstance(key, X25519PrivateKey):
            raise InvalidArgumentError(f"{what} is a {type(key).__name__}; files are decrypted with X25519 keys")
        return key
    if raw and len(data) == _KEY_BYTES:
        return data
    text = data.strip()
    for decode in (binascii.unhexlify, lambda text: base64.b64decode(text, validate=True)):
        try:
            found: bytes = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(found) == _KEY_BYTES:
            return found
    raise InvalidArgumentError(
        f"{what} is no key: expected {_KEY_BYTES} bytes, {'raw, ' if raw else ''}as hexadecimal digits or in base64, or an X25519 private key in PEM"
    )


def _output(line: str, key_id: str) -> bytes:
    """What a command prints; the id is in its environment's MAAS_RT_KEY_ID."""
    try:
        run = subprocess.run(
            shlex.split(line),
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            env={**os.environ, "MAAS_RT_KEY_ID": key_id},
        )
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        reason = f"took over {_COMMAND_SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        raise Error(f"the key's command {line!r} failed: {reason}") from None
    if run.returncode != 0:
        said = run.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Error(f"the key's command {line!r} ended with {run.returncode}{': ' + said[-1] if said else ''}")
    return run.stdout
