r"""Remove parts of each sample's ranking of elements and ask the model again.

Every metric that removes or restores what an explanation ranks stands on :func:`answers_without`:
Fidelity and its kin with random parts of the explanation or of the rest, and the removal curves
(MoRF, LeRF, Deletion, Insertion) with the top or the bottom of the ranking.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.answers import OUTPUT, RIGHT, Asked
from quantus_ext.engine.draws import Cells, Drawn, SumRows, Target, sum_until_known
from quantus_ext.engine.elements import Elements, Rows, inverse
from quantus_ext.engine.masked import Block, MaskedModel
from quantus_ext.engine.populations import Population, Subsets, by_population, draws_of
from quantus_ext.engine.regions import Bounds, Region
from quantus_ext.engine.tables import table
from quantus_ext.functional.scores import few_at_once

_COMPARED = 16
"""Of the regions that are drawn from, about so many are compared with the map in all spaces. That
is enough to tell spaces apart; to compare with all of them would take a small network's time."""

Output = Literal["label", "probability"]
_COLUMN = {"label": RIGHT, "probability": OUTPUT}


class Without(NamedTuple):
    """The model's answers, float64.

    Attributes
    ----------
    original : Tensor, shape (n,)
        To the inputs as they are.
    without, squared_error : Tensor, shape (n, regions)
        To the inputs without each region, the mean over draws, and its squared standard error.
    asked : Tensor, int64, shape (n or 1, regions)
        The region whose answer this is: a sample's regions that are one and the same are asked
        for once, as the first of them.
    rests_on : Asked
        What the model is asked about for all of them.
    """

    original: Tensor
    without: Tensor
    squared_error: Tensor
    asked: Tensor
    rests_on: Asked

    def squared_error_of(self, weights: Tensor) -> Tensor:
        """Return the squared standard error of a weighted sum over regions, shape (n,).

        Parameters
        ----------
        weights : Tensor, float64, shape (n or 1, regions)
            Those of regions that are one add up before they are squared.
        """
        shape = self.without.shape
        each = torch.zeros_like(self.without).scatter_add_(
            1, self.asked.expand(shape), weights.expand(shape)
        )
        return (each**2 * self.squared_error).sum(1)


def answers_without(
    masked: MaskedModel,
    maps: Tensor,
    regions: list[Region],
    *,
    elements: Elements,
    output: Output,
    n_draws: int = 1,
    target: Target | None = None,
) -> Iterator[Without]:
    """Ask the model with and without each region of the rankings of some maps.

    Parameters
    ----------
    masked : MaskedModel
        n samples, and what removed elements become.
    maps : Tensor, shape (m, n, \\*sample) or with one channel
        Attributions; only their ranks count.
    regions : list of Region
        A draw removes a random part of each, or all of it.
    elements : Elements
        What is removed.
    output : {"label", "probability"}
        ``1(y = f(·))``, or the output for y.
    n_draws, target
        For the regions where something is random, each a column; see
        :func:`quantus_ext.engine.draws.sum_until_known`.

    Yields
    ------
    Without
        Of each map.
    """
    column = _COLUMN[output]
    original = masked.original[:, column]
    random = masked.perturbation.random
    states = _states(regions, None if target is None else target.pools, random)
    gone = [Region.of(bounds) for bounds in zip(*(each.gone for each in states), strict=True)]
    any_whole = any(any(each.wholes) for each in states)
    untouched, asked, wholes = (
        _table([getattr(each, name) for each in states], maps.device)
        for name in ("untouched", "asked", "wholes")
    )
    done = 0
    for some in few_at_once(maps, len(masked.keys) * elements.largest):
        ranks = torch.stack([elements.ranks(a, masked.keys) for a in some])
        if any_whole:
            answers, asked_states = masked.without(ranks, gone, elements, first=done)
        for place, own in enumerate(ranks):
            one = _Map(masked, done + place, own, elements, column)
            drawn = one.drawn(regions, states, n_draws, target)
            without = drawn.sums[..., 0] / drawn.counts
            # Each map has draws of its own.
            rests_on = [Asked({object(): drawn.asked.sum(1)})]
            if any_whole:
                without = torch.where(wholes, answers[place, ..., column], without)
                rests_on.append(asked_states[place])
            without = torch.where(untouched, original[:, None], without)
            yield Without(
                original,
                without.gather(1, asked.expand_as(without)),
                drawn.squared_error.gather(1, asked.expand_as(without)),
                asked,
                Asked.of_all(rests_on),
            )
        done += len(some)


class _Map:
    """One map, whose regions lose random parts.

    Parameters
    ----------
    masked : MaskedModel
    number : int
        The map's.
    ranks : Tensor, int64, shape (n, T)
    elements : Elements
    column : int
        Of the answers.
    """

    def __init__(
        self, masked: MaskedModel, number: int, ranks: Tensor, elements: Elements, column: int
    ) -> None:
        self._masked = masked
        self._number = number
        self._ranks = ranks
        self._elements = elements
        self._column = column
        self._order: Tensor | None = None

    def drawn(
        self,
        regions: Sequence[Region],
        states: Sequence[_States],
        n_draws: int,
        target: Target | None,
    ) -> Drawn:
        """Return what random parts of regions give, each region a column."""
        masked, elements = self._masked, self._elements
        streams = sorted({stream for each in states for stream in each.drawn})
        # Of one map after another there is often nothing random to draw.
        ranking = None
        if streams:
            ranking = masked.name_of(self._ranks, elements.group, elements.mask_shape)
            self._order = inverse(self._ranks)
        # An odd step, since regions take turns.
        compared = (
            streams[:: len(streams) // _COMPARED | 1] if masked.compares(self._number) else []
        )
        groups = [
            Cells(
                slice(stream, stream + 1),
                rows,
                population,
                n_draws,
                self._sums(
                    regions[stream],
                    stream,
                    population,
                    name=masked.name_of(ranking, regions[stream], stream, population),
                    n_compared=int(stream in compared),
                ),
            )
            for stream in streams
            for rows, population in by_population(
                [each.drawn.get(stream) for each in states],
                listed=not masked.perturbation.random,
                device=self._ranks.device,
            )
        ]
        return sum_until_known(
            groups,
            shape=(len(self._ranks), len(regions), 2),
            target=target,
            variance=_variance,
            spread=masked.original.new_ones(len(self._ranks), 1),
        )

    def _sums(
        self,
        region: Region,
        stream: int,
        population: Population | None,
        *,
        name: str | None,
        n_compared: int,
    ) -> SumRows:
        """Return the function that sums answers without random parts of a region, and squares."""
        masked, elements, ranks, order = self._masked, self._elements, self._ranks, self._order
        first, past, removed = (
            table(values, ranks.device).unsqueeze(1)
            for values in (region.first, region.past, region.removed)
        )
        keys = sampling.draw_keys(masked.keys, stream, stream + 1).squeeze(1)

        def statistic(block: Block) -> Tensor:
            masked.compare_block(self._number, block)
            answers = block.answers[..., self._column]
            return torch.stack([answers.sum(1), (answers**2).sum(1)], 1).unsqueeze(1)

        def sum_rows(rows: Rows, start: int, stop: int) -> tuple[Tensor, Tensor]:
            inside = (ranks >= first) & (ranks < past)
            members = inside if order is None or region.span is None else order[:, region.span]
            listed = None if population is None else draws_of(population, keys, inside)

            def sampler(samples: Rows, draws: slice, block_keys: Tensor) -> Tensor:
                if listed is not None:
                    chosen = listed(samples, draws)
                elif region.all_removed:
                    chosen = inside[samples].unsqueeze(1).expand(-1, block_keys.shape[1], -1)
                else:
                    size = removed[samples].unsqueeze(2) if region.size is None else region.size
                    chosen = sampling.subsets(block_keys, elements.largest, size, members[samples])
                return elements.expand(chosen, samples)

            return masked.sum_draws(
                rows, keys, sampler, statistic, start, stop, name=name, n_compared=n_compared
            )

        return sum_rows


@dataclass(frozen=True)
class _States:
    """What is asked of one sample.

    Attributes
    ----------
    untouched : list of bool
        Of which of its regions nothing goes.
    asked : list of int
        For each region the first one that is the same.
    wholes : list of bool
        Which of them go as a whole, become always the same, and are asked for.
    gone : list of Bounds
        Those regions; of the others nothing.
    drawn : dict of int to Subsets
        The others of which something goes, and what can go.
    """

    untouched: list[bool]
    asked: list[int]
    wholes: list[bool]
    gone: list[Bounds]
    drawn: dict[int, Subsets]


def _states(regions: Sequence[Region], pools: Sequence[int] | None, random: bool) -> list[_States]:
    """Return for each sample what is asked; draws that different pools need are not shared."""

    @functools.cache
    def of(bounds: tuple[Bounds, ...]) -> _States:
        seen: dict[tuple[Bounds, int], int] = {}
        asked, wholes, drawn = [], [], {}
        for column, (first, past, removed) in enumerate(bounds):
            fixed = not random and past - first == removed
            pool = 0 if fixed or pools is None else pools[column]
            asked.append(seen.setdefault(((first, past, removed), pool), column))
            is_asked = bool(removed) and asked[-1] == column
            wholes.append(fixed and is_asked)
            if is_asked and not fixed:
                drawn[column] = Subsets(past - first, removed)
        untouched = [not removed for *_, removed in bounds]
        gone = [each if whole else (0, 0, 0) for each, whole in zip(bounds, wholes, strict=True)]
        return _States(untouched, asked, wholes, gone, drawn)

    return [of(bounds) for bounds in zip(*(region.bounds for region in regions), strict=True)]


def _table(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return a tensor of a row a sample, of one row where all are the same."""
    same = all(row is rows[0] or row == rows[0] for row in rows)
    return table(rows[:1] if same else rows, device)


def _variance(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the variance of one draw's answer from the sums of answers and their squares."""
    mean, square = (sums / counts[:, None]).unbind(1)
    return (square - mean**2).clamp(min=0) * counts / (counts - 1)
