"""What a damaged file may ask of a kernel: every contract, started from a good call and bent in many ways.

The kernel refuses, or it runs; it never touches memory that is not there. Built with the address sanitizer, this is the
test that `check` of every contract sees everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maas_rt import Error, _kernels
from tests.kernels._calls import CALLS, CONTRACTS, packed
from tests.kernels._support import isas_of


def good(contract: str) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Inputs with the weights packed, shape and dtype of each output, attributes."""
    call = CALLS[contract]
    inputs = [x if packed(contract, call, i) is None else packed(contract, call, i) for i, x in enumerate(call.inputs)]
    return inputs, call.shapes(), {**call.attrs, **({"hint": call.hint} if call.hint else {})}


GOOD = {contract: good(contract) for contract in CALLS}

EXTREME = st.sampled_from([0, 1, -1, 2, -2, 3, 16, 17, 2**20, -(2**20), 2**31, 2**32 + 1, 2**62, -(2**62), 2**63 - 1])
NUMBERS = st.sampled_from([0.0, -1.0, 1e-30, 1e30, 3.7, float("inf"), float("-inf"), float("nan")])


def bent_array(draw: st.DrawFn, x: Any) -> Any:
    if isinstance(x, bytes):
        return x[: draw(st.sampled_from([0, 4, 64, max(0, len(x) - 4)]))] + b"\0" * draw(st.sampled_from([0, 0, 64]))
    shape = list(x.shape)
    how = draw(st.sampled_from(["extent", "rank", "dtype", "drop", "values"]))
    if how == "extent" and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 9))
    elif how == "rank":
        shape = shape[1:] if draw(st.booleans()) else [1, *shape]
    elif how == "dtype":
        return np.ones(shape, draw(st.sampled_from([np.float64, np.int32, np.uint8, np.float16, np.complex128])))
    elif how == "drop":
        return None
    elif x.dtype.kind in "iu":
        number = draw(st.sampled_from([-(2**31), -6, -1, 0, 5, 2**31 - 1]))
        return np.full_like(x, np.clip(number, max(-(2**31), np.iinfo(x.dtype).min), np.iinfo(x.dtype).max))
    return np.ones(shape, x.dtype)


@st.composite
def bent(draw: st.DrawFn, contract: str) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """A good call with one to three things wrong with it."""
    inputs, shapes, attrs = (part.copy() for part in GOOD[contract])
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["input", "output", "attr", "attr", "count"]))
        if what == "input" and inputs:
            i = draw(st.integers(0, len(inputs) - 1))
            if inputs[i] is not None:
                inputs[i] = bent_array(draw, inputs[i])
        elif what == "output" and shapes:
            i = draw(st.integers(0, len(shapes) - 1))
            given, dtype = shapes[i]
            shape = list(given)
            if shape and draw(st.booleans()):
                shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 9))
            else:
                shape = shape[1:] if draw(st.booleans()) else [1, *shape]
            shapes[i] = (tuple(shape), dtype)
        elif what == "count":
            inputs = inputs[: draw(st.integers(0, len(inputs)))] + [None] * draw(st.integers(0, 2))
        elif attrs or CONTRACTS[contract]["attributes"]:
            key = draw(st.sampled_from(sorted({*attrs, *CONTRACTS[contract]["attributes"]})))
            value = attrs.pop(key, 0)
            if isinstance(value, (list, tuple)) and value:
                more = list(value)
                more[draw(st.integers(0, len(more) - 1))] = draw(EXTREME if isinstance(more[0], int) else NUMBERS)
                attrs[key] = more[: draw(st.integers(0, len(more)))] + more[: draw(st.integers(0, 1))]
                if draw(st.booleans()):
                    attrs[key] = more
            elif isinstance(value, int):
                attrs[key] = draw(EXTREME)
            elif isinstance(value, float):
                attrs[key] = draw(NUMBERS)
            elif draw(st.booleans()):
                attrs[key] = draw(st.sampled_from(["", "x" * 300, "constant", "max", "nearest", "reverse", "bhsd"]))
    return inputs, shapes, attrs


@pytest.mark.parametrize("contract", sorted(CALLS))
def test_the_good_call_runs(contract: str) -> None:
    inputs, shapes, attrs = GOOD[contract]
    for isa in ["reference", *isas_of(contract)]:
        for threads in (1, 2):
            _kernels.run(contract, inputs, shapes, attrs, isa=isa, threads=threads)


@pytest.mark.parametrize("contract", sorted(CALLS))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bent_calls_are_refused_or_run(contract: str, data: st.DataObject) -> None:
    inputs, shapes, attrs = data.draw(bent(contract))
    isa = data.draw(st.sampled_from(["reference", *isas_of(contract)]))
    try:
        outputs = _kernels.run(contract, inputs, shapes, attrs, isa=isa, threads=data.draw(st.integers(1, 2)))
    except Error as error:
        message = str(error)
        assert message and "\n" not in message, message
    else:
        assert [y.shape for y in outputs] == [shape for shape, _ in shapes]


def test_every_contract_is_here() -> None:
    assert set(CALLS) == set(CONTRACTS)


BOUNDS = [
    (contract, key, bound + step)
    for contract, stated in sorted(CONTRACTS.items())
    for key, row in stated["attributes"].items()
    if row["kind"] == "integers" and not row.get("packing_only")
    for bound, step in ((row.get("lo"), -1), (row.get("hi"), 1))
    if bound is not None
]


@pytest.mark.parametrize(("contract", "key", "value"), BOUNDS)
def test_a_number_beyond_a_bound_is_refused(contract: str, key: str, value: int) -> None:
    inputs, shapes, attrs = GOOD[contract]
    row = CONTRACTS[contract]["attributes"][key]
    count = len(attrs[key]) if row.get("listed") and key in attrs else row["count"]
    with pytest.raises(Error, match=f"attribute '{key}' holds {value}, expected a value from"):
        _kernels.run(contract, inputs, shapes, {**attrs, key: [value] * count})


@pytest.mark.parametrize("contract", sorted(CALLS))
def test_what_a_contract_states_is_held(contract: str) -> None:
    """An unknown attribute, a needed one that is absent, a choice that there is not, a type that an input cannot have."""
    inputs, shapes, attrs = GOOD[contract]
    with pytest.raises(Error, match=f"{contract}: there is no attribute 'sparsity'"):
        _kernels.run(contract, inputs, shapes, {**attrs, "sparsity": 2})
    for key, row in CONTRACTS[contract]["attributes"].items():
        if row.get("needed"):
            with pytest.raises(Error, match=f"attribute '{key}' is absent, but it is needed"):
                _kernels.run(contract, inputs, shapes, {k: v for k, v in attrs.items() if k != key})
        if row["kind"] == "choice":
            with pytest.raises(Error, match=f"attribute '{key}' is 'nothing', expected one of: {row['choices'][0]}"):
                _kernels.run(contract, inputs, shapes, {**attrs, key: "nothing"})
    for i, (row, tensor) in enumerate(zip(CONTRACTS[contract]["inputs"], inputs, strict=False)):
        if row.get("packed") or not row.get("dtypes"):
            continue
        bent = [*inputs[:i], tensor.astype(np.complex64), *inputs[i + 1 :]]
        with pytest.raises(Error, match=rf"{row['name']} is .*, expected .*{row['dtypes'][-1]}"):
            _kernels.run(contract, bent, shapes, attrs)
