"""Models made smaller: layers on 8 bits by calibration (`_int8.py`), from data of any form (`_samples.py`)."""

from ._int8 import Quantized, quantized, verify_quantized

__all__ = ["Quantized", "quantized", "verify_quantized"]
