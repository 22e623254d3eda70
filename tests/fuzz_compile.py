"""Fuzzes whole compiles: small ONNX models, mutated, and torch modules put together at random. A result, or a maas_rt.Error of one
sentence; anything else that leaves `compile` is a finding, as are a crash, a hang, and "a fault of maas_rt".

python -m tests.fuzz_compile SECONDS [SEED]    prints all that it finds; the inputs of each kind are in build/fuzz_compile
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch

from tests._fuzz_processes import run_in_processes
from tests.fuzz_onnx import REFERENCE_FAULTS, corpus, mutate, prepare

SECONDS = 300  # of one compile, on a machine that is busy too
X = torch.Tensor
SIZES = (0, 1, 2, 3, 4, 8)

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
DTYPES = (*INTEGERS, torch.bool, torch.float64, torch.float16, torch.bfloat16)
F = torch.nn.functional
ACTIVATIONS = (F.gelu, F.silu, F.mish, F.softplus, F.elu, F.selu, F.hardswish, F.hardsigmoid, F.hardtanh, F.relu6, F.logsigmoid, F.hardshrink,
               F.softshrink, F.tanhshrink, F.softsign, F.leaky_relu)  # fmt: skip

# What a step makes of a tensor; `r` draws its numbers.
STEPS: dict[str, Callable[[X, random.Random], X]] = {
    "relu": lambda x, r: torch.relu(x),
    "add": lambda x, r: x + r.choice((0, 1, -2.5, x)),
    "outer": lambda x, r: x.unsqueeze(-1) * x.unsqueeze(-2),
    "divide": lambda x, r: torch.div(x, r.choice((2, -3, 0.5)), rounding_mode=r.choice((None, "floor", "trunc"))),
    "remainder": lambda x, r: r.choice((torch.remainder, torch.fmod))(x, r.choice((2, -3, 0.7))),
    "cast": lambda x, r: x.to(r.choice(DTYPES)),
    "float": lambda x, r: _float(x),
    "linear": lambda x, r: F.linear(_float(x), torch.full((3, x.shape[-1]), 0.5).to(_float(x))),
    "conv": lambda x, r: F.conv1d(_float(x).reshape(1, 1, -1), torch.ones(2, 1, r.randrange(1, 4)).to(_float(x)), padding=r.randrange(2)),
    "pool": lambda x, r: r.choice((F.max_pool1d, F.avg_pool1d))(_float(x).reshape(1, 1, -1), 2, r.choice((1, 2))),
    "shift": lambda x, r: r.choice((torch.bitwise_left_shift, torch.bitwise_right_shift))(x.to(r.choice(INTEGERS)), r.randrange(0, 4)),
    "whole": lambda x, r: torch.div(x.to(r.choice(INTEGERS)), r.choice((2, -3, 7)), rounding_mode=r.choice(("floor", "trunc"))),
    "sign": lambda x, r: r.choice((torch.sign, torch.abs, torch.neg, torch.floor, torch.ceil, torch.round, torch.trunc))(x),
    "compare": lambda x, r: r.choice((torch.lt, torch.le, torch.eq, torch.ne))(x, r.choice((0, 1.5, float("nan")))),
    "logical": lambda x, r: r.choice((torch.logical_and, torch.logical_or, torch.logical_xor))(x, x.roll(1)),
    "activation": lambda x, r: r.choice(ACTIVATIONS)(_float(x)),
    "cond": lambda x, r: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y * 2, (x,)),
    "take": lambda x, r: x[torch.tensor([0, -1, 0])],
    "put": lambda x, r: x.index_put((torch.tensor([0]),), torch.ones_like(x[:1])),
    "scatter": lambda x, r: x.scatter(_axis(x, r), torch.zeros([1] * x.ndim, dtype=torch.int64), 1),
    "view": lambda x, r: x.reshape(-1, r.choice((1, 2))) if r.random() < 0.5 else x.unflatten(0, (1, -1)),
    "diagonal": lambda x, r: x.diagonal(r.randrange(-1, 2)),
    "one_hot": lambda x, r: F.one_hot(x.to(torch.int64).clamp(0, 3), 4),
    "unfold": lambda x, r: x.unfold(_axis(x, r), 2, 1),
    "expand": lambda x, r: x.unsqueeze(0).expand(r.choice((1, 3)), *x.shape),
    "count": lambda x, r: x.count_nonzero(_axis(x, r)),
    "chunk": lambda x, r: x.chunk(2, _axis(x, r))[r.randrange(2)],
    "norms": lambda x, r: _float(x).norm(r.choice((1, 2, float("inf"))), _axis(x, r)),
    "running": lambda x, r: r.choice((torch.cummax, torch.cummin))(x, _axis(x, r))[0],
    "softmax": lambda x, r: _float(x).softmax(_axis(x, r)),
    "sum": lambda x, r: x.sum(_axis(x, r), keepdim=r.random() < 0.5),
    "mean": lambda x, r: _float(x).mean(_axis(x, r), keepdim=r.random() < 0.5),
    "extreme": lambda x, r: r.choice((torch.amax, torch.amin))(x, _axis(x, r)),
    "any": lambda x, r: r.choice((torch.any, torch.all))(x, _axis(x, r)),
    "position": lambda x, r: r.choice((torch.argmax, torch.argmin))(x, _axis(x, r)),
    "cumsum": lambda x, r: x.cumsum(_axis(x, r)),
    "sort": lambda x, r: x.sort(_axis(x, r), stable=True)[r.randrange(2)],
    "topk": lambda x, r: x.topk(r.choice((0, 1, 2)), _axis(x, r))[0],
    "transpose": lambda x, r: x.transpose(_axis(x, r), _axis(x, r)),
    "flatten": lambda x, r: x.flatten(),
    "flip": lambda x, r: x.flip(_axis(x, r)),
    "roll": lambda x, r: x.roll(r.randrange(-3, 4), _axis(x, r)),
    "repeat": lambda x, r: x.repeat([r.choice((0, 1, 2)) for _ in range(x.ndim)]),
    "slice": lambda x, r: x.narrow(_axis(x, r), 0, 1),
    "step": lambda x, r: x[r.randrange(3) :: r.choice((1, 2))],
    "unsqueeze": lambda x, r: x.unsqueeze(r.randrange(-x.ndim - 1, x.ndim + 1)),
    "squeeze": lambda x, r: x.squeeze(),
    "cat": lambda x, r: torch.cat([x, x], _axis(x, r)),
    "stack": lambda x, r: torch.stack([x, x], _axis(x, r)),
    "pad": lambda x, r: F.pad(x, (r.randrange(3), r.randrange(3)), value=r.choice((0.0, float("-inf")))),
    "where": lambda x, r: torch.where(x > 0, x, r.choice((0, float("nan"), float("-inf")))),
    "mask": lambda x, r: x.masked_fill(x > 0, r.choice((1, 0))),
    "select": lambda x, r: x[x > 0],
    "nonzero": lambda x, r: x.nonzero(),
    "triu": lambda x, r: r.choice((torch.triu, torch.tril))(x, r.randrange(-1, 2)),
    "full": lambda x, r: x + torch.full_like(x, r.choice((1, -1))),
    "arange": lambda x, r: x + torch.arange(x.shape[-1]),
    "matmul": lambda x, r: _float(x) @ _float(x).transpose(-1, -2),
    "norm": lambda x, r: F.layer_norm(_float(x), x.shape[-1:]),
    "gather": lambda x, r: x.gather(_axis(x, r), torch.zeros([1] * x.ndim, dtype=torch.int64)),
    "clamp": lambda x, r: x.clamp(r.choice((None, 0)), 1),
    "exp": lambda x, r: r.choice((torch.exp, torch.log, torch.sqrt, torch.tanh, torch.sigmoid, torch.erf, torch.expm1))(x),
    "pow": lambda x, r: x ** r.choice((2, 3, 0.5)),
    "bits": lambda x, r: r.choice((torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor))(x.to(torch.int32), 5),
    "unique": lambda x, r: torch.unique(x),
    "einsum": lambda x, r: torch.einsum("...i,...i->...", _float(x), _float(x)),
    "size": lambda x, r: x * x.shape[_axis(x, r)],
    "var": lambda x, r: _float(x).var(_axis(x, r)),
}  # fmt: skip


def _float(x: X) -> X:
    """In the default dtype, which `wobbles` changes."""
    return x.to(torch.get_default_dtype())


def _axis(x: X, r: random.Random) -> int:
    return r.randrange(-x.ndim, x.ndim) if x.ndim else 0


class Drawn(torch.nn.Module):
    """A few steps of a seed, each as often as it is traced with the same numbers."""

    def __init__(self, seed: str, names: list[str]) -> None:
        super().__init__()
        self.seed, self.names = seed, names

    def forward(self, x: X) -> X:
        draw = random.Random(self.seed)
        for name in self.names:
            x = STEPS[name](x, draw)
        return x


def torch_case(seed: str) -> tuple[Drawn, X, Any]:
    """A module that runs, its input, and which dimensions vary. Steps that do not fit are left out."""
    r = random.Random(seed)
    dynamic = r.random() < 0.5
    shape = [r.choice(SIZES[2:] if dynamic else SIZES) for _ in range(r.randrange(1, 4))]
    x = torch.randn(shape) if r.random() < 0.7 else torch.randint(0, 5, shape)
    names: list[str] = []
    for _ in range(r.randrange(1, 7)):
        names.append(r.choice(sorted(STEPS)))
        try:
            fits = Drawn(seed, names)(x).numel() < 100_000
        except Exception:
            fits = False
        if not fits:
            names.pop()
    return Drawn(seed, names), x, {"x": {r.randrange(x.ndim): (r.choice((0, 1, 2)), 16)}} if dynamic else None


def wobbles(module: Drawn, x: X) -> bool:
    """Whether torch itself gives other results in float64: an element that a rounding moves past another, or where nothing is left but
    roundings. A dtype that a step asks for stays."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        given = (
            torch.randn(x.shape, generator=draw)
            if x.is_floating_point()
            else torch.randint(0, 5, x.shape, generator=draw)
        )
        results = []
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            try:
                results.append(module(_float(given) if given.is_floating_point() else given).double())
            except Exception:  # of one dtype alone, or of a size that the data decides
                return True
            finally:
                torch.set_default_dtype(torch.float32)
        a, b = results
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True):
            return True
    return False


def outcome(compiled: Callable[[], Any]) -> str:
    """ "" for a result or a refusal as it should be, else what is wrong with it."""
    import maas_rt

    try:
        compiled()
    except maas_rt.Error as error:
        text = str(error)
        if "\n" in text or "fault of maas_rt" in text:
            cause = error.__cause__
            where = [
                f"{Path(f.filename).name}:{f.lineno}"
                for f in traceback.extract_tb(cause.__traceback__ if cause else None)
            ]
            return f"{text[:400]!r} at {' '.join(where[-3:])}"
        if isinstance(error, maas_rt.VerificationError):
            if any(all(part in text for part in parts) for parts in REFERENCE_FAULTS):
                return ""
            return f"a wrong number, or a doubtful reference: {text[:400]}"
        return ""
    except Exception as error:
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__}: {str(error)[:300]} at {' '.join(where[-4:])}"
    return ""


def check(seed: str, models: list[bytes]) -> str:
    """Draw a case, compile it, judge how that ended."""
    from maas_rt.compiler import compile

    r = random.Random(seed)
    if r.random() < 0.5:
        module, x, dynamic = torch_case(seed)
        found = outcome(lambda: compile(module, {"x": x}, dynamic=dynamic))
        if found.startswith("a wrong number") and wobbles(module, x):
            return ""
        return f"{found} [torch {module.names} on {list(x.shape)} {x.dtype}, dynamic {dynamic}]" if found else ""
    model = onnx.ModelProto.FromString(r.choice(models))
    mutate(model, r)
    found = outcome(lambda: compile(model))
    return f"{found} [onnx]" if found else ""


def _work(seed: int, until: float, models: list[bytes], now: Any, found: Any) -> None:
    prepare()
    number = 0
    while time.monotonic() < until:
        name = f"{seed}/{number}"
        number += 1
        now.put((time.monotonic(), name))
        what = check(name, models)
        if what:
            found.put((what, name))
    now.put((time.monotonic(), None))


def fuzz(seconds: float, seed: int) -> int:
    """For so long, in processes that are replaced when one crashes or hangs. The number of kinds of findings."""
    models = corpus()
    until = time.monotonic() + seconds
    kinds: dict[str, int] = {}

    def report(what: str, name: str) -> None:
        kind = what.partition(" [")[0].rpartition(" at ")[2] or what
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] == 1:
            print(f"{name}: {what}", flush=True)

    done = run_in_processes(_work, models, until=until, seed=seed, limit=SECONDS, report=report)
    print(f"{done} compiles, {sum(kinds.values())} findings of {len(kinds)} kinds")
    return len(kinds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=int, default=60)
    parser.add_argument("seed", nargs="?", type=int, default=int(time.time()))
    parser.add_argument("--case", help="one case again, as SEED/NUMBER")
    args = parser.parse_args()
    if args.case:
        prepare()
        print(check(args.case, corpus()) or "as it should be")
        return 0
    print(f"seed {args.seed}", flush=True)
    return 1 if fuzz(args.seconds, args.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
