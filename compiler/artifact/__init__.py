"""The artifact: manifest, plan, weights and code in one file's bytes, identical for identical input."""

from __future__ import annotations

from ._artifact import Artifact
from ._manifest import make_manifest

__all__ = ["Artifact", "make_manifest"]
