"""The whole way on real data, in a few minutes: train a digit classifier with two processes (torchrun, gloo), compile the
distributed checkpoint that they wrote, and compare accuracy, size and latency with eager torch and ONNX Runtime.

  maas-rt demo
"""

from __future__ import annotations

import argparse

from ._arrays import at_least_one
from ._extras import require_compiler


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", default="build/demo", help="where checkpoint and model go (default: build/demo)")
    parser.add_argument(
        "--epochs",
        type=at_least_one("number of epochs"),
        default=12,
        help="passes over the training images (default: 12)",
    )


def execute(args: argparse.Namespace) -> int:
    require_compiler()
    from ..compiler.demo import run

    return run(args.directory, epochs=args.epochs)
