"""Which of torch's decompositions run before conversion: only those of operators that have no converter of their own."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

from maas_rt._errors import ImportModelError

from . import ops  # noqa: F401  (fills the table)
from ._complex import WHOLE
from ._registry import CONVERTERS

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
    with quiet(), torch.no_grad():
        result: ExportedProgram = program.run_decompositions(table)
        return result


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
    """torch's decompositions into core operators, with `wide` all that it has, without those of operators that are converted."""
    table = torch.export.default_decompositions()
    for operator, function in torch._decomp.decomposition_table.items() if wide else ():
        if isinstance(operator, torch._ops.OpOverload) and operator not in table and operator.namespace == "aten":
            table[operator] = function
    for operator in [op for op in table if str(op) in CONVERTERS or str(op) in WHOLE]:
        table.pop(operator)
    return table


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
