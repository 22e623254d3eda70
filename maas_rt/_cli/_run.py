"""Run a model.mrt on the arrays of an .npz file, and write its outputs to another.

maas-rt run model.mrt --input in.npz --output out.npz
maas-rt run model.mrt --input in.npz --state state.npz     a model that keeps a state goes on from the one in the file
maas-rt run model.mrt --input in.npz --seed 42             a model that draws random numbers draws these
"""

from __future__ import annotations

import argparse
import os

from .._errors import InvalidArgumentError
from .._model import load
from .._program import state_values
from .._whole_file import write_npz
from ._arrays import add_seed, make_state, of_model, read_npz, same_file
from ._opening import add_opening, opening


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument("--input", required=True, metavar="IN.npz", help="arrays by input name (np.savez)")
    parser.add_argument(
        "--output", metavar="OUT.npz", help="where the outputs go; without it they are summed up on stdout"
    )
    parser.add_argument(
        "--state",
        metavar="STATE.npz",
        help="of a model that keeps a state: begin with the one in this file, or anew if there is none, and write it there afterwards",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of one run (default: all that the process may use)"
    )
    add_seed(parser)
    add_opening(parser)


def execute(args: argparse.Namespace) -> int:
    for other, what in ((args.state, "--state"), (args.model, "the model")):
        if args.output and other and same_file(args.output, other):
            raise InvalidArgumentError(f"--output and {what} are one file, {args.output}: write the outputs to another")
    model = load(args.model, threads=args.threads, **opening(args))
    arrays = of_model(read_npz(args.input), model)
    state = make_state(model, args.state if args.state and os.path.exists(args.state) else None)
    if args.state and state is None:
        raise InvalidArgumentError(f"{args.model} keeps no state from run to run: leave --state away")
    session = model.session()
    outputs = session.run(arrays, state=state, seed=args.seed)
    if args.output:
        write_npz(args.output, outputs)
    if args.state and state is not None:
        write_npz(args.state, state_values(state))
    for name, value in outputs.items():
        print(f"{name}: {value.dtype}{list(value.shape)}" + ("" if args.output else f"\n{value}"))
    if model.draws and args.seed is None:
        print(f"seed {session.seed}: --seed {session.seed} draws the same random numbers again")
    if args.output:
        print(f"wrote {args.output}")
    return 0
