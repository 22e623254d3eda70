"""Operators of the IR that Relax does not have: what importers build, and `passes/lower_operators.py` lowers to kernels; and loops (_loops.py).

Each operator is one function, which computes it: its signature is the operator's, and interpreters run it (_operator.py).
"""

from ._attention import attention
from ._check import check
from ._decode import Encoded, decode, encoded_dequantize, read_encoded, read_widened, widen
from ._n_m import SparseNM
from ._operator import OPERATORS, Operator, OperatorCall, read_operator
from ._quantize import BYTE_BLOCK, dynamic_quantize, round_to_bytes
from ._random import random
from ._recurrent import dynamic_quantize_gru, dynamic_quantize_lstm, gru, lstm
from ._top_k import top_k

__all__ = [
    "BYTE_BLOCK",
    "OPERATORS",
    "Encoded",
    "Operator",
    "OperatorCall",
    "SparseNM",
    "attention",
    "check",
    "decode",
    "dynamic_quantize",
    "dynamic_quantize_gru",
    "dynamic_quantize_lstm",
    "encoded_dequantize",
    "gru",
    "lstm",
    "random",
    "read_encoded",
    "read_operator",
    "read_widened",
    "round_to_bytes",
    "top_k",
    "widen",
]
