"""maas_rt's C API through cffi: the whole call from Python included."""

from __future__ import annotations

from pathlib import Path

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    from maas_rt import capi

    model = capi.load(folder / "model.mrt", threads=threads)
    return lambda: model.run(inputs), lambda: list(model.run(inputs).values())
