"""The result of every metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quantus_ext.engine.answers import Asked


class Scores(NamedTuple):
    """Scores of n samples, or of m maps of each, with one more axis in front.

    Attributes
    ----------
    score : Tensor, float64, shape (n,) or (m, n)
    standard_error : Tensor, float64, shape of ``score``
        Monte-Carlo standard error of each score: 0 if nothing is random, NaN if it is unknown.
    details : dict of Tensor, each of n rows, or (m, n, …)
        Further results of the same evaluations.
    asked : tuple of Asked
        The evaluations of each map; empty if the engine was not used.
    """

    score: Tensor
    standard_error: Tensor
    details: dict[str, Tensor]
    asked: tuple[Asked, ...] = ()

    @classmethod
    def stack(cls, each: Sequence[Scores]) -> Scores:
        """Stack the scores of several maps, (n,) each, to (m, n)."""
        return cls(
            torch.stack([scores.score for scores in each]),
            torch.stack([scores.standard_error for scores in each]),
            {
                name: torch.stack([scores.details[name] for scores in each])
                for name in each[0].details
            },
            tuple(asked for scores in each for asked in scores.asked),
        )

    def of_map(self, number: int) -> Scores:
        """Return the scores of one map, (n,), from those of several, (m, n)."""
        return Scores(
            self.score[number],
            self.standard_error[number],
            {name: value[number] for name, value in self.details.items()},
            self.asked[number : number + 1],
        )


_AT_ONCE = 2**17
"""Values that are looked at together."""


def few_at_once(maps: Tensor, values: int) -> Iterator[Tensor]:
    """Yield maps (m, n, …) some at a time: many of small samples, few of large ones.

    Parameters
    ----------
    maps : Tensor
    values : int
        What is held of one map of all samples.
    """
    yield from maps.split(max(_AT_ONCE // values, 1))


def maps_of(a: Tensor, x: Tensor) -> Tensor:
    """Return maps (m, n, …) from several of each sample, or from one of each (n, …).

    Detached: no gradient is taken of a score.
    """
    return a.detach() if a.ndim > x.ndim else a.detach().unsqueeze(0)
