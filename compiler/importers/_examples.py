"""Example inputs that a caller gave, as arrays by the names that the model's inputs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maas_rt._errors import InvalidArgumentError

__all__ = ["named_examples"]


def named_examples(
    examples: Sequence[Any] | Mapping[str, Any] | None, names: Sequence[str], own: bool
) -> dict[str, Any] | None:
    """The examples as arrays by input name; None where they do not fit the names (a module's keyword arguments, say), which is
    refused where the names are the model's `own`."""
    if examples is None:
        return None
    if hasattr(examples, "dtype"):  # one array or tensor, of a model with one input
        examples = (examples,)
    given = dict(examples) if isinstance(examples, Mapping) else dict(zip(names, examples))
    if set(given) != set(names) or (not isinstance(examples, Mapping) and len(examples) != len(names)):
        plain = not any(isinstance(value, (list, tuple, dict)) for value in given.values())
        if own and plain:
            have = ", ".join(map(str, given)) if isinstance(examples, Mapping) else f"{len(examples)} arrays"
            raise InvalidArgumentError(f"the example inputs are {have or 'none'}; the model's are {', '.join(names)}")
        return None
    return {key: _as_array(value) for key, value in given.items()}


def _as_array(value: Any) -> Any:
    """A torch tensor (bfloat16 included) or anything else as a numpy array; complex numbers as pairs along a last axis."""
    if not hasattr(value, "detach"):
        array = np.asarray(value)
        return np.stack([array.real, array.imag], axis=-1) if array.dtype.kind == "c" else array
    from .torch._dtypes import to_numpy

    return to_numpy(value)
