"""Memory over many loads and unloads: `make loads` (1,000 of them), and the suite for a few."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from maas_rt.service import Repository
from tests.service._versions import times

WIDTH = 512  # 1 MiB of weights
WARM = 10  # loads after which memory is as it stays


def resident() -> int:
    """Bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grown(loads: int, root: Path) -> int:
    """Bytes by which this process grows from the first loads to the last, each an update of a model, a load or an unload, with a request."""
    path = root / "m" / "1" / "model.mrt"
    path.parent.mkdir(parents=True)
    beside = path.with_name(".beside")
    files = [times(factor, WIDTH) for factor in (1, 2)]
    path.write_bytes(files[0])
    repository = Repository(root)
    x = np.ones((1, WIDTH), np.float32)
    begin = 0
    for number in range(WARM + loads):
        if number % 3 == 2:
            repository.unload("m")
        else:
            beside.write_bytes(files[number % 2])
            os.replace(beside, path)
        repository.load("m")
        with repository.lease("m") as served:
            served.model.run({"x": x})
        del served
        if number == WARM:
            gc.collect()
            begin = resident()
    gc.collect()
    end = resident()
    assert repository.close(10)
    return end - begin


if __name__ == "__main__":
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        more = grown(count, Path(folder))
    print(f"{count} loads of {WIDTH * WIDTH * 4 / 1e6:.1f} MB: {more / 1e6:+.1f} MB of resident memory")
    sys.exit(more > 8e6)
