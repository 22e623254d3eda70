"""Writes plan.inc's enumerators and records as Python: python generate_records.py plan.inc _plan_records.py

setup.py calls it while it builds, so the Python codec has the same definition as the C++ one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HEAD = '''"""The plan section's enumerators and records. Written by csrc/artifact/generate_records.py from {source}: change that."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

# What a field is stored as. The annotation of a dataclass field is one of these, a list of one, a record, or an
# enumeration, which is stored in a u8.
U8 = Annotated[int, "u8"]
U32 = Annotated[int, "u32"]
I64 = Annotated[int, "i64"]
F64 = Annotated[float, "f64"]
Str = Annotated[str, "str"]
'''
EMPTY = {"u8": "0", "u32": "0", "i64": "0", "f64": "0.0", "str": '""'}
LINE = re.compile(r"(?P<macro>MRT_\w+)\((?P<inside>[^)]*)\)\s*(?P<comment>// .*)?$")
Call = tuple[str, list[str], str, str]


def calls_of(text: str) -> list[Call]:
    """Each macro call with its arguments, the comment lines above it and the comment behind it."""
    calls: list[Call] = []
    comment: list[str] = []
    for line in text.splitlines():
        call = LINE.match(line)
        if call:
            calls.append(
                (
                    call["macro"],
                    [part.strip() for part in call["inside"].split(",")],
                    " ".join(comment),
                    (call["comment"] or "")[3:],
                )
            )
            comment = []
        elif line.startswith("//"):
            comment.append(line[2:].strip())
        elif line.strip():
            raise SystemExit(f"a line of the records that is neither a comment nor a call: {line!r}")
        else:
            comment = []
    return calls


def annotation(type_: str) -> str:
    """The name that HEAD gives a stored type; records and enumerations keep theirs."""
    return type_.capitalize() if type_ in EMPTY else type_


def initial(type_: str, value: str) -> str:
    """A field's initial value in Python; "" where C++ says {}: then it has to be given."""
    if value == "{}":
        return ""
    if value == "kPlanVersion":
        return "PLAN_VERSION"
    if "::" in value:
        enum, name = value.split("::")
        return f"{enum}.{name.upper()}"
    return value


def render(text: str, source: str) -> str:
    """The module's text."""
    out = [HEAD.format(source=source)]
    later: list[str] = []  # enumerators that came after version 1
    enum = ""
    optional = False
    for macro, args, comment, remark in calls_of(text):
        remark = f"  # {remark}" if remark else ""
        if macro == "MRT_PLAN_VERSION":
            out.append(f"PLAN_VERSION = {args[0]}\n")
        elif macro == "MRT_ENUM":
            enum = args[0]
            out.append(f"\nclass {enum}(IntEnum):")
            if comment:
                out.append(f'    """{comment}"""\n')
        elif macro == "MRT_VALUE":
            since, number, name = args
            out.append(f"    {name.upper()} = {number}")
            if since != "1":
                later.append(f"    {enum}.{name.upper()}: {since},")
        elif macro == "MRT_RECORD":
            optional = False
            out.append(f'\n@dataclass\nclass {args[0]}:\n    """{comment}"""\n')
        elif macro == "MRT_FIELD":
            since, type_, name, value = args
            default = initial(type_, value) or ((EMPTY.get(type_, f"{type_}(0)")) if optional or since != "1" else "")
            optional = optional or bool(default)
            if since != "1":
                default = f'field(default={default}, metadata={{"since": {since}}})'
            out.append(f"    {name}: {annotation(type_)}" + (f" = {default}" if default else "") + remark)
        elif macro in ("MRT_LIST", "MRT_RECS"):
            since, type_, name = args
            optional = True
            more = f', metadata={{"since": {since}}}' if since != "1" else ""
            out.append(f"    {name}: list[{annotation(type_)}] = field(default_factory=list{more}){remark}")
        elif macro in ("MRT_END", "MRT_END_ENUM"):
            out.append("")
        else:
            raise SystemExit(f"{macro} is none of the macros of the records")
    out.append("\n# The plan version that brought an enumerator, where that was not the first.")
    out.append("SINCE: dict[IntEnum, int] = {" + ("\n" + "\n".join(later) + "\n" if later else "") + "}\n")
    return "\n".join(out)


def write(source: Path, target: Path) -> None:
    """Renders `source` into `target`, which is left alone where it already says the same."""
    text = render(source.read_text(encoding="utf-8"), source.name)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
