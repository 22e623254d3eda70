"""Options that make a model smaller: the recipe of `maas-rt compile`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._errors import InvalidArgumentError
from ._arrays import pluralised, read_npz

__all__ = ["add_recipe_arguments", "calibration", "chosen_recipe", "told_of"]

_WEIGHTS = {"int4": 4, "int8": 8, "fp16": "float16", "bf16": "bfloat16"}
_TOLERANCE = {"int8_tolerance": "tolerance"}
_INT8 = {
    "int8_bits": "activation_bits",
    "int8_method": "method",
    "int8_rounding": "rounding",
    "int8_float_share": "float_share",
}
_WITHOUT = {"symmetric": "asymmetric"}  # what is said of a choice that was not made


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        metavar="RECIPE.toml",
        help="what is done to which layer, as Recipe.to_toml and maas-rt compress write it; its data are those of --calibration",
    )
    parser.add_argument(
        "--int8",
        nargs="+",
        metavar="CALIBRATION.npz",
        help="convolutions and matrix products in 8-bit integers, their ranges from these inputs: one file with samples along the first "
        "axis of its arrays, or one set of inputs a file",
    )
    parser.add_argument(
        "--int8-bits",
        type=int,
        choices=(7, 8),
        help="of activations: 7 is faster on CPUs without VNNI, 8 more accurate (default: 8)",
    )
    parser.add_argument(
        "--int8-method",
        choices=("auto", "minmax", "percentile", "mse", "entropy"),
        help="how ranges are found; percentile leaves outliers out, auto measures (default: auto)",
    )
    parser.add_argument(
        "--int8-rounding",
        choices=("nearest", "gptq", "adaround"),
        help="of weights: to nearest, or by what the calibration data make a layer read (default: nearest)",
    )
    parser.add_argument(
        "--int8-float-share",
        type=float,
        metavar="X",
        help="of --int8: layers whose 8 bits cost the outputs most may stay in float, up to this share of the multiply-adds and of the "
        "weights; 0: none (default: 0.06)",
    )
    parser.add_argument(
        "--int8-dynamic",
        nargs="?",
        const="row",
        choices=("row", "tensor"),
        help="matrix products in 8-bit integers, their ranges from each run: one for each row of activations, or one for all (default: row)",
    )
    parser.add_argument(
        "--int8-tolerance",
        type=float,
        metavar="X",
        help="of --int8 and --int8-dynamic: largest error on the calibration inputs, against an output's scale (default: 0.1)",
    )
    parser.add_argument(
        "--weights",
        choices=tuple(_WEIGHTS),
        help="weights of matrix products and embeddings in 4 or 8 bits, or embeddings in 16; activations stay float32, or see --activations",
    )
    parser.add_argument(
        "--group",
        type=_group,
        metavar="N",
        help="of --weights int4 and int8: weights in a row that share a scale, or channel (default: 32)",
    )
    parser.add_argument(
        "--method",
        choices=("rtn", "mse", "gptq", "awq", "awq+gptq"),
        help="of --weights int4 and int8: round to nearest, by the least squared error, or GPTQ, AWQ or both, which need --calibration (default: mse)",
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="CALIBRATION.npz",
        help="of --recipe, --weights and --prune: inputs, as for --int8, which also hold the result to its source",
    )
    parser.add_argument(
        "--asymmetric",
        action="store_true",
        help="of --weights int4 and int8: a zero point for each group, beside its scale",
    )
    parser.add_argument(
        "--activations",
        choices=("float", "int8"),
        help="of --weights int4: what products read; int8 is rounded by each run, 32 numbers to a scale, and quicker (default: float)",
    )
    parser.add_argument(
        "--scales",
        choices=("float16", "float32"),
        help="of --weights int4 and int8: what the groups' scales are stored in (default: float16)",
    )
    parser.add_argument(
        "--weights-tolerance", type=float, metavar="X", help="of --weights: largest error, against an output's scale"
    )


def chosen_recipe(args: argparse.Namespace, compiler: Any) -> Any:
    """The compiler's Recipe, or None if nothing was chosen."""
    chosen = [flag for flag, value in _ways(args).items() if value is not None]
    if len(chosen) > 1:
        raise InvalidArgumentError(
            f"{' and '.join(chosen)} are given, expected one of them; layers of several kinds are for --recipe"
        )
    grid = {
        "group": args.group,
        "method": args.method,
        "symmetric": False if args.asymmetric else None,
        "scales": args.scales,
    }
    given = {key: value for key, value in grid.items() if value is not None}
    if args.weights not in ("int4", "int8") and given:
        raise InvalidArgumentError(
            "--group, --method, --asymmetric and --scales are for --weights int4 or int8, which is not given"
        )
    if args.activations is not None and args.weights != "int4":
        raise InvalidArgumentError("--activations is for --weights int4, which is not given")
    _check_int8(args)
    if args.weights is None and args.weights_tolerance is not None:
        raise InvalidArgumentError("--weights-tolerance is for --weights, which is not given")
    if args.calibration and args.weights is None and args.prune is None and args.recipe is None:
        raise InvalidArgumentError("--calibration is for --recipe, --weights and --prune, and none of them is given")
    if args.calibration and args.int8:
        raise InvalidArgumentError("--int8 and --calibration are given, expected one of them: --int8 takes the inputs")
    if not chosen:
        return None
    if args.recipe is not None:
        return _written(args.recipe, compiler, calibration(args.calibration))
    return compiler.Recipe(
        quantize=_method(args, compiler, given), calibration=calibration(args.int8 or args.calibration)
    )


def _check_int8(args: argparse.Namespace) -> None:
    """Raises InvalidArgumentError for what is said of a method that was not chosen."""
    if args.int8 is None and _given(args, _INT8):
        raise InvalidArgumentError(
            "--int8-bits, --int8-method, --int8-rounding and --int8-float-share are for --int8, which is not given"
        )
    if args.int8 is None and args.int8_dynamic is None and args.int8_tolerance is not None:
        raise InvalidArgumentError("--int8-tolerance is for --int8 and --int8-dynamic, and none of them is given")


def _given(args: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """Options of a method by their names in Python; what is not given is as by default."""
    return {option: getattr(args, name) for name, option in names.items() if getattr(args, name) is not None}


def _written(path: str, compiler: Any, data: Any) -> Any:
    """The Recipe of a file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors begin files with a mark
    except OSError as error:
        raise InvalidArgumentError(f"the recipe {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{path} is no recipe: it is not text in UTF-8") from None
    try:
        return compiler.Recipe.from_toml(text, calibration=data)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None


def _ways(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "--recipe": args.recipe,
        "--int8": args.int8,
        "--int8-dynamic": args.int8_dynamic,
        "--weights": args.weights,
    }


def calibration(paths: list[str] | None) -> Any:
    """One file with samples along the first axis, or a set of inputs a file; None: there are none."""
    sets = [read_npz(path) for path in paths or ()]
    return sets[0] if len(sets) == 1 else sets or None


def _method(args: argparse.Namespace, compiler: Any, grid: dict[str, Any]) -> Any:
    if args.int8:
        return compiler.Int8(**_given(args, _INT8 | _TOLERANCE))
    if args.int8_dynamic:
        return compiler.Int8Dynamic(granularity=args.int8_dynamic, **_given(args, _TOLERANCE))
    kind = _WEIGHTS[args.weights]
    admitted = {} if args.weights_tolerance is None else {"tolerance": args.weights_tolerance}
    if isinstance(kind, str):
        return compiler.Half(dtype=kind, **admitted)
    if "group" in grid:
        grid = {**grid, "group": grid["group"] or None}
    if args.activations is not None:
        grid = {**grid, "activations": args.activations}
    return compiler.WeightOnly(bits=kind, **grid, **admitted)


def _group(text: str) -> int:
    """A number of weights; 0 for a whole channel."""
    if text == "channel":
        return 0
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of weights, as 32, nor channel")
    return int(text)


def told_of(quantize: dict[str, Any]) -> str:
    """Of a manifest's recipe: how many layers have what, and which stay in float."""
    left = quantize["float_layers"]
    named = ", ".join(f"{each['name']} ({each['kind']})" for each in left[:4]) + (", ..." if len(left) > 4 else "")
    told = [f"{pluralised(len(each['names']), 'layer')} {_described(each)}" for each in quantize["methods"]]
    return ", ".join(told) + (f"; {len(left)} in float: {named}" if left else "")


def _described(method: dict[str, Any]) -> str:
    """`int8 (method minmax, activation_bits 8)`."""
    said = {key: value for key, value in method.items() if key not in ("kind", "version", "tolerance", "names")}
    words = []
    for key, value in sorted(said.items()):
        if isinstance(value, bool):
            words += [key] if value else [_WITHOUT[key]] if key in _WITHOUT else []
        else:
            words.append(f"{key} {'channel' if value is None else value}")
    return f"{method['kind']} ({', '.join(words)})"
