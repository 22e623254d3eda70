"""Time every step of one run, and hold it against what this machine can do at most.

maas-rt profile model.mrt                      a table, slowest first
maas-rt profile model.mrt --trace trace.json   also a trace: open it at ui.perfetto.dev
"""

from __future__ import annotations

import argparse

from .. import _kernels
from .._drawn import draw_inputs
from .._model import load
from ._arrays import add_seed, at_least_one, make_state, of_model, parse_shape, read_npz
from ._opening import add_opening, opening


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument("--threads", type=int, default=1, help="threads of one run (default: 1)")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="NAME:D0,D1,...", help="shape of a dynamic input"
    )
    parser.add_argument("--input", metavar="IN.npz", help="run on these arrays")
    parser.add_argument(
        "--runs",
        type=at_least_one("number of runs"),
        default=10,
        help="the fastest of so many runs is shown (default: 10)",
    )
    parser.add_argument("--trace", metavar="TRACE.json", help="write a trace in the Chrome trace event format")
    add_seed(parser)
    add_opening(parser)


def execute(args: argparse.Namespace) -> int:
    model = load(args.model, threads=args.threads, **opening(args))
    shapes = {name: shape for name, shape, _ in map(parse_shape, args.shape)}
    inputs = of_model(read_npz(args.input), model) if args.input else draw_inputs(model, shapes)
    profiles = [model.profile(inputs, state=make_state(model), seed=args.seed) for _ in range(args.runs)]
    best = min(profiles, key=lambda profile: profile.total_ns)
    threads = min(max(1, args.threads), _kernels.cpu_count())
    rates = _kernels.machine_rates(threads)
    print(best.table(rates))
    print(f"roofline: {rates[0]:.1f} GFLOP/s and {rates[1]:.1f} GB/s, measured now with {threads} thread(s)")
    if args.trace:
        best.trace(args.trace)
        print(f"wrote {args.trace}; open it at ui.perfetto.dev")
    return 0
