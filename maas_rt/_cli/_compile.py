"""Compile a trained model into one file, model.mrt, checked against the framework it came from.

MODEL is an .onnx file, a .pt2 (torch.export.save), or weights: a file (.safetensors, .pt, .ckpt, an index.json), several files of one
checkpoint, or the directory that training left (torch.distributed's DCP, save_pretrained, accelerate, Lightning, DeepSpeed:
docs/checkpoints.md); for weights --model names the function that builds the architecture.

  maas-rt compile model.onnx -o model.mrt
  maas-rt compile model.onnx -o model.mrt --dynamic input:0=1..32
  maas-rt compile checkpoint/ -o model.mrt --model package.module:build --input-shape x:1,3,224,224
  maas-rt compile model.onnx -o model.mrt --int8 first.npz second.npz     8-bit weights and activations, ranges from these inputs
  maas-rt compile model.onnx -o model.mrt --weights int4 --group 32       weights of 4 bits in groups, activations in float32
  maas-rt compile model.onnx -o model.mrt --prune 0.5 --calibration calib.npz  half of the weights of most layers zero
  maas-rt compile model.onnx -o model.mrt --recipe recipe.toml --calibration calib.npz   what is done to which layer, from a file
  maas-rt compile model.onnx -o model.mrt --tune --budget 5m              the quickest kernels for this CPU, by measurement

A complex input or output of a torch model is a real array with a last axis of 2 in model.mrt: real part first, as torch.view_as_real has it.
A tensor of strings is one of uint8 with a last axis of UTF-8 bytes, padded with zeros: maas_rt.encode_strings and decode_strings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidArgumentError
from ._arrays import Arrays, parse_duration, parse_shape, pluralised, read_npz, same_file
from ._extras import require_compiler
from ._prune import add_prune_arguments, pruned_layers, with_prune
from ._recipe import add_recipe_arguments, chosen_recipe, told_of
from ._weights import add_weights_arguments, chosen_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL", nargs="+")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.mrt")
    parser.add_argument(
        "--model", metavar="PACKAGE.MODULE:FACTORY", help="builds the architecture that the weights belong to"
    )
    add_weights_arguments(parser)
    parser.add_argument(
        "--target",
        default="native",
        help="native, x86-64-v3, x86-64-v2, x86-64, aarch64, aarch64-dotprod, aarch64-i8mm; several separated by commas go into one file "
        "(default: native)",
    )
    parser.add_argument(
        "--code",
        default="shared",
        choices=("shared", "object"),
        help="where generated functions go: into the file, or into object files beside it with a header, to be linked into a program "
        "(default: shared)",
    )
    parser.add_argument(
        "--dynamic",
        action="append",
        default=[],
        metavar="INPUT:DIM[=MIN..MAX]",
        help="let a dimension vary, as x:0=1..32, x:0=1.. or x:0; may be repeated",
    )
    parser.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="NAME:D0,D1,...[:DTYPE]",
        help="fix an input's shape (ONNX), or describe an example input (weights), as x:1,3,224,224 or ids:1,128:int64",
    )
    parser.add_argument("--input", metavar="REAL.npz", help="real inputs: used to trace, and for the check")
    add_recipe_arguments(parser)
    add_prune_arguments(parser)
    parser.add_argument(
        "--tune",
        action="store_true",
        help="time the ways that there are to do each step on this machine and take the quickest; Ctrl-C keeps what was timed",
    )
    parser.add_argument(
        "--budget", type=parse_duration, metavar="TIME", help="of --tune, as 90s, 10m, 1h (default: 10m)"
    )
    parser.add_argument("--tune-threads", type=int, metavar="N", help="threads of a run that is timed (default: 1)")
    parser.add_argument("--tune-cache", metavar="DIR", help="where times are kept (default: ~/.cache/maas_rt/tune)")
    parser.add_argument("--name", help="the model's name (default: the output's file name)")
    parser.add_argument(
        "--no-verify", action="store_true", help="skip the check against the framework; the file says so"
    )
    parser.add_argument(
        "--verify-with",
        metavar="qemu",
        help="run code for AArch64, too, under qemu-user; else a build for this CPU is checked in its place (docs/aarch64.md)",
    )
    parser.add_argument(
        "--keep-intermediates",
        metavar="DIR",
        help="on a mismatch, write what was compared at the first operator that differs",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def execute(args: argparse.Namespace) -> int:
    compiler = require_compiler()
    from ..compiler import _progress

    output = Path(args.output)
    if output.is_dir():
        raise InvalidArgumentError(
            f"{args.output} is a directory; -o takes the file to write, as {output / 'model.mrt'}"
        )
    if not output.parent.is_dir():
        wrong = "is no directory;" if output.parent.exists() else "does not exist; create the directory or"
        raise InvalidArgumentError(f"{output.parent} {wrong} choose another -o")
    if any(same_file(args.output, source) for source in args.source):
        raise InvalidArgumentError(f"-o {args.output} is the model itself, which it would replace; choose another -o")
    shapes, examples = described_inputs(args)
    recipe = with_prune(args, compiler, chosen_recipe(args, compiler))
    chosen = {"budget": args.budget, "threads": args.tune_threads, "cache": args.tune_cache}
    given = {key: value for key, value in chosen.items() if value is not None}
    if given and not args.tune:
        raise InvalidArgumentError("--budget, --tune-threads and --tune-cache are for --tune, which is not given")
    tune = compiler.Tune(**given) if args.tune else None
    try:
        with _progress.reporter(enabled=not args.quiet) as progress:
            artifact = compiler.compile(
                args.source if len(args.source) > 1 else args.source[0],
                examples,
                target=args.target,
                dynamic=args.dynamic or None,
                recipe=recipe,
                tune=tune,
                input_shapes=shapes,
                factory=args.model,
                weights=chosen_weights(args, compiler),
                verify=not args.no_verify,
                verify_with=args.verify_with,
                name=args.name or output.stem,
                progress=progress,
                keep_intermediates=args.keep_intermediates,
                code=args.code,
            )
            artifact.save(output)
    except KeyboardInterrupt:
        if tune is None:
            raise
        print(
            "maas-rt compile: interrupted; nothing was written, and what was timed is kept: the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    verified = artifact.manifest["verified"]
    error = artifact.measured_error if artifact.measured_error is not None else verified.get("max_relative_error")
    silent = sorted({*verified.get("constant_outputs", []), *verified.get("ill_conditioned_outputs", [])})
    print(
        f"wrote {args.output}: {output.stat().st_size / 2**20:.2f} MiB, targets {', '.join(artifact.manifest['targets']) or 'any'}, "
        + (
            f"verified (largest relative error {error:.1e})"
            if error is not None
            else f"verification {verified['status']}"
        )
    )
    prune = (artifact.manifest.get("recipe") or {}).get("prune")
    if prune is not None:
        print(pruned_layers(prune))
        for note in prune["notes"]:
            print(note, file=sys.stderr)
    quantize = (artifact.manifest.get("recipe") or {}).get("quantize")
    if quantize is not None:
        print(told_of(quantize))
        for note in quantize["notes"]:
            print(note, file=sys.stderr)
    tuning = artifact.manifest.get("tuning")
    if tuning is not None:
        print(
            f"tuned {pluralised(len(tuning['steps']), 'step')} for {tuning['cpu']}, {pluralised(tuning['threads'], 'thread')}"
            + (f"; {tuning['untuned']} more by estimate, the budget was spent" if tuning["untuned"] else "")
        )
    if silent:
        print(
            f"drawn inputs tell little of {', '.join(silent)}: --input real.npz verifies on real ones", file=sys.stderr
        )
    return 0


def described_inputs(
    args: argparse.Namespace,
) -> tuple[dict[str, tuple[int, ...]] | None, Arrays | list[NDArray[np.generic]] | None]:
    """(shapes that fix an ONNX file's inputs, example inputs): weights are traced on examples, which --input-shape describes."""
    described = [parse_shape(text) for text in args.input_shape]
    shapes = {name: shape for name, shape, _ in described}
    if args.input:
        arrays = read_npz(args.input)
        return shapes or None, list(arrays.values()) if args.input.endswith(".npy") else arrays
    if args.model and described:
        try:
            return None, {name: np.zeros(shape, np.dtype(dtype or "float32")) for name, shape, dtype in described}
        except TypeError as error:
            raise InvalidArgumentError(f"--input-shape: {error}; dtypes are float32, int64, bool, ...") from None
    return shapes or None, None
