"""Serve a directory of .mrt files over HTTP: Open Inference Protocol v2 (REST, JSON and binary tensors).

  maas-rt serve models/
  curl -s localhost:8000/v2/models/digits/infer -d '{"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [...]}]}'

models/digits.mrt is served as model "digits", models/digits/2/model.mrt (or models/digits/2.mrt) as version 2 of it;
models/digits/config.toml says which versions are served (versions = {latest = 2}), what they are called ([labels]) and how requests
wait for them (docs/service.md).
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="holds NAME.mrt, or NAME/VERSION/model.mrt")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=port, default=8000, help="0 picks a free one (default: 8000)")
    parser.add_argument("--threads", type=int, default=0, help="threads of one inference (default: all)")
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


def port(text: str) -> int:
    """A TCP port, or 0."""
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 0 to 65535")
    return number


def mebibytes(text: str) -> int:
    """A size in MiB, in bytes."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in MiB; expected 1 or more")
    return number << 20


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

    return serve(
        args.directory,
        host=args.host,
        port=args.port,
        threads=args.threads,
        max_body=args.max_body,
        drain_delay=args.drain_delay,
        watch=args.watch,
    )
