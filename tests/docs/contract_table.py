"""The table of docs/kernels.md, from what the library says of its contracts: `python -m tests.docs.contract_table` writes it anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maas_rt import _kernels

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BEGIN, END = "<!-- contracts: written by python -m tests.docs.contract_table -->\n", "<!-- end of contracts -->\n"
_ROWS = 4  # how many types of elements are named one by one


def table() -> str:
    lines = ["| contract | inputs | outputs | attributes | packing |", "|---|---|---|---|---|"]
    for name, contract in _kernels.describe()["contracts"].items():
        inputs = contract["inputs"]
        cells = [
            f"`{name}`",
            ", ".join(_operand(row, inputs) for row in inputs),
            ", ".join(_operand(row, inputs) for row in contract["outputs"]),
            ", ".join(_attributes(contract["attributes"])),
            ", ".join(f"`{packing}`" for packing in contract["packings"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _operand(row: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> str:
    text = row["name"] + ("?" if row.get("optional") else "") + (", ..." if row.get("repeated") else "")
    dtypes = row.get("dtypes", [])
    if "like" in row:
        text += f" as {inputs[row['like']]['name']}"
    elif not dtypes:
        text += " of any type"
    elif len(dtypes) > _ROWS:
        text += " of any ordered type"
    elif dtypes != ["float32"]:
        text += " " + "/".join(dtypes)
    return text + (" packed" if row.get("packed") else "")


def _attributes(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    epilogue = {"act", "act_args", "residual_after"} & set(rows)
    texts = [_attribute(key, row) for key, row in rows.items() if key not in epilogue and row["kind"] != "hint"]
    if epilogue:
        texts.append("epilogue" if "residual_after" in epilogue else "epilogue without residual")
    hints = [f"{key} {_bounds(row)}" for key, row in rows.items() if row["kind"] == "hint"]
    return texts + ([f"hints {', '.join(hints)}"] if hints else [])


def _attribute(key: str, row: Mapping[str, Any]) -> str:
    if row["kind"] == "choice":
        return f"{key} {'/'.join(row['choices'])}" + ("" if row.get("needed") else f" [{row['choices'][0]}]")
    text = f"{key} {_bounds(row)}".rstrip()
    if "default" in row:
        text += f" [{row['default']:g}]"
    return text + (" (derived)" if row.get("derived") else "") + (" (packing only)" if row.get("packing_only") else "")


def _bounds(row: Mapping[str, Any]) -> str:
    lo, hi = row.get("lo"), row.get("hi")
    if lo is None and hi is None:
        return ""
    if hi is None:
        return f"from {lo:g}"
    if row.get("step"):
        return f"{lo:g} or {hi:g}"
    return f"{_number(lo)} to {_number(hi)}"


def _number(value: float) -> str:
    power = abs(int(value)).bit_length() - 1
    if abs(value) > 4096 and abs(value) == 2**power:
        return ("-" if value < 0 else "") + f"2^{power}"
    return str(int(value)) if value == int(value) else f"{value:g}"


def page(text: str) -> str:
    """The page with the table as it has to be."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
