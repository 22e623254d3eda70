"""Open Inference Protocol v2: JSON tensors to arrays and back.

Source: the Open Inference Protocol's REST specification, https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._model import Model, TensorInfo

Array = NDArray[np.generic]

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}


# What JSON's numbers lack is text in both directions, as in protobuf's JSON; as bare words it would be no JSON.
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class BadRequest(Exception):
    """The request is wrong; the text says what and where."""


def tensor_metadata(info: TensorInfo) -> dict[str, Any]:
    """A tensor of the metadata response; dynamic dimensions are -1."""
    return {
        "name": info.name,
        "datatype": _DATATYPES.get(info.dtype, info.dtype.upper()),
        "shape": [d if isinstance(d, int) else -1 for d in info.shape],
    }


def read_inputs(body: Any, model: Model) -> dict[str, Array]:
    """The arrays of an inference request's `inputs`, by name."""
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        raise BadRequest('the body must be a JSON object with a list "inputs"')
    infos = {info.name: info for info in model.inputs}
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(body["inputs"]):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise BadRequest(f'inputs[{index}] must be an object with "name", "shape", "datatype" and "data"')
        name = tensor["name"]
        if name not in infos:
            raise BadRequest(f"the model has no input {name!r}; its inputs are {', '.join(infos)}")
        if name in arrays:
            raise BadRequest(f"input {name!r} is given twice")
        arrays[name] = _read_tensor(tensor, infos[name])
    missing = [name for name in infos if name not in arrays]
    if missing:
        raise BadRequest(f"missing input{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}")
    return arrays


def _read_tensor(tensor: dict[str, Any], info: TensorInfo) -> Array:
    datatype = _DATATYPES.get(info.dtype)
    if datatype is None or datatype == "BF16":
        raise BadRequest(f"input {info.name!r} is {info.dtype}, which JSON tensors cannot carry")
    if tensor.get("datatype") != datatype:
        raise BadRequest(f"input {info.name!r} has datatype {tensor.get('datatype')!r}, the model takes {datatype!r}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in shape):
        raise BadRequest(f'input {info.name!r}: "shape" must be a list of integers of 0 or more')
    if "data" not in tensor:
        raise BadRequest(
            f'input {info.name!r} has no "data"; binary and shared-memory tensors are not offered by this server'
        )
    flat = _flatten(tensor["data"], info.name)
    if len(flat) != math.prod(shape):
        raise BadRequest(f"input {info.name!r} has {len(flat)} elements, its shape {shape} needs {math.prod(shape)}")
    if len(shape) != len(info.shape):
        raise BadRequest(f"input {info.name!r} has shape {shape}, the model takes {len(info.shape)} dimensions")
    try:
        return _convert(flat, np.dtype(info.dtype), info.name).reshape(shape)
    except (OverflowError, ValueError):
        raise BadRequest(f"input {info.name!r} has shape {shape}, which is beyond any tensor's") from None


def _flatten(data: Any, name: str) -> list[Any]:
    if not isinstance(data, list):
        raise BadRequest(f'input {name!r}: "data" must be a list, flat or nested in row-major order')
    while any(isinstance(item, list) for item in data):
        if not all(isinstance(item, list) for item in data):
            raise BadRequest(f'input {name!r}: "data" mixes numbers and lists at one level')
        data = [value for item in data for value in item]
    return list(data)


def _convert(flat: list[Any], dtype: np.dtype[Any], name: str) -> Array:
    wanted = {"b": bool, "i": int, "u": int}.get(dtype.kind)
    named = False  # values that JSON's numbers do not have
    for value in flat:
        special = wanted is None and type(value) is str and value in _NON_FINITE
        named = named or special
        fits = special or (type(value) is wanted if wanted else type(value) in (int, float))
        if not fits:
            raise BadRequest(f"input {name!r}: {value!r} is no {dtype.name} value")
    try:
        with np.errstate(over="ignore"):
            array = np.asarray([_NON_FINITE.get(v, v) for v in flat] if named else flat, dtype=dtype)
    except (OverflowError, ValueError):
        raise BadRequest(f"input {name!r}: a value does not fit into {dtype.name}") from None
    if wanted is None and np.isinf(array).sum() != sum(v in ("Infinity", "-Infinity") for v in flat):
        raise BadRequest(f"input {name!r}: a value does not fit into {dtype.name}")
    return array


def requested_outputs(body: dict[str, Any], model: Model) -> list[str]:
    """The names in the request's `outputs`; all of the model's if it has none."""
    names = [info.name for info in model.outputs]
    requested = body.get("outputs")
    if not requested:
        return names
    if not isinstance(requested, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in requested
    ):
        raise BadRequest('"outputs" must be a list of objects with a "name"')
    for output in requested:
        if output["name"] not in names:
            raise BadRequest(f"the model has no output {output['name']!r}; its outputs are {', '.join(names)}")
    return [output["name"] for output in requested]


def read_seed(body: dict[str, Any]) -> int | None:
    """`seed` among the request's `parameters`; None without. Parameters that this server does not know are ignored."""
    parameters = body.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise BadRequest('"parameters" must be an object')
    seed = parameters.get("seed")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**64):
        raise BadRequest(f'the parameter "seed" is {seed!r} and must be an integer from 0 to 2**64 - 1')
    return seed


def write_outputs(outputs: dict[str, Array], names: list[str]) -> list[dict[str, Any]]:
    """The response's `outputs`: flat row-major data."""
    result = []
    for name in names:
        value = outputs[name]
        datatype = _DATATYPES.get(value.dtype.name)
        if datatype is None or datatype == "BF16":
            raise BadRequest(f"output {name!r} is {value.dtype.name}, which JSON tensors cannot carry")
        result.append({"name": name, "datatype": datatype, "shape": list(value.shape), "data": _json_numbers(value)})
    return result


def _json_numbers(value: Array) -> list[Any]:
    numbers: list[Any] = value.ravel().tolist()
    if value.dtype.kind != "f" or np.isfinite(value).all():
        return numbers
    return [
        v if math.isfinite(v) else "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity" for v in numbers
    ]


def refuse_constant(word: str) -> float:
    """For json.loads, which takes NaN and Infinity for numbers."""
    raise BadRequest(f'{word} is not JSON: send "NaN", "Infinity" and "-Infinity" as text')
