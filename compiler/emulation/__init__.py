"""The library for another CPU, under an emulator: kernels and models run there, for verification and for tests."""

from ._model import EmulatedModel
from ._qemu import CPUS, Emulator, find_emulator
from ._remote import Remote

__all__ = ["CPUS", "EmulatedModel", "Emulator", "Remote", "find_emulator"]
