"""List the operators that can be compiled, read off the compiler's own tables.

maas-rt ops --frontend onnx              ONNX operators, their schema versions and element types
maas-rt ops --frontend torch             ATen operator overloads
maas-rt ops --frontend onnx Resize Loop  some of them; the exit status is 1 if one is missing
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from ._extras import require_compiler

if TYPE_CHECKING:
    from ..compiler.operators import SupportedOperator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these operators")
    parser.add_argument("--frontend", choices=("onnx", "torch"), help="default: both")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print the page that docs/operators.md is")


def execute(args: argparse.Namespace) -> int:
    require_compiler()
    from ..compiler.operators import FRONTENDS, not_converted, supported_operators

    tables = {frontend: supported_operators(frontend) for frontend in ([args.frontend] if args.frontend else FRONTENDS)}
    if args.names:
        tables = {frontend: [o for o in found if _is_named(o, args.names)] for frontend, found in tables.items()}
    if args.json:
        print(json.dumps({f: [dataclasses.asdict(o) for o in found] for f, found in tables.items()}, indent=1))
    elif args.markdown:
        print(_markdown(tables, not_converted()), end="")
    else:
        for frontend, found in tables.items():
            print(f"{frontend}: {len(found)} operators")
            for operator in found:
                print("  " + _line(operator))
    named = [o for found in tables.values() for o in found]
    missing = [name for name in args.names if not any(_is_named(o, [name]) for o in named)]
    if missing:
        print(f"no converter: {', '.join(missing)}")
    return 1 if missing else 0


def _is_named(operator: SupportedOperator, names: list[str]) -> bool:
    """By its whole name, or by an ATen operator's without overload or namespace ("add" for aten.add.Tensor)."""
    parts = operator.name.split(".")
    short = parts[1] if len(parts) > 2 else operator.name.rpartition("::")[2]
    return any(name.lower() in (operator.name.lower(), short.lower()) for name in names)


def _line(operator: SupportedOperator) -> str:
    versions = f"versions {', '.join(map(str, operator.versions))}" if operator.versions else ""
    return f"{operator.name:<34} {versions:<40} {' '.join(operator.dtypes)}".rstrip()


def _markdown(tables: dict[str, list[SupportedOperator]], missing: list[str]) -> str:
    lines = [
        "# Operators",
        "",
        "Made by `maas-rt ops --markdown` from the converter tables. A use that a converter does not cover is refused by name, with the reason.",
    ]
    for frontend, found in tables.items():
        lines += ["", f"## {frontend}: {len(found)}", ""]
        if frontend == "onnx":
            lines += ["| operator | schema versions | element types of its first operand |", "|---|---|---|"]
            lines += [
                f"| {o.name} | {', '.join(map(str, o.versions)) or 'all'} | {' '.join(o.dtypes)} |" for o in found
            ]
            lines += [
                "",
                "Not converted, of ONNX Runtime's own (com.microsoft): a model with one of these is refused by its name; export it, or let the optimizer "
                "write it, without them (BeamSearch, GreedySearch and Sampling are loops around a model: they stay the caller's).",
                "",
                ", ".join(missing) + ".",
            ]
        else:
            lines.append(", ".join(f"`{o.name}`" for o in found))
            lines += ["", "Of these, with complex numbers (as pairs of real ones):", ""]
            lines.append(", ".join(f"`{o.name}`" for o in found if "complex" in o.dtypes))
    return "\n".join(lines) + "\n"
