r"""Remove parts of each sample's ranking of elements and ask the model again.

Every metric that removes or restores what an explanation ranks stands on :func:`answers_without`:
Fidelity and its kin with random parts of the explanation or of the rest, and the removal curves
(MoRF, LeRF, Deletion, Insertion) with the top or the bottom of the ranking.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.draws import (
    Block,
    Cells,
    SumRows,
    Target,
    sum_draws,
    sum_until_known,
)
from quantus_ext.engine.elements import Elements, Rows, inverse
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import Perturbation, replace_by
from quantus_ext.engine.populations import Population, Subsets, by_population, draws_of

Output = Literal["label", "probability"]
Bounds = tuple[int, int, int]
"""(first, past, removed): where a region begins and ends in a ranking, and how many go."""


@dataclass(frozen=True)
class Region:
    """Part of each sample's ranking, from ``first`` to before ``past``, and how many go."""

    first: tuple[int, ...]
    past: tuple[int, ...]
    removed: tuple[int, ...]

    @classmethod
    def of(cls, bounds: Iterable[Bounds]) -> Region:
        """Take (first, past, removed) of each sample."""
        return cls(*zip(*bounds, strict=True))

    @property
    def bounds(self) -> Iterable[Bounds]:
        """(first, past, removed) of each sample."""
        return zip(self.first, self.past, self.removed, strict=True)

    @property
    def all_removed(self) -> bool:
        """Whether all of it goes, so that there is nothing to draw."""
        return all(past - first == removed for first, past, removed in self.bounds)

    @property
    def size(self) -> int | None:
        """How many elements go, where that is the same for all samples."""
        return self.removed[0] if len(set(self.removed)) == 1 else None

    @property
    def span(self) -> slice | None:
        """Its ranks, where they are the same for all samples."""
        same = len(set(self.first)) == len(set(self.past)) == 1
        return slice(self.first[0], self.past[0]) if same else None


def answer(outputs: Tensor, y: Tensor, output: Output) -> Tensor:
    """Return 1(y = f(·)) or the output for y; NaN where an output is not a number.

    Parameters
    ----------
    outputs : Tensor, shape (\\*rows, classes)
    y : Tensor, int64, of one axis less than ``outputs``, or with axes of length 1
    output : {"label", "probability"}
    """
    labels = y.expand(outputs.shape[:-1]).unsqueeze(-1)
    if output == "probability":
        return outputs.gather(-1, labels).squeeze(-1).double()
    right = (outputs.argmax(-1, keepdim=True) == labels).squeeze(-1).double()
    return right.masked_fill(outputs.isnan().any(-1), torch.nan)


class Answers(NamedTuple):
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
    """

    original: Tensor
    without: Tensor
    squared_error: Tensor
    asked: Tensor

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
    forward: Forward,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    regions: list[Region],
    *,
    elements: Elements,
    perturbation: Perturbation | None,
    output: Output,
    n_draws: int,
    target: Target | None = None,
    seed: int,
    index: Tensor | None,
    clean: Tensor | None,
) -> Answers:
    """Ask the model with and without each region of the ranking.

    Parameters
    ----------
    forward : Forward
    x : Tensor, shape (n, \\*sample)
    a : Tensor, shape of ``x`` or with one channel
        Attributions; only their ranks count.
    y : Tensor, int64, shape (n,)
    regions : list of Region
        A draw removes a random part of each, or all of it.
    elements : Elements
        What is removed.
    perturbation : Perturbation, optional
        What it becomes; by default 0.
    output : {"label", "probability"}
        See :func:`answer`.
    n_draws, target
        For the regions where something is random, each a column; see
        :func:`quantus_ext.engine.draws.sum_until_known`.
    seed, index, clean
        As for :func:`quantus_ext.functional.infidelity`.

    Returns
    -------
    Answers
    """
    perturbation = perturbation or replace_by(0.0)
    x, a = x.detach(), a.detach()
    index = torch.arange(len(x), device=x.device) if index is None else index
    keys = sampling.sample_keys(seed, index)
    ranks = elements.ranks(a, keys)
    order = inverse(ranks)
    clean = forward.clean(x) if clean is None else clean
    original = answer(clean, y, output)
    states = _states(regions, None if target is None else target.pools, perturbation.random)
    known = [
        (
            rows,
            _table([each.whole for each in some], x.device),
            _answers_in_one_pass(
                forward,
                x[rows],
                clean[rows],
                y[rows],
                ranks[rows],
                [[each.bounds[column] for column in each.whole] for each in some],
                elements.take(rows),
                perturbation,
                keys[rows],
                output,
            ),
        )
        for rows, some in _by_number_of_whole(states, x.device)
    ]
    groups = [
        Cells(
            stream,
            rows,
            population,
            n_draws,
            _sum_answers(
                forward,
                x,
                clean,
                y,
                ranks,
                order,
                region,
                population,
                elements,
                perturbation,
                sampling.draw_keys(keys, stream, stream + 1).squeeze(1),
                output,
            ),
        )
        for stream, region in enumerate(regions)
        for rows, population in by_population(
            [each.drawn.get(stream) for each in states],
            listed=not perturbation.random,
            device=x.device,
        )
    ]
    drawn = sum_until_known(
        groups,
        shape=(len(x), len(regions), 2),
        target=target,
        variance=_variance,
        spread=original.new_ones(len(x), 1),
    )
    without = drawn.sums[..., 0] / drawn.counts
    for rows, columns, answers in known:
        without[rows] = without[rows].scatter(1, columns.expand_as(answers), answers)
    untouched = _table([[not removed for *_, removed in each.bounds] for each in states], x.device)
    without = torch.where(untouched, original[:, None], without)
    asked = _table([each.asked for each in states], x.device)
    return Answers(
        original,
        without.gather(1, asked.expand_as(without)),
        drawn.squared_error.gather(1, asked.expand_as(without)),
        asked,
    )


@dataclass(frozen=True)
class _States:
    """What is asked of one sample.

    Attributes
    ----------
    bounds : tuple of Bounds
        Of its regions.
    asked : list of int
        For each region the first one that is the same.
    whole : list of int
        The regions all of which go and that become always the same.
    drawn : dict of int to Subsets
        The others of which something goes, and what can go.
    """

    bounds: tuple[Bounds, ...]
    asked: list[int]
    whole: list[int]
    drawn: dict[int, Subsets]


def _states(regions: Sequence[Region], pools: Sequence[int] | None, random: bool) -> list[_States]:
    """Return for each sample what is asked; draws that different pools need are not shared."""

    @functools.cache
    def of(bounds: tuple[Bounds, ...]) -> _States:
        seen: dict[tuple[Bounds, int], int] = {}
        asked, whole, drawn = [], [], {}
        for column, (first, past, removed) in enumerate(bounds):
            fixed = not random and past - first == removed
            pool = 0 if fixed or pools is None else pools[column]
            asked.append(seen.setdefault(((first, past, removed), pool), column))
            if removed and asked[-1] == column:
                if fixed:
                    whole.append(column)
                else:
                    drawn[column] = Subsets(past - first, removed)
        return _States(bounds, asked, whole, drawn)

    return [of(bounds) for bounds in zip(*(region.bounds for region in regions), strict=True)]


def _by_number_of_whole(
    states: Sequence[_States], device: torch.device
) -> list[tuple[Rows, list[_States]]]:
    """Group samples by how many of their regions go as a whole, if any do."""
    groups: dict[int, list[int]] = {}
    for sample, each in enumerate(states):
        if each.whole:
            groups.setdefault(len(each.whole), []).append(sample)
    return [
        (
            slice(None) if len(group) == len(states) else torch.tensor(group, device=device),
            [states[sample] for sample in group],
        )
        for group in groups.values()
    ]


def _table(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return a tensor of a row a sample, of one row where all are the same."""
    same = all(row is rows[0] or row == rows[0] for row in rows)
    return torch.tensor(rows[:1] if same else rows, device=device)


def _answers_in_one_pass(
    forward: Forward,
    x: Tensor,
    clean: Tensor,
    y: Tensor,
    ranks: Tensor,
    parts: list[list[Bounds]],
    elements: Elements,
    perturbation: Perturbation,
    keys: Tensor,
    output: Output,
) -> Tensor:
    """Return the answers without parts of the ranking that go as a whole, shape (n, parts).

    The parts are the engine's draws, so that a chunk is full however few the samples are.
    """
    # Comparing ranks costs as much as a small network, so they are narrow, and each end is only
    # looked at where a part has one.
    narrow = torch.int16 if elements.largest < 2**15 else torch.int32
    short = ranks.to(narrow)
    first, past = (
        _table([[bounds[end] for bounds in row] for row in parts], x.device)
        .to(narrow)
        .expand(len(x), -1)
        for end in (0, 1)
    )
    from_the_top = not any(bounds[0] for row in parts for bounds in row)
    to_the_end = all(bounds[1] == elements.largest for row in parts for bounds in row)

    def sampler(samples: slice, draws: slice, keys: Tensor) -> Tensor:
        rank = short[samples].unsqueeze(1)
        lower, upper = (bound[samples, draws].unsqueeze(-1) for bound in (first, past))
        if from_the_top:
            chosen = rank < upper
        elif to_the_end:
            chosen = rank >= lower
        else:
            chosen = (rank >= lower) & (rank < upper)
        return elements.expand(chosen, samples)

    def statistic(block: Block) -> Tensor:
        answers = answer(block.outputs, y[block.samples][:, None], output)
        columns = answers.new_zeros(len(answers), len(parts[0]))
        columns[:, block.draws] = answers
        return columns

    return sum_draws(
        forward,
        x,
        clean,
        keys,
        sampler=sampler,
        perturbation=perturbation,
        statistic=statistic,
        start=0,
        stop=len(parts[0]),
    )


def _sum_answers(
    forward: Forward,
    x: Tensor,
    clean: Tensor,
    y: Tensor,
    ranks: Tensor,
    order: Tensor,
    region: Region,
    population: Population | None,
    elements: Elements,
    perturbation: Perturbation,
    keys: Tensor,
    output: Output,
) -> SumRows:
    """Return the function that sums answers without random parts of a region, and their squares."""
    first, past, removed = (
        torch.tensor(values, device=x.device).unsqueeze(1)
        for values in (region.first, region.past, region.removed)
    )

    def sum_rows(rows: Rows, start: int, stop: int) -> Tensor:
        targets, grouping = y[rows], elements.take(rows)
        inside = (ranks[rows] >= first[rows]) & (ranks[rows] < past[rows])
        members = inside if region.span is None else order[rows][:, region.span]
        counts = removed[rows].unsqueeze(2)
        listed = None if population is None else draws_of(population, keys[rows], inside)

        def sampler(samples: slice, draws: slice, block_keys: Tensor) -> Tensor:
            among = inside[samples]
            if listed is not None:
                chosen = listed(samples, draws)
            elif region.all_removed:
                chosen = among.unsqueeze(1).expand(-1, block_keys.shape[1], -1)
            else:
                size = counts[samples] if region.size is None else region.size
                chosen = sampling.subsets(block_keys, elements.largest, size, members[samples])
            return grouping.expand(chosen, samples)

        def statistic(block: Block) -> Tensor:
            answers = answer(block.outputs, targets[block.samples][:, None], output)
            return torch.stack([answers.sum(1), (answers**2).sum(1)], 1)

        return sum_draws(
            forward,
            x[rows],
            clean[rows],
            keys[rows],
            sampler=sampler,
            perturbation=perturbation,
            statistic=statistic,
            start=start,
            stop=stop,
        )

    return sum_rows


def _variance(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the variance of one draw's answer from the sums of answers and their squares."""
    mean, square = (sums / counts[:, None]).unbind(1)
    return (square - mean**2).clamp(min=0) * counts / (counts - 1)
