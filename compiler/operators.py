"""What can be imported, read off the converter tables: the one list that `maas-rt ops` and docs/operators.md show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maas_rt._errors import InvalidArgumentError

__all__ = ["FRONTENDS", "SupportedOperator", "not_converted", "supported_operators"]

# Operators that ONNX Runtime has beyond ONNX's (com.microsoft, release 1.31), and that had no converter when this was written.
_BEYOND = """AttnLSTM BeamSearch BifurcationDetector BitmaskBiasDropout BitmaskDropout ComplexMul ComplexMulConj DecoderAttention
    DecoderMaskedSelfAttention DequantizeBFP DequantizeWithOrder DynamicSparseAttention EPContext GatedDeltaNet GemmFloat8
    GemmaRotaryEmbedding GreedySearch Irfft LongformerAttention MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulFpQ4
    MatMulNBitsMlp MatMulNBitsQkv MaxpoolWithMask NGramHashMapping PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer
    PagedAttention QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul QuantizeBFP
    QuantizeWithOrder RemovePadding RestorePadding Rfft SampleOp Sampling Snpe SparseAttention SparseAttentionIndexer
    SparsePagedAttention SparseToDenseMatMul VarlenCausalConvWithState VarlenNGramHashMapping WhisperBeamSearch WordConvEmbedding"""


@dataclass(frozen=True)
class SupportedOperator:
    """An operator with a converter. `versions` are the ONNX schema versions that it implements (empty for torch, and where ONNX
    has one alone); `dtypes` the element types that its main operand may have by its schema, among those that maas_rt has (torch's
    schemas name none; "complex" is said where complex numbers, which are pairs of real ones, may go in or out). A use that its converter does not cover is still refused, by name and with the reason."""

    name: str
    versions: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()


def supported_operators(frontend: str) -> list[SupportedOperator]:
    """The operators of a frontend, "onnx" or "torch", by name."""
    if frontend not in FRONTENDS:
        raise InvalidArgumentError(f"there is no frontend {frontend!r}: expected {' or '.join(FRONTENDS)}")
    return FRONTENDS[frontend]()


def not_converted() -> list[str]:
    """The operators of com.microsoft that have no converter: a model with one is refused by its name."""
    known = {operator.name for operator in supported_operators("onnx")}
    return [name for name in _BEYOND.split() if f"com.microsoft::{name}" not in known]


def _onnx() -> list[SupportedOperator]:
    from .importers.onnx import supported

    return [
        SupportedOperator(name, tuple(versions), _onnx_dtypes(name, versions)) for name, versions in supported().items()
    ]


def _onnx_dtypes(name: str, versions: list[int]) -> tuple[str, ...]:
    import onnx

    from .importers.onnx._graph import MOVING_OPS, STORED_OPS
    from .importers.onnx._stored import STORED
    from .importers.onnx._values import DTYPES

    domain, _, operator = name.rpartition("::")
    try:
        schema = onnx.defs.get_schema(operator, versions[-1] if versions else onnx.defs.onnx_opset_version(), domain)
    except onnx.defs.SchemaError:  # an operator of another vendor's domain, or one that ONNX took back
        return ()
    names = {onnx.TensorProto.DataType.Name(number).lower(): dtype for number, dtype in DTYPES.items()}
    operands = schema.inputs or schema.outputs
    allowed = {text.removeprefix("tensor(").removesuffix(")") for text in operands[0].types} if operands else set()
    stored = operator in STORED_OPS | MOVING_OPS | {"Constant", "ConstantOfShape"}
    return tuple(dtype for text, dtype in names.items() if text in allowed and (stored or dtype not in STORED))


def _torch() -> list[SupportedOperator]:
    from .importers.torch import _complex
    from .importers.torch._registry import CONVERTERS

    pairs = set(_complex.names())
    names = sorted(pairs | set(CONVERTERS))
    return [SupportedOperator(name, dtypes=("complex",) if name in pairs else ()) for name in names]


FRONTENDS: dict[str, Callable[[], list[SupportedOperator]]] = {"onnx": _onnx, "torch": _torch}
