"""Encoders and decoders of sequences: T5 (Raffel et al. 2019, arXiv:1910.10683; sizes of t5-small) and Whisper (Radford et al. 2022,
arXiv:2212.04356; sizes of tiny). A decoder sees all of its positions at once, as with teacher forcing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    """Heads of `memory` (or of x itself), scores plus `bias`; `scaled`: divided by the root of the heads' width."""

    def __init__(self, width: int, heads: int, bias: bool, scaled: bool) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5 if scaled else 1.0
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        seen = x if memory is None else memory
        q, k, v = (self._split(y) for y in (self.q(x), self.k(seen), self.v(seen)))
        scores = (q * self.scale) @ k.transpose(-1, -2)
        y = torch.softmax(scores if bias is None else scores + bias, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class RelativeBias(nn.Module):
    """T5's learned bias of each head by the distance of two positions, in buckets."""

    def __init__(self, length: int, heads: int, causal: bool, buckets: int = 32, most: int = 128) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets, heads)
        distance = torch.arange(length)[None] - torch.arange(length)[:, None]
        each = buckets if causal else buckets // 2
        offset = 0 if causal else (distance > 0).long() * each
        distance = -distance.clamp(max=0) if causal else distance.abs()
        exact = each // 2
        far = exact + (distance.float().clamp(min=1) / exact).log() / math.log(most / exact) * (each - exact)
        bucket = offset + torch.where(distance < exact, distance, far.long().clamp(max=each - 1))
        self.register_buffer("bucket", bucket)
        mask = torch.full((length, length), -1e9).triu(1) if causal else torch.zeros(length, length)
        self.register_buffer("mask", mask)

    def forward(self) -> Tensor:
        return (self.table(self.bucket).permute(2, 0, 1) + self.mask)[None]


class T5Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, cross: bool) -> None:
        super().__init__()
        self.norm1, self.own = RmsNorm(width), Attention(width, heads, False, False)
        self.cross = Attention(width, heads, False, False) if cross else None
        self.norm2 = RmsNorm(width) if cross else None
        self.norm3 = RmsNorm(width)
        self.up, self.down = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None) -> Tensor:
        x = x + self.own(self.norm1(x), bias=bias)
        if self.cross is not None and self.norm2 is not None:
            x = x + self.cross(self.norm2(x), memory)
        return x + self.down(torch.relu(self.up(self.norm3(x))))


class T5(nn.Module):
    """Tokens [batch, length] to states (encoder) or, with `memory` [batch, any, width], to scores of the vocabulary (decoder)."""

    def __init__(
        self, length: int, decoder: bool = False, layers: int = 6, width: int = 512, heads: int = 8, hidden: int = 2048,
        vocabulary: int = 32128,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.bias = RelativeBias(length, heads, decoder)
        self.layers = nn.ModuleList(T5Layer(width, heads, hidden, decoder) for _ in range(layers))
        self.norm = RmsNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False) if decoder else None

    def forward(self, tokens: Tensor, memory: Tensor | None = None) -> Tensor:
        x, bias = self.embedding(tokens), self.bias()
        for layer in self.layers:
            x = layer(x, bias, memory)
        x = self.norm(x)
        return x if self.head is None else self.head(x * x.shape[-1] ** -0.5)


class WhisperLayer(nn.Module):
    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.norm1, self.own = nn.LayerNorm(width), Attention(width, heads, True, True)
        self.cross = Attention(width, heads, True, True) if cross else None
        self.norm2 = nn.LayerNorm(width) if cross else None
        self.norm3 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, bias: Tensor | None, memory: Tensor | None) -> Tensor:
        x = x + self.own(self.norm1(x), bias=bias)
        if self.cross is not None and self.norm2 is not None:
            x = x + self.cross(self.norm2(x), memory)
        return x + self.feed(self.norm3(x))


class WhisperEncoder(nn.Module):
    """Log mel spectra [batch, 80, 2 length] to states [batch, length, width]."""

    def __init__(self, length: int = 1500, layers: int = 4, width: int = 384, heads: int = 6, mels: int = 80) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.layers = nn.ModuleList(WhisperLayer(width, heads, False) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        x = gelu(self.conv2(gelu(self.conv1(x)))).transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x, None, None)
        return self.norm(x)


class WhisperDecoder(nn.Module):
    """Tokens [batch, length] and the encoder's states to scores of the vocabulary."""

    def __init__(self, length: int, layers: int = 4, width: int = 384, heads: int = 6, vocabulary: int = 51865) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.layers = nn.ModuleList(WhisperLayer(width, heads, True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", torch.full((length, length), -1e9).triu(1))

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        for layer in self.layers:
            x = layer(x, self.mask, memory)
        return self.head(self.norm(x))
