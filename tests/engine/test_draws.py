"""The one loop: every draw once, in blocks that never matter, until enough is known."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantus_ext.engine import draws, sampling
from quantus_ext.engine.draws import Block, Cells, Drawn, Target, sum_draws, sum_until_known
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import blur, changeable, gaussian_noise, replace_by
from quantus_ext.engine.populations import Windows, by_population

DTYPE = torch.float64


def sampler(samples: slice, draws: slice, keys: Tensor) -> Tensor:
    return sampling.subsets(keys, 6, 2)


def summed(
    n: int, start: int, stop: int, chunk_size: int, statistic: Any, sizes: list[int] | None = None
) -> Tensor:
    """Sum a statistic over noisy draws of a model with two outputs, chunk by chunk."""

    def predict(rows: Tensor) -> Tensor:
        if sizes is not None:
            sizes.append(len(rows))
        return rows[:, :2] ** 2

    x = torch.arange(n * 6, dtype=DTYPE).reshape(n, 6).sin()
    forward = Forward(predict, chunk_size=chunk_size)
    forward.clean(x[:1])
    return sum_draws(
        forward,
        x,
        x[:, :2] ** 2,
        sampling.sample_keys(0, torch.arange(n)),
        sampler=sampler,
        perturbation=gaussian_noise(std=0.5),
        statistic=statistic,
        start=start,
        stop=stop,
    )


def moments(block: Block) -> Tensor:
    return torch.cat([block.outputs, block.outputs**2, block.mask.double()], 2).sum(1)


@settings(deadline=None)
@given(n=st.integers(1, 12), n_draws=st.integers(1, 100), chunk_size=st.integers(1, 60))
def test_blocks_cover_every_draw_once_and_fit_a_chunk(n, n_draws, chunk_size):
    covered = np.zeros((n, n_draws), dtype=int)
    blocks = 0
    for samples, draw_ranges in draws._blocks(n, n_draws, chunk_size):
        for first, last in draw_ranges:
            covered[samples, first:last] += 1
            rows = covered[samples, first:last].size
            assert 0 < rows <= chunk_size
            blocks += 1
        # Equal blocks keep every pass as wide as it can be.
        widths = {last - first for first, last in draw_ranges}
        assert max(widths) - min(widths) <= 1
    assert (covered == 1).all()
    # A block is at least about half of what fits.
    assert blocks <= 2 * -(-n * n_draws // chunk_size) + n


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 6),
    start=st.integers(0, 9),
    count=st.integers(1, 20),
    chunk_size=st.integers(1, 40),
)
def test_sums_do_not_depend_on_chunks(n, start, count, chunk_size):
    sizes: list[int] = []
    sums = summed(n, start, start + count, chunk_size, moments, sizes)
    assert sums.shape == (n, 10)
    assert max(sizes) <= chunk_size
    # One row more for the pass that settles the plan.
    assert sum(sizes) == n * count + 1
    one_by_one = sum(
        (summed(n, draw, draw + 1, 1, moments) for draw in range(start, start + count)),
        torch.zeros(n, 10, dtype=DTYPE),
    )
    torch.testing.assert_close(sums, one_by_one, rtol=1e-12, atol=1e-12)


def test_a_block_is_consistent():
    def check(block: Block) -> Tensor:
        rows = block.perturbed.flatten(0, 1)
        assert torch.equal(block.outputs.flatten(0, 1), rows[:, :2] ** 2)
        x = torch.arange(30, dtype=DTYPE).reshape(5, 6).sin()[block.samples]
        assert torch.equal(block.mask, block.perturbed != x[:, None])
        return block.outputs.sum(1)

    summed(5, 0, 13, 8, check)


# Draws that change nothing


def asked_of(
    x: Tensor, value: float, clean: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Replace pairs of elements by a value; return sums of outputs, and the rows asked for."""
    seen: list[Tensor] = []

    def predict(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows.flatten(1)[:, :3] ** 2

    forward = Forward(predict, chunk_size=7)
    forward.settle(x)
    seen.clear()
    count = math.prod(shape)
    sums = sum_draws(
        forward,
        x,
        clean,
        sampling.sample_keys(0, torch.arange(len(x))),
        sampler=lambda samples, draws, keys: sampling.subsets(keys, count, 2).unflatten(2, shape),
        perturbation=replace_by(value),
        statistic=lambda block: block.outputs.sum(1),
        start=0,
        stop=20,
    )
    return sums, torch.cat([x[:0], *seen])


@pytest.mark.parametrize(("sample", "mask"), [((8,), (8,)), ((3, 8), (1, 8)), ((3, 8), (3, 8))])
def test_what_changes_nothing_is_not_asked_for(sample, mask):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (6, *sample), generator=generator).to(DTYPE)
    x[0], x[1] = 0, 1
    sums, rows = asked_of(x, 0.0, x.flatten(1)[:, :3] ** 2, mask)
    everything, all_rows = asked_of(x, 0.5, x.flatten(1)[:, :3] ** 2, mask)
    # A value that none has leaves nothing as it was.
    assert len(all_rows) == 6 * 20
    assert not torch.equal(sums, everything)
    keys = sampling.draw_keys(sampling.sample_keys(0, torch.arange(6)), 0, 20)
    chosen = sampling.subsets(keys, math.prod(mask), 2).unflatten(2, mask)
    perturbed = torch.where(chosen, 0.0, x.unsqueeze(1))
    assert torch.equal(sums, (perturbed.flatten(2)[..., :3] ** 2).sum(1))
    unchanged = (perturbed == x.unsqueeze(1)).flatten(2).all(2)
    assert unchanged[0].all()
    assert not unchanged[1].any()
    assert torch.equal(rows, perturbed[~unchanged])
    # What is not asked for is taken from the clean outputs.
    other = asked_of(x, 0.0, torch.full((6, 3), 100, dtype=DTYPE), mask)[0] - sums
    assert torch.equal(other, 100 * unchanged.sum(1, keepdim=True) - known(x, unchanged))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_clean_outputs_of_another_type(dtype):
    x = torch.zeros(4, 8, dtype=DTYPE)
    x[:, ::3] = 1
    sums, rows = asked_of(x, 0.0, x[:, :3].to(dtype) ** 2, (8,))
    assert 0 < len(rows) < 80
    assert torch.equal(sums, asked_of(x, 0.0, x[:, :3] ** 2, (8,))[0])


def known(x: Tensor, unchanged: Tensor) -> Tensor:
    return x.flatten(1)[:, :3] ** 2 * unchanged.sum(1, keepdim=True)


def test_bits_decide_what_changes():
    x = torch.tensor([[0.0, -0.0, torch.nan, torch.inf, 1.0]])
    assert changeable(replace_by(0.0).prepare(x).fixed, x).tolist() == [
        [False, True, True, True, True]
    ]
    assert changeable(replace_by(0.5).prepare(x).fixed, x) is None
    assert changeable(gaussian_noise().prepare(x).fixed, x) is None
    assert changeable(replace_by("uniform").prepare(x).fixed, x) is None
    flat, tokens = torch.ones(1, 1, 4), torch.tensor([[5, 0, 7]])
    assert changeable(blur(1).prepare(flat).fixed, flat).any().item() is False
    found = changeable(replace_by(0).prepare(tokens).fixed, tokens)
    assert found.tolist() == [[True, False, True]]


# Draws until enough is known


class Loss:
    """Losses of draws given in a table (n, columns, draws), summed as the engine sums.

    ``sizes``, (n, columns), says how many different draws there are; above 1,024, any number.
    """

    def __init__(self, table: Tensor, sizes: Any = 5000) -> None:
        self.table = table.double()
        self.sizes = np.broadcast_to(sizes, table.shape[:2])
        self.asked: list[tuple[int, list[int], int, int]] = []

    def sum_rows(self, column: int, rows: Tensor | slice, start: int, stop: int) -> Tensor:
        chosen = self.table[rows, column, start:stop]
        samples = torch.arange(len(self.table))[rows].tolist()
        self.asked.append((column, samples, start, stop))
        return torch.stack([chosen.sum(1), (chosen**2).sum(1)], 1)

    @staticmethod
    def variance(sums: Tensor, counts: Tensor) -> Tensor:
        mean, square = (sums / counts[:, None]).unbind(1)
        return (square - mean**2).clamp(min=0) * counts / (counts - 1)

    def draw(self, target: Target | None, spread: float | Tensor = 1.0) -> Drawn:
        n, columns, n_draws = self.table.shape
        cells = []
        for column in range(columns):
            populations = [Windows((int(size),), 1) for size in self.sizes[:, column]]
            for rows, population in by_population(
                populations, listed=True, device=torch.device("cpu")
            ):
                sum_rows = functools.partial(self.sum_rows, column)
                cells.append(Cells(column, rows, population, n_draws, sum_rows))
        return sum_until_known(
            cells,
            shape=(n, columns, 2),
            target=target,
            variance=self.variance,
            spread=torch.as_tensor(spread, dtype=DTYPE).expand(n)[:, None],
        )


def random_losses(n: int, columns: int, n_draws: int) -> Tensor:
    keys = sampling.sample_keys(1, torch.arange(n * columns))
    numbers = sampling.normal(keys, n_draws, sampling.Purpose.VALUE)
    return numbers.reshape(n, columns, n_draws)


def squared_error(values: Tensor, size: int) -> float:
    """Of the mean."""
    count = len(values)
    if count == size:
        return 0.0
    variance = values.var().item() if count > 1 else math.nan
    return variance / count * (1 - (count / size if size <= 1024 else 0))


def slow_counts(losses: Tensor, sizes: list[int], target: Target, spread: float) -> list[int]:
    """Count the draws of one sample's cells by the rule, from a table (columns, draws)."""
    limits = [min(losses.shape[1], size if size <= 1024 else math.inf) for size in sizes]
    counts = [min(8, limit) for limit in limits]
    while True:
        alike = target.alike or [[cell] for cell in range(len(sizes))]
        errors = []
        for count, size, own in zip(counts, sizes, alike, strict=True):
            seen = [losses[cell, : counts[cell]] for cell in own if counts[cell] > 1]
            total = sum(len(values) * values.var().item() for values in seen) + spread**2 / 2
            smoothed = total / (sum(map(len, seen)) + 2)
            rest = 1 - (count / size if size <= 1024 else 0)
            errors.append(0.0 if count == size else smoothed / count * rest)
        further = []
        for pool in set(target.pools):
            own = [cell for cell, its in enumerate(target.pools) if its == pool]
            left, share = sum(errors[cell] for cell in own), target.tolerance**2 / len(own)
            gains = {
                cell: errors[cell] * (1 - counts[cell] / min(2 * counts[cell], limits[cell]))
                for cell in own
                if errors[cell] > share and counts[cell] < limits[cell]
            }
            for cell in sorted(gains, key=lambda cell: -gains[cell]):
                if left > target.tolerance**2:
                    further.append(cell)
                left -= gains[cell]
        if not further:
            return counts
        for cell in further:
            counts[cell] = min(2 * counts[cell], limits[cell])


SIZES = [1, 3, 8, 12, 40, 1024, 1025]
many_cells = given(
    n=st.integers(1, 5),
    pools=st.lists(st.integers(0, 1), min_size=1, max_size=5),
    n_draws=st.integers(1, 150),
    tolerance=st.floats(0.01, 2),
    spread=st.floats(0, 5),
    data=st.data(),
)


@settings(max_examples=100, deadline=None)
@many_cells
@pytest.mark.parametrize("by_others", [False, True])
def test_draws_stop_at_the_first_fixed_count_that_is_enough(
    by_others, n, pools, n_draws, tolerance, spread, data
):
    target = Target(tolerance, [0, *pools])
    if by_others and pools:
        columns = range(len(target.pools))
        others = [[other for other in columns if abs(other - own) == 1] for own in columns]
        target = target._replace(alike=others)
    columns = len(target.pools)
    cells = st.lists(st.sampled_from(SIZES), min_size=columns, max_size=columns)
    sizes = data.draw(st.lists(cells, min_size=n, max_size=n))
    # Cells of one sample, and samples, are known more or less well.
    scale = torch.arange(n)[:, None] + torch.linspace(0, 2, columns)
    table = random_losses(n, columns, n_draws) * scale[..., None]
    drawn = Loss(table, sizes).draw(target, spread)
    assert drawn.counts.tolist() == [
        slow_counts(*each, target, spread) for each in zip(table, sizes, strict=True)
    ]
    for sample, column in np.ndindex(n, columns):
        values = table[sample, column, : int(drawn.counts[sample, column])]
        torch.testing.assert_close(drawn.sums[sample, column, 0], values.sum())
        torch.testing.assert_close(drawn.sums[sample, column, 1], (values**2).sum())
        error = torch.tensor(squared_error(values, sizes[sample][column]), dtype=DTYPE)
        torch.testing.assert_close(
            drawn.squared_error[sample, column], error, equal_nan=True, rtol=1e-6, atol=1e-12
        )
    # Alone, a sample is drawn as often.
    alone = Loss(table[:1], sizes[:1]).draw(target, spread)
    assert alone.counts.tolist() == drawn.counts[:1].tolist()


@settings(max_examples=50, deadline=None)
@given(columns=st.integers(1, 20), tolerance=st.floats(0.1, 3), uneven=st.booleans())
def test_a_pool_needs_no_more_draws_than_its_cells_by_themselves(columns, tolerance, uneven):
    scale = torch.linspace(0, 2, columns) if uneven else torch.ones(columns)
    loss = Loss(random_losses(4, columns, 400) * scale[:, None])
    pooled = loss.draw(Target(tolerance, [0] * columns))
    single = loss.draw(Target(tolerance / columns**0.5, range(columns)))
    assert (pooled.counts <= single.counts).all()
    for drawn in (pooled, single):
        # Two imagined draws make the variance of 8 smaller by a fifth at most.
        known = drawn.squared_error.sum(1) <= 1.25 * tolerance**2
        assert (known | (drawn.counts == 400).any(1)).all()


def test_a_pool_spares_draws_where_its_cells_differ():
    scale = torch.tensor([0.0] * 15 + [1.0] * 4)
    loss = Loss(random_losses(50, 19, 1000) * scale[:, None])
    pooled = loss.draw(Target(0.02 * 19, [0] * 19), spread=0.5).counts.mean(0)
    single = loss.draw(Target(0.02 * 19**0.5, range(19)), spread=0.5).counts.mean(0)
    assert (pooled[:15] == 8).all()
    assert pooled[15:].mean() < 0.4 * single[15:].mean()


def test_no_target_means_all_draws_at_once():
    loss = Loss(random_losses(4, 1, 50))
    drawn = loss.draw(None)
    assert loss.asked == [(0, [0, 1, 2, 3], 0, 50)]
    assert (drawn.counts == 50).all()
    torch.testing.assert_close(drawn.sums[..., 0], loss.table.sum(2))


def test_only_open_cells_are_drawn_further():
    # One cell of the second sample is noisy, the others constant.
    scale = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    loss = Loss(random_losses(3, 2, 64) * scale[..., None])
    counts = loss.draw(Target(1e-3, [0, 0]), spread=0.0).counts
    assert counts.tolist() == [[8, 8], [64, 8], [8, 8]]
    everybody = [(0, [0, 1, 2], 0, 8), (1, [0, 1, 2], 0, 8)]
    assert loss.asked == [*everybody, *((0, [1], start, 2 * start) for start in (8, 16, 32))]


def test_equal_answers_are_not_certainty():
    loss = Loss(torch.ones(1, 1, 512))
    without = loss.draw(Target(0.02, [0]), spread=0.0).counts
    counts = loss.draw(Target(0.02, [0]), spread=1.0).counts
    # Smoothed: spread² / 2 / (N + 2) / N at most tolerance² from N = 35, so 64.
    assert (without.item(), counts.item()) == (8, 64)


def test_a_score_that_is_nan_stops():
    table = random_losses(2, 2, 64)
    table[0, 0, 3] = torch.nan
    drawn = Loss(table).draw(Target(1e-6, [0, 0]))
    assert drawn.counts.tolist() == [[8, 8], [64, 64]]
    assert drawn.sums[0, 0].isnan().all()
    assert drawn.sums[1].isfinite().all()


def test_what_others_decide_bends_no_mean():
    # Answers that are 1 in one of twenty draws: eight zeros are no reason to believe in 0.
    keys = sampling.sample_keys(2, torch.arange(300 * 19))
    table = (sampling.uniform(keys, 256, sampling.Purpose.VALUE) < 0.05).double()
    loss = Loss(table.reshape(300, 19, 256))
    beside = [[near for near in (own - 1, own + 1) if 0 <= near < 19] for own in range(19)]
    drawn, own = (
        loss.draw(Target(0.02 * 19, [0] * 19, alike), spread=1.0) for alike in (beside, None)
    )
    means, bent = (each.sums[..., 0] / each.counts for each in (drawn, own))
    error = means.mean(1).std() / 300**0.5
    assert (means.mean() - 0.05).abs() < 4 * error
    assert bent.mean() < 0.05 - 10 * error
    # And the standard errors are those of the scores, within four of their own.
    claimed, spread = drawn.squared_error.sum(1).mean() / 19**2, means.mean(1).var()
    assert (claimed / spread - 1).abs() < 4 * (2 / 299) ** 0.5
    assert spread < 0.02**2
