"""Measures the rows of the compression table and prints it. bench/README.md says what they are and where data come from."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from .. import machine
from .._environments import ROOT
from .._harness import QUIET
from .._results import write_results
from . import _data, _groups, _table
from ._rows import ROWS, Row

RESULTS = ROOT / "bench" / "results" / "compression.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compression", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="measure these alone; patterns as int8-*")
    parser.add_argument("--list", action="store_true", help="print the rows' names, and measure nothing")
    parser.add_argument("--resume", action="store_true", help="leave out rows that the results have of this commit")
    parser.add_argument("--show", choices=("text", "markdown"), help="print the table as it is, and measure nothing")
    parser.add_argument("--data", type=Path, help="a folder with Fashion-MNIST's IDX files; default: Debian's package")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    _groups.load()
    if options.data is not None:
        _data.use(options.data)
    chosen = _chosen(options.rows)
    if options.list:
        print("\n".join(f"{row.name:24}{row.title}" for row in chosen))
        return 0
    kept, _ = _kept(options.output), _commit()
    if options.show:
        lines = _table.lines(ROWS.values(), kept)
        print(_table.markdown(lines) if options.show == "markdown" else _table.text(lines))
        return 0
    for row in chosen:
        if (
            options.resume
            and "error" not in kept.get(row.name, {"error": ""})
            and kept[row.name]["commit"] == _commit()
        ):
            continue
        print(f"{row.name}: {row.title}", file=sys.stderr, flush=True)
        kept = _with(options.output, row.name, _measured(row))
        print(_table.text(_table.lines([row], kept)), flush=True)
    print("\n" + _table.text(_table.lines(ROWS.values(), kept)))
    return 1 if any("error" in kept[row.name] for row in chosen) else 0


def _chosen(patterns: Sequence[str]) -> list[Row]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ROWS):
            raise SystemExit(f"there is no row {pattern}: `python -m bench.compression --list` prints them")
    return [row for row in ROWS.values() if not patterns or any(fnmatchcase(row.name, each) for each in patterns)]


def _measured(row: Row) -> dict[str, Any]:
    """The record of a row; where it fails, with the reason alone."""
    start, before = time.monotonic(), machine.peak_gflops() if row.timed else 0.0
    record: dict[str, Any] = {"commit": _commit()}
    try:
        found = row.measure()
    except Exception as error:  # the other rows are worth as much
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0]
        return record | {"error": f"{type(error).__name__}: {reason}"[:300]}
    record |= {"ours": dict(found.ours), "peers": {name: dict(each) for name, each in found.peers.items()}}
    if row.timed:
        after = machine.peak_gflops()
        alone = os.getloadavg()[0] < 1.5
        record |= {"quiet": alone and abs(after / before - 1) < QUIET, "fma_gflops": [before, after]}
    return record | {"seconds": time.monotonic() - start, "more": dict(found.more)}


def _kept(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())["rows"]) if path.exists() else {}


def _with(path: Path, name: str, record: dict[str, Any]) -> dict[str, Any]:
    """All rows of the file, this one among them; written. Another process may do the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        kept = {**_kept(path), name: record}
        _write(path, kept)
    finally:
        os.close(folder)
    return kept


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    in_order = {name: kept[name] for name in ROWS if name in kept}
    write_results(path, {"command": "python -m bench.compression", "machine": machine.describe(), "rows": in_order})


@cache
def _commit() -> str:
    """The last commit of anything but results, as it was when this process began."""
    where = ["--", ".", ":(exclude)bench/results"]
    last, changed = (
        subprocess.run(["git", *command, *where], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for command in (["log", "-1", "--format=%h"], ["status", "--porcelain"])
    )
    return (last or "unknown") + ("-dirty" if changed else "")


if __name__ == "__main__":
    sys.exit(main())
