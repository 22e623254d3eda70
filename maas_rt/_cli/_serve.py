"""Serve a directory of .mrt files over HTTP: Open Inference Protocol v2 (REST, JSON tensors).

  maas-rt serve models/
  curl -s localhost:8000/v2/models/digits/infer -d '{"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [...]}]}'

models/digits.mrt is served as model "digits", models/digits/2.mrt as version 2 of it.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="holds NAME.mrt, or NAME/VERSION.mrt")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one (default: 8000)")
    parser.add_argument("--threads", type=int, default=0, help="threads of one inference (default: all)")
    parser.add_argument("--max-body", type=int, default=64, metavar="MIB", help="largest request (default: 64 MiB)")


def execute(args: argparse.Namespace) -> int:
    from ..service import serve

    return serve(args.directory, host=args.host, port=args.port, threads=args.threads, max_body=args.max_body << 20)
