"""The command line `maas-rt`: one module per subcommand, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .._errors import Error, MissingExtraError

_EPILOG = """\
the usual way:
  maas-rt compile model.onnx -o model.mrt      check and compile (needs the extra: pip install "maas-rt[compiler]")
  maas-rt inspect model.mrt                    what is in the file
  maas-rt bench model.mrt                      how fast it is here
  maas-rt serve models/                        answer Open Inference Protocol requests (pip install "maas-rt[serve]")
"""

_COMMANDS = {
    "compile": "compile a model (.onnx, .pt2, a checkpoint) into one model.mrt, checked against its framework",
    "compress": "find the quickest form of a model within a budget of accuracy, and compile it",
    "run": "run a model.mrt on the arrays of an .npz",
    "inspect": "show what a model.mrt takes, gives and holds",
    "bench": "measure latency: p50, p90, p99 once they are stable",
    "profile": "time every step; write a trace that Perfetto opens",
    "verify": "compare a model.mrt with the model it came from",
    "ops": "list the operators that can be compiled, by frontend and version",
    "serve": "serve a directory of .mrt files over HTTP",
    "sign": "sign a model.mrt, in the file or beside it",
    "check": "say who signed a model.mrt, and whether each section is as it was",
    "encrypt": "encrypt a model.mrt for those who may run it",
    "decrypt": "write an encrypted model.mrt in clear",
    "repo": "keep the versions of models in a repository: add, list, label, roll back, remove",
    "token": "make, list and revoke the API keys of a server",
    "demo": "train a small classifier with two processes, compile its checkpoint, compare",
}


def _parser() -> argparse.ArgumentParser:
    from .._version import __version__

    parser = argparse.ArgumentParser(
        prog="maas-rt",
        description="Compile trained models into one small file, and run that file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"maas-rt {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show the Python traceback of an error, for bug reports"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        module = importlib.import_module(f"._{name}", __name__)
        sub = subparsers.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(sub)
        sub.set_defaults(execute=module.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, 1 for an error of maas_rt, 2 for wrong usage, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        return int(args.execute(args) or 0)
    except BrokenPipeError:  # `| head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        return 0
    except ModuleNotFoundError as error:
        if args.traceback or not error.name or error.name.partition(".")[0] == "maas_rt":
            raise
        extra = "serve" if args.command in ("serve", "repo", "token") else "compiler"
        missing = MissingExtraError(f"maas-rt {args.command}", extra, error.name)
        print(f"maas-rt {args.command}: error: {error if isinstance(error, Error) else missing}", file=sys.stderr)
        return 1
    except MemoryError:
        if args.traceback:
            raise
        print(f"maas-rt {args.command}: error: not enough memory", file=sys.stderr)
        return 1
    except (Error, OSError) as error:
        if args.traceback:
            raise
        print(f"maas-rt {args.command}: error: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"maas-rt {args.command}: interrupted; nothing was written", file=sys.stderr)
        return 130


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, Error):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
