"""Serve a directory of .mrt files over HTTP and gRPC: Open Inference Protocol v2 (REST with JSON and binary tensors; gRPC with the extra grpc).

  maas-rt serve models/
  curl -s localhost:8000/v2/models/digits/infer -d '{"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [...]}]}'

models/digits.mrt is served as model "digits", models/digits/2/model.mrt (or models/digits/2.mrt) as version 2 of it;
models/digits/config.toml says which versions are served (versions = {latest = 2}), what they are called ([labels]) and how requests
wait for them (docs/service.md). All options may stand in a file (--config) or in the environment, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._errors import InvalidArgumentError
from ._layers import Layers
from ._opening import add_opening, opening


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        metavar="DIR|URL",
        nargs="?",
        help="holds NAME.mrt, or NAME/VERSION/model.mrt; a URL, as s3://bucket/models, needs fsspec",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read everything, say what would be served where, and end: with 0 if all of it is good, else with 1",
    )
    parser.add_argument("--threads", type=threads, default=0, help="threads of one inference (default: all)")
    parser.add_argument(
        "--workers",
        type=workers,
        default=1,
        metavar="N",
        help="processes that answer, share models' memory, and are started again when they die; 0: one for each CPU (default: 1)",
    )
    parser.add_argument(
        "--max-body", type=mebibytes, default=64 << 20, metavar="MIB", help="largest request (default: 64 MiB)"
    )
    parser.add_argument(
        "--drain-delay",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="after SIGTERM, answer for so long that it is not ready, and requests as before (default: 0)",
    )
    parser.add_argument(
        "--watch",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="look for new, changed and removed files every so many seconds (default: 0, never)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where what a URL leads to is copied (default: maas-rt/mirror in ~/.cache)",
    )
    parser.add_argument(
        "--memory",
        type=mebibytes,
        default=0,
        metavar="MIB",
        help="models' files that may be loaded at once; what has no room is loaded when it is asked for, in the place of what was used "
        "least recently; of all workers together (default: all are loaded)",
    )
    parser.add_argument(
        "--idle-unload",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="unload a version that nobody has asked for so long; it is loaded again when it is asked for (default: 0, never)",
    )
    parser.add_argument(
        "--no-console", dest="console", action="store_false", help="no page for browsers at / (see docs/service.md)"
    )
    parser.add_argument(
        "--shared-memory",
        action="store_true",
        help="clients on this machine may have tensors in objects of system shared memory (/dev/shm) that this user may read and write",
    )
    where = parser.add_argument_group("where to listen")
    where.add_argument(
        "--host",
        action="append",
        default=[],
        help="address to listen on; may be repeated (default: 127.0.0.1 and ::1, this machine only)",
    )
    where.add_argument("--port", type=port, default=8000, help="0 picks a free one (default: 8000)")
    where.add_argument(
        "--grpc-port",
        type=port_or_off,
        metavar="PORT",
        help="for gRPC, on the same hosts; off: none (default, with the extra grpc: one above --port)",
    )
    where.add_argument(
        "--unix", type=Path, metavar="PATH", help="a Unix socket; without --host nothing else is listened on"
    )
    where.add_argument(
        "--insecure", action="store_true", help="answer other machines without tokens and TLS: something else guards it"
    )
    access = parser.add_argument_group("who may do what")
    access.add_argument("--keys", type=Path, metavar="KEYS.json", help="API keys, as `maas-rt token new` makes them")
    access.add_argument("--jwt", type=Path, metavar="ISSUERS.toml", help="issuers of JSON Web Tokens")
    access.add_argument(
        "--rate", type=float, default=0.0, metavar="N", help="requests a second of one client (default: any)"
    )
    access.add_argument(
        "--burst",
        type=count,
        default=0,
        metavar="N",
        help="requests of one client that may come together (default: those of a second)",
    )
    access.add_argument(
        "--in-flight", type=count, default=0, metavar="N", help="requests of one client at once (default: any)"
    )
    access.add_argument(
        "--audit-log", type=Path, metavar="FILE", help="where administrative calls are noted (default: standard error)"
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument(
        "--tls-cert", type=Path, metavar="CERT.pem", help="the server's certificate, with the chain below it"
    )
    tls.add_argument("--tls-key", type=Path, metavar="KEY.pem", help="its private key")
    tls.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="CA.pem",
        help="clients must show a certificate of one of these authorities",
    )
    seen = parser.add_argument_group("what is told of it")
    seen.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of the log on standard error (default: text)"
    )
    seen.add_argument("--log-requests", action="store_true", help="a line for each request")
    seen.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="send OpenTelemetry traces to this collector, as http://localhost:4318 (needs the extra otel)",
    )
    add_opening(parser)
    parser.set_defaults(layers=Layers.under(parser, "MAAS_RT_SERVE_", but=("check",)))


def threads(text: str) -> int:
    """Threads, or 0 for all."""
    return _number(text, 0, 1 << 16, "number of threads")


def workers(text: str) -> int:
    """Processes, or 0 for one for each CPU."""
    return _number(text, 0, 1024, "number of workers")


def count(text: str) -> int:
    """A number of requests."""
    return _number(text, 1, 1 << 31, "number of requests")


def port(text: str) -> int:
    """A TCP port, or 0."""
    return _number(text, 0, 65535, "port")


_OFF = -1


def port_or_off(text: str) -> int:
    """A TCP port, or "off", which is -1."""
    return _OFF if text == "off" else port(text)


def mebibytes(text: str) -> int:
    """A size in MiB, in bytes."""
    return _number(text, 1, 1 << 20, "size in MiB") << 20


def _number(text: str, least: int, most: int, what: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}; expected {least} to {most}")
    return number


def seconds(text: str) -> float:
    """A time that passes."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; expected 0 to 86400")
    return number


def execute(args: argparse.Namespace) -> int:
    from ..service import serve
    from ..service._limiter import Limits
    from ..service._listen import Listen
    from ..service._tls import TlsFiles

    args = args.layers.resolve(args)
    if args.directory is None:
        raise InvalidArgumentError(
            "which folder is to be served? give DIR, MAAS_RT_SERVE_DIRECTORY or directory in the config"
        )
    if (args.tls_cert is None) != (args.tls_key is None):
        raise InvalidArgumentError("TLS needs both of --tls-cert and --tls-key")
    if args.tls_client_ca is not None and args.tls_cert is None:
        raise InvalidArgumentError("--tls-client-ca is of no use without --tls-cert and --tls-key")
    return serve(
        args.directory,
        listen=Listen(tuple(args.host), args.port, args.unix, args.insecure),
        threads=args.threads,
        max_body=args.max_body,
        keys=args.keys,
        issuers=args.jwt,
        tls=None if args.tls_cert is None else TlsFiles(args.tls_cert, args.tls_key, args.tls_client_ca),
        limits=Limits(args.rate, args.burst, args.in_flight),
        audit=args.audit_log,
        grpc_port=grpc_port(args),
        grpc_needed=args.grpc_port is not None,
        drain_delay=args.drain_delay,
        watch=args.watch,
        memory=args.memory,
        idle_unload=args.idle_unload,
        cache=args.cache,
        console=args.console,
        shared_memory=args.shared_memory,
        log_format=args.log_format,
        log_requests=args.log_requests,
        otlp=args.otlp_endpoint,
        workers=args.workers,
        check=args.check,
        **opening(args),
    )


def grpc_port(args: argparse.Namespace) -> int | None:
    """Where gRPC is answered; None: nowhere. By default one above HTTP's port, and nowhere beside a Unix socket alone."""
    if args.grpc_port is not None:
        return None if args.grpc_port == _OFF else int(args.grpc_port)
    if (args.unix is not None and not args.host) or args.port == 65535:
        return None
    return int(args.port) + 1 if args.port else 0
