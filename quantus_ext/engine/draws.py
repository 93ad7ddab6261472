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
from quantus_ext.engine.perturb import Perturbation, changeable
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
    interpretation : Tensor, shape of ``perturbed``, optional
        Infidelity's ``I``, where the perturbation says itself what it is.
    """

    samples: slice
    draws: slice
    mask: Tensor
    perturbed: Tensor
    outputs: Tensor
    interpretation: Tensor | None = None


Statistic = Callable[[Block], Tensor]
"""A block -> float64 sums over its draws, shape (b, k)."""


_BLOCK_BYTES = 2**21
"""Perturbed rows that are made at once, where that is more than a chunk: what a block costs
beside the model is shared by them, and they are still in the cache when the model reads them."""


def sum_draws(
    forward: Forward,
    x: Tensor,
    clean: Tensor,
    keys: Tensor,
    *,
    sampler: Sampler,
    perturbation: Perturbation,
    statistic: Statistic,
    start: int,
    stop: int,
) -> Tensor:
    """Evaluate draws ``start`` to ``stop - 1`` of every sample and sum a statistic over them.

    Memory is that of one block, a few chunks, whatever the number of draws. On a processor draws
    that change nothing, as when black pixels become black, are not sent through the model, which
    is taken to answer equal rows equally; on a GPU it would have to wait to hear of them.

    Parameters
    ----------
    forward : Forward
        Its plan gives the chunk size.
    x : Tensor, shape (n, \\*sample)
    clean : Tensor, shape (n, classes)
        The model's outputs for ``x``.
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
    apply, fixed, interpretation = perturbation.prepare(x)
    differs = changeable(fixed, x) if x.device.type == "cpu" else None
    forward.settle(x)
    # The plan as it is now: when memory runs out on the way, `forward` splits rows by itself.
    chunks = max(_BLOCK_BYTES // (forward.chunk_size * x[0].numel() * x.element_size()), 1)
    rows_at_once = chunks * forward.chunk_size
    buffer = forward.buffer(x, min(rows_at_once, len(x) * (stop - start)))
    blocks = _blocks(len(x), stop - start, rows_at_once)
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
            own = None if interpretation is None else interpretation()
            changed = None if differs is None else _changed(mask, differs[samples])
            outputs = _outputs(forward, rows, clean[samples], changed).unflatten(0, (b, d))
            part = statistic(Block(samples, draws, mask, perturbed, outputs, own))
            total = part if total is None else total + part
        if total is not None:
            sums.append(total)
    return torch.cat(sums)


def _changed(mask: Tensor, differs: Tensor) -> Tensor:
    """Return which draws, bool (b, d), choose anything (b, \\*sample) that differs when chosen."""
    if differs.ndim > 2 and mask.shape[2] == 1:
        differs = differs.any(1, keepdim=True)
    # The largest byte is found many times as fast as whether any truth value is true.
    return (mask & differs.unsqueeze(1)).flatten(2).view(torch.int8).amax(2).bool()


def _outputs(forward: Forward, rows: Tensor, clean: Tensor, changed: Tensor | None) -> Tensor:
    """Return the outputs for rows, those of the unchanged known: ``clean`` is (b, classes)."""
    if changed is None or bool(changed.all()):
        return forward(rows)
    outputs = clean.repeat_interleave(changed.shape[1], 0)
    if bool(changed.any()):
        which = changed.flatten()
        found = forward(rows[which])
        # A caller's clean outputs may be of another type.
        outputs = outputs.to(torch.promote_types(outputs.dtype, found.dtype))
        outputs[which] = found.to(outputs.dtype)
    return outputs


def _blocks(n: int, n_draws: int, most: int) -> list[tuple[slice, list[tuple[int, int]]]]:
    """Cut samples × draws into rectangles of at most so many rows, draws first, near-equal."""
    draw_ranges = _even_parts(n_draws, most)
    widest = max(last - first for first, last in draw_ranges)
    samples_a_block = max(most // widest, 1)
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
    alike : sequence of sequence of int, optional
        For each column those whose variance stands for its own when it is decided; by default
        itself. Where others can, they should: a cell whose own draws decide stops where they
        happen to be equal, which leaves its mean too near to what they said.
    """

    tolerance: float
    pools: Sequence[int]
    alike: Sequence[Sequence[int]] | None = None


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

    A cell has 8, 16, 32, … draws, whatever the chunks. While the squared errors of a sample's
    cells of a pool sum to more than the squared tolerance, those above their equal share of it
    are drawn as often again: as few as will do, beginning with those that gain most. A few equal
    answers are not certainty: the variance of N draws that decides is that of the draws with two
    imagined ones, ``spread`` apart around their mean, so its weight falls as 1 / N.

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
    counts, sizes, limits = (torch.ones_like(sums[..., 0]) for _ in range(3))

    def fill(numbers: Tensor, rows: Rows, column: int, value: float) -> None:
        numbers[rows, column] = torch.full_like(numbers[rows, column], value)

    def draw(group: Cells, rows: Rows, start: int, stop: int) -> None:
        sums[rows, group.column] += group.sum_rows(rows, start, stop)
        fill(counts, rows, group.column, stop)

    def squared_error(variance: Tensor) -> Tensor:
        # S²/N·(1 - N/C) of N draws from C without replacement; C may be infinite.
        return torch.where(counts == sizes, 0.0, variance / counts * (1 - counts / sizes))

    def variances() -> Tensor:
        return variance(sums.flatten(0, 1), counts.flatten()).reshape(counts.shape)

    for group in cells:
        fill(sizes, group.rows, group.column, group.size)
        fill(limits, group.rows, group.column, group.limit)
        draw(group, group.rows, 0, group.limit if target is None else min(FIRST, group.limit))
    while target is not None:
        weights, total = _of_those_alike(counts, variances(), target)
        smoothed = (total + spread**2 / 2) / (weights + 2)
        further = torch.minimum(2 * counts, limits)
        wanted = _worth_drawing(squared_error(smoothed), 1 - counts / further, target)
        if not wanted.any():
            break
        for group in cells:
            own = torch.arange(shape[0], device=sums.device)[group.rows]
            own = own[wanted[own, group.column]]
            made = counts[own, group.column]
            for count in made.unique().int().tolist():
                draw(group, own[made == count], count, min(2 * count, group.limit))
    return Drawn(sums, counts, squared_error(variances()))


def _of_those_alike(counts: Tensor, variance: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Return for each cell the draws of the cells alike, and these times their variances."""
    if target.alike is None:
        return counts, counts * variance
    # Of a single draw, or of none where nothing is random, there is no variance.
    weights = torch.where(counts > 1, counts, 0.0)
    weighted = torch.where(counts > 1, counts * variance, 0.0)
    columns = zip(
        *((weights[:, own].sum(1), weighted[:, own].sum(1)) for own in map(list, target.alike)),
        strict=True,
    )
    draws, total = (torch.stack(each, 1) for each in columns)
    return draws, total


def _worth_drawing(squared_error: Tensor, gained: Tensor, target: Target) -> Tensor:
    """Return which cells (n, columns) to draw further.

    Parameters
    ----------
    squared_error : Tensor, shape (n, columns)
    gained : Tensor, shape (n, columns)
        The share of it that further draws would take away.
    target : Target
    """
    wanted = torch.zeros_like(squared_error, dtype=torch.bool)
    most = target.tolerance**2
    for pool in set(target.pools):
        columns = [column for column, its in enumerate(target.pools) if its == pool]
        error = squared_error[:, columns]
        excess = error.sum(1, keepdim=True) - most
        gain = torch.where(error > most / len(columns), error * gained[:, columns], 0.0)
        order = gain.argsort(dim=1, descending=True, stable=True)
        ordered = gain.gather(1, order)
        # Up to the first that makes it enough. A score that is NaN stays NaN, so it needs no more
        # draws: the comparison is false.
        chosen = (ordered.cumsum(1) - ordered < excess) & (ordered > 0)
        wanted[:, columns] = torch.zeros_like(chosen).scatter_(1, order, chosen)
    return wanted


FIRST = 8
"""Draws of a cell after which drawing may stop for the first time."""
