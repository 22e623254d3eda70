"""An artifact for another CPU: the file itself, run under an emulator."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maas_rt._errors import VerificationError

from ..artifact import Artifact
from ..emulation import CPUS, EmulatedModel, find_emulator

__all__ = ["verify_emulated"]


def verify_emulated(
    artifact: Artifact, targets: Sequence[str], check: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What the manifest says of each target: its name, the emulated CPU, and the error that `check` found.

    Raises VerificationError where `check` does, with the target's name.
    """
    emulator = find_emulator()
    found = []
    with tempfile.TemporaryDirectory(prefix="maas-rt-emulated-") as folder:
        path = Path(folder) / "model.mrt"
        artifact.save(path)
        for target in targets:
            with EmulatedModel(str(path), artifact.manifest, target, emulator) as program:
                try:
                    report = check(program)
                except VerificationError as error:
                    raise VerificationError(
                        f"the file for {target} computes something else under qemu ({CPUS[target]}) than a build for this CPU, which agrees with "
                        f"its source: {error}",
                        error.operator,
                        error.relative_error,
                    ) from None
            found.append({"target": target, "cpu": CPUS[target], "max_relative_error": report["max_relative_error"]})
    return found
