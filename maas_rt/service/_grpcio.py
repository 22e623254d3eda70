"""grpcio and protobuf, or the one sentence that says how to install them."""

from __future__ import annotations

import os

from .._errors import MissingExtraError

# It would write a line for each handshake that fails: anybody could fill a disk. It is read when grpcio is first used.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
    from google.protobuf.message import DecodeError
    from grpc._cython import cygrpc
except ModuleNotFoundError as error:
    missing = "protobuf" if (error.name or "").startswith("google") else "grpcio"
    raise MissingExtraError("gRPC", "grpc", missing) from error

__all__ = ["DecodeError", "cygrpc", "descriptor_pb2", "descriptor_pool", "grpc", "json_format", "message_factory"]
