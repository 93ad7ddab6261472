"""The one loop: every draw once, in blocks that never matter, until enough is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantus_ext.engine import draws, sampling
from quantus_ext.engine.draws import Block, sum_draws, sum_until_known
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import gaussian_noise

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


# Draws until enough is known


class Loss:
    """Losses of draws given in a table (n, draws), summed as the engine sums."""

    def __init__(self, table: Tensor) -> None:
        self.table = table.double()
        self.asked: list[tuple[list[int], int, int]] = []

    def sum_rows(self, rows: Tensor | slice, start: int, stop: int) -> Tensor:
        chosen = self.table[rows, start:stop]
        self.asked.append((torch.arange(len(self.table))[rows].tolist(), start, stop))
        return torch.stack([chosen.sum(1), (chosen**2).sum(1)], 1)

    @staticmethod
    def variance(sums: Tensor, counts: Tensor) -> Tensor:
        mean, square = (sums / counts[:, None]).unbind(1)
        return (square - mean**2).clamp(min=0) * counts / (counts - 1)

    def draw(self, tolerance: float | None, spread: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        n, n_draws = self.table.shape
        return sum_until_known(
            self.sum_rows,
            n,
            n_draws=n_draws,
            tolerance=tolerance,
            variance=self.variance,
            spread=torch.as_tensor(spread, dtype=DTYPE).expand(n),
            device=torch.device("cpu"),
        )


def random_losses(n: int, n_draws: int, scale: float = 1.0) -> Tensor:
    keys = sampling.sample_keys(1, torch.arange(n))
    return scale * sampling.normal(keys, n_draws, sampling.Purpose.VALUE)


@pytest.mark.parametrize(
    ("n_draws", "edges"),
    [
        (1, [1]),
        (7, [7]),
        (8, [8]),
        (9, [8, 9]),
        (200, [8, 16, 32, 64, 128, 200]),
        (256, [8, 16, 32, 64, 128, 256]),
    ],
)
def test_stopping_rounds(n_draws, edges):
    assert draws.stopping_rounds(n_draws) == list(zip([0, *edges], edges, strict=False))


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 12),
    n_draws=st.integers(1, 150),
    tolerance=st.floats(0.01, 2),
    spread=st.floats(0, 5),
)
def test_draws_stop_at_the_first_fixed_count_that_is_enough(n, n_draws, tolerance, spread):
    loss = Loss(random_losses(n, n_draws) * torch.arange(n)[:, None])
    sums, counts = loss.draw(tolerance, spread)
    for sample, count in enumerate(counts.int().tolist()):
        values = loss.table[sample]
        # The docstring's rule, slowly: two imagined draws `spread` apart join the real ones.
        stops = sorted({8 * 2**k for k in range(6) if 8 * 2**k < n_draws} | {n_draws})
        for stop in stops:
            variance = values[:stop].var() if stop > 1 else torch.nan
            smoothed = (stop * variance + spread**2 / 2) / (stop + 2)
            if not smoothed / stop > tolerance**2:
                break
        assert count == stop
        torch.testing.assert_close(sums[sample, 0], values[:count].sum())
        torch.testing.assert_close(sums[sample, 1], (values[:count] ** 2).sum())


def test_no_tolerance_means_all_draws_at_once():
    loss = Loss(random_losses(4, 50))
    sums, counts = loss.draw(None)
    assert loss.asked == [([0, 1, 2, 3], 0, 50)]
    assert (counts == 50).all()
    torch.testing.assert_close(sums[:, 0], loss.table.sum(1))


def test_only_open_samples_are_drawn_further():
    # The second sample is noisy, the others constant.
    scale = torch.tensor([0.0, 1.0, 0.0])
    loss = Loss(random_losses(3, 64) * scale[:, None])
    _, counts = loss.draw(1e-3, spread=0.0)
    assert counts.tolist() == [8, 64, 8]
    assert loss.asked == [([0, 1, 2], 0, 8), ([1], 8, 16), ([1], 16, 32), ([1], 32, 64)]


def test_equal_answers_are_not_certainty():
    loss = Loss(torch.ones(1, 512))
    _, without = loss.draw(0.02, spread=0.0)
    _, counts = loss.draw(0.02, spread=1.0)
    # Smoothed: spread² / 2 / (N + 2) / N at most tolerance² from N = 35, so 64.
    assert (without.item(), counts.item()) == (8, 64)


def test_a_score_that_is_nan_stops():
    table = random_losses(2, 64)
    table[0, 3] = torch.nan
    sums, counts = Loss(table).draw(1e-6)
    assert counts.tolist() == [8, 64]
    assert sums[0].isnan().all()
    assert sums[1].isfinite().all()
