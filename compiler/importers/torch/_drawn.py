"""torch's random operators computed of given noise, for verification: the other writing of the definitions in ops/random.py.

Each function takes the noise and those arguments of the operator's schema that it declares, by the names of _registry.py; `given.dtype` is
that of its first result. docs/random.md states the definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import fx

from ...ir._philox import SHARED_SEED, combined, drawn
from ._registry import Converter, bind_arguments, described

__all__ = ["NEGLIGIBLE", "RANDOM", "SMALL_MODE", "TRIES", "GivenNoise", "SharedRun", "numbers_of"]

Tensor = torch.Tensor
F = TypeVar("F", bound=Callable[..., Any])


class GivenNoise:
    """What one call of a random operator draws; `dtype` is that of its first result."""

    def __init__(self, number: int, iterations: Sequence[int], dtype: torch.dtype) -> None:
        self._iterations = list(iterations)
        self._place = {"key": SHARED_SEED, "number": number, "draw": combined(iterations)}
        self.dtype = dtype

    def at(self, part: int) -> GivenNoise:
        """What the same call draws for one of several parts of it."""
        return GivenNoise(self._place["number"], [*self._iterations, part], self.dtype)

    def uniform(self, shape: Sequence[int], wide: bool = False) -> Tensor:
        return self._tensor_of("uniform", shape, wide)

    def normal(self, shape: Sequence[int], wide: bool = False) -> Tensor:
        return self._tensor_of("normal", shape, wide)

    def bits(self, shape: Sequence[int]) -> np.ndarray[Any, Any]:
        return drawn("bits", math.prod(shape), "uint64", **self._place).reshape(tuple(shape))

    def _tensor_of(self, kind: str, shape: Sequence[int], wide: bool) -> Tensor:
        flat = drawn(kind, math.prod(shape), "float64" if wide else "float32", **self._place)
        return torch.from_numpy(flat).reshape(tuple(shape))

    @property
    def is_double(self) -> bool:
        return self.dtype == torch.float64


RANDOM: dict[str, Converter] = {}  # by the operator's name


def _draws(*names: str) -> Callable[[F], F]:
    def register(function: F) -> F:
        for name in names:
            RANDOM[name] = described(name, function)
        return function

    return register


@_draws("aten.rand.default")
def _rand(given: GivenNoise, size: Sequence[int], dtype: Any = None) -> Tensor:
    u = given.uniform(size, given.is_double)
    parts = {torch.float16: 2048, torch.bfloat16: 256}.get(given.dtype)
    return (u if parts is None else (u * parts).floor() / parts).to(given.dtype)


@_draws("aten.rand_like.default")
def _rand_like(given: GivenNoise, x: Tensor, dtype: Any = None) -> Tensor:
    return _rand(given, x.shape)


@_draws("aten.uniform.default")
def _uniform(given: GivenNoise, x: Tensor, from_: float = 0.0, to: float = 1.0) -> Tensor:
    return (given.uniform(x.shape, given.is_double) * (to - from_) + from_).to(given.dtype)


@_draws("aten.randn.default")
def _randn(given: GivenNoise, size: Sequence[int], dtype: Any = None) -> Tensor:
    return given.normal(size, given.is_double).to(given.dtype)


@_draws("aten.randn_like.default")
def _randn_like(given: GivenNoise, x: Tensor, dtype: Any = None) -> Tensor:
    return _randn(given, x.shape)


def _scaled(given: GivenNoise, shape: Sequence[int], mean: Any, std: Any) -> Tensor:
    z = given.normal(shape, given.is_double)
    mean, std = (v.to(z.dtype) if isinstance(v, Tensor) else v for v in (mean, std))
    moved: Tensor = z * std + mean
    return moved.to(given.dtype)


@_draws("aten.normal_functional.default")
def _normal(given: GivenNoise, x: Tensor, mean: float, std: float) -> Tensor:
    return _scaled(given, x.shape, mean, std)


@_draws("aten.normal.Tensor_Tensor", "aten.normal.Tensor_float", "aten.normal.float_Tensor")
def _normal_of(given: GivenNoise, mean: Any, std: Any) -> Tensor:
    shapes = [v.shape for v in (mean, std) if isinstance(v, Tensor)]
    return _scaled(given, torch.broadcast_shapes(*shapes), mean, std)


@_draws("aten.normal.float_float")
def _normal_sized(given: GivenNoise, mean: float, std: float, size: Sequence[int], dtype: Any = None) -> Tensor:
    return _scaled(given, size, mean, std)


@_draws("aten.log_normal.default")
def _log_normal(given: GivenNoise, x: Tensor, mean: float, std: float) -> Tensor:
    z = given.normal(x.shape, given.is_double)
    return torch.exp(z * std + mean).to(given.dtype)


def _integers(given: GivenNoise, shape: Sequence[int], low: int, high: int) -> Tensor:
    rest = given.bits(shape) % np.uint64(high - low)
    return torch.from_numpy(np.asarray(rest.astype(np.int64) + np.int64(low))).to(given.dtype)


@_draws("aten.randint.default", "aten.randint.low")
def _randint(given: GivenNoise, high: int, size: Sequence[int], low: int = 0, dtype: Any = None) -> Tensor:
    return _integers(given, size, low or 0, high)


@_draws("aten.randint_like.default", "aten.randint_like.low_dtype")
def _randint_like(given: GivenNoise, x: Tensor, high: int, low: int = 0, dtype: Any = None) -> Tensor:
    return _integers(given, x.shape, low or 0, high)


@_draws("aten.random.default", "aten.random.to")
def _random(given: GivenNoise, x: Tensor, to: Any = None) -> Tensor:
    return _integers(given, x.shape, 0, largest_drawn(given.dtype) + 1 if to is None else to)


def largest_drawn(dtype: torch.dtype) -> int:
    """The largest number that `random_` without bounds gives: of floats, up to which all whole numbers are one."""
    if dtype == torch.bool:
        return 1
    if dtype.is_floating_point:
        return {torch.float64: 1 << 53, torch.float32: 1 << 24, torch.float16: 1 << 11}.get(dtype, 1 << 8)
    return int(torch.iinfo(dtype).max)


@_draws("aten.randperm.default")
def _randperm(given: GivenNoise, n: int, dtype: Any = None) -> Tensor:
    return torch.from_numpy(np.argsort(given.bits([n]), kind="stable")).to(given.dtype)


@_draws("aten.bernoulli.default")
def _bernoulli(given: GivenNoise, x: Tensor) -> Tensor:
    return _coins(given, x.shape, x)


@_draws("aten.bernoulli.p", "aten.bernoulli.Tensor")
def _bernoulli_p(given: GivenNoise, x: Tensor, p: Any = 0.5) -> Tensor:
    return _coins(given, x.shape, p)


def _coins(given: GivenNoise, shape: Sequence[int], p: Any) -> Tensor:
    return (given.uniform(shape, True) < (p.double() if isinstance(p, Tensor) else p)).to(given.dtype)


@_draws("aten.multinomial.default")
def _multinomial(given: GivenNoise, x: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    weights = x.double()
    if not replacement:  # the first of as many clocks that ring at these rates
        times = _waiting(given.uniform(x.shape, True))
        return torch.topk(weights / times, num_samples, dim=-1).indices
    sums = torch.cumsum(weights, -1)
    aims = given.uniform([*x.shape[:-1], num_samples], True) * sums[..., -1:]
    return (sums[..., None, :] <= aims[..., None]).sum(-1)


def _waiting(u: Tensor) -> Tensor:
    """Exponential with rate 1: never 0, and at most 37."""
    return torch.clamp(-torch.log1p(-u), min=2.0**-54)


@_draws("aten.exponential.default")
def _exponential(given: GivenNoise, x: Tensor, lambd: float = 1.0) -> Tensor:
    smallest = 2.0**-24 if given.dtype == torch.float16 else 2.0**-126
    times = (_waiting(given.uniform(x.shape, True)) / lambd).to(given.dtype)
    return torch.clamp(times, min=smallest)


@_draws("aten.geometric.default")
def _geometric(given: GivenNoise, x: Tensor, p: float) -> Tensor:
    tries = torch.ceil(torch.log1p(-given.uniform(x.shape, True)) * (1 / math.log1p(-p) if p < 1 else 0.0))
    return torch.clamp(tries, min=1.0).to(given.dtype)


@_draws("aten.cauchy.default")
def _cauchy(given: GivenNoise, x: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    slopes = torch.tan((given.uniform(x.shape, True) - 0.5) * math.pi)
    return (slopes * sigma + median).to(given.dtype)


# Gamma samples take so many tries (all fail once in 10^13 times, and then give the mode); Stirling's series is for modes from here on;
# chances below this are none.
TRIES, SMALL_MODE, NEGLIGIBLE = 10, 16, 1e-20


def _gamma(given: GivenNoise, alpha: Tensor) -> Tensor:
    a = alpha.double()
    z = given.at(0).normal([TRIES, *a.shape], True)
    u = given.at(1).uniform([TRIES + 1, *a.shape], True)
    d = torch.where(a < 1, a + 1, a) - 1 / 3
    found, open_ = d.clone(), torch.ones_like(a, dtype=torch.bool)
    for k in range(TRIES):
        root = 1 + z[k] / torch.sqrt(9 * d)
        v = root**3
        taken = open_ & (root > 0) & (torch.log1p(-u[k]) < 0.5 * z[k] ** 2 + d * (1 - v + torch.log(v)))
        found, open_ = torch.where(taken, d * v, found), open_ & ~taken
    return torch.where(a < 1, found * (1 - u[TRIES]) ** (1 / a), found)


@_draws("aten._standard_gamma.default")
def _standard_gamma(given: GivenNoise, x: Tensor) -> Tensor:
    return _gamma(given, x).to(given.dtype).clamp(min=torch.finfo(given.dtype).tiny)


@_draws("aten._sample_dirichlet.default")
def _sample_dirichlet(given: GivenNoise, x: Tensor) -> Tensor:
    samples, limits = _gamma(given, x), torch.finfo(given.dtype)
    shares = (samples / samples.sum(-1, keepdim=True)).to(given.dtype)
    return shares.clamp(limits.tiny, 1 - limits.eps / 2)


def _outwards(mode: Tensor, chance: Tensor, u: Tensor, more: Any, fewer: Any) -> Tensor:
    """Which number u falls into, their chances one behind the other in the order mode, mode + 1, mode - 1, mode + 2, ..."""
    left, above, below, up, down, chosen = u - chance, chance, chance, mode, mode, mode
    while bool((searching := (left >= 0) & (above + below > NEGLIGIBLE)).any()):
        above = above * more(up)
        up = up + 1
        left = left - above
        chosen = torch.where(searching & (left < 0), up, chosen)
        searching = searching & (left >= 0)
        below = torch.where(searching, below * fewer(down), below)
        down = torch.where(searching, down - 1, down)
        left = torch.where(searching, left - below, left)
        chosen = torch.where(searching & (left < 0), down, chosen)
    return chosen


@_draws("aten.poisson.default")
def _poisson(given: GivenNoise, x: Tensor) -> Tensor:
    rate = x.double()
    mode = rate.floor()
    direct = mode * rate.log() - rate - torch.lgamma(mode + 1)
    stirling = 1 / (12 * mode) - 1 / (360 * mode**3) + 1 / (1260 * mode**5)
    near = mode * torch.log1p((rate - mode) / mode) - (rate - mode) - 0.5 * torch.log(math.tau * mode) - stirling
    chance = torch.where(mode < SMALL_MODE, direct, near).exp()
    u = given.uniform(x.shape, True)
    chosen = _outwards(mode, chance, u, lambda k: rate / (k + 1), lambda k: k / rate)
    return torch.where(rate > 0, chosen, 0).to(given.dtype)


@_draws("aten.binomial.default")
def _binomial(given: GivenNoise, count: Tensor, prob: Tensor) -> Tensor:
    n, p = torch.broadcast_tensors(count.double().floor(), prob.double())
    mode = torch.minimum(((n + 1) * p).floor(), n)
    ways = torch.lgamma(n + 1) - torch.lgamma(mode + 1) - torch.lgamma(n - mode + 1)
    chance = (ways + mode * p.log() + (n - mode) * torch.log1p(-p)).exp()
    odds, u = p / (1 - p), given.uniform(n.shape, True)
    chosen = _outwards(mode, chance, u, lambda k: (n - k) / (k + 1) * odds, lambda k: k / ((n - k + 1) * odds))
    certain = torch.where(p >= 1, n, 0)
    return torch.where((n > 0) & (p > 0) & (p < 1), chosen, certain).to(given.dtype)


@_draws("aten.rrelu_with_noise_functional.default")
def _rrelu(
    given: GivenNoise, x: Tensor, noise: Tensor, lower: float, upper: float, training: bool
) -> tuple[Tensor, Tensor]:
    u = given.uniform(x.shape, given.is_double)
    slopes = torch.where(x <= 0, (u * (upper - lower) + lower).to(x.dtype), torch.ones_like(x))
    return x * slopes, slopes


@_draws("aten.native_dropout.default")
def _dropout(given: GivenNoise, input: Tensor, p: float, train: Any = None) -> tuple[Tensor, Tensor]:
    kept = given.uniform(input.shape) >= p
    return thinned(input, kept, p), kept


def thinned(x: Tensor, kept: Tensor, p: float) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (x.to(wide) * kept.to(wide) * (1 / (1 - p) if p < 1 else 0.0)).to(x.dtype)


@_draws("aten.scaled_dot_product_attention.default")
def _attention(given: GivenNoise, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: Any = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """The weights of attention, then dropout of them."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    if enable_gqa:
        key, value = (v.repeat_interleave(query.shape[-3] // v.shape[-3], -3) for v in (key, value))
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    if attn_mask is not None:
        bars = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if bars else scores + attn_mask.to(wide)
    weights = torch.softmax(scores, -1)
    if attn_mask is not None:
        weights = torch.where((scores > -math.inf).any(-1, keepdim=True), weights, 0.0)
    kept = given.uniform(weights.shape) >= dropout_p
    return (thinned(weights, kept, dropout_p) @ value.to(wide)).to(query.dtype)


@_draws("aten.lstm.input", "aten.gru.input")
def _recurrent(given: GivenNoise, input: Tensor, hx: Any, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
               train: bool, bidirectional: bool, batch_first: bool) -> tuple[Tensor, ...]:  # fmt: skip
    """A layer at a time, dropout of what each hands to the next, time in front."""
    states = hx if isinstance(hx, (list, tuple)) else [hx]
    cell = torch.ops.aten.gru.input if len(states) == 1 else torch.ops.aten.lstm.input
    turned, ends = batch_first and input.dim() == 3, []
    x, directions = (input.transpose(0, 1) if turned else input), 1 + bidirectional
    count = directions * (4 if has_biases else 2)
    for layer in range(num_layers):
        own = params[layer * count : (layer + 1) * count]
        starts = [h[layer * directions : (layer + 1) * directions] for h in states]
        first = starts if len(starts) > 1 else starts[0]
        x, *last = cell(x, first, own, has_biases, 1, 0.0, False, bidirectional, False)
        ends.append(last)
        if layer < num_layers - 1:
            x = thinned(x, given.at(layer).uniform(x.shape) >= dropout, dropout)
    return (x.transpose(0, 1) if turned else x, *[torch.cat(each) for each in zip(*ends)])


# ---- running ---------------------------------------------------------------------------------------------------------------


def numbers_of(module: fx.GraphModule) -> dict[fx.Node, int]:
    """The graph's random operators and those of graphs in it, numbered from 1 as they are written."""
    numbers: dict[fx.Node, int] = {}
    for node in _nodes(module):
        if str(node.target) in RANDOM and _may_draw(node):
            numbers[node] = len(numbers) + 1
    return numbers


def _may_draw(node: fx.Node) -> bool:
    """Whether an operator that draws in training, or if it drops anything, does."""
    name = str(node.target)
    if name == "aten.scaled_dot_product_attention.default":
        return bool(_argument(node, 4, "dropout_p"))
    if name in ("aten.lstm.input", "aten.gru.input"):
        drops = bool(_argument(node, 5, "dropout")) and bool(_argument(node, 6, "train"))
        return drops and _argument(node, 4, "num_layers") != 1
    if name == "aten.native_dropout.default":
        return _argument(node, 2, "train") is not False and _argument(node, 1, "p") != 0
    return name != "aten.rrelu_with_noise_functional.default" or bool(_argument(node, 4, "training"))


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _nodes(module: fx.GraphModule) -> Any:
    for node in module.graph.nodes:
        if node.op == "get_attr":
            inner = _submodule(module, str(node.target))
            if inner is not None:
                yield from _nodes(inner)
        yield node


def _submodule(module: fx.GraphModule, path: str) -> fx.GraphModule | None:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, fx.GraphModule) else None


class SharedRun(fx.Interpreter):
    """Runs a graph, with given noise in the places of its random operators."""

    def __init__(self, module: fx.GraphModule, numbers: Mapping[fx.Node, int], iterations: Sequence[int] = ()) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self._numbers = numbers
        self._iterations = list(iterations)

    def run_node(self, n: fx.Node) -> Any:
        number = self._numbers.get(n)
        if number is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            function, result = RANDOM[str(n.target)], n.meta["val"]
            dtype = (result[0] if isinstance(result, (tuple, list)) else result).dtype
            given = GivenNoise(number, self._iterations, dtype)
            return function.function(given, **bind_arguments(function, n.target, args, kwargs))
        if isinstance(n.target, torch._ops.HigherOrderOperator):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if any(isinstance(a, fx.GraphModule) and any(m in self._numbers for m in _nodes(a)) for a in args):
                return self._nested(n.target.name(), *args, **kwargs)
        return super().run_node(n)

    def _nested(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name not in _NESTED:
            raise NotImplementedError(f"random operators in a graph of {name}")
        return _NESTED[name](self._run, *args, **kwargs)

    def _run(self, graph: fx.GraphModule, arguments: Sequence[Any], iteration: int | None = None) -> Any:
        inside = self._iterations if iteration is None else [*self._iterations, iteration]
        return SharedRun(graph, self._numbers, inside).run(*arguments)


def _cond(run: Any, predicate: Any, true_graph: Any, false_graph: Any, operands: Any = ()) -> Any:
    return run(true_graph if bool(predicate) else false_graph, operands)


def _grad_region(run: Any, enabled: bool, graph: Any, *operands: Any) -> Any:
    return run(graph, operands)


def _while_loop(run: Any, test: Any, step: Any, start: Any, others: Any = ()) -> Any:
    carried, number = list(start), 0
    while bool(torch.as_tensor(_lone(run(test, [*carried, *others], number)))):
        carried = list(run(step, [*carried, *others], number))
        number += 1
    return tuple(carried)


def _lone(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


def _scan(run: Any, graph: Any, start: Any, sources: Any, others: Any = ()) -> Any:
    carried, rows = list(start), []
    for i in range(len(sources[0])):
        values = list(run(graph, [*carried, *[x[i] for x in sources], *others], i))
        carried = values[: len(carried)]
        rows.append(values[len(carried) :])
    return (*carried, *[torch.stack(list(column)) for column in zip(*rows)])


def _map(run: Any, graph: Any, mapped: Any, others: Any) -> Any:
    rows = [run(graph, [*[x[i] for x in mapped], *others], i) for i in range(len(mapped[0]))]
    return tuple(torch.stack(list(column)) for column in zip(*rows))


_NESTED: dict[str, Callable[..., Any]] = {
    "cond": _cond,
    "map": _map,
    "map_impl": _map,
    "scan": _scan,
    "while_loop": _while_loop,
    "wrap_with_set_grad_enabled": _grad_region,
}
