"""Options that choose the model's weights among what a checkpoint holds: for every command that takes --model."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_weights_arguments", "chosen_weights"]


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", metavar="NEST", help="the checkpoint's nest to take, as model_ema or app.model")
    parser.add_argument("--prefix", metavar="TEXT", help="take names that begin with this alone, and cut it off")
    parser.add_argument(
        "--ignore-surplus", action="store_true", help="leave out what the checkpoint has and the model does not"
    )


def chosen_weights(args: argparse.Namespace, compiler: Any) -> Any:
    """The compiler's Weights, or None if nothing was chosen."""
    if args.key is None and args.prefix is None and not args.ignore_surplus:
        return None
    return compiler.Weights(key=args.key, prefix=args.prefix, ignore_surplus=args.ignore_surplus)
