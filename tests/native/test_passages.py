"""Requests that are run without arrays: what they hold, and for how long."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt import _native
from tests import _tiny

ROW = np.ones((1, 16), np.float32).tobytes()


def _document(model: maas_rt.Model) -> Any:
    inputs = [("x", "float32", [1, 16], "input 'x'", True, len(ROW))]
    return _native.Prepared(model, b'{"outputs":[', inputs, []).read(ROW, 0, [])


def _message(model: maas_rt.Model) -> Any:
    message = _native.Message.read(b"\x3a" + bytes([len(ROW)]) + ROW)  # a ModelInferRequest's raw_input_contents
    assert message is not None
    return _native.PreparedMessage(model, b"", [("x", "float32", [1, 16], "input 'x'")], []).read(message)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/maps, which Linux has")
@pytest.mark.parametrize("is_run", [False, True])
@pytest.mark.parametrize("make", [_document, _message])
def test_one_that_nobody_reads_is_the_last_of_its_model(
    make: Callable[[maas_rt.Model], Any], is_run: bool, tmp_path: Path
) -> None:
    """It gives its session back while there is a model to give it to; then all of it goes."""
    path = tmp_path / "model.mrt"
    path.write_bytes(_tiny.mlp())
    model: maas_rt.Model | None = maas_rt.load(path)
    exchange = make(model)
    if is_run:
        exchange.run(0)
    del model
    gc.collect()
    assert str(path) in Path("/proc/self/maps").read_text()
    if is_run:
        exchange.run(0)  # again, with the session that it has
    del exchange
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
