"""What training leaves, produced by the tools themselves, and read: bit for bit, or told in one sentence what to do.

    python -m tests.conformance checkpoints [--match PEFT] [--update] [-v]    results/checkpoints.json

Outcomes: read (every weight is what the tool has); refused (told); wrong (a weight differs); crash; not made (the tool is not installed,
or fails). `make conformance-checkpoints` installs the tools in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin

from .checkpoint_ranks import NAMES, ZERO, plain
from .checkpoint_tools import MAKERS, Left, not_installed, versions

RESULTS = Path(__file__).resolve().parent / "results" / "checkpoints.json"
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600


@dataclass
class Outcome:
    name: str
    result: str
    message: str = ""


def read(name: str, left: Left) -> Outcome:
    """Fill a module of other values from what was left."""
    from maas_rt.compiler.importers.checkpoint import load_checkpoint

    import maas_rt

    module = left.make()
    for value in module.state_dict().values():
        if isinstance(value, torch.Tensor) and not value.is_meta and not isinstance(value, UninitializedTensorMixin):
            value.fill_(77)
    try:
        load_checkpoint(module, left.paths)
    except maas_rt.Error as error:
        return Outcome(name, "refused" if "\n" not in str(error) else "crash", str(error))
    except Exception:
        return Outcome(name, "crash", traceback.format_exc()[-2000:])
    found = module.state_dict()
    differing = [key for key, value in left.state.items() if not torch.equal(found[key], value.to(found[key].dtype))]
    return Outcome(name, "wrong", f"{len(differing)} differ: {differing[:4]}") if differing else Outcome(name, "read")


def of_one(name: str, folder: Path) -> Outcome:
    torch.manual_seed(1)
    try:
        left = MAKERS[name](folder)
    except ImportError as error:
        return Outcome(name, "not made", f"needs {not_installed(error)}")
    except Exception as error:
        return Outcome(name, "not made", f"{type(error).__name__}: {str(error)[:300]}")
    return read(name, left)


def of_several(names: list[str], count: int, makers: str, folder: Path) -> list[Outcome]:
    """What a run of so many processes leaves, all of it written by one run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MAKERS": makers,
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
    }
    done = subprocess.run(
        [*command, "-m", "tests.conformance.checkpoint_ranks", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    said = [line for line in done.stderr.splitlines() if "Error" in line and "ChildFailedError" not in line]
    outcomes = []
    for name in names:
        if not (folder / name).is_dir() or not any((folder / name).iterdir()):
            outcomes.append(Outcome(name, "not made", (said or ["the run wrote nothing"])[0][:300]))
            continue
        state = torch.load(folder / "expected.pt")
        outcomes.append(read(name, Left(folder / name, plain, state)))
    return outcomes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance checkpoints",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--match", default="", help="only leftovers whose name contains this")
    parser.add_argument("--update", action="store_true", help="write results/checkpoints.json")
    parser.add_argument("-v", "--verbose", action="store_true", help="print messages")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    runs: list[tuple[list[str], int, str]] = [
        ([n for n in names if options.match in n], count, "torch") for count, names in NAMES.items()
    ]
    runs.append(([name for name in ZERO if options.match in name], 2, "deepspeed"))
    outcomes: list[Outcome] = []

    def tell(found: list[Outcome]) -> None:
        for outcome in found:
            note = outcome.message if options.verbose or outcome.result != "read" else ""
            print(f"{outcome.result:9} {outcome.name:52} {note[:400]}", flush=True)
        outcomes.extend(found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MAKERS:
            if options.match in name:
                with tempfile.TemporaryDirectory() as folder:
                    tell([of_one(name, Path(folder))])
        for names, count, makers in runs:
            if names:
                with tempfile.TemporaryDirectory() as folder:
                    tell(of_several(names, count, makers, Path(folder)))
    counts = Counter(outcome.result for outcome in outcomes)
    made = len(outcomes) - counts["not made"]
    print(
        f"checkpoints: {made} made, {counts['read']} read ({100 * counts['read'] / max(made, 1):.0f} %), {counts['refused']} told, {counts['wrong']} wrong"
    )
    if options.update and not options.match:
        write(outcomes)
    return 1 if counts["wrong"] or counts["crash"] else 0


def write(outcomes: list[Outcome]) -> None:
    counted = Counter(outcome.result for outcome in outcomes)
    counts: dict[str, Any] = {
        "pass": counted["read"],
        **{key: counted[key] for key in ("refused", "wrong", "crash", "not made")},
    }
    listed = {"tools": versions(), "counts": counts, "cases": [asdict(outcome) for outcome in outcomes]}
    RESULTS.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n")
