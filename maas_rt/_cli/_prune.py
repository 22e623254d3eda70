"""Pruning on the command line: what `compile` takes, and what it and `inspect` say of it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from .._errors import InvalidArgumentError
from ._arrays import pluralised
from ._recipe import calibration

__all__ = ["add_prune_arguments", "inspected", "pruned_layers", "with_prune"]


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune",
        type=float,
        metavar="SPARSITY",
        help="this share of the weights of convolutions and matrix products becomes zero, as 0.5; by the inputs of --calibration or --int8",
    )
    parser.add_argument(
        "--prune-pattern",
        metavar="PATTERN",
        help="unstructured, block (in blocks that kernels gain most by), structured (whole channels), low_rank (two layers for one) or N:M, as 2:4 (default: unstructured)",
    )
    parser.add_argument(
        "--prune-method",
        choices=("magnitude", "wanda", "sparsegpt"),
        help="which weights go: the least, the least beside what they are multiplied with, or those that the others can make up for, which "
        "they then do (default: sparsegpt)",
    )
    parser.add_argument(
        "--prune-tolerance",
        type=float,
        help="largest error on these inputs, against an output's scale (default: 0.5)",
    )


def with_prune(args: argparse.Namespace, compiler: Any, recipe: Any) -> Any:
    """The Recipe with what was chosen; None where there was none and nothing is."""
    chosen = {"pattern": args.prune_pattern, "method": args.prune_method, "tolerance": args.prune_tolerance}
    given = {key: value for key, value in chosen.items() if value is not None}
    if args.prune is None:
        if given:
            raise InvalidArgumentError(
                "--prune-pattern, --prune-method and --prune-tolerance are for --prune, which is not given"
            )
        return recipe
    if args.recipe is not None:
        raise InvalidArgumentError(
            "--recipe and --prune are given, expected one of them: a recipe has a prune of its own"
        )
    if not args.calibration and not args.int8 and args.prune_method != "magnitude":
        raise InvalidArgumentError(
            "--prune looks at inputs of the model: give --calibration CALIBRATION.npz, or --prune-method magnitude"
        )
    if recipe is None:
        recipe = compiler.Recipe(calibration=calibration(args.calibration))
    return replace(recipe, prune=compiler.Prune(args.prune, **given))


def inspected(prune: dict[str, Any]) -> list[str]:
    """Lines for `inspect`."""
    return [
        f"pruned    to {100 * prune['sparsity']:g} % zeros, {prune['pattern']}, by {prune['method']} on "
        f"{pluralised(prune['calibration_inputs'], 'input')}",
        f"          {pruned_layers(prune)}",
        *(f"          {each['name']}: {_zeros(each)}, {each['pattern']}" for each in prune["layers"]),
        *(f"          {each['name']}: {each['reason']}" for each in prune["dense_layers"]),
    ]


def pruned_layers(prune: dict[str, Any]) -> str:
    """How many layers have zeros, and which do not."""
    layers, dense = prune["layers"], prune["dense_layers"]
    sums: dict[str, Any] = {key: sum(each[key] for each in layers) for key in ("zeros", "weights")}
    sums["pattern"] = "structured" if all(each["pattern"] in ("structured", "low_rank") for each in layers) else ""
    named = ", ".join(f"{each['name']} ({each['kind']})" for each in dense[:4]) + (", ..." if len(dense) > 4 else "")
    return (
        f"{pluralised(len(layers), 'layer')} pruned"
        + (f", {_zeros(sums)}" if layers else "")
        + (f", {len(dense)} dense: {named}" if dense else "")
    )


def _zeros(counts: dict[str, Any]) -> str:
    how = "gone" if counts["pattern"] in ("structured", "low_rank") else "zero"
    return f"{counts['zeros']} of {counts['weights']} weights {how} ({100 * counts['zeros'] / counts['weights']:.1f} %)"
