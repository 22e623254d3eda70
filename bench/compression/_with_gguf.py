"""Run in the environment `gguf`, for a folder with `model.gguf`: "weights" writes weights.npz beside it, in float32; "tokens" has texts as JSON on stdin,
and their numbers as JSON on stdout."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

gguf: Any = __import__("gguf")
tokenizers: Any = __import__("tokenizers")


def weights(given: Any) -> dict[str, Any]:
    return {each.name: gguf.dequantize(each.data, each.tensor_type).astype(np.float32) for each in given.tensors}


def tokens(given: Any, texts: list[str]) -> list[list[int]]:
    """As the file's words and merges, with digits by themselves, have them."""
    words, kinds, merges = (
        given.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges")
    )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    rules = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, pairs))
    before = tokenizers.pre_tokenizers
    rules.pre_tokenizer = before.Sequence([before.Digits(True), before.ByteLevel(add_prefix_space=False)])
    control = gguf.TokenType.CONTROL
    rules.add_special_tokens([word for word, kind in zip(words, kinds, strict=True) if kind == control])
    return [each.ids for each in rules.encode_batch(texts)]


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    model = gguf.GGUFReader(folder / "model.gguf")
    if task == "weights":
        new = folder / f"new-{os.getpid()}.npz"
        np.savez(new, **weights(model))
        new.replace(folder / "weights.npz")
    else:
        json.dump(tokens(model, json.load(sys.stdin)), sys.stdout)
