"""The spaces of outputs, slowly: what they are, and what a map leaves unexplained in each."""

from __future__ import annotations

import math
from collections.abc import Sequence


def outputs(logits: Sequence[float], label: int, other: int) -> list[float]:
    """Return logit, probability, log-probability of a class, and its contrast with another."""
    total = sum(math.exp(each) for each in logits)
    return [
        logits[label],
        math.exp(logits[label]) / total,
        math.log(math.exp(logits[label]) / total),
        logits[label] - logits[other],
    ]


def runner_up(logits: Sequence[float], label: int) -> int:
    """Return the largest class besides one."""
    others = [place for place in range(len(logits)) if place != label]
    return max(others, key=lambda place: logits[place])


def unexplained(
    clean: Sequence[float],
    changed: Sequence[Sequence[float]],
    predicted: Sequence[float],
    label: int,
) -> list[float]:
    """Return ``Σ (a − b)² / Σ b²`` in each space.

    Parameters
    ----------
    clean : sequence of float
        Logits of the sample as it is.
    changed : sequence of sequence of float
        Logits of each changed sample.
    predicted : sequence of float
        What the map says that each of these changes takes off.
    label : int
    """
    other = runner_up(clean, label)
    before = outputs(clean, label, other)
    found = []
    for space in range(4):
        residual = effect = 0.0
        for logits, a in zip(changed, predicted, strict=True):
            b = before[space] - outputs(logits, label, other)[space]
            residual += (a - b) ** 2
            effect += b**2
        found.append(residual / effect)
    return found
