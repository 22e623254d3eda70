"""maas_rt against its peers on every model, in one interleaved run; the protocol is in bench/README.md.

Ratios are speeds: the peer's time over ours, above 1 where we are quicker.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import _environments, machine
from bench._environments import ROOT
from bench._harness import OURS, QUIET
from bench._results import write_results
from bench.gauntlet import _prepare, _table, extras
from bench.gauntlet._progress import Progress
from bench.gauntlet._row import Rates, measure
from bench.gauntlet._store import Key, Store
from bench.models import GAUNTLET
from bench.peers import PEERS

DEFAULT_PEERS = [peer for peer in PEERS if peer != "maas_rt_c"]
RESULT = ROOT / "bench" / "results" / "gauntlet.json"
LOCAL = ROOT / "bench" / "results" / "local" / "gauntlet.json"
RUNNING = {True: _prepare.WORK / "run.json", False: _prepare.WORK / "run-of-a-part.json"}
PRECISIONS = ("fp32", "int8")
FEW = 0.1  # of the rows may be void, and are left out; else the run is
# What is timed in int8 too.
QUANTIZED = ("mobilenet_v2", "efficientnet_lite0", "resnet50", "vit_tiny", "minilm_128", "bert_base")
INT8_PEERS = ("maas_rt", "onnxruntime", "openvino")  # those that read the quantized ONNX file


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    store = Store(RUNNING[options.whole], _header(options), options.resume)
    rows = [key for key in _rows(options) if not store.has(key)]
    further = [name for name in options.extras if name not in store.extras]
    try:
        _prepare_all(options)
        if options.prepare:
            return 0
        before = {str(threads): Rates.now(threads) for threads in options.threads}
        _measure_all(options, store, rows, further)
        after = {str(threads): Rates.now(threads) for threads in options.threads}
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; {len(store.rows)} of {len(_rows(options))} rows are kept: go on with --resume",
            file=sys.stderr,
        )
        return 130
    return _report(options, store, before, after)


def _rows(options: argparse.Namespace) -> list[Key]:
    """All rows of a run, in their order: model, precision, threads, batch."""
    settings = itertools.product(options.precision, options.batch, options.threads, options.models)
    return [
        (model, precision, threads, batch)
        for precision, batch, threads, model in settings
        if precision == "fp32" or model in QUANTIZED
    ]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gauntlet", description=__doc__)
    parser.add_argument("--models", type=_names(GAUNTLET), default=list(GAUNTLET), help="comma-separated; default: all")
    parser.add_argument("--peers", type=_names(PEERS), default=DEFAULT_PEERS, help="comma-separated; default: all")
    parser.add_argument("--threads", type=_numbers, default=[1, 2], help="comma-separated; default: 1,2")
    parser.add_argument("--batch", type=_numbers, default=[1, 8], help="comma-separated; default: 1,8")
    parser.add_argument("--precision", type=_names(PRECISIONS), default=list(PRECISIONS), help="default: fp32,int8")
    parser.add_argument(
        "--rounds", type=int, default=20, help="at least 2: one to choose the best peer, one to compare"
    )
    parser.add_argument("--seconds", type=float, default=0.08, help="of one peer in one round; at least two calls")
    parser.add_argument("--extras", type=_names(extras.NAMES), default=list(extras.NAMES), help="further rows")
    parser.add_argument("--no-extras", dest="extras", action="store_const", const=[], help="the models only")
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds, 1 thread, batch 1, no further rows: is it alive?"
    )
    parser.add_argument("--prepare", action="store_true", help="make the models ready, measure nothing")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--output", type=Path, help="default: bench/results/gauntlet.json, for a part of it local/")
    options = parser.parse_args(argv)
    options.given = list(sys.argv[1:] if argv is None else argv)
    if options.quick:
        options.rounds, options.threads, options.batch, options.extras = 2, [1], [1], []
        options.precision = ["fp32"]
    given = (options.models, options.peers, options.threads, options.batch, options.precision, options.extras)
    options.whole = given == (list(GAUNTLET), DEFAULT_PEERS, [1, 2], [1, 8], list(PRECISIONS), list(extras.NAMES))
    if OURS not in options.peers:
        options.peers = [OURS, *options.peers]
    if options.rounds < 2:
        parser.error("--rounds: at least 2 are needed, one to choose the best peer and one to compare with it")
    cores = int(str(machine.describe()["cores"]))
    if max(options.threads) > cores:
        parser.error(f"--threads: {max(options.threads)} is more than the {cores} cores that this process may use")
    return options


def _names(known: Any) -> Any:
    def parse(given: str) -> list[str]:
        names = given.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(known)}")
        return names

    return parse


def _numbers(given: str) -> list[int]:
    numbers = [int(number) for number in given.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("expected whole numbers from 1 on, comma-separated")
    return numbers


def _header(options: argparse.Namespace) -> dict[str, Any]:
    peers = [PEERS[name] for name in options.peers]
    return {
        "machine": machine.describe(),
        "versions": {peer.name: _environments.version(peer.package, peer.environment) for peer in peers},
        "settings": {peer.name: peer.settings for peer in peers},
        "program": _prepare.key("mrt"),
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def _prepare_all(options: argparse.Namespace) -> None:
    cases = list(dict.fromkeys((model, precision, batch) for model, precision, _, batch in _rows(options)))
    progress = Progress(len(cases))
    for model, precision, batch in cases:
        progress.begin("")
        prepared = _prepared(options, model, precision, batch, progress)
        failed = f"; not {', '.join(prepared.failed)}" if prepared.failed else ""
        progress.end(f"{model}, {precision}, batch {batch}: ready{failed}")


def _prepared(
    options: argparse.Namespace, model: str, precision: str, batch: int, progress: Progress
) -> _prepare.Prepared:
    if precision == "int8":
        return _prepare.prepare_int8(model, batch, progress.told)
    return _prepare.prepare(model, batch, options.peers, progress.told)


def _measure_all(options: argparse.Namespace, store: Store, rows: list[Key], further: list[str]) -> None:
    progress = Progress(len(rows) + len(further))
    for model, precision, threads, batch in rows:
        progress.begin(f"{model}, {precision}, {threads} threads, batch {batch}:")
        peers = [peer for peer in options.peers if precision == "fp32" or peer in INT8_PEERS]
        prepared = _prepared(options, model, precision, batch, progress)
        store.add_row(measure(prepared, peers, threads, options.rounds, options.seconds, progress.told))
        progress.end(_line(store.rows[-1]))
    for name in further:
        progress.begin(f"{name}:")
        try:
            store.add_extra(name, extras.measure(name, progress.told))
            progress.end(f"{name}: {store.extras[name]}")
        except (
            RuntimeError,
            OSError,
            subprocess.CalledProcessError,
        ) as error:  # the rows stand without it; --resume tries again
            progress.end(f"{name} was not measured: {error}")


def _line(row: dict[str, Any]) -> str:
    """A row for the terminal: our time, and each peer's speed against it."""
    ours = row["median_ms"].get(OURS)
    head = f"{row['model']:18} {row['precision']} t{row['threads']} b{row['batch']} " + (
        f"{ours:9.3f} ms" if ours else "     failed "
    )
    cells = []
    for peer, speed in row["speed"].items():
        sign = "!" if peer in row["wrong"] else "*" if peer == row["best_peer"] else ""
        cells.append(f"{peer} {speed:.2f}{sign}")
    tail = ", ".join(cells + [f"{peer} -" for peer in row["failed"]])
    state = "" if row["quiet"] else " VOID: the machine was not quiet"
    return f"{head} {100 * row['share_of_roofline'].get(OURS, 0):4.0f} % of the roofline | {tail}{state}"


def _report(options: argparse.Namespace, store: Store, before: dict[str, Rates], after: dict[str, Rates]) -> int:
    moved = (before[threads].moved(after[threads]) for threads in before)
    restless = [f"arithmetic by {each.arithmetic:.0%}" for each in moved if each.arithmetic > QUIET]
    void = [row for row in store.rows if not row["quiet"]]
    quiet = not restless and few_are_void(store.rows)
    table = _table.lines(store.rows, store.extras)
    result = {
        "command": shlex.join(["python", "-m", "bench.gauntlet", *options.given]),
        **store.run["header"],
        "quiet": quiet,
        "rates": {threads: [before[threads].record(), after[threads].record()] for threads in before},
        "meaning": "speed is the peer's time over ours, above 1 where we are quicker; speed_to_best is against the peer that was "
        "quickest on the even rounds, compared on the odd ones; a peer whose outputs are wrong is not compared with",
        "table": _table.records(table),
        "rows": store.rows,
        "extras": store.extras,
    }
    output = options.output or (RESULT if options.whole else LOCAL)
    write_results(output, result)
    _failures(store.rows)
    for threads, rates in before.items():
        largest = max(rates.bandwidth)
        print(
            f"{threads} thread(s): FMA {rates.gflops:.1f} GFLOP/s before, {after[threads].gflops:.1f} after; memory "
            f"{rates.bandwidth[largest]:.1f} GB/s before, {after[threads].bandwidth[largest]:.1f} after"
        )
    print(_table.text(table))
    if void:
        names = ", ".join(map(_where, void))
        print(f"the machine was not quiet in {len(void)} of {len(store.rows)} rows, which do not count: {names}")
    if not quiet:
        why = (
            f"its rate moved from first to last, {'; '.join(restless)} (at most {QUIET:.0%})"
            if restless
            else f"more than {FEW:.0%} of the rows do not count"
        )
        print(f"VOID: the machine was not quiet: {why}; --resume measures rows that do not count again")
    print(f"wrote {output}")
    return 0 if quiet else 3


def few_are_void(rows: list[dict[str, Any]]) -> bool:
    """Whether a run of these rows counts."""
    return sum(not row["quiet"] for row in rows) <= FEW * len(rows)


def _where(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['precision']} t{row['threads']} b{row['batch']}"


def _failures(rows: list[dict[str, Any]]) -> None:
    """Each reason once: which peer does not run which model, and why."""
    seen: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        where = _where(row)
        reasons = dict(row["failed"])
        for peer in row["wrong"]:
            reasons[peer] = f"wrong outputs, error {row['relative_error'][peer]:.1e} of {row['tolerance']:.1e} allowed"
        for peer, reason in reasons.items():
            seen.setdefault((peer, reason), []).append(where)
    for (peer, reason), places in sorted(seen.items()):
        print(f"{peer} does not count on {', '.join(places)}: {reason}")


if __name__ == "__main__":
    raise SystemExit(main())
