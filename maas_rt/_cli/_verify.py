"""Compare a model.mrt with the model that it came from, on random, minimal and given inputs.

maas-rt verify model.mrt --against model.onnx
maas-rt verify model.mrt --against checkpoint/ --model package.module:build --input real.npz
"""

from __future__ import annotations

import argparse

from ._compile import described_inputs
from ._extras import require_compiler
from ._weights import add_weights_arguments, chosen_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_file", metavar="MODEL.mrt")
    parser.add_argument(
        "--against", required=True, metavar="MODEL", help="the source model: .onnx, .pt2 or a checkpoint"
    )
    parser.add_argument("--model", metavar="PACKAGE.MODULE:FACTORY", help="builds the architecture of a checkpoint")
    add_weights_arguments(parser)
    parser.add_argument("--input", metavar="REAL.npz", help="also compare on these arrays")
    parser.add_argument("--input-shape", action="append", default=[], metavar="NAME:D0,D1,...[:DTYPE]")


def execute(args: argparse.Namespace) -> int:
    compiler = require_compiler()
    from ..compiler.verify._against import verify_file

    shapes, examples = described_inputs(args)
    report = verify_file(
        args.model_file,
        args.against,
        inputs=examples,
        input_shapes=shapes,
        factory=args.model,
        weights=chosen_weights(args, compiler),
    )
    for name, error in report.outputs.items():
        print(f"{name}: largest relative error {error:.2e}")
    print(f"{args.model_file} agrees with {args.against} on {report.cases} inputs (reference: {report.reference})")
    return 0
