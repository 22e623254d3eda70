"""Complex numbers, which are pairs of real tensors in what is compiled, against torch: small functions in groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile
from maas_rt.compiler.importers.torch.module import import_module
from torch import Tensor

import maas_rt
from tests.compiler._imported_oracle import Array, compare, import_functions, relative_error

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(3, 6, generator=DRAW)
Z, W = (torch.complex(torch.randn(3, 6, generator=DRAW), torch.randn(3, 6, generator=DRAW)) for _ in range(2))


def check(cases: dict[str, object], *inputs: Tensor, bound: float = 1e-5) -> None:
    assert compare(import_functions(cases, inputs or (X, Z, W)), bound=bound) == {}  # type: ignore[arg-type]


def pairs(values: Array) -> Array:
    return np.stack([values.real, values.imag], axis=-1)


def test_fourier_transforms() -> None:
    fft = torch.fft
    check(
        {
            "fft": lambda x, z, w: (fft.fft(z), fft.fft(x), fft.fft(z, n=5, norm="ortho"), fft.fft(z[0], n=8)),
            "ifft": lambda x, z, w: (fft.ifft(z, dim=0), fft.ifft(x, norm="forward")),
            "several": lambda x, z, w: (fft.fft2(z), fft.ifftn(z), fft.fftn(x, dim=(0,)), fft.rfft2(x), fft.irfft2(z)),
            "rfft": lambda x, z, w: (fft.rfft(x), fft.rfft(x, n=9, dim=0), fft.rfft(x[0], norm="ortho")),
            "irfft": lambda x, z, w: (fft.irfft(z), fft.irfft(z, n=7), fft.irfft(z, n=4, dim=0, norm="ortho")),
            "hermitian": lambda x, z, w: (fft.hfft(z), fft.ihfft(x), fft.hfft2(z)),
            "shift": lambda x, z, w: fft.ifftshift(fft.fftshift(z, dim=1)),
            "double": lambda x, z, w: fft.rfft(x.double()).abs(),
        }
    )


@pytest.mark.parametrize("length", [1033, 2050])  # a prime; 2 * 25 * 41
def test_long_fourier_transforms(length: int) -> None:
    x = torch.randn(2, length, generator=DRAW)
    cases = {
        "real": lambda x: torch.fft.rfft(x),
        "complex": lambda x: torch.fft.ifft(torch.complex(x, x.flip(0)), norm="ortho"),
        "half": lambda x: torch.fft.irfft(torch.complex(x, x.flip(0)), n=length),
    }
    check(cases, x, bound=3e-6)


def test_arithmetic_and_conversions() -> None:
    check(
        {
            "product": lambda x, z, w: (z * w, z * x, x * 2j, z * (1 - 2j), z.square(), 3 * z),
            "sum": lambda x, z, w: (z + w * 2 + x - 1j, torch.sub(z, w, alpha=2), 1 - z, torch.add(x, z[0], alpha=3)),
            "quotient": lambda x, z, w: (z / w, 1 / z, x / w, z / x, z / 2j),
            "powers": lambda x, z, w: (z**2, z**-1, z**0.5, z**2.5, z**w, 2**z, torch.rsqrt(z), (z * 0) ** 2.5, (z * 0) ** 0),
            "size": lambda x, z, w: (z.abs(), z.angle(), z.sgn(), (z * 0).sgn(), z.norm(dim=1), torch.linalg.vector_norm(z, 1)),
            "conjugates": lambda x, z, w: (z.conj().imag, z.conj() * w, z.mH @ w, z.conj().conj(), torch.conj_physical(z)),
            "compare": lambda x, z, w: torch.stack([z == z, z != w, z.isnan(), z.isfinite(), z.isreal(), z.bool(), (z * 0).bool()]),
            "dtypes": lambda x, z, w: (x.cdouble(), x.chalf(), z.to(torch.complex128), x.cfloat() + z.real),
            "making": lambda x, z, w: (torch.complex(x, x[0]), torch.polar(x.abs(), x), torch.full((2, 3), 1 + 2j), torch.ones_like(z)),
            "views": lambda x, z, w: (torch.view_as_real(z), torch.view_as_complex(x.view(3, 3, 2)), z.imag + z.real),
        }
    )  # fmt: skip


def test_functions_and_products_of_matrices() -> None:
    functions = [torch.exp, torch.log, torch.log2, torch.sqrt, torch.sin, torch.cos, torch.tan, torch.sinh, torch.cosh,
                 torch.tanh, torch.sigmoid]  # fmt: skip
    cases: dict[str, object] = {f.__name__: lambda x, z, w, f=f: f(z) for f in functions}
    cases["roots"] = lambda x, z, w: torch.sqrt(
        torch.tensor([-4 + 0j, 4j, -4j, 0, 3 - 4j, complex(-4, -0.0)]) + 0 * z[0]
    )
    cases["far"] = lambda x, z, w: (torch.tanh(z * 100), torch.sigmoid(z * 20).log(), (z * 1e30).abs())
    cases |= {
        "mm": lambda x, z, w: (z @ w.T, z @ x.T.cfloat(), torch.mv(z, w[0]), torch.einsum("ij,kj->ik", z, w)),
        "vectors": lambda x, z, w: (torch.vdot(z[0], w[0]), torch.dot(z[0], w[0]), torch.outer(z[0], w[1])),
        "added": lambda x, z, w: torch.addmm(z[:, :3], z, w.T, beta=0.5, alpha=2),
        "linear": lambda x, z, w: torch.nn.functional.linear(z, w, w[:, 0]),
    }
    check(cases)


def test_operators_that_treat_parts_alike() -> None:
    check(
        {
            "moved": lambda x, z, w: (z.T, z.flatten()[2:9:3], z.view(2, 9), z.flip(0), z.roll(1, 1), z[:, [2, 0]], z.repeat(1, 2)),
            "joined": lambda x, z, w: (torch.cat([z, x]), torch.stack([z, w]), torch.nn.functional.pad(z, (1, 2))),
            "cut": lambda x, z, w: (*z.split(2, 1), *torch.unbind(z), z.unfold(1, 3, 2), torch.diagonal(z)),
            "reduced": lambda x, z, w: (z.sum(), z.mean(1), z.cumsum(0)),
            "chosen": lambda x, z, w: (torch.where(x > 0, z, w), torch.where(x > 0, z, 0), z.masked_fill(x > 0, 1 + 2j)),
            "rope": lambda x, z, w: torch.view_as_real(torch.view_as_complex(x.view(3, 3, 2)) * torch.polar(torch.ones(3), torch.arange(3.0))),
        }
    )  # fmt: skip


class Spectrum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))
        self.register_buffer("total", torch.zeros(4, dtype=torch.complex64))
        self.weight = torch.nn.Parameter(torch.complex(torch.eye(4), torch.ones(4, 4)))

    def forward(self, z: Tensor, q: Tensor) -> dict[str, Tensor]:
        self.total.add_(z.sum(0))
        return {"y": (z * self.turn) @ self.weight + self.total, "size": q.abs()}


def test_inputs_outputs_weights_and_states() -> None:
    z = torch.complex(torch.randn(3, 4, generator=DRAW), torch.randn(3, 4, generator=DRAW))
    model = import_module(Spectrum(), (z, z[0].to(torch.complex128)), dynamic={"z": {0: (1, 8)}})
    assert [state.initial.shape for state in model.states] == [(4, 2)]
    assert model.example_inputs is not None
    assert {name: (a.shape, a.dtype.name) for name, a in model.example_inputs.items()} == {
        "z": ((3, 4, 2), "float32"),
        "q": ((4, 2), "float64"),
    }
    assert compare(model) == {}


class Filter(torch.nn.Module):
    """Short-time transform, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.stft(x, 16, 4, window=self.window, return_complex=True) * gain
        return z, torch.istft(z, 16, 4, window=self.window)


def test_short_time_transforms_of_any_length() -> None:
    gain = torch.complex(torch.rand(9, 1, generator=DRAW), torch.zeros(9, 1))
    module = Filter()
    artifact = compile(module, (torch.randn(2, 64, generator=DRAW), gain), dynamic={"x": {1: (32, 200)}})
    model = maas_rt.load(artifact.to_bytes())
    x = torch.randn(2, 100, generator=DRAW)
    found = list(model.run({"x": x.numpy(), "gain": torch.view_as_real(gain).numpy()}).values())
    z, y = module(x, gain)
    assert relative_error(found[0], pairs(z.numpy())) < 1e-5
    assert relative_error(found[1], y.numpy()) < 1e-5


def test_transforms_along_dynamic_axes() -> None:
    class Mixed(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            half = torch.fft.rfft(x, norm="ortho")
            whole = torch.fft.ifft(torch.complex(x, x.flip(0)), dim=0)
            return (
                half,
                whole,
                torch.fft.fft2(x).real,
                torch.fft.irfft(half, n=x.shape[1], norm="ortho"),
                torch.fft.hfft(half[0]),
            )

    artifact = compile(Mixed(), torch.randn(2, 12, generator=DRAW), dynamic={"x": {0: (2, 9), 1: (4, 40)}})
    x = torch.randn(3, 7, generator=DRAW)
    found = maas_rt.load(artifact.to_bytes()).run({"x": x.numpy()})
    for a, b in zip(found.values(), Mixed()(x)):
        assert relative_error(a, pairs(b.numpy()) if b.is_complex() else b.numpy()) < 1e-5


def test_what_has_no_pairs_is_refused_by_name() -> None:
    class Product(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.prod(z)

    with pytest.raises(maas_rt.UnsupportedOperatorError, match=r"aten\.prod\.default \[complex numbers\]"):
        import_module(Product(), (Z,))
