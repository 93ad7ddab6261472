"""Gradient × input of a language model against a random explanation and its own inverse.

A small GPT-2 learns to write movie reviews and their verdict (see ``benchmarks.reviews`` for the
archive). Explained is the log-probability of a review's last words, and the lead of the right
verdict over the wrong one. ``python -m benchmarks.language_model --archive
vaderSentiment-3.3.2.tar.gz --threads 1`` in the repository's root takes about ten minutes;
``--quick`` takes two and writes nothing.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.page import Page, options, parser
from benchmarks.reviews import PAD, START, Words, reviews
from benchmarks.timing import markdown_table
from quantus_ext import ABPC, QGE, Deletion, Infidelity, Insertion, LeRF, MoRF, RFidelity
from quantus_ext.adapters import Generation
from quantus_ext.base import TorchMetric
from quantus_ext.engine.elements import elements_of
from quantus_ext.functional import inverse, permuted

HELD_OUT, LAST = 1000, 3
LOWER = ("Infidelity", "LeRF", "Deletion")


def trained(rows: list[list[int]], size: int, epochs: int) -> GPT2LMHeadModel:
    """Return a model that has read the rows, its dropout off."""
    config = GPT2Config(
        vocab_size=size,
        n_positions=48,
        n_embd=96,
        n_layer=3,
        n_head=4,
        bos_token_id=START,
        eos_token_id=START,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = GPT2LMHeadModel(config).train()
        ids, batch = padded(rows), 64
        steps = epochs * -(-len(ids) // batch)
        optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for some in torch.randperm(len(ids)).split(batch):
                optimiser.zero_grad()
                loss(model, ids[some]).backward()
                optimiser.step()
                schedule.step()
    return model.eval()


def padded(rows: list[list[int]]) -> Tensor:
    made = torch.full((len(rows), max(map(len, rows))), PAD)
    for target, row in zip(made, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    return made


def loss(model: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    logits = model(ids, attention_mask=(ids != PAD).long()).logits[:, :-1]
    targets = ids[:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)


def gradient_times_input(
    model: GPT2LMHeadModel, prompt: list[int], follows: list[int], other: list[int]
) -> list[float]:
    """Return it for the tokens of a prompt, of the log-probability or its lead over another."""
    embedding = model.get_input_embeddings()
    given = embedding(torch.tensor([prompt])).detach().requires_grad_()

    def value(said: list[int]) -> Tensor:
        whole = torch.cat([given, embedding(torch.tensor([said]))], 1)
        logits = model(inputs_embeds=whole).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1)[torch.arange(len(said)), said].sum()

    total = value(follows) - (value(other) if other else 0)
    (gradient,) = torch.autograd.grad(total, given)
    return (gradient * given).sum(2)[0].tolist()


def metrics(draws: int) -> dict[str, TorchMetric]:
    infidelity = partial(
        Infidelity, n_perturb_samples=2 * draws, multiply_by_inputs=True, scheme="subset"
    )
    return {
        "Infidelity": infidelity(rescale=True),
        "R-Fidelity, probability": RFidelity(n_samples=draws // 5, output="probability"),
        "MoRF": MoRF(10),
        "LeRF": LeRF(10),
        "ABPC": ABPC(10),
        "Deletion": Deletion(10),
        "Insertion": Insertion(10),
        "QGE of Infidelity": QGE(infidelity(rescale=True)),
        "QGE of ABPC": QGE(ABPC(10)),
    }


def compared(
    page: Page, title: str, model: Generation, x: np.ndarray, own: np.ndarray, draws: int
) -> None:
    """Add the table of one explained output."""
    ids = torch.from_numpy(x)
    elements = elements_of(ids, features=model.feature_mask(ids))
    a = torch.as_tensor(own)
    maps = {
        "gradient × input": own,
        "random": permuted(a, elements=elements).numpy(),
        "inverse": inverse(a, elements=elements).numpy(),
    }
    y, rows = np.zeros(len(x), dtype=int), []
    for name, metric in metrics(draws).items():
        # Log-probabilities, for probabilities of three words are next to nothing.
        softmax = "probability" in name
        scores = {
            which: np.array(metric(model, x, y, each, softmax=softmax))
            for which, each in maps.items()
        }
        sign = -1 if name in LOWER else 1
        first = sign * scores["gradient × input"]
        better = [
            stats.wilcoxon(first - sign * scores[other], alternative="greater").pvalue
            for other in ("random", "inverse")
        ]
        rows.append(
            [
                f"{name} ({'lower' if sign < 0 else 'higher'})",
                *(f"{values.mean():.4f}" for values in scores.values()),
                *(f"{p:.1e}" for p in better),
                f"{metric.n_evaluations:,}",
            ]
        )
    headers = ["mean over reviews (better)", *maps, "p, random", "p, inverse", "evaluations"]
    page.add(
        title,
        f"{len(x)} held-out reviews. p: one-sided Wilcoxon test that gradient × input scores "
        "better, review by review.",
        markdown_table(headers, rows),
    )


def by_hand(model: GPT2LMHeadModel, prompt: list[int], follows: list[int]) -> float:
    """Return the log-probability of what follows, by one pass a word."""
    total = 0.0
    for done, word in enumerate(follows):
        logits = model(torch.tensor([[*prompt, *follows[:done]]])).logits[0, -1]
        total += float(logits.log_softmax(0)[word])
    return total


def main() -> None:
    made = parser("language_model", __doc__)
    made.add_argument("--archive", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parsed = options(made)
    epochs, n, draws = (1, 10, 10) if parsed.quick else (6, 150, 50)
    page = Page("language_model", ("transformers",), quick=parsed.quick)
    data = reviews(parsed.archive)
    words = Words(data.texts[:-HELD_OUT])
    verdicts = [words.size, words.size + 1]
    texts = [[token for token in row if token != PAD] for row in words.encode(data.texts).tolist()]
    rows = [[*text, verdicts[label]] for text, label in zip(texts, data.y, strict=True)]
    plain = trained(rows[:-HELD_OUT], words.size + 2, epochs)
    held, labels = texts[-HELD_OUT:], data.y[-HELD_OUT:]
    with torch.no_grad():
        perplexity = math.exp(float(loss(plain, padded(held))))
        ends = [plain(torch.tensor([text])).logits[0, -1, verdicts] for text in held]
    right = float((torch.stack(ends).argmax(1).numpy() == labels).mean())
    places = [place for place, text in enumerate(held) if len(text) > 10][:n]
    chosen = [held[place] for place in places]
    prompts, follows = [text[:-LAST] for text in chosen], [text[-LAST:] for text in chosen]
    settings = {"pad_id": PAD, "special_ids": [START], "removal": "zero"}
    model = Generation(plain, **settings)
    x = model.encode(prompts, follows)
    with torch.no_grad():
        found = model(torch.from_numpy(x))[:, 0].numpy()
        expected = [by_hand(plain, *pair) for pair in zip(prompts, follows, strict=True)]
    gap = float(np.abs(found - expected).max())
    page.text(
        f"Three layers of width 96, {epochs} epochs over {len(rows) - HELD_OUT:,} reviews: "
        f"perplexity {perplexity:.0f} on {HELD_OUT:,} held-out ones, of {words.size:,} words; "
        f"{right:.3f} of the verdicts right. Log-probabilities of the last {LAST} words of "
        f"{len(chosen)} reviews differ by {gap:.0e} at most from those by hand, one pass a word."
    )
    own = [gradient_times_input(plain, *pair, []) for pair in zip(prompts, follows, strict=True)]
    compared(
        page, f"The log-probability of the last {LAST} words", model, x, model.maps(own, x), draws
    )
    true = [[verdicts[labels[place]]] for place in places]
    other = [[verdicts[1 - labels[place]]] for place in places]
    model = Generation(plain, contrast=True, **settings)
    x = model.encode(chosen, true, other)
    own = [gradient_times_input(plain, *each) for each in zip(chosen, true, other, strict=True)]
    compared(
        page,
        "The lead of the right verdict over the wrong one",
        model,
        x,
        model.maps(own, x),
        draws,
    )


if __name__ == "__main__":
    main()
