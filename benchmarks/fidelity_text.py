"""Which metric ranks explanations of text right (the paper's Tables 4 and 7), and at what cost.

Three networks read the sign of valence of movie-review sentences (see ``benchmarks.reviews`` for
the archive): an LSTM and a small Transformer trained here, and MiniLM, whose head is trained before
the whole of it, for an epoch each. Integrated Gradients over embeddings, from those of the mask
token, are summed a token and degraded as in ``benchmarks.fidelity_mnist``. Run
``python -m benchmarks.fidelity_text --network lstm --archive vaderSentiment-3.3.2.tar.gz`` in the
repository's root; ``--quick`` takes a minute and writes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from benchmarks.fidelity_common import (
    Scored,
    accuracy,
    comparison,
    in_parts,
    robustness,
    train,
)
from benchmarks.page import Page, options, parser
from benchmarks.reviews import LONGEST, Words, minilm, reviews, small_network
from quantus_ext import FineTuner
from quantus_ext.adapters import TokenIds

HELD_OUT = 1500
MASKED = (0.0, 0.05, 0.1, 0.2, 0.4)


@in_parts
def integrated_gradients(model: nn.Module, ids: Tensor, y: Tensor) -> Tensor:
    """Integrated Gradients from the sentence of mask tokens, summed over an embedding."""
    assert isinstance(model, TokenIds)
    embedded = model.over_embeddings()
    masked = ids.masked_fill(model.feature_mask(ids) >= 0, model.mask_id)
    x, start = embedded.embed(ids), embedded.embed(masked)
    explainer = IntegratedGradients(embedded)
    return explainer.attribute(x, start, target=y, n_steps=32, internal_batch_size=256).sum(1)


class Study(NamedTuple):
    """How much of everything a network gets: MiniLM takes 20 ms a row where others take 0.1."""

    epochs: int
    lr: float
    training_rows: int
    tuning_rows: int
    tuning_epochs: int
    checked: int
    scored: int
    n_samples: int


STUDIES = {
    "lstm": Study(6, 5e-3, 9000, 9000, 5, 1500, 300, 10),
    "transformer": Study(5, 3e-3, 9000, 9000, 5, 1500, 300, 10),
    "minilm": Study(1, 5e-5, 3000, 1500, 1, 300, 40, 4),
}


def trained(name: str, texts: list[str], y: Tensor, study: Study) -> tuple[TokenIds, Tensor]:
    """Return a trained network and the ids of all texts; the last ones are held out."""
    rows = slice(0, study.training_rows)
    if name == "minilm":
        model = minilm()
        x = torch.as_tensor(model.encode(texts, max_length=2 + LONGEST))
        # The head first, on states that stay as they are.
        model.requires_grad_(False).model.head.requires_grad_(True)
        train(model, x[rows], y[rows], epochs=1, lr=5e-3)
        model.requires_grad_(True)
    else:
        vocabulary = Words(texts[:-HELD_OUT])
        model = small_network(name, vocabulary)
        x = torch.as_tensor(vocabulary.encode(texts))
    train(model, x[rows], y[rows], epochs=study.epochs, lr=study.lr)
    return model.requires_grad_(False), x


def main() -> None:
    made = parser("fidelity_text", __doc__, network=tuple(STUDIES))
    made.add_argument("--archive", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parsed = options(made)
    name, study = parsed.network, STUDIES[parsed.network]
    if parsed.quick:
        study = study._replace(
            epochs=1, training_rows=300, tuning_rows=100, tuning_epochs=1, checked=30, scored=4
        )
    page = Page(f"fidelity_text_{name}", ("captum", "transformers"), quick=parsed.quick)
    data = reviews(parsed.archive)
    y = torch.as_tensor(data.y)
    model, x = trained(name, data.texts, y, study)
    held_x, held_y = (each[-HELD_OUT:][: study.checked] for each in (x, y))
    parts = zip(held_x.split(100), held_y.split(100), strict=True)
    right = sum(accuracy(model, *part) * len(part[1]) for part in parts) / len(held_y)
    lengths = (model.feature_mask(held_x) >= 0).sum(1).double()
    page.text(
        f"{name}: accuracy {right:.3f} on {len(held_y):,} held-out sentences of "
        f"{int(lengths.min())} to {int(lengths.max())} tokens, {lengths.mean():.1f} on average."
    )
    rows = slice(0, study.tuning_rows)
    tuner = FineTuner(
        x[rows],
        y[rows],
        epochs=study.tuning_epochs,
        lr=study.lr / 5,
        batch_size=64,
        display_progressbar=False,
    )
    robustness(page, "Robustness to random masks", model, tuner, held_x, held_y, MASKED)
    scored = Scored(model, held_x[: study.scored], held_y[: study.scored])
    comparison(
        page, "Integrated Gradients", integrated_gradients, scored, tuner, None, study.n_samples
    )


if __name__ == "__main__":
    main()
