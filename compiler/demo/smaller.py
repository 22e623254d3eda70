"""The demo's last step: the smallest form of the classifier that loses at most one image in a hundred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from maas_rt import compiler

from .._configs import Progress
from ..artifact import Artifact
from ..report import write_report
from .data import load_digits

__all__ = ["smaller"]

Array = npt.NDArray[Any]
_CALIBRATION = 128  # images, of those that it was trained on
_CHOSEN_BY = 600  # more of those: what is held out judges, and chooses nothing
_SECONDS = 45.0


def smaller(checkpoint: Path, target: Path, progress: Progress) -> Artifact:
    """Search, write `target` and beside it the report; the artifact."""
    (training, training_labels), (images, labels) = load_digits()
    chosen_by = slice(_CALIBRATION, _CALIBRATION + _CHOSEN_BY)
    artifact = compiler.compress(
        checkpoint,
        {"image": training[:_CALIBRATION]},
        accuracy(training[chosen_by], training_labels[chosen_by]),
        {"max_drop": 0.01, "objective": "size", "seconds": _SECONDS},
        judge=accuracy(images, labels),
        example_inputs={"image": images[:1]},
        dynamic={"image": {0: (1, 64)}},
        factory="maas_rt.compiler.demo.model:build",
        name="digits-small",
        progress=progress,
    )
    artifact.save(target)
    assert artifact.report is not None
    write_report(artifact.report, target.with_suffix(".html"), name="digits-small")
    return artifact


def accuracy(images: Array, labels: Array) -> Callable[[Callable[[Mapping[str, Array]], dict[str, Array]]], float]:
    """A function that scores a model: the share of `images` [N, 1, 8, 8] that it gives their label."""

    def score(run: Callable[[Mapping[str, Array]], dict[str, Array]]) -> float:
        right = 0
        for i in range(0, len(images), 60):
            (logits,) = run({"image": images[i : i + 60]}).values()
            right += int((logits.argmax(1) == labels[i : i + 60]).sum())
        return right / len(images)

    return score
