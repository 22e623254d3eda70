"""Real labelled data that a package carries: scikit-learn's handwritten digits (UCI, 1,797 images of 8 x 8, BSD licence)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maas_rt._errors import MissingExtraError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def load_digits(seed: int = 0, held_out: int = 360) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """((train images [n, 1, 8, 8] in 0..1, labels [n]), (test images, labels)), split once by `seed`."""
    try:
        from sklearn.datasets import load_digits as read
    except ModuleNotFoundError:
        raise MissingExtraError("the demo's data", "demo", "scikit-learn") from None
    digits = read()
    images = (digits.images[:, None] / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = order[:held_out], order[held_out:]
    return (images[train], labels[train]), (images[test], labels[test])
