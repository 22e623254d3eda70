"""The compression benchmark's language model in a tiny size: its scales change nothing, it compiles with each of its recipes; its texts are clean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Int8Dynamic, Recipe, WeightOnly
from maas_rt.compiler import compile as compile_model

from bench.compression._smollm2 import Llama, Sizes, _in_halves, fold_scales
from bench.compression._wikipedia import plain
from bench.compression.language import surprise

SIZES = Sizes(vocabulary=96, width=64, inner=96, layers=2, heads=4, shared=2, base=1000.0)
LENGTH = 12
IDS = np.random.default_rng(0).integers(0, SIZES.vocabulary, (24, 1, LENGTH))


def net(seed: int | None = 1) -> Llama:
    torch.manual_seed(0)
    made = Llama(SIZES, LENGTH).eval()
    if seed is not None:
        fold_scales(made, seed)
    return made


def scores(model: Llama, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(ids)).numpy())


def test_folded_scales_change_every_weight_and_no_score() -> None:
    plain, folded = net(None), net()
    want, got = scores(plain, IDS[0]), scores(folded, IDS[0])
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
    for (name, before), (_, after) in zip(plain.named_parameters(), folded.named_parameters(), strict=True):
        stays = name in ("table.weight", "norm.weight")
        ratio = (after / before).detach().numpy()
        assert stays == bool((ratio == 1).all()), name
        if not stays:
            assert ratio.max() / ratio.min() > 4, name


def test_channels_that_llama_cpp_turns_together_come_to_lie_half_a_head_apart() -> None:
    rows = torch.arange(16)[:, None].expand(16, 3)  # two heads of 8
    np.testing.assert_array_equal(_in_halves(rows, 8)[:, 0], [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15])


def test_surprise_is_the_cross_entropy() -> None:
    given, following = torch.randn(7, 50) * 20, torch.randint(0, 50, (7,))
    want = torch.nn.functional.cross_entropy(given, following, reduction="none")
    np.testing.assert_allclose(surprise(given.numpy(), following.numpy()), want, rtol=1e-5, atol=1e-5)


def test_markup_goes_and_text_stays() -> None:
    text = (
        "A sentence that is long enough to be kept, since what is shorter is taken for a heading or an item of a list"
    )
    page = (
        "{{Infobox|a={{b|c}}}}\n== Heading ==\n* an item\n[[File:x.png|thumb|with a [[link]] in it]]\n{| class=a\n| cell\n|}\n"
        f"'''{text}''',<ref name=a>{{{{cite|x}}}}</ref> of [[Target|words]] and [[others]]&mdash;&nbsp;here<!-- not -->.<ref name=b />\n"
    )
    assert plain(page) == f"{text}, of words and others\u2014 here."


RECIPES = {
    "float": (None, 1e-5),
    "int8": (Int8(), 0.05),
    "int8 dynamic": (Int8Dynamic(), 0.05),
    "int8 weights": (WeightOnly(bits=8, method="mse"), 0.02),
    "rtn": (WeightOnly(method="rtn"), 0.5),
    "gptq": (WeightOnly(method="gptq", symmetric=False), 0.3),
    "awq": (WeightOnly(method="awq", symmetric=False), 0.3),
}


@pytest.mark.parametrize("name", RECIPES)
def test_it_compiles_with_each_recipe(name: str) -> None:
    method, most = RECIPES[name]
    recipe = None if method is None else Recipe(quantize=method, calibration=IDS)
    artifact: Any = compile_model(net(), [torch.from_numpy(IDS[0])], recipe=recipe)
    (result,) = artifact.loaded().run({"ids": IDS[1]}).values()
    want = scores(net(), IDS[1])
    assert np.abs(result - want).max() < most * np.abs(want).max()
    if method is None:
        return
    told = artifact.manifest["recipe"]["quantize"]
    tables = ["embedding"] if isinstance(method, Int8Dynamic) else []
    assert [each["kind"] for each in told["float_layers"]] == [*tables, "attention", "attention"]
    last = told["methods"][0]["names"][-1]
    assert told["notes"] == ([f"AWQ scales no inputs of {last}: a table has the same weights"] if name == "awq" else [])
