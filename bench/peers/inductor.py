"""torch.compile with its default backend, inductor, and weights frozen into the program, as its documentation advises for inference."""

from __future__ import annotations

from pathlib import Path

from bench.peers import Arrays, Loaded
from bench.peers.torch import callables


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    import torch
    import torch._inductor.config as config

    from bench.models import EVERY

    config.freezing = True
    config.compile_threads = 1  # its pool of compilers would stay, and wake beside what is timed
    torch.set_num_threads(threads)
    return callables(torch.compile(EVERY[folder.name].module(), dynamic=False), inputs)
