"""Fashion-MNIST (H. Xiao et al., 2017; MIT licence) as Debian's package `dataset-fashion-mnist` carries it."""

from __future__ import annotations

import gzip
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .._environments import ROOT

KEPT = ROOT / "build" / "compression"  # downloads, trained weights, what peers made
PACKAGE = "dataset-fashion-mnist"
CLASSES, SIDE = 10, 28
MEAN, DEVIATION = 0.2860, 0.3530  # of the training images' pixels, in [0, 1]
CALIBRATION = 512  # training images, the same for us and for every peer


@dataclass(frozen=True)
class Split:
    """`images` float32 [n, 1, 28, 28], normalised; `labels` int64 [n]."""

    images: np.ndarray
    labels: np.ndarray


_given: list[Path] = []


def use(folder: Path) -> None:
    """Read the IDX files of this folder, and download nothing."""
    _given[:] = [folder]


@cache
def fashion_mnist(part: str) -> Split:
    """The 60,000 images of "train" or the 10,000 of "t10k"."""
    where = _given[0] if _given else _unpacked()
    images = _idx(where, f"{part}-images-idx3-ubyte").reshape(-1, 1, SIDE, SIDE)
    scaled = (images.astype(np.float32) / 255 - MEAN) / DEVIATION
    return Split(np.ascontiguousarray(scaled, np.float32), _idx(where, f"{part}-labels-idx1-ubyte").astype(np.int64))


def calibration_images(count: int = CALIBRATION) -> np.ndarray:
    """The first training images; they come in random order."""
    return fashion_mnist("train").images[:count]


def _unpacked() -> Path:
    folder = KEPT / PACKAGE
    if not folder.is_dir():
        KEPT.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=KEPT, check=True)
        (archive,) = KEPT.glob(f"{PACKAGE}_*.deb")
        beside = folder.with_suffix(".new")
        subprocess.run(["dpkg", "-x", str(archive), str(beside)], check=True)
        beside.rename(folder)
    return folder


def _idx(folder: Path, name: str) -> np.ndarray:
    """An IDX file of bytes: two zeros, type 8, the number of axes, their lengths (big-endian), the data."""
    found = sorted(folder.rglob(f"{name}*"))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no {name} (.gz), expected the IDX files of Fashion-MNIST: give their folder with --data"
        )
    raw = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    axes = raw[3]
    shape = np.frombuffer(raw, ">u4", axes, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(tuple(int(each) for each in shape))
