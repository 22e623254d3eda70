"""The size of libmaas_rt.so with all its kernels, stripped."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """Bytes before and after `strip`."""
    import maas_rt

    library = Path(maas_rt.__file__).with_name("libmaas_rt.so")
    if shutil.which("strip") is None:
        raise RuntimeError("the stripped size is measured with `strip`: install it (apt install binutils)")
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / library.name
        subprocess.run(["strip", "-o", str(stripped), str(library.resolve())], check=True)
        return {"bytes": library.stat().st_size, "stripped_bytes": stripped.stat().st_size}
