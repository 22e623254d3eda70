"""Who may call what: tokens, verbs and models. The transports hand in what the client sent and get a Client, or one error."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import Kind, ServiceError, shown
from ._grants import ALL, Client, Verb
from ._keys import PREFIX, Keys, find, read_keys
from ._watched import Watched

if TYPE_CHECKING:
    from ._jwt import Issuers

_SCHEME = "bearer "


class Access:
    """API keys of a file and issuers of JWTs; with neither, everybody may do everything. Any thread may call anything.

    Raises InvalidArgumentError for a file that cannot be used.
    """

    def __init__(self, keys: Path | None = None, issuers: Path | None = None) -> None:
        self._keys: Watched[Keys] | None = None
        self._issuers: Watched[Issuers] | None = None
        if keys is not None:
            self._keys = Watched([keys], lambda: read_keys(keys), "the API keys")
        if issuers is not None:
            from ._jwt import Issuers  # PyJWT and cryptography take their time

            self._issuers = Watched([issuers], lambda: Issuers.read(issuers), "the issuers of tokens")

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a token."""
        return self._keys is None and self._issuers is None

    def start(self, now: int) -> None:
        """Begins to fetch what is far away, before the first request is there."""
        if self._issuers is not None:
            self._issuers.get(now).start(now)

    def check(self, token: str | None, verb: Verb, model: str | None, now: int) -> Client:
        """`find`, and `permit`."""
        client = self.find(token, now)
        permit(client, verb, model)
        return client

    def find(self, token: str | None, now: int, address: str = "") -> Client:
        """The client whose token it is.

        Args:
            token: what `bearer` found.
            now: the time in ns since 1970.
            address: names the client where nobody needs a token.

        Raises:
            ServiceError: UNAUTHENTICATED; NOT_READY while an issuer's keys are fetched.
        """
        if self.is_open:
            return _anybody(address)
        if token is None:
            raise ServiceError(Kind.UNAUTHENTICATED, "a token is needed: send the header Authorization: Bearer TOKEN")
        if self._keys is not None and (self._issuers is None or token.startswith(PREFIX)):
            return find(self._keys.get(now), token, now)
        assert self._issuers is not None
        return self._issuers.get(now).find(token, now)


@lru_cache(1024)
def _anybody(address: str) -> Client:
    return Client(f"address:{address}", ALL, is_known=False)


def permit(client: Client, verb: Verb, model: str | None) -> None:
    """Whether there is such a model is not looked at: who may not see it is told the same as of one that is not there.

    Raises:
        ServiceError: FORBIDDEN.
    """
    if not client.may(verb, model):
        what = "the whole server" if model is None else f"model {shown(model)}"
        raise ServiceError(Kind.FORBIDDEN, f"this token does not grant {verb.value} on {what}")


def bearer(header: str | None) -> str | None:
    """The token of an Authorization header (RFC 6750); None if there is no header.

    Raises:
        ServiceError: UNAUTHENTICATED for another scheme.
    """
    if header is None:
        return None
    token = header[len(_SCHEME) :].strip()
    if header[: len(_SCHEME)].lower() != _SCHEME or not token:
        raise ServiceError(Kind.UNAUTHENTICATED, "the header Authorization must be Bearer TOKEN")
    return token


def challenge(error: ServiceError, token: str | None) -> str | None:
    """The header WWW-Authenticate of an answer (RFC 6750, section 3); None where it has none."""
    if error.kind is Kind.UNAUTHENTICATED:
        return 'Bearer realm="maas-rt"' + ("" if token is None else ', error="invalid_token"')
    return 'Bearer realm="maas-rt", error="insufficient_scope"' if error.kind is Kind.FORBIDDEN else None
