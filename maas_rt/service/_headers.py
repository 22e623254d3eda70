"""Names of headers that server and client share, beside the protocol's own (_requests)."""

from __future__ import annotations

REQUEST_ID = "X-Request-Id"
TIMEOUT = "X-Request-Timeout-Ms"
