"""grpcio and protobuf, or the one sentence that says how to install them."""

from __future__ import annotations

from .._errors import MissingExtraError

try:
    import google.protobuf
    import grpc
    import grpc.aio
except ModuleNotFoundError as error:
    missing = "protobuf" if (error.name or "").startswith("google") else "grpcio"
    raise MissingExtraError("gRPC", "grpc", missing) from error

__all__ = ["google", "grpc"]
