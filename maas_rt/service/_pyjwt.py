"""PyJWT and the keys of cryptography, or the one sentence that says how to install them."""

from __future__ import annotations

from .._errors import MissingExtraError

try:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
except ModuleNotFoundError as error:
    raise MissingExtraError("the service", "serve", error.name or "PyJWT") from error

__all__ = ["RSAPublicKey", "jwt"]
