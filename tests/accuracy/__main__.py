"""Measures every function densely and writes docs/accuracy.md.

python -m tests.accuracy               each 1,021st float32, every float16 and bfloat16, 6,000 float64 by exponent
python -m tests.accuracy --stride 1    every float32: hours
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.accuracy._functions import FUNCTIONS
from tests.accuracy._measure import Worst, sweep, sweep_float64

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
HEAD = """# How exact functions are

The worst error that was found, in units in the last place of the exact value (0.5: correctly rounded), ours and torch's own in eager mode. Made by
`make ulp`: every float16 and bfloat16, each {stride}th float32 of all bit patterns, {count:,} float64 numbers drawn by exponent, denormals included; against
mpmath for float64, against float64 for the others. The suite holds elementary functions to 4 units and compositions to torch's own error, or 4.

Functions of float32 are arithmetic that vectorises (compiler/codegen/_math.py; in kernels csrc/simd/math.h) or libm's; of float64 libm's; of half
types float32's, rounded once. erfinv, lgamma and other special functions are computed in float64 throughout (importers/torch/ops/special.py); of those
digamma and the Bessel functions reach 4 units in float32 alone. What is "far" has no digit right somewhere: a result below the smallest
normal number that comes out as 0, or torch's cancellation.

| | float32 | torch | float64 | torch | float16 | torch | bfloat16 | torch |
|---|---|---|---|---|---|---|---|---|
"""


def _text(worst: Worst) -> str:
    return "far" if worst.error > 1e4 else f"{worst.error:.3g}" if worst.error < 100 else f"{worst.error:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=1021)
    parser.add_argument("--count", type=int, default=6000)
    args = parser.parse_args()
    columns = [sweep(FUNCTIONS, "float32", args.stride), sweep_float64(FUNCTIONS, args.count)]
    columns += [sweep(FUNCTIONS, dtype) for dtype in ("float16", "bfloat16")]
    lines = [
        f"| {name} | " + " | ".join(_text(worst) for column in columns for worst in column[name]) + " |"
        for name in FUNCTIONS
    ]
    PAGE.write_text(HEAD.format(stride=f"{args.stride:,}", count=args.count) + "\n".join(lines) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
