"""A regular expression as a table: pattern -> deterministic automaton over bytes, for a full match.

Thompson's construction, then subsets (Aho, Sethi, Ullman, "Compilers", 3.6 and 3.7). The syntax is what RE2 and Python's re share;
what one of the two reads otherwise, or no automaton can say (back references, looking around), is refused.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PatternError", "automaton"]

_PARSER: Any = getattr(re, "_parser", None) or importlib.import_module("sre_parse")  # until Python 3.10
_MAX_STATES = 4_096
_MAX_PARTS = 20_000
_TAIL = frozenset(range(0x80, 0xC0))
# Well-formed sequences of several bytes (RFC 3629, section 4).
_LONG = [
    [frozenset(range(0xC2, 0xE0)), _TAIL],
    [frozenset({0xE0}), frozenset(range(0xA0, 0xC0)), _TAIL],
    [frozenset(range(0xE1, 0xED)) | {0xEE, 0xEF}, _TAIL, _TAIL],
    [frozenset({0xED}), frozenset(range(0x80, 0xA0)), _TAIL],
    [frozenset({0xF0}), frozenset(range(0x90, 0xC0)), _TAIL, _TAIL],
    [frozenset(range(0xF1, 0xF4)), _TAIL, _TAIL, _TAIL],
    [frozenset({0xF4}), frozenset(range(0x80, 0x90)), _TAIL, _TAIL],
]
_ASCII = frozenset(range(1, 0x80))
_CONDITIONS = {
    "AT_BEGINNING": "begin",
    "AT_BEGINNING_STRING": "begin",
    "AT_END": "end",  # RE2's: not before a last line feed
    "AT_END_STRING": "end",
    "AT_BOUNDARY": "edge",
    "AT_NON_BOUNDARY": "inside",
}
_CLASSES = {
    "DIGIT": frozenset(b"0123456789"),
    "SPACE": frozenset(b"\t\n\f\r "),  # without \v: RE2's
    "WORD": frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"),
}


class PatternError(Exception):
    """The pattern is not supported; the text says what in it."""


class _Machine:
    """A nondeterministic automaton: for each state its edges by bytes, and those without a byte, by condition ("" for none)."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[frozenset[int], int]]] = []
        self.free: list[list[tuple[str, int]]] = []

    def state(self) -> int:
        if len(self.steps) >= _MAX_PARTS:
            raise PatternError("is too long")
        self.steps.append([])
        self.free.append([])
        return len(self.steps) - 1

    def chain(self, start: int, sets: list[frozenset[int]]) -> int:
        for each in sets:
            after = self.state()
            self.steps[start].append((each, after))
            start = after
        return start

    def sequence(self, start: int, items: Any) -> int:
        for item in items:
            start = self.item(start, str(item[0]), item[1])
        return start

    def item(self, start: int, kind: str, what: Any) -> int:
        if kind == "LITERAL":
            return self.chain(start, [frozenset({b}) for b in _character(what).encode()])
        if kind == "NOT_LITERAL":
            return self.one_of(start, _ASCII - {_ascii(what)}, True)
        if kind == "ANY":
            return self.one_of(start, _ASCII - {10}, True)
        if kind == "IN":
            return self.one_of(start, *_set(what))
        if kind == "BRANCH":
            end = self.state()
            for branch in what[1]:
                self.free[self.sequence(start, branch)].append(("", end))
            return end
        if kind == "SUBPATTERN":
            if what[1] or what[2]:
                raise PatternError("changes flags inside")
            return self.sequence(start, what[3])
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):  # which of them is the same for a full match
            return self.repeated(start, *what)
        if kind == "AT" and str(what) in _CONDITIONS:
            end = self.state()
            self.free[start].append((_CONDITIONS[str(what)], end))
            return end
        raise PatternError(f"uses {kind.lower()}")

    def one_of(self, start: int, ascii_bytes: frozenset[int], others: bool) -> int:
        """One character: of these in ASCII, or any other."""
        end = self.state()
        self.steps[start].append((ascii_bytes, end))
        for sets in _LONG if others else []:
            self.free[self.chain(start, sets)].append(("", end))
        return end

    def repeated(self, start: int, low: int, high: Any, items: Any) -> int:
        for _ in range(low):
            start = self.sequence(start, items)
        end = self.state()
        if str(high) == "MAXREPEAT":
            loop = self.state()
            self.free[start].append(("", loop))
            self.free[self.sequence(loop, items)].append(("", loop))
            self.free[loop].append(("", end))
            return end
        for _ in range(int(high) - low):
            self.free[start].append(("", end))
            start = self.sequence(start, items)
        self.free[start].append(("", end))
        return end

    def closure(self, states: frozenset[int], before: str, after: str) -> frozenset[int]:
        """Where the edges without a byte lead, between a character of one kind and one of another."""
        met = {"": True, "begin": before == "none", "end": after == "none"}
        met["edge"] = (before == "word") != (after == "word")
        met["inside"] = not met["edge"]
        found, pending = set(states), list(states)
        while pending:
            for condition, target in self.free[pending.pop()]:
                if met[condition] and target not in found:
                    found.add(target)
                    pending.append(target)
        return frozenset(found)


def _kind(byte: int) -> str:
    return "word" if byte in _CLASSES["WORD"] else "other"


def automaton(pattern: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """(next state by state and byte, [S, 256]; which states accept, [S]); state 0 begins. Raises PatternError, ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python will read otherwise one day, other engines already do
            compiled = re.compile(pattern)
            parsed: Any = _PARSER.parse(pattern)
    except (re.error, RecursionError, OverflowError) as why:
        raise ValueError(f"the pattern {pattern!r} is not valid: {why}") from None
    except Warning as why:
        raise PatternError(f"is ambiguous ({why})") from None
    if compiled.flags & ~re.UNICODE:
        raise PatternError("sets flags")
    machine = _Machine()
    start = machine.state()
    last = machine.sequence(start, list(parsed))
    # A state of the result: where the other machine may be, and of what kind the last character was.
    first = (frozenset({start}), "none")
    numbers = {first: 0}
    rows: list[npt.NDArray[np.int32]] = []
    accepts: list[bool] = []
    pending = [first]
    while pending:
        states, before = pending.pop(0)
        accepts.append(last in machine.closure(states, before, "none"))
        targets: list[set[int]] = [set() for _ in range(256)]
        for after in ("word", "other"):
            for state in machine.closure(states, before, after):
                for accepted, target in machine.steps[state]:
                    for byte in accepted:
                        if _kind(byte) == after:
                            targets[byte].add(target)
        row = np.zeros(256, np.int32)
        for byte, found in enumerate(targets):
            key = (frozenset(found), _kind(byte) if found else "none")
            if key not in numbers:
                if len(numbers) >= _MAX_STATES:
                    raise PatternError(f"needs more than {_MAX_STATES} states")
                numbers[key] = len(numbers)
                pending.append(key)
            row[byte] = numbers[key]
        rows.append(row)
    return np.stack(rows), np.array(accepts, np.bool_)


def _character(code: int) -> str:
    if code == 0:
        raise PatternError("has a zero byte")
    return chr(code)


def _ascii(code: int) -> int:
    if not 0 < code < 0x80:
        raise PatternError("has a set with characters beyond ASCII")
    return code


def _set(items: Any) -> tuple[frozenset[int], bool]:
    """A set in brackets: which ASCII characters, and whether all others."""
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    found: set[int] = set()
    others = False
    for kind, what in items[1:] if negated else items:
        if str(kind) == "LITERAL":
            found.add(_ascii(what))
        elif str(kind) == "RANGE":
            found.update(range(_ascii(what[0]), _ascii(what[1]) + 1))
        elif str(kind) == "CATEGORY":
            name = str(what).removeprefix("CATEGORY_")
            inside = _CLASSES.get(name.removeprefix("NOT_"))
            if inside is None:
                raise PatternError(f"uses {name.lower()}")
            if name.startswith("NOT_"):
                inside, others = _ASCII - inside, True
            found.update(inside)
        else:
            raise PatternError(f"uses {str(kind).lower()} in a set")
    return (_ASCII - found, not others) if negated else (frozenset(found), others)
