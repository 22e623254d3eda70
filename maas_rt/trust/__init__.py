"""Trust in a model's file: signatures and encryption. Needs the extra `trust`.

    maas_rt.trust.sign("model.mrt", key="signer.pem")
    maas_rt.trust.encrypt("model.mrt", "model.enc.mrt", ["reader.pub.pem"])
    maas_rt.load("model.enc.mrt", require_signature="signer.pub.pem", key="reader.pem")

docs/trust.md says what is protected against what.
"""

from __future__ import annotations

from maas_rt._errors import MissingExtraError

try:
    import cryptography  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingExtraError("signatures and encryption", "trust", "cryptography") from _error

from ._bundle import write_bundle
from ._encryption import Recipient
from ._files import Report, check, decrypt, encrypt, plain_sections, shared_recipient, sign
from ._signature import Accepted

__all__ = [
    "Accepted",
    "Recipient",
    "Report",
    "check",
    "decrypt",
    "encrypt",
    "plain_sections",
    "shared_recipient",
    "sign",
    "write_bundle",
]
