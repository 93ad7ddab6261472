"""Draw until the standard errors are small enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext.engine.elements import Rows
from quantus_ext.engine.populations import Population

SumRows = Callable[[Rows, int, int], tuple[Tensor, Tensor]]
"""(rows, start, stop) -> sums (rows, columns, k) over those draws of those samples, and how many
rows the model is asked about for them (rows,)."""


@dataclass(frozen=True)
class Cells:
    """Cells whose draws are made together; a cell is one sample in one column.

    Attributes
    ----------
    columns : slice
        The columns of a result: a single one, such as one region of the ranking; or several that
        share their draws, such as maps.
    rows : slice or Tensor of int64
        Samples.
    population : Population, optional
        All possible masks, if they are few and nothing else is random.
    n_draws : int
        Largest number of draws per cell.
    sum_rows : callable
        Sums a statistic, see :data:`SumRows`.
    """

    columns: slice
    rows: Rows
    population: Population | None
    n_draws: int
    sum_rows: SumRows

    @property
    def size(self) -> float:
        """The number of different draws."""
        return math.inf if self.population is None else self.population.total

    @property
    def limit(self) -> int:
        """The largest number of draws."""
        return int(min(self.n_draws, self.size))

    def halves(self, number: int) -> list[range]:
        """Return the draws of each half; so few that all are made at once are in the first."""
        if number == 1 or self.limit <= FIRST:
            return [range(self.limit), *(range(0) for _ in range(1, number))]
        middle = (self.limit + 1) // 2
        return [range(middle), range(middle, self.limit)]


class Target(NamedTuple):
    """When to stop drawing.

    Attributes
    ----------
    tolerance : float, or Tensor of shape (n, 1)
        Standard error of the sum over a pool's cells.
    pools : sequence of int
        The pool of each column, by any number.
    beside : Tensor, int64, shape (n or 1, columns, m), optional
        For each column the columns that are likely to vary in the same way; the number of columns
        stands for none. If given, the draws of a cell are made in two halves. The draws of one
        half, and those of the neighbouring cells, decide whether the other half needs more. If a
        cell's own draws decided, it would stop whenever they happen to be equal, which biases its
        mean. They decide only when no half needs more by this rule and the standard error by the
        own draws is still too large.
    """

    tolerance: float | Tensor
    pools: Sequence[int]
    beside: Tensor | None = None

    @property
    def halves(self) -> int:
        """The number of parts of a cell's draws that can be continued independently."""
        return 1 if self.beside is None else 2


class Drawn(NamedTuple):
    """The result of the draws, float64.

    Attributes
    ----------
    sums : Tensor, shape (n, columns, k)
        The number of draws times the mean over draws. If one half has more draws than the other,
        the mean is that of the two halves' means.
    counts : Tensor, shape (n, columns)
        Number of draws; 1 where nothing is random.
    squared_error : Tensor, shape (n, columns)
        Squared standard error of the mean over draws; 0 if nothing is random or every mask was
        drawn. The error of a half is estimated from its own draws.
    asked : Tensor, shape (n, columns)
        Number of rows that the model has to evaluate.
    """

    sums: Tensor
    counts: Tensor
    squared_error: Tensor
    asked: Tensor


def sum_until_known(
    cells: Sequence[Cells],
    *,
    shape: tuple[int, int, int],
    target: Target | None,
    variance: Callable[[Tensor, Tensor], Tensor],
    spread: Tensor,
) -> Drawn:
    """Draw until the standard error of each pool of cells of a sample is within the tolerance.

    A cell has 8, 16, 32, … draws, independent of chunks; each of two halves has 4, 8, 16, …. While
    the sum of the squared errors in a pool exceeds the squared tolerance, the number of draws is
    doubled for cells that have more than an equal share of it: for as few as possible, those with
    the largest gain first. Each cell has the same draws as it would have alone. A few equal answers
    do not prove that all are equal. So two imaginary draws, ``spread`` apart around the mean, are
    added to the N draws when the variance is estimated, if it is more with them; their weight falls
    as 1 / N.

    Parameters
    ----------
    cells : sequence of Cells
        Disjoint. A cell that belongs to none of them is not random.
    shape : (int, int, int)
        Numbers of samples n, columns, and values k of the statistic.
    target : Target, optional
        By default, all draws are made.
    variance : callable
        (sums (cells, k), counts (cells,)) -> variance of one draw, shape (cells,).
    spread : Tensor, shape (n, 1 or columns)
        How far apart two draws can plausibly be.

    Returns
    -------
    Drawn
    """
    n, columns, k = shape
    if not cells:
        zeros = spread.new_zeros(n, columns)
        return Drawn(zeros.unsqueeze(2).expand(shape), torch.ones_like(zeros), zeros, zeros)
    halves = 1 if target is None else target.halves
    sums = torch.zeros(n, columns, halves, k, dtype=torch.float64, device=spread.device)
    counts, limits, sizes = (torch.zeros_like(sums[..., 0]) for _ in range(3))
    # Without randomness, one draw is enough.
    for numbers in (counts, limits, sizes):
        numbers[:, :, 0].fill_(1)

    asked = torch.zeros_like(counts[..., 0])

    def fill(numbers: Tensor, rows: Rows, columns: slice, half: int, value: float) -> None:
        numbers[rows, columns, half] = torch.full_like(numbers[rows, columns, half], value)

    def draw(
        group: Cells, half: int, rows: Rows, start: int, stop: int, due: Tensor | None = None
    ) -> None:
        first, columns = group.halves(halves)[half].start, group.columns
        found, rows_asked = group.sum_rows(rows, first + start, first + stop)
        rows_asked = rows_asked.unsqueeze(1)
        if due is None:
            fill(counts, rows, columns, half, stop)
        else:
            found, rows_asked = torch.where(due.unsqueeze(2), found, 0.0), rows_asked * due
            counts[rows, columns, half] = counts[rows, columns, half].masked_fill(due, stop)
        sums[rows, columns, half] += found
        asked[rows, columns] += rows_asked

    def variances(sums: Tensor, counts: Tensor) -> Tensor:
        return variance(sums.flatten(0, -2), counts.flatten()).reshape(counts.shape)

    for group in cells:
        for half, its in enumerate(group.halves(halves)):
            fill(sizes, group.rows, group.columns, half, group.size)
            fill(limits, group.rows, group.columns, half, len(its))
            if len(its):
                at_once = target is None or group.limit <= FIRST
                draw(group, half, group.rows, 0, len(its) if at_once else FIRST // halves)
    while target is not None:
        own = variances(sums, counts)
        judged, found = (
            _squared_error(each, counts, limits, sizes)
            for each in (_judged(counts, own, spread, target), own)
        )
        further = torch.minimum(2 * counts, limits)
        gained = torch.where(further > counts, 1 - counts / further, 0.0)
        wanted = _wanted(judged, found, gained, target)
        if not wanted.any():
            break
        for group, half in itertools.product(cells, range(halves)):
            rows = torch.arange(n, device=sums.device)[group.rows]
            due, made = (each[rows, group.columns, half] for each in (wanted, counts))
            for count in made[due].unique().int().tolist():
                stop = min(2 * count, len(group.halves(halves)[half]))
                now = due & (made == count)
                some = now.any(1)
                draw(group, half, rows[some], count, stop, now[some])
    error = _squared_error(variances(sums, counts), counts, limits, sizes).sum(2)
    made = counts.sum(2)
    if halves == 1:
        return Drawn(sums[:, :, 0], made, error, asked)
    # Halves count equally, whatever decided how many draws each has.
    means = (sums * (_share(limits) / counts.clamp(min=1)).unsqueeze(3)).sum(2)
    return Drawn(means * made.unsqueeze(2), made, error, asked)


def _share(limits: Tensor) -> Tensor:
    """Return what each half counts."""
    return limits / limits.sum(2, keepdim=True)


def _squared_error(variance: Tensor, counts: Tensor, limits: Tensor, sizes: Tensor) -> Tensor:
    """Return what each half adds to the squared error of a cell's mean, (n, columns, halves).

    That is ``S²/N·(1 - N/C)`` of N draws from C without replacement, where C may be infinite; of
    a half that counts w it is ``S²·w·(w/N - 1/C)``.
    """
    share = _share(limits)
    everything = (counts == limits) & (limits.sum(2, keepdim=True) == sizes)
    error = variance * share * (share / counts.clamp(min=1) - 1 / sizes.clamp(min=1))
    return torch.where(everything | (share == 0), 0.0, error)


def _judged(counts: Tensor, variance: Tensor, spread: Tensor, target: Target) -> Tensor:
    """Return the variances that decide on each half's draws, all (n, columns, halves).

    Where there is one half only it is its own, with the imaginary draws if this is more. Otherwise
    it is the other's, or what that and those beside say together, if this is more.
    """
    # A single draw, or none without randomness, has no variance.
    known = counts > 1
    draws = torch.where(known, counts, 0.0)
    total = torch.where(known, counts * variance, 0.0)
    imagined = spread.unsqueeze(2) ** 2 / 2
    if target.beside is None:
        return (total / draws.clamp(min=1)).maximum((total + imagined) / (draws + 2))
    draws, total = draws.flip(2), total.flip(2)
    alone = total / draws.clamp(min=1)
    n, columns, halves = draws.shape
    places = target.beside.expand(n, -1, -1).flatten(1).unsqueeze(2).expand(-1, -1, halves)
    nearby = [
        # One more column, for no draws.
        F.pad(numbers, (0, 0, 0, 1)).gather(1, places).unflatten(1, (columns, -1)).sum(2)
        for numbers in (draws, total)
    ]
    together = (total + nearby[1] + imagined) / (draws + nearby[0] + 2)
    return alone.maximum(together)


def _wanted(judged: Tensor, found: Tensor, gained: Tensor, target: Target) -> Tensor:
    """Return which halves of cells to draw further, all (n, columns, halves).

    ``judged`` are the squared errors that decide, ``found`` those by a half's own draws: where
    they are still too large in the end, and only there, these decide.
    """
    wanted = torch.zeros_like(judged, dtype=torch.bool)
    most = target.tolerance**2
    for pool in set(target.pools):
        columns = [column for column, its in enumerate(target.pools) if its == pool]
        error, gain = judged[:, columns], gained[:, columns]
        # The error of both halves together must reach the target.
        chosen = torch.stack(
            [
                _worth_drawing(error[..., half], gain[..., half], most / target.halves)
                for half in range(target.halves)
            ],
            2,
        )
        if target.halves > 1:
            settled = ~chosen.flatten(1).any(1)[:, None]
            last = _worth_drawing(found[:, columns].flatten(1), gain.flatten(1), most) & settled
            chosen |= last.unflatten(1, (-1, target.halves))
        wanted[:, columns] = chosen
    return wanted


def _worth_drawing(error: Tensor, gained: Tensor, most: float | Tensor) -> Tensor:
    """Return what to draw further, so that squared errors (n, m) sum to ``most``.

    ``gained`` is the share of each that further draws would take away.
    """
    excess = error.sum(1, keepdim=True) - most
    gain = torch.where(error > most / error.shape[1], error * gained, 0.0)
    order = gain.argsort(dim=1, descending=True, stable=True)
    ordered = gain.gather(1, order)
    # Up to the first that makes it enough. A score that is NaN stays NaN, so it needs no more
    # draws: the comparison is false.
    chosen = (ordered.cumsum(1) - ordered < excess) & (ordered > 0)
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


FIRST = 8
"""Draws of a cell after which drawing may stop for the first time."""
