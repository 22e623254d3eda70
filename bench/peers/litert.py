"""LiteRT (TensorFlow Lite) with its XNNPACK delegate, from litert-torch's conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    places = sorted(interpreter.get_input_details(), key=lambda d: d["name"])  # ...args_0, ...args_1
    feeds = [
        (place["index"], value.astype(place["dtype"])) for place, value in zip(places, inputs.values(), strict=True)
    ]
    results = [place["index"] for place in sorted(interpreter.get_output_details(), key=lambda d: d["name"])]

    def call() -> list[np.ndarray]:
        for index, value in feeds:
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in results]

    return call, call
