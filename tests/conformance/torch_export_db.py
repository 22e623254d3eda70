"""torch's own export database (`torch._export.db.examples`) against this compiler: the supported cases compile and agree.

    python -m tests.conformance torch_export [--match cond] [-v]    results/torch_export.json

Outcomes: pass; refused (a CompileError that says why); wrong (a result differs from the example's own module); crash.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "torch_export.json"


@dataclass
class Outcome:
    name: str
    result: str  # pass, refused, wrong, crash
    message: str = ""
    seconds: float = 0.0


def supported_cases() -> dict[str, Any]:
    """The cases that torch.export itself supports, by name."""
    from torch._export.db.case import SupportLevel
    from torch._export.db.examples import all_examples

    return {name: case for name, case in sorted(all_examples().items()) if case.support_level == SupportLevel.SUPPORTED}


def run_case(name: str, case: Any) -> Outcome:
    """Export, compile, run, and compare with the example's module in eager mode."""
    import torch
    from maas_rt.compiler import compile

    import maas_rt

    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args, kwargs = copy.deepcopy((case.example_args, case.example_kwargs))
            program = torch.export.export(case.model, args, kwargs, dynamic_shapes=case.dynamic_shapes)
            with torch.no_grad():
                expected = _leaves(case.model(*copy.deepcopy(case.example_args), **copy.deepcopy(case.example_kwargs)))
        model = maas_rt.load(compile(program).to_bytes())
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        found = model.run({info.name: leaf.numpy() for info, leaf in zip(model.inputs, leaves, strict=True)})
        message = _difference(expected, [found[info.name] for info in model.outputs])
        outcome = Outcome(name, "wrong" if message else "pass", message)
    except maas_rt.Error as error:
        outcome = Outcome(name, "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        outcome = Outcome(name, "crash", f"{type(error).__name__}: {error}")
    outcome.seconds = round(time.monotonic() - start, 2)
    return outcome


def _leaves(value: Any) -> list[Any]:
    import torch

    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(value) if leaf is not None]
    return [leaf.detach().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf) for leaf in leaves]


def _difference(expected: list[Any], found: list[Any]) -> str:
    """What differs, "" if nothing does: 1e-5 of the output's scale."""
    if len(expected) != len(found):
        return f"{len(found)} outputs instead of {len(expected)}"
    for i, (e, f) in enumerate(zip(expected, found)):
        if e.shape != f.shape or e.dtype != f.dtype:
            return f"output {i} is {f.dtype}{list(f.shape)} instead of {e.dtype}{list(e.shape)}"
        scale = max(float(np.abs(e).max(initial=0)), 1e-6)
        if not np.allclose(e, f, rtol=0, atol=1e-5 * scale):
            return f"output {i} differs"
    return ""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance torch_export", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("-v", "--verbose", action="store_true", help="print messages")
    options = parser.parse_args(arguments)
    outcomes = []
    for name, case in supported_cases().items():
        if options.match in name:
            outcome = run_case(name, case)
            outcomes.append(outcome)
            if options.verbose or outcome.result != "pass":
                print(f"{outcome.result:8} {name}  {outcome.message}")
    counts = {kind: sum(o.result == kind for o in outcomes) for kind in ("pass", "refused", "wrong", "crash")}
    print(
        "torch export database:", ", ".join(f"{count} {kind}" for kind, count in counts.items()), f"of {len(outcomes)}"
    )
    if not options.match:
        listed = [{k: v for k, v in asdict(o).items() if k != "seconds"} for o in outcomes]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"counts": counts, "cases": listed}, indent=1, sort_keys=True) + "\n")
    return 1 if counts["wrong"] or counts["crash"] or (not options.match and counts["pass"] < 33) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
