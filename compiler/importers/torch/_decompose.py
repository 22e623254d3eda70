"""Which of torch's decompositions run before conversion: only those of operators that have no converter of their own."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

from maas_rt._errors import ImportModelError

from ._complex import WHOLE
from ._registry import CONVERTERS
from ._traceable import traceable_pools

__all__ = ["decompose", "quiet"]


def decompose(program: ExportedProgram) -> ExportedProgram:
    """The program in functional form, with operators that have a converter kept whole."""
    _forget_derived_ranges(program)
    try:
        return _decomposed(program, _table(wide=True))
    except Exception:  # some decompositions outside of torch's core list do not work under export: do without them
        try:
            return _decomposed(program, _table(wide=False))
        except Exception as error:
            text = str(error).strip().splitlines()
            raise ImportModelError(
                f"torch cannot bring the exported program into functional form: {text[0] if text else type(error).__name__}"
            ) from error


def _decomposed(program: ExportedProgram, table: Any) -> ExportedProgram:
    with quiet(), torch.no_grad(), traceable_pools(), _functional_activations(program), _silent_observers(program):
        result: ExportedProgram = program.run_decompositions(table)
        return result


@contextlib.contextmanager
def _functional_activations(program: ExportedProgram) -> Iterator[None]:
    """While it is made functional, the program has `relu` in place of a `relu_` whose operand nobody else sees.

    torch makes writes functional by computing them once more on symbolic shapes, which takes longer than all else."""
    changed = [(node, node.target) for node in program.graph.nodes]
    changed = [(node, target) for node, target in changed if _unseen_write(node)]
    try:
        for node, target in changed:
            node.target = _functional_form(target)
        yield
    finally:
        for node, target in changed:
            node.target = target


@contextlib.contextmanager
def _silent_observers(program: ExportedProgram) -> Iterator[None]:
    """While it is made functional, a fake quantization whose observer is switched off is one without an observer: it writes nothing."""
    changed = []
    for node in program.graph.nodes:
        if str(node.target) in (
            "aten.fused_moving_avg_obs_fake_quant.default",
            "aten._fused_moving_avg_obs_fq_helper.default",
        ):
            form = _without_observer(program, node)
            if form is not None:
                changed.append((node, node.target, node.args))
                node.target, node.args = form
    try:
        yield
    finally:
        for node, target, args in changed:
            node.target, node.args = target, args


def _without_observer(program: ExportedProgram, node: torch.fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    """The operator and its arguments; None where the observer is on, or not known to be off."""
    x, observes, quantizes, _, _, scale, zero, _, low, high, axis, *rest = node.args
    switches = [_buffer(program, each) for each in (observes, quantizes)]
    if any(each is None for each in switches) or bool(switches[0].any()):  # type: ignore[union-attr]
        return None
    whole = "helper" not in str(node.target)
    aten = torch.ops.aten
    if not switches[1].any():  # type: ignore[union-attr]
        return (aten.alias.default, (x,)) if whole else None
    if rest and rest[0]:
        form = aten.fake_quantize_per_channel_affine if whole else aten.fake_quantize_per_channel_affine_cachemask
        return form.default, (x, scale, zero, axis, low, high)
    if whole:
        return aten.fake_quantize_per_tensor_affine.tensor_qparams, (x, scale, zero, low, high)
    return aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default, (
        x,
        scale,
        zero,
        quantizes,
        low,
        high,
    )


def _buffer(program: ExportedProgram, node: Any) -> torch.Tensor | None:
    """The value of a placeholder that is one of the program's buffers or constants."""
    name = node.name if isinstance(node, torch.fx.Node) and node.op == "placeholder" else ""
    signature = program.graph_signature
    target = signature.inputs_to_buffers.get(name, "") or signature.inputs_to_lifted_tensor_constants.get(name, "")
    found = program.state_dict.get(target, program.constants.get(target)) if target else None
    return found if isinstance(found, torch.Tensor) else None


def _functional_form(target: Any) -> Any:
    """aten.relu.default for aten.relu_.default; None where there is none that is converted."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    form = getattr(packet, overload, None)
    return form if str(form) in CONVERTERS else None


def _unseen_write(node: torch.fx.Node) -> bool:
    """Whether the node overwrites its only tensor, which another operator made for it alone: as large, and of the same type."""
    operand = node.args[0] if node.op == "call_function" and node.args else None
    if _functional_form(node.target) is None or node.all_input_nodes != [operand]:
        return False
    assert isinstance(operand, torch.fx.Node)
    made = operand.op == "call_function" and isinstance(operand.target, torch._ops.OpOverload)
    fresh = made and all(result.alias_info is None for result in operand.target._schema.returns)  # type: ignore[union-attr]
    before, after = operand.meta.get("val"), node.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor) or not before.is_floating_point():
        return False
    return fresh and before.dtype == after.dtype and list(operand.users) == [node]


def _forget_derived_ranges(program: ExportedProgram) -> None:
    """torch's deserializer files ranges of expressions (2*s0) under symbols, and its own decomposition then fails on them."""
    for node in program.graph.nodes:
        fake = node.meta.get("val")
        for size in fake.shape if isinstance(fake, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                ranges = getattr(size.node.shape_env, "var_to_range", {})
                for key in [key for key in ranges if not key.is_Symbol]:
                    del ranges[key]
                return


def _table(wide: bool) -> Any:
    """torch's decompositions into core operators, with `wide` all that it has, without those of operators that are converted; a
    converted operator's form that works in place counts as converted: torch makes the program functional."""
    table = torch.export.default_decompositions()
    for operator, function in torch._decomp.decomposition_table.items() if wide else ():
        if isinstance(operator, torch._ops.OpOverload) and operator not in table and operator.namespace == "aten":
            table[operator] = function
    table.update(_quantized_decomposed())
    for operator in (torch.ops.aten.rnn_tanh.input, torch.ops.aten.rnn_relu.input):
        if operator in table:
            table[operator] = _with_dropout(operator, table[operator])
    known = CONVERTERS.keys() | WHOLE
    for operator in [op for op in table if str(op) in known or str(op).replace("_.", ".", 1) in known]:
        table.pop(operator)
    return table


def _with_dropout(operator: Any, decomposed: Any) -> Any:
    """torch's decomposition of a recurrent network, which forgets the dropout between layers in training."""

    def decompose_layers(input: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
                         bidirectional: bool, batch_first: bool) -> Any:  # fmt: skip
        if not train or dropout == 0 or num_layers == 1:
            return decomposed(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
        count, directions, ends = len(params) // num_layers, 1 + bidirectional, []
        for layer in range(num_layers):
            own, start = params[layer * count : (layer + 1) * count], hx[layer * directions : (layer + 1) * directions]
            input, end = operator(input, start, own, has_biases, 1, 0.0, False, bidirectional, batch_first)
            ends.append(end)
            if layer < num_layers - 1:
                input = torch.dropout(input, dropout, True)
        return input, torch.cat(ends)

    return decompose_layers


def _quantized_decomposed() -> dict[Any, Any]:
    """Definitions of PT2E's operators for scales of tokens and groups, as torch's own library of them has it, if it is loaded."""
    library = sys.modules.get("torch.ao.quantization.fx._decomposed")
    names = {
        "choose_qparams_per_token.default": "choose_qparams_per_token",
        "_choose_qparams_per_token_asymmetric_impl.default": "_choose_qparams_per_token_asymmetric_impl",
        "choose_qparams_per_token_asymmetric.default": "_choose_qparams_per_token_asymmetric_impl",
        "quantize_per_token.default": "quantize_per_token",
        "dequantize_per_token.default": "dequantize_per_token",
        "quantize_per_channel_group.default": "quantize_per_channel_group",
        "dequantize_per_channel_group.default": "dequantize_per_channel_group",
    }
    found = {}
    for name, function in names.items():
        packet = getattr(torch.ops.quantized_decomposed, name.partition(".")[0], None) if library is not None else None
        operator, definition = getattr(packet, name.partition(".")[2], None), getattr(library, function, None)
        if operator is not None and definition is not None:
            found[operator] = definition
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings and log lines about tracing off the user's terminal; failures raise."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx", "torch._dynamo", "torch._export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
