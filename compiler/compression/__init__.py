"""Models made smaller: a recipe done to the IR (`_apply.py`), from data of any form (`_samples.py`), and the check of what comes out."""

from ._apply import Compressed, compressed
from ._check import verify_compressed

__all__ = ["Compressed", "compressed", "verify_compressed"]
