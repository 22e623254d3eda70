"""What the IR must satisfy between the stages, as a program: `check_module(mod, stage)`."""

from ._check import SpecError, check_module

__all__ = ["SpecError", "check_module"]
