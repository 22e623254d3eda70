"""JSON schemas of what the service takes and answers. Lists of words and bounds are those of the modules that check them."""

from __future__ import annotations

from typing import Any

from ._datatypes import DATATYPES
from ._record import State
from ._regions import KEY_PATTERN, LONGEST_NAME, MOST_BYTES
from ._requests import OPTIONS
from ._settings import LOG_SETTINGS, TRACE_SETTINGS

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_WHOLE = "whole numbers are written without fraction and exponent"
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    """An object. Members that it does not name may be there, and are passed over."""
    found: Schema = {"type": "object", "properties": {**required, **(optional or {})}, **more}
    return {**found, "required": list(required)} if required else found


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _settings(rows: Any) -> tuple[Schema, Schema]:
    """Those that are told, and changes of them."""
    told = {name: row.told for name, row in rows.items()}
    changes = {name: _or_null(row.taken) for name, row in rows.items()}
    return _object(told), _object({}, changes, additionalProperties=False)


_TRACES, _TRACE_CHANGES = _settings(TRACE_SETTINGS)
_LOGS, _LOG_CHANGES = _settings(LOG_SETTINGS)
_SHAPE = _list({"type": "integer", "minimum": 0})
_DATATYPE: Schema = {"type": "string", "enum": list(DATATYPES)}
_PARAMETERS = _or_null(_object({}))
_DATA: Schema = {"description": "the elements in row-major order, flat or nested as the shape says", "type": "array"}
_DIMENSIONS = _list({"type": "integer", "minimum": -1})
_SPEC = _object({"name": _TEXT, "datatype": _TEXT, "shape": _DIMENSIONS})
_PHASE = _object({"count": _COUNT, "ns": _COUNT})
_UINT64: Schema = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_SHARED = {"shared_memory_region": _TEXT, "shared_memory_byte_size": _UINT64, "shared_memory_offset": _UINT64}
_WANTED = {"binary_data": _or_null({"type": "boolean"}), "classification": {**_COUNT, "maximum": 2**31 - 1}}
_INPUT = _object(
    {"name": _TEXT, "shape": _SHAPE, "datatype": _DATATYPE},
    {"data": _DATA, "parameters": _or_null(_object({}, {"binary_data_size": _or_null(_COUNT)}))},
)

SCHEMAS: dict[str, Schema] = {
    "Model": {"description": "the name of a model", **_TEXT},
    "Version": {"description": "the number of a version, or a label", **_TEXT},
    "Label": {"description": "the name of a label", **_TEXT},
    "Region": {"description": "the name of a region of shared memory", "minLength": 1, "maxLength": LONGEST_NAME, **_TEXT},
    "Error": _object({"error": _TEXT}),
    "Nothing": {"type": "object"},
    "Text": _TEXT,
    "Live": _object({"live": {"const": True}}),
    "Ready": _object({"ready": {"const": True}}),
    "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "ModelReady": _object({"name": _TEXT, "version": _TEXT, "ready": {"const": True}}),
    "Metadata": _object(
        {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_SPEC), "outputs": _list(_SPEC)}
    ),
    "Config": _object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "backend": _TEXT,
            "max_batch_size": _COUNT,
            "input": _list(_object({"name": _TEXT, "data_type": _TEXT, "dims": _DIMENSIONS})),
            "output": _list(_object({"name": _TEXT, "data_type": _TEXT, "dims": _DIMENSIONS})),
        }
    ),
    "Statistics": _object(
        {
            "model_stats": _list(
                _object(
                    {
                        "name": _TEXT,
                        "version": _TEXT,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": {"type": "object", "additionalProperties": _PHASE},
                        "batch_stats": _list(_object({"batch_size": _COUNT})),
                    }
                )
            )
        }
    ),
    "TraceSettings": _TRACES,
    "TraceChanges": _TRACE_CHANGES,
    "LogSettings": _LOGS,
    "LogChanges": _LOG_CHANGES,
    "IndexRequest": _object({}, {"ready": {"type": "boolean"}}),
    "Index": _list(
        _object(
            {
                "name": _TEXT,
                "version": _TEXT,
                "state": {"type": "string", "enum": [each.value for each in State]},
                "reason": _TEXT,
            }
        )
    ),
    "Regions": _list(_object({"name": _TEXT, "key": _TEXT, "offset": _COUNT, "byte_size": _COUNT, "unlinked": {"type": "boolean"}})),
    "RegisterRequest": _object(
        {"key": {"type": "string", "pattern": KEY_PATTERN, "maxLength": 255}, "byte_size": {"type": "integer", "minimum": 1, "maximum": MOST_BYTES >> 1}},
        {"offset": {"type": "integer", "minimum": 0, "maximum": MOST_BYTES >> 1}},
        description=_WHOLE,
    ),
    "UnregisterRequest": _object({}, {"parameters": _or_null(_object({}, {"all_clients": {"type": "boolean"}}))}),
    "Nothings": {"type": "array", "maxItems": 0},
    "LoadRequest": _object({}, {"parameters": _or_null(_object({}, propertyNames={"not": {"pattern": "^(config$|file:)"}}))}),
    "UnloadRequest": _object({}, {"parameters": _or_null(_object({}, {"unload_dependents": {"type": "boolean"}}))}),
    "Labels": {"type": "object", "additionalProperties": _TEXT},
    "LabelRequest": _object({"version": _TEXT}),
    "InferRequest": _object(
        {"inputs": _list(_INPUT)},
        {
            "id": _or_null(_TEXT),
            "parameters": _or_null(_object({}, {name: _or_null(dict(row.schema)) for name, row in OPTIONS.items()})),
            "outputs": _or_null(_list(_object({"name": _TEXT}, {"parameters": _or_null(_object({}, {**_WANTED, **_SHARED}))}))),
        },
        description=_WHOLE,
    ),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list(
                _object(
                    {"name": _TEXT, "shape": _SHAPE, "datatype": _DATATYPE},
                    {"data": _DATA, "parameters": _object({}, {"binary_data_size": _COUNT})},
                )
            ),
        },
        {"id": _TEXT, "parameters": {"type": "object"}},
    ),
    "Binary": {"description": "a document as in JSON, and after it the binary data of its tensors", "contentMediaType": "application/octet-stream"},
}  # fmt: skip
