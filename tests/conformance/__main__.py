"""python -m tests.conformance SUITE ...: other people's test suites against this project, and the table of their results."""

from __future__ import annotations

import importlib
import sys

SUITES = {
    "checkpoints": "checkpoints",
    "contrib": "contrib",
    "onnx": "onnx_backend",
    "table": "table",
    "timm": "timm_models",
    "torch_export": "torch_export_db",
    "torch_opinfo": "torch_opinfo",
    "torchvision": "torchvision_models",
    "transformers": "transformers_models",
}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in SUITES:
        print(f"usage: python -m tests.conformance {{{','.join(SUITES)}}} ...", file=sys.stderr)
        return 2
    module = importlib.import_module(f"tests.conformance.{SUITES[name]}")
    return int(module.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
