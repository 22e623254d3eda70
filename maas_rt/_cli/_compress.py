"""Find the quickest (or smallest, or cheapest) form of a model that keeps a budget of accuracy, by measurement: precisions and sparsity, layer by layer.

EVAL.py:FUNCTION is yours: FUNCTION(run) gives one number, more of it for better; run({name: array}) gives {name: array}.
CALIBRATION.npz holds an array for each input, samples along the first axis; or several files, one set of inputs each.

  maas-rt compress model.onnx --data calib.npz --eval eval.py:score --max-drop 0.01 -o model.mrt
  maas-rt compress model.onnx --data calib.npz --eval eval.py:score --max-size 2MB --objective size -o model.mrt

What is measured is kept in OUT.mrt.search until the search is over: the same command goes on from there. OUT.mrt.html is the report,
OUT.mrt.toml the recipe that was chosen: maas-rt compile --recipe OUT.mrt.toml --calibration CALIBRATION.npz does it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._errors import InvalidArgumentError
from .._whole_file import whole_file
from ._arrays import parse_duration, parse_seconds, parse_size, pluralised, read_npz, same_file, sized
from ._compile import described_inputs
from ._extras import require_compiler
from ._weights import add_weights_arguments, chosen_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL", nargs="+")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.mrt")
    parser.add_argument("--data", nargs="+", required=True, metavar="CALIBRATION.npz", help="calibration inputs")
    parser.add_argument("--eval", required=True, metavar="EVAL.py:FUNCTION", help="scores a model: it chooses")
    parser.add_argument(
        "--judge", metavar="EVAL.py:FUNCTION", help="scores the result on data that chose nothing; asked once"
    )
    parser.add_argument(
        "--max-drop", type=float, default=0.01, metavar="X", help="of the float model's score (default: 0.01)"
    )
    parser.add_argument("--relative", action="store_true", help="--max-drop is a share of the score")
    parser.add_argument("--max-latency", type=parse_seconds, metavar="TIME", help="of one run, as 5ms or 0.2s")
    parser.add_argument("--max-size", type=parse_size, metavar="SIZE", help="of the file, as 2MB or 500KB")
    parser.add_argument(
        "--objective",
        choices=("latency", "size", "cost"),
        default="latency",
        help="what is to become least (default: latency)",
    )
    parser.add_argument("--precision", choices=("any", "float", "int8", "int4"), default="any")
    parser.add_argument("--sparsity", choices=("any", "none", "unstructured", "block", "structured"), default="any")
    parser.add_argument(
        "--time",
        type=parse_duration,
        default=3600.0,
        metavar="TIME",
        help="of the search, as 90s, 10m, 1h (default: 1h)",
    )
    parser.add_argument(
        "--price", type=float, default=0.05, metavar="X", help="of a core for an hour, for the report (default: 0.05)"
    )
    parser.add_argument(
        "--model", metavar="PACKAGE.MODULE:FACTORY", help="builds the architecture that the weights belong to"
    )
    add_weights_arguments(parser)
    parser.add_argument("--target", default="native", help="as of maas-rt compile (default: native)")
    parser.add_argument("--dynamic", action="append", default=[], metavar="INPUT:DIM[=MIN..MAX]")
    parser.add_argument("--input-shape", action="append", default=[], metavar="NAME:D0,D1,...[:DTYPE]")
    parser.add_argument("--input", metavar="REAL.npz", help="real inputs: used to trace, and for the check")
    parser.add_argument("--name", help="the model's name (default: the output's file name)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def execute(args: argparse.Namespace) -> int:
    compiler = require_compiler()
    from ..compiler import _progress
    from ..compiler.report import write_report

    output = Path(args.output)
    page, written = (output.with_name(output.name + suffix) for suffix in (".html", ".toml"))
    _check_output(args, output, page, written)
    budget = compiler.Budget(
        max_drop=args.max_drop, relative=args.relative, max_latency=args.max_latency, max_size=args.max_size, objective=args.objective,
        seconds=args.time, precision=args.precision, sparsity=args.sparsity,
    )  # fmt: skip
    compiler.Recipe().to_toml()  # what writes recipes is there: told before the search, not behind it
    shapes, examples = described_inputs(args)
    journal = output.with_name(output.name + ".search")
    sets = [read_npz(path) for path in args.data]
    with _progress.reporter(enabled=not args.quiet) as progress:
        artifact = compiler.compress(
            args.source if len(args.source) > 1 else args.source[0],
            sets[0] if len(sets) == 1 else sets,
            _function(args.eval, "--eval"),
            budget,
            judge=_function(args.judge, "--judge") if args.judge else None,
            example_inputs=examples,
            target=args.target,
            dynamic=args.dynamic or None,
            input_shapes=shapes,
            factory=args.model,
            weights=chosen_weights(args, compiler),
            name=args.name or output.stem,
            journal=journal,
            keep_journal=True,
            progress=progress,
        )
        recipe = artifact.recipe.to_toml()
        artifact.save(output)
        write_report(artifact.report, page, name=args.name or output.stem, price=args.price)
        with whole_file(written) as file:
            file.write(recipe.encode())
        journal.unlink(missing_ok=True)  # all that it was for is written
    print(_told(artifact.report, args.output, page, written))
    for note in artifact.report["notes"]:
        print(note, file=sys.stderr)
    return 0


def _check_output(args: argparse.Namespace, output: Path, *beside: Path) -> None:
    if output.is_dir():
        raise InvalidArgumentError(
            f"{args.output} is a directory; -o takes the file to write, as {output / 'model.mrt'}"
        )
    if not output.parent.is_dir():
        raise InvalidArgumentError(f"{output.parent} is no directory that exists; create it, or choose another -o")
    if any(same_file(args.output, source) for source in args.source):
        raise InvalidArgumentError(f"-o {args.output} is the model itself, which it would replace; choose another -o")
    for path in (output, *beside):
        if path.exists() and not args.overwrite:
            raise InvalidArgumentError(f"{path} exists: give --overwrite to replace it, or another -o")


def _function(place: str, option: str) -> Callable[..., Any]:
    """The function that "path.py:name" names."""
    path, _, name = place.rpartition(":")
    if not path or not name.isidentifier():
        raise InvalidArgumentError(f"{option} {place}: expected a file and a function in it, as eval.py:score")
    if not Path(path).is_file():
        raise InvalidArgumentError(f"{option}: {path} is no file that exists")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InvalidArgumentError(f"{option}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # for what it pickles
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidArgumentError(f"{option}: {path} does not import ({type(error).__name__}: {error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidArgumentError(f"{option}: {path} has no function {name}")
    return function  # type: ignore[no-any-return]


def _told(report: dict[str, Any], output: str, page: Path, recipe: Path) -> str:
    score, size, latency = report["score"], report["bytes"], report["latency"]
    methods = ", ".join(f"{count} {name}" for name, count in report["methods"].items()) or "all in float"
    return (
        f"wrote {output}: {sized(size['compressed'])} ({size['ratio']:.2f} times smaller), score {score['compressed']:.6g} (float {score['float']:.6g}), "
        f"{latency['compressed'] * 1e3:.3g} ms a run (float {latency['float'] * 1e3:.3g} ms)\n"
        f"layers: {methods}; {pluralised(report['trials'], 'model')} tried; report: {page}, recipe: {recipe}"
    )
