"""`python -m bench.service`: our service beside others, in one run of alternating slices. The protocol is in bench/README.md."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench import _environments, machine
from bench._harness import ROOT
from bench._results import write_results
from bench.service import _wrk
from bench.service._models import prepare
from bench.service._servers import KINDS, Server

RESULTS = ROOT / "bench" / "results" / "service.json"
SERVERS = ("maas-rt", "nginx", "mlserver", "kserve", "litserve", "bentoml")
LOADS = (
    # model, form, servers; those that do not speak the form get the same numbers in their own
    ("mlp", "oip-json", SERVERS),
    ("mlp", "oip-binary", ("maas-rt", "nginx", "mlserver", "kserve")),
    ("mlp", "oip-grpc", ("maas-rt", "mlserver", "kserve")),
    ("mobilenet_v2", "oip-binary", ("maas-rt", "mlserver", "kserve")),
    ("encoder", "oip-json", ("maas-rt", "mlserver", "kserve", "litserve", "bentoml")),
    ("wide", "oip-binary", ("maas-rt one by one", "maas-rt batching")),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.service", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="slices of each server and number of connections (default: 5)"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of a slice (default: 3)")
    parser.add_argument("--servers", default="", help="these alone, with commas")
    parser.add_argument("--loads", default="", help="those of these models, or in these forms, alone, with commas")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    _wrk.check()
    wanted, models = arguments.servers.split(",") if arguments.servers else None, arguments.loads.split(",")
    rows: list[dict[str, Any]] = []
    for model, form, names in LOADS:
        chosen = [name for name in names if wanted is None or name in wanted]
        if chosen and (models == [""] or model in models or form in models):
            rows += _measure(model, form, chosen, arguments.rounds, arguments.seconds)
            versions = _versions({row["server"] for row in rows})
            write_results(arguments.out, {"machine": machine.describe(), "versions": versions, "rows": rows})
    return 0


def _versions(names: set[str]) -> dict[str, str | None]:
    packages = {name: KINDS[name].package for name in sorted(names)}
    return {name: _environments.version(each, each) for name, each in packages.items() if each}


def _measure(model: str, form: str, names: list[str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    case = prepare(model)
    servers: list[Server] = []
    try:
        for name in names:
            kind = KINDS[name]
            try:
                servers.append(Server(kind, case, form if form in kind.forms else kind.forms[0]))
            except RuntimeError as error:
                print(f"{model}, {name}: {error}", file=sys.stderr)
        rows = [_row(model, form, server, connections) for server in servers for connections in (1, 16)]
        for number in range(rounds + 1):  # the first warms
            for row, server in zip(rows, [server for server in servers for _ in (1, 16)]):
                _slice(row, server, seconds if number else 1.0, keep=number > 0)
        for server in [
            server for server in servers if any(row["server"] == server.name and not row["rate"] for row in rows)
        ]:
            print(f"{model}, {server.name}: it answers no request in {seconds:g} s", file=sys.stderr)
            rows = [row for row in rows if row["server"] != server.name]
            servers.remove(server)
            server.close()
        if not servers:
            return []
        rate = 0.5 * min(statistics.median(row["rate"]) for row in rows if row["connections"] == 16)
        for server in (server for server in servers if server.offers):
            row = next(row for row in rows if row["server"] == server.name and row["connections"] == 16)
            row["offered"], row["p99_us_offered"] = rate, _at_rate(server, rate, rounds, seconds)
        _show(rows)
        return [_summary(row) for row in rows]
    finally:
        for server in servers:
            server.close()


def _row(model: str, form: str, server: Server, connections: int) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "form": form, "server": server.name, "connections": connections, "failed": 0}
    return row | {name: [] for name in ("rate", "p50_us", "p99_us", "cpu_us")}


def _slice(row: dict[str, Any], server: Server, seconds: float, keep: bool) -> None:
    server.go_on()
    before = server.cpu()
    outcome = server.load(row["connections"], seconds)
    cpu = server.cpu() - before
    server.stop()
    if keep and outcome.requests:
        row["failed"] += outcome.failed
        for name, value in (
            ("rate", outcome.rate),
            ("p50_us", outcome.p50_us),
            ("p99_us", outcome.p99_us),
            ("cpu_us", cpu / outcome.requests * 1e6),
        ):
            row[name].append(value)


def _at_rate(server: Server, rate: float, rounds: int, seconds: float) -> float:
    """The median p99 of slices in which so many requests a second are offered, by 64 connections that pause at random."""
    server.go_on()
    found = [server.load(64, seconds, rate).p99_us for _ in range(rounds)]
    server.stop()
    return statistics.median(found)


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    return {name: statistics.median(value) if isinstance(value, list) else value for name, value in row.items()}


def _show(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(f"\n{first['model']}, {first['form']}, {time.strftime('%H:%M')}")
    print(f"{'':22}{'CPU/request':>13}{'requests/s':>12}{'p50':>10}{'p99':>10}{'p99 offered':>13}{'failed':>8}")
    for row in rows:
        told = _summary(row)
        offered = f"{told['p99_us_offered']:10.0f} us" if "p99_us_offered" in told else ""
        print(
            f"{told['server']:19}{told['connections']:>3}{told['cpu_us']:10.1f} us{told['rate']:12.0f}{told['p50_us']:7.0f} us"
            f"{told['p99_us']:7.0f} us{offered:>13}{told['failed']:8}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
