"""Element types of checkpoints: all that torch computes with are read; a tensor of others beside the weights does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from maas_rt.compiler.importers.checkpoint import load_checkpoint
from safetensors.torch import save_file
from torch import nn

from tests.compiler._checkpoint_models import filled, filled_with, net, refusal

FLOAT8 = "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu".split()
REAL = "float16 bfloat16 float32 float64 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool".split()


class Buffers(nn.Module):
    """A matrix, a scalar and one of no elements, of every type."""

    def __init__(self, dtypes: list[str], value: int) -> None:
        super().__init__()
        for dtype in dtypes:
            for shape in ((2, 3), (), (0, 3)):
                buffer = torch.full(shape, value).to(getattr(torch, dtype))
                self.register_buffer(f"{dtype}_{len(shape)}_{0 in shape}", buffer)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["w.pt", "w.safetensors", "dcp"])
def test_every_element_type(tmp_path: Path, form: str) -> None:
    dtypes = REAL + FLOAT8 + (["complex64", "complex128"] if form != "w.safetensors" else [])
    state = Buffers(dtypes, 1).state_dict()
    if form == "w.pt":
        torch.save(state, tmp_path / form)
    elif form == "dcp":
        dcp.save(state, checkpoint_id=str(tmp_path / form), no_dist=True)
    else:
        # safetensors of Python has no word for e8m0 yet, the format has.
        save_file({k: v.view(torch.uint8) if "e8m0" in k else v for k, v in state.items()}, str(tmp_path / form))
        written = (tmp_path / form).read_bytes()
        length = int.from_bytes(written[:8], "little")
        header = written[8 : 8 + length]
        for name in (key for key in state if "e8m0" in key):
            at = header.index(f'"{name}"'.encode())
            header = header[:at] + header[at:].replace(b'"U8"', b'"F8_E8M0"', 1)
        (tmp_path / form).write_bytes(len(header).to_bytes(8, "little") + header + written[8 + length :])
    module = Buffers(dtypes, 0)
    load_checkpoint(module, tmp_path / form)
    for name, value in module.state_dict().items():
        assert value.dtype == state[name].dtype and value.shape == state[name].shape
        assert value.double().eq(1).all() if not value.is_complex() else value.eq(1).all(), name


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["w.pt", "w.safetensors", "dcp"])
def test_others_beside_the_weights(tmp_path: Path, form: str) -> None:
    state = filled(net())
    other: dict[str, torch.Tensor] = {"four": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    saved: dict[str, Any] = {"model": state, "packed": other}
    if form == "w.safetensors":
        saved = {f"model.{name}": value for name, value in state.items()} | other
        save_file(saved, str(tmp_path / form))
    elif form == "dcp":
        dcp.save(saved, checkpoint_id=str(tmp_path / form), no_dist=True)
    else:
        saved["packed"]["half"] = torch.zeros(2, dtype=torch.complex32)
        torch.save(saved, tmp_path / form)
    filled_with(tmp_path / form, state)


def test_one_that_is_used_is_named(tmp_path: Path) -> None:
    state = {**filled(net()), "0.bias": torch.zeros(4, dtype=torch.complex32)}
    torch.save(state, tmp_path / "w.pt")
    assert "0.bias is a tensor of torch.complex32" in refusal(tmp_path / "w.pt")


def test_archives_without_checksums(tmp_path: Path) -> None:
    state = filled(net())
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": state}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    filled_with(tmp_path / "w.pt", state)
