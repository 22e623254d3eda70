"""What an ONNX file says about itself, which the manifest keeps for scripts that ask (class names, image sizes)."""

from __future__ import annotations

from typing import Any

import onnx

__all__ = ["about"]

_MAX_CHARS = 1 << 20  # characters; the rest of a file that says more is left out


def about(proto: onnx.ModelProto) -> dict[str, Any]:
    """Its fields that are not empty, by ONNX Runtime's names for them."""
    fields: dict[str, Any] = {
        "producer_name": proto.producer_name,
        "graph_name": proto.graph.name,
        "graph_description": proto.graph.doc_string,
        "description": proto.doc_string,
        "domain": proto.domain,
        "version": proto.model_version,
        "custom_metadata_map": {each.key: each.value for each in proto.metadata_props},
    }
    left, kept = _MAX_CHARS, {}
    for name, value in fields.items():
        left -= len(str(value))
        if value and left >= 0:
            kept[name] = value
    return kept
