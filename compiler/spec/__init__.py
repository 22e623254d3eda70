"""What the IR must satisfy between the stages, as a program: `check_module(mod, stage)`."""

from ._check import SpecError, check_module
from ._contracts import CONTRACTS, Contract

__all__ = ["CONTRACTS", "Contract", "SpecError", "check_module"]
