"""maas_rt from Python."""

from __future__ import annotations

from pathlib import Path

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    import maas_rt

    model = maas_rt.load(folder / "model.mrt", threads=threads)
    return lambda: model.run(inputs), lambda: list(model.run(inputs).values())
