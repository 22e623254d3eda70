"""Python that decides by sizes: the compiled model gives torch's numbers or refuses the size, whichever branch was traced."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler import compile
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.importers.torch._decisions import decisions_of
from torch import nn

import maas_rt

SIZES = range(1, 14)


class One(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Two(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.function(x, y)


def rows(size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(size).standard_normal((size, 3)).astype(np.float32))


def right(model: maas_rt.Model, function: Callable[..., Any], sizes: Sequence[tuple[int, ...]]) -> list[Any]:
    """The sizes that the model takes; of these it must be what torch is, and none may be that torch refuses."""
    taken = []
    for size in sizes:
        inputs = [rows(each) for each in size]
        try:
            got = model(*[each.numpy() for each in inputs])
        except maas_rt.InvalidArgumentError as refusal:
            assert "\n" not in str(refusal)
            continue
        wanted = function(*inputs)
        assert got.shape == tuple(wanted.shape), size
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5, err_msg=str(size))
        taken.append(size if len(size) > 1 else size[0])
    return taken


def windows(x: torch.Tensor) -> torch.Tensor:
    """As Swin pads: only where it must."""
    n = x.shape[0]
    padded = F.pad(x, (0, 0, 0, -n % 4)) if n % 4 else x
    return padded.view(-1, 4, 3).softmax(1).reshape(-1, 3)[:n]


def halved(x: torch.Tensor) -> torch.Tensor:
    n = x.shape[0]
    while n > 2:
        x, n = x * 1.5, n // 2
    return x


def checked(x: torch.Tensor) -> torch.Tensor:
    torch._check(x.shape[0] % 4 == 0)
    return x + 1


EVEN, ODD = list(SIZES[1::2]), list(SIZES[::2])
BRANCHES: dict[
    str, tuple[Callable[..., Any], int, list[int]]
] = {  # the model, the rows that are traced, those that it then takes
    "even": (lambda x: x if x.shape[0] % 2 == 0 else -x, 4, EVEN),
    "odd": (lambda x: x if x.shape[0] % 2 == 0 else -x, 5, ODD),
    "a_third_of_the_elements": (lambda x: x if x.numel() % 4 == 2 else -x, 6, [2, 6, 10]),
    "one_is_another_model": (lambda x: -x if x.shape[0] == 1 else x, 6, list(SIZES[1:])),
    "among": (lambda x: -x if x.shape[0] in (1, 2) else x, 6, list(SIZES[2:])),
    "a_number": (lambda x: x[: int(x.shape[0] / 2)], 6, [6, 7]),
    "a_rounded_number": (lambda x: x if round(x.shape[0] * 0.3) == 2 else -x, 8, [5, 6, 7, 8]),
    "a_loop": (halved, 8, [6, 7, 8, 9, 10, 11]),
    "parts": (lambda x: sum(part.mean() for part in x.split(3)), 8, [7, 8, 9]),
    "a_promise": (checked, 8, [4, 8, 12]),
    "quotients": (lambda x: x if x.shape[0] / 3 > 2.5 else -x, 9, list(SIZES[7:])),
    "padded_windows": (windows, 8, [4, 8, 12]),
}
THE_SAME: dict[str, tuple[Callable[..., Any], int]] = {  # whichever branch is taken
    "padded_always": (windows, 7),
    "another_way": (lambda x: (x * 2).reshape(1, -1, 3)[0] if x.shape[0] % 2 else x + x, 6),
    "one_row": (lambda x: x.squeeze(0).unsqueeze(0) if x.shape[0] == 1 else x, 6),
    "ceiling": (lambda x: x[: math.ceil(x.shape[0] / 2)], 6),
    "largest": (lambda x: F.pad(x, (0, 0, 0, max(x.shape[0], 4))), 6),
    "condition": (lambda x: torch.cond(x.shape[0] % 2 == 0, lambda x: x + 1, lambda x: x - 1, (x,)), 6),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_the_branch_that_was_not_traced_is_refused(name: str) -> None:
    function, traced, taken = BRANCHES[name]
    model = maas_rt.load(compile(One(function), rows(traced), dynamic={"x": {0: ()}}, verify=False))
    assert right(model, function, [(n,) for n in SIZES]) == taken


@pytest.mark.parametrize("name", THE_SAME)
def test_a_branch_that_computes_the_same_is_not_refused(name: str) -> None:
    function, traced = THE_SAME[name]
    model = maas_rt.load(compile(One(function), rows(traced), dynamic={"x": {0: (1, 13)}}, verify=False))
    assert right(model, function, [(n,) for n in SIZES]) == list(SIZES)


PAIRS: dict[str, tuple[Callable[[int, int], bool], tuple[int, int]]] = {
    "twice": (lambda n, m: n * 2 > m, (6, 10)),
    "half": (lambda n, m: n // 2 == m, (9, 4)),
    "others": (lambda n, m: n == m, (6, 7)),
    "product": (lambda n, m: n * m % 3 == 0, (3, 4)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_sizes(name: str) -> None:
    decides, (n, m) = PAIRS[name]

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.sum() + y.sum() if decides(x.shape[0], y.shape[0]) else x.sum() - y.sum()

    artifact = compile(Two(function), (rows(n), rows(m)), dynamic={"x": {0: (1, 32)}, "y": {0: (1, 32)}})
    pairs = [(a, b) for a in SIZES[::2] for b in SIZES[1::3]] + [(n, m), (4, 4), (7, 7)]
    taken = right(maas_rt.load(artifact), function, pairs)
    assert taken == [(a, b) for a, b in pairs if decides(a, b) == decides(n, m)]


def test_the_sentence() -> None:
    model = maas_rt.load(compile(One(BRANCHES["odd"][0]), (rows(5),), dynamic={"x": {0: (1, 32)}}))
    with pytest.raises(
        maas_rt.InvalidArgumentError,
        match=r"^the model decides by sizes at test_size_branches.py:\d+, and was traced where \(x_dim0 % 2\) != 0: give such sizes, or compile "
        r"it once more with example inputs of the others \(here x_dim0 is 4\)$",
    ):
        model(rows(4).numpy())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("even", ""),
        (
            "one_is_another_model",
            r"holds for 2..32 alone: the model decides by sizes at .*py:\d+, and was traced where x_dim0 != 1; ask",
        ),
        ("a_rounded_number", "holds for 5..8 alone"),
        ("quotients", "holds for 8..32 alone"),
        ("parts", "alone: split at test_size_branches"),
    ],
)
def test_bounds_that_were_asked_for(name: str, words: str) -> None:
    """Ends of a range are refused before anything is compiled; a divisor is told, and a run refuses the rest."""
    function, traced, _ = BRANCHES[name]
    if not words:
        model = import_model(One(function), rows(traced), dynamic={"x": {0: (1, 32)}})
        assert [(spec.min, spec.max, spec.multiple) for spec in model.symbols.values()] == [(2, 32, 2)]
        return
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        import_model(One(function), rows(traced), dynamic={"x": {0: (1, 32)}})


def test_a_decision_that_no_run_can_check() -> None:
    with pytest.raises(
        maas_rt.ImportModelError, match=r"where \(x_dim0 & 6\) == 4, which a run cannot check: give bounds"
    ):
        import_model(One(lambda x: x if (x.shape[0] & 6) == 4 else -x), rows(5), dynamic={"x": {0: ()}})
    model = import_model(One(lambda x: x if (x.shape[0] & 6) == 4 else -x), rows(5), dynamic={"x": {0: (1, 32)}})
    assert len(model.conditions) == 1


def test_exported_programs_and_files(tmp_path: Path) -> None:
    """What torch kept of the decisions: with the program, and as text in the file that it writes."""
    open_size = {0: torch.export.Dim.DYNAMIC(min=1, max=32)}
    for name in ("odd", "even", "a_third_of_the_elements", "a_loop"):
        function, traced, taken = BRANCHES[name]
        program = torch.export.export(One(function), (rows(traced),), dynamic_shapes=(open_size,))
        torch.export.save(program, tmp_path / "m.pt2")
        for source in (program, tmp_path / "m.pt2") if name == "odd" else (tmp_path / "m.pt2",):
            model = maas_rt.load(compile(source, verify=False))
            assert right(model, function, [(n,) for n in SIZES]) == taken, name


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('true') == 0", "L['x'].size()[7] > 2", "L['z'].size()[0] > 2", "2 **", "9**9**9 > 1"],
)
def test_texts_of_a_file_that_are_no_decisions(text: str) -> None:
    program = torch.export.export(One(torch.relu), (rows(4),), dynamic_shapes=({0: torch.export.Dim("n", max=32)},))
    with pytest.raises(maas_rt.ImportModelError, match="is not understood"):
        decisions_of(program, [text])
