"""The one loop: draws in blocks through sampler, perturbation, model and statistic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Rows
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.populations import Population

Sampler = Callable[[slice, slice, Tensor], Tensor]
"""(samples, draws, keys (b, d)) -> mask (b, d, \\*mask) of the elements that a draw perturbs."""


@dataclass(frozen=True)
class Block:
    """Some draws of some samples, evaluated.

    Attributes
    ----------
    samples : slice
        Which samples, b of them.
    draws : slice
        Which draws, d of them.
    mask : Tensor, bool, shape (b, d, \\*mask)
        Which elements were perturbed.
    perturbed : Tensor, shape (b, d, \\*sample)
        Valid only until the next block: the buffer is reused.
    outputs : Tensor, shape (b, d, classes)
        The model's outputs for ``perturbed``.
    """

    samples: slice
    draws: slice
    mask: Tensor
    perturbed: Tensor
    outputs: Tensor


Statistic = Callable[[Block], Tensor]
"""A block -> float64 sums over its draws, shape (b, k)."""


def sum_draws(
    forward: Forward,
    x: Tensor,
    keys: Tensor,
    *,
    sampler: Sampler,
    perturbation: Perturbation,
    statistic: Statistic,
    start: int,
    stop: int,
) -> Tensor:
    """Evaluate draws ``start`` to ``stop - 1`` of every sample and sum a statistic over them.

    Memory is that of one chunk, whatever the number of draws.

    Parameters
    ----------
    forward : Forward
        Its plan gives the chunk size.
    x : Tensor, shape (n, \\*sample)
    keys : Tensor, int64, shape (n,)
        From :func:`quantus_ext.engine.sampling.sample_keys`.
    sampler, perturbation, statistic
        Which elements, what they become, what is summed.
    start, stop : int
        Range of draws.

    Returns
    -------
    Tensor, float64, shape (n, k)
    """
    apply = perturbation.prepare(x)
    buffer = forward.buffer(x, min(forward.chunk_size, len(x) * (stop - start)))
    # The plan as it is now: when memory runs out on the way, `forward` splits rows by itself.
    blocks = _blocks(len(x), stop - start, forward.chunk_size)
    sums: list[Tensor] = []
    for samples, draw_ranges in blocks:
        total: Tensor | None = None
        for first, last in draw_ranges:
            block_keys = sampling.draw_keys(keys[samples], start + first, start + last)
            draws = slice(start + first, start + last)
            mask = sampler(samples, draws, block_keys)
            b, d = block_keys.shape
            rows = buffer[: b * d]
            perturbed = apply(samples, mask, block_keys, rows.unflatten(0, (b, d)))
            outputs = forward(rows).unflatten(0, (b, d))
            part = statistic(Block(samples, draws, mask, perturbed, outputs))
            total = part if total is None else total + part
        if total is not None:
            sums.append(total)
    return torch.cat(sums)


def _blocks(n: int, n_draws: int, chunk_size: int) -> list[tuple[slice, list[tuple[int, int]]]]:
    """Cut samples × draws into rectangles of at most a chunk, draws first, of near-equal size."""
    draw_ranges = _even_parts(n_draws, chunk_size)
    widest = max(last - first for first, last in draw_ranges)
    samples_a_block = max(chunk_size // widest, 1)
    return [(slice(first, last), draw_ranges) for first, last in _even_parts(n, samples_a_block)]


def _even_parts(total: int, largest: int) -> list[tuple[int, int]]:
    """Cut range(total) into the fewest parts of at most ``largest``, equal to within one."""
    parts = -(-total // largest)
    edges = [total * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


SumRows = Callable[[Rows, int, int], Tensor]
"""(rows, start, stop) -> sums (rows, k) over those draws of those samples."""


@dataclass(frozen=True)
class Cells:
    """What is drawn alike: one column's cells, a cell being what is known of one sample there.

    Attributes
    ----------
    column : int
        Which of the things that are asked of every sample, such as a part of its ranking.
    rows : slice or Tensor of int64
        Samples.
    population : Population, optional
        What the draws' masks are, where these are few and nothing else is random.
    n_draws : int
        Draws a cell at most.
    sum_rows : callable
        Sums a statistic, see :data:`SumRows`.
    """

    column: int
    rows: Rows
    population: Population | None
    n_draws: int
    sum_rows: SumRows

    @property
    def size(self) -> float:
        """How many different draws there are."""
        return math.inf if self.population is None else self.population.total

    @property
    def limit(self) -> int:
        """Draws that are made at most."""
        return int(min(self.n_draws, self.size))


class Target(NamedTuple):
    """When enough is known.

    Attributes
    ----------
    tolerance : float
        Standard error of the sum over a pool's cells.
    pools : sequence of int
        The pool of each column, by any number.
    """

    tolerance: float
    pools: Sequence[int]


class Drawn(NamedTuple):
    """What draws gave, float64.

    Attributes
    ----------
    sums : Tensor, shape (n, columns, k)
    counts : Tensor, shape (n, columns)
        Draws made; 1 where nothing is drawn.
    squared_error : Tensor, shape (n, columns)
        Squared standard error of the mean over draws, 0 where nothing is random or every mask
        was drawn.
    """

    sums: Tensor
    counts: Tensor
    squared_error: Tensor


def sum_until_known(
    cells: Sequence[Cells],
    *,
    shape: tuple[int, int, int],
    target: Target | None,
    variance: Callable[[Tensor, Tensor], Tensor],
    spread: Tensor,
) -> Drawn:
    """Draw until the standard error of each sample's pools of cells is at most the tolerance.

    Drawing stops only at 8, 16, 32, … draws of every cell that still goes on, whatever the
    chunks: all of a sample's cells of a pool stop when the sum of their squared errors is at
    most the squared tolerance, and those before whose squared error is at most their equal share
    of it. A few equal answers are not certainty: the variance of N draws that decides is that of
    the draws with two imagined ones, ``spread`` apart around their mean, so its weight falls as
    1 / N.

    Parameters
    ----------
    cells : sequence of Cells
        No two of one sample and column. In a cell of none of them nothing is random.
    shape : (int, int, int)
        Samples n, columns, numbers k that the statistic has.
    target : Target, optional
        None makes all draws.
    variance : callable
        (sums (cells, k), counts (cells,)) -> variance of one draw, shape (cells,).
    spread : Tensor, shape (n, 1)
        How far apart two draws can plausibly be.

    Returns
    -------
    Drawn
    """
    sums = torch.zeros(shape, dtype=torch.float64, device=spread.device)
    counts, sizes = torch.ones_like(sums[..., 0]), torch.ones_like(sums[..., 0])

    def fill(numbers: Tensor, rows: Rows, column: int, value: float) -> None:
        numbers[rows, column] = torch.full_like(numbers[rows, column], value)

    for group in cells:
        fill(sizes, group.rows, group.column, group.size)

    def variances() -> Tensor:
        return variance(sums.flatten(0, 1), counts.flatten()).reshape(counts.shape)

    most = max((group.limit for group in cells), default=0)
    rounds = [(0, most)] if target is None else stopping_rounds(most)
    samples = torch.arange(shape[0], device=sums.device)
    going = torch.ones_like(counts, dtype=torch.bool)
    for start, stop in rounds:
        for group in cells:
            if group.limit <= start:
                continue
            rows = group.rows
            if start > 0:
                rows = samples[rows]
                rows = rows[going[rows, group.column]]
                if len(rows) == 0:
                    continue
            last = min(stop, group.limit)
            sums[rows, group.column] += group.sum_rows(rows, start, last)
            fill(counts, rows, group.column, last)
        if target is None or stop == most:
            break
        smoothed = (counts * variances() + spread**2 / 2) / (counts + 2)
        going &= _not_enough(_squared_error(smoothed, counts, sizes), target)
        if not going.any():
            break
    return Drawn(sums, counts, _squared_error(variances(), counts, sizes))


def _squared_error(variance: Tensor, counts: Tensor, sizes: Tensor) -> Tensor:
    """Return ``S²/N·(1 - N/C)`` of N draws from C without replacement; C may be infinite."""
    return torch.where(counts == sizes, 0.0, variance / counts * (1 - counts / sizes))


def _not_enough(squared_error: Tensor, target: Target) -> Tensor:
    """Return which cells (n, columns) need more draws."""
    going = torch.zeros_like(squared_error, dtype=torch.bool)
    for pool in set(target.pools):
        columns = [column for column, its in enumerate(target.pools) if its == pool]
        own, most = squared_error[:, columns], target.tolerance**2
        # A score that is NaN stays NaN, so it needs no more draws: the comparison is false.
        going[:, columns] = (own.sum(1, keepdim=True) > most) & (own > most / len(columns))
    return going


FIRST_ROUND = 8
"""Draws after which drawing may stop for the first time."""


def stopping_rounds(n_draws: int) -> list[tuple[int, int]]:
    """Return the ranges of draws between which drawing may stop: 8, 16, 32, … ``n_draws``."""
    edges = [0]
    while edges[-1] < n_draws:
        edges.append(min(max(FIRST_ROUND, 2 * edges[-1]), n_draws))
    return list(pairwise(edges))
