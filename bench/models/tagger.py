"""A sequence tagger: embedding, bidirectional LSTM of two layers, a score per tag and token (Huang et al. 2015, arXiv:1508.01991, without the CRF)."""

from __future__ import annotations

from torch import Tensor, nn


class LstmTagger(nn.Module):
    """Tokens [batch, length] (int64) to scores [batch, length, tags]."""

    def __init__(self, vocabulary: int = 5000, width: int = 100, hidden: int = 128, tags: int = 17) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.head(states)
