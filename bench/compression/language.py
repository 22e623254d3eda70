"""SmolLM2 compressed: its perplexity over the float model's, on articles that calibration has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from maas_rt.compiler import Int8Dynamic, Recipe, WeightOnly, compile
from maas_rt.compiler._recipes import Quantize

from ._rows import Goal, Measured, row
from ._smollm2 import Llama, fold_scales, smollm2, tokens
from ._wikipedia import articles

LENGTH = 512  # tokens of a window
TEST = 12  # articles, whose first windows are the test
CALIBRATION, EACH = 24, 2  # articles in between and behind, and their first windows
SEED, OCTAVES = 0, 0.5  # of the scales that are folded in

OVER = "perplexity over float's, %"
EIGHT = {"weights": WeightOnly(bits=8, method="rtn"), "dynamic": Int8Dynamic()}
FOUR = {method: WeightOnly(bits=4, group=32, symmetric=False, method=method) for method in ("rtn", "awq+gptq")}
# Of 4 bits, the table, which is the head, too, has 8, as in the package's file.
TABLE = dict.fromkeys(("embedding", "linear_2101"), EIGHT["weights"])


@cache
def windows() -> tuple[np.ndarray, np.ndarray]:
    """Of calibration and of the test, int64 [n, LENGTH]."""
    found = tokens([text for _, text in articles()[: 2 * CALIBRATION]])
    calibration = [each[: EACH * LENGTH].reshape(EACH, LENGTH) for each in found[1::2]]
    return np.concatenate(calibration), np.stack([each[:LENGTH] for each in found[: 2 * TEST : 2]])


@cache
def net() -> Llama:
    made = smollm2(LENGTH)
    fold_scales(made, SEED, OCTAVES)
    return made


def perplexity(method: Quantize | None) -> float:
    """Of the compiled model. It is judged by that: the compiler's own comparison of outputs is left out."""
    calibration, test = windows()
    recipe = None
    if method is not None:
        data = [{"ids": ids[None]} for ids in calibration]
        layers = TABLE if method in FOUR.values() else {}
        recipe = Recipe(quantize=method, layers=layers, calibration=data)
    program = compile(net(), [torch.from_numpy(test[:1])], recipe=recipe, verify=False).loaded()
    lost = []
    for ids in test:
        (scores,) = program.run({"ids": ids[None]}).values()
        lost.append(surprise(np.asarray(scores)[0, :-1], ids[1:]))
    return float(np.exp(np.mean(lost)))


def surprise(scores: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Minus the logarithm of what the softmax of scores [n, vocabulary] gives the tokens that followed [n]."""
    largest = scores.max(1)
    sums = np.exp(scores - largest[:, None]).sum(1, dtype=np.float64)
    return np.asarray(np.log(sums) + largest - scores[np.arange(len(scores)), following])


@cache
def in_float() -> float:
    return perplexity(None)


def over_float(methods: Mapping[str, Quantize]) -> dict[str, float]:
    """By how many percent the perplexity is above that of the float model, by method."""
    return {name: 100 * (perplexity(each) / in_float() - 1) for name, each in methods.items()}


@row("smollm2-int8", "SmolLM2-135M, weights in int8", Goal(OVER, 0.5, 0.2, least=False))
def _int8() -> Measured:
    found = over_float(EIGHT)
    return Measured({OVER: found["weights"]}, more={"float": in_float(), OVER: found})


@row(
    "smollm2-int4",
    "SmolLM2-135M, weights in int4 in groups of 32, AWQ and GPTQ",
    Goal("loss of perplexity over plain rounding's", 0.333, 0.25, least=False),
)
def _int4() -> Measured:
    found = over_float(FOUR)
    own = {"loss of perplexity over plain rounding's": found["awq+gptq"] / found["rtn"]}
    return Measured(own, more={"float": in_float(), OVER: found})
