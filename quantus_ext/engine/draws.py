"""Draws until enough is known."""

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
    """What is drawn together, a cell being what is known of one sample in one column.

    Attributes
    ----------
    columns : slice
        Which of the things that are asked of every sample: one, as a part of its ranking; or
        several of which one draw tells, as maps.
    rows : slice or Tensor of int64
        Samples.
    population : Population, optional
        What the draws' masks are, where these are few and nothing else is random.
    n_draws : int
        Draws a cell at most.
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
        """How many different draws there are."""
        return math.inf if self.population is None else self.population.total

    @property
    def limit(self) -> int:
        """Draws that are made at most."""
        return int(min(self.n_draws, self.size))

    def halves(self, number: int) -> list[range]:
        """Return the draws of each half; so few that all are made at once are in the first."""
        if number == 1 or self.limit <= FIRST:
            return [range(self.limit), *(range(0) for _ in range(1, number))]
        middle = (self.limit + 1) // 2
        return [range(middle), range(middle, self.limit)]


class Target(NamedTuple):
    """When enough is known.

    Attributes
    ----------
    tolerance : float, or Tensor of shape (n, 1)
        Standard error of the sum over a pool's cells.
    pools : sequence of int
        The pool of each column, by any number.
    beside : Tensor, int64, shape (n or 1, columns, m), optional
        For each column those that are likely to vary as it does; the number of columns stands for
        none. If given, the draws of a cell are in two halves, and how often one is drawn further is
        decided by the other, and by the other of the cells beside it. A cell whose own draws
        decide stops where they happen to be equal, which leaves its mean too near to what they
        said; they do so only where all else is known and their error is still too large.
    """

    tolerance: float | Tensor
    pools: Sequence[int]
    beside: Tensor | None = None

    @property
    def halves(self) -> int:
        """How many parts a cell's draws are in, that are drawn further by themselves."""
        return 1 if self.beside is None else 2


class Drawn(NamedTuple):
    """What draws gave, float64.

    Attributes
    ----------
    sums : Tensor, shape (n, columns, k)
        As many times as there are draws the mean over a draw, of halves that were drawn unequally
        often the mean of theirs.
    counts : Tensor, shape (n, columns)
        Draws made; 1 where nothing is drawn.
    squared_error : Tensor, shape (n, columns)
        Squared standard error of the mean over draws, 0 where nothing is random or every mask
        was drawn. That of a half is from its own draws, which did not decide on their number.
    asked : Tensor, shape (n, columns)
        Rows that the model is asked about for them.
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
    """Draw until the standard error of each sample's pools of cells is at most the tolerance.

    A cell has 8, 16, 32, … draws, whatever the chunks; of halves each has 4, 8, 16, …. While the
    squared errors of a sample's cells of a pool sum to more than the squared tolerance, those above
    their equal share of it are drawn as often again: as few as will do, beginning with those that
    gain most. Of cells that are drawn together each has the draws that it would have alone. A few
    equal answers are not certainty: the variance of N draws that decides is that of the draws with
    two imagined ones, ``spread`` apart around their mean, so its weight falls as 1 / N.

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

    Where there is one half only it is its own. Otherwise it is the other's, or what that and those
    beside say together, if this is more.
    """
    # A single draw, or none without randomness, has no variance.
    known = counts > 1
    draws = torch.where(known, counts, 0.0)
    total = torch.where(known, counts * variance, 0.0)
    imagined = spread.unsqueeze(2) ** 2 / 2
    if target.beside is None:
        return (total + imagined) / (draws + 2)
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
