"""A model asked about changed samples: every draw once, every state once, blocks never matter."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantus_ext.engine import masked, sampling
from quantus_ext.engine.answers import answers_of
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.masked import Block, MaskedModel
from quantus_ext.engine.perturb import changeable
from quantus_ext.engine.regions import Region
from quantus_ext.engine.replacements import blur, gaussian_noise, replace_by

DTYPE = torch.float64
EVERY = slice(None)


def sampler(samples: Any, draws: slice, keys: Tensor) -> Tensor:
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
    keys = sampling.sample_keys(0, torch.arange(n))
    asking = MaskedModel(
        forward,
        x,
        torch.zeros(n, dtype=torch.long),
        keys=keys,
        perturbation=gaussian_noise(std=0.5),
        clean=x[:, :2] ** 2,
    )
    sums, asked = asking.sum_draws(
        EVERY, keys, sampler, statistic, start, stop, needs_perturbed=True
    )
    assert asked.tolist() == [stop - start] * n
    return sums


def moments(block: Block) -> Tensor:
    return torch.cat([block.answers, block.answers**2, block.mask.double()], 2).sum(1)


@settings(deadline=None)
@given(n=st.integers(1, 12), n_draws=st.integers(1, 100), chunk_size=st.integers(1, 60))
def test_blocks_cover_every_draw_once_and_fit_a_chunk(n, n_draws, chunk_size):
    covered = np.zeros((n, n_draws), dtype=int)
    blocks = 0
    for first_row, last_row, draw_ranges in masked._blocks(n, n_draws, chunk_size):
        samples = slice(first_row, last_row)
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
        assert block.perturbed is not None
        expected = answers_of(block.perturbed[..., :2] ** 2, torch.zeros(()).long())
        assert torch.equal(block.answers, expected)
        x = torch.arange(30, dtype=DTYPE).reshape(5, 6).sin()[block.samples]
        assert torch.equal(block.mask, block.perturbed != x[:, None])
        return block.answers.sum(1)

    summed(5, 0, 13, 8, check)


# Draws that change nothing


def asked_of(
    x: Tensor, value: float, clean: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Replace pairs of elements by a value; return sums of outputs 1, and the rows asked for."""
    seen: list[Tensor] = []

    def predict(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows.flatten(1)[:, :3] ** 2

    forward = Forward(predict, chunk_size=7)
    forward.settle(x)
    seen.clear()
    count = math.prod(shape)
    keys = sampling.sample_keys(0, torch.arange(len(x)))
    asking = MaskedModel(
        forward,
        x,
        torch.ones(len(x), dtype=torch.long),
        keys=keys,
        perturbation=replace_by(value),
        clean=clean,
    )
    sums, asked = asking.sum_draws(
        EVERY,
        keys,
        lambda samples, draws, keys: sampling.subsets(keys, count, 2).unflatten(2, shape),
        lambda block: block.answers[..., 0].sum(1),
        0,
        20,
    )
    assert asked.sum() == sum(map(len, seen))
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
    assert torch.equal(sums, (perturbed.flatten(2)[..., 1] ** 2).sum(1))
    unchanged = (perturbed == x.unsqueeze(1)).flatten(2).all(2)
    assert unchanged[0].all()
    assert not unchanged[1].any()
    assert torch.equal(rows, perturbed[~unchanged])
    # What is not asked for is taken from the clean outputs.
    other = asked_of(x, 0.0, torch.full((6, 3), 100, dtype=DTYPE), mask)[0] - sums
    assert torch.equal(other, 100 * unchanged.sum(1) - x.flatten(1)[:, 1] ** 2 * unchanged.sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_clean_outputs_of_another_type(dtype):
    x = torch.zeros(4, 8, dtype=DTYPE)
    x[:, ::3] = 1
    sums, rows = asked_of(x, 0.0, x[:, :3].to(dtype) ** 2, (8,))
    assert 0 < len(rows) < 80
    assert torch.equal(sums, asked_of(x, 0.0, x[:, :3] ** 2, (8,))[0])


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


# States of a ranking


def asked_without(
    x: Tensor, ranks: Tensor, regions: list[Region], value: float, **elements: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove regions; return outputs, rows a sample rests on, and the rows sent."""
    seen: list[Tensor] = []

    def predict(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows.flatten(1).cumsum(1)[:, -3:]

    forward = Forward(predict, chunk_size=7)
    forward.settle(x)
    seen.clear()
    asking = MaskedModel(
        forward,
        x,
        torch.full((len(x),), 2),
        keys=sampling.sample_keys(0, torch.arange(len(x))),
        perturbation=replace_by(value),
        clean=x.flatten(1).cumsum(1)[:, -3:],
    )
    answers, asked = asking.without(ranks, regions, elements_of(x, **elements))
    sent = torch.cat([x[:0], *seen])
    again, _ = asking.without(ranks, regions, elements_of(x, **elements))
    assert torch.equal(again, answers)
    # The second time everything is known.
    assert sum(map(len, seen)) == len(sent)
    return answers[..., 0], torch.stack([each.count() for each in asked]), sent


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(9,), (2, 6), (3, 4, 4)]),
    element=st.sampled_from(["position", "channel_value", "patch"]),
    bounds=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    m=st.integers(1, 3),
    zeros=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_different_state_is_asked_about_once(shape, element, bounds, m, zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2 if zeros else 99, (3, *shape), generator=generator).to(DTYPE)
    settings_ = {"element": element} | ({"patch_size": 2} if element == "patch" else {})
    elements = elements_of(x, **settings_)
    t = elements.largest
    ranks = torch.rand(m, 3, t, generator=generator).argsort(2)
    clipped = [(min(first, t), min(max(first, past), t)) for first, past in bounds]
    regions = [Region.of([(first, past, past - first)] * 3) for first, past in clipped]
    answers, asked, sent = asked_without(x, ranks, regions, 0.0, **settings_)
    rows = [[set() for _ in x] for _ in ranks]
    for (number, own), (place, (first, past)) in itertools.product(
        enumerate(ranks), enumerate(clipped)
    ):
        gone = elements.expand(((own >= first) & (own < past)).unsqueeze(1), EVERY)
        state = torch.where(gone.squeeze(1), 0.0, x)
        assert torch.equal(answers[number, :, place], state.flatten(1).sum(1))
        for sample, row in enumerate(state):
            if not torch.equal(row, x[sample]):
                rows[number][sample].add(row.numpy().tobytes())
    assert asked.tolist() == [[len(own) for own in each] for each in rows]
    assert len(sent) == sum(len(set.union(*own)) for own in zip(*rows, strict=True))


def test_sums_of_codes_tell_sets_apart():
    # All 2 ** 12 sets of 12 elements, by the ranges of all their orders that a ranking can have.
    x = torch.ones(1, 12, dtype=DTYPE)
    codes = MaskedModel(
        Forward(lambda rows: rows),
        x,
        torch.zeros(1, dtype=torch.long),
        keys=torch.zeros(1, dtype=torch.long),
        perturbation=replace_by(0.0),
    )._codes(elements_of(x))[0]
    chosen = (torch.arange(2**12)[:, None] >> torch.arange(12)) & 1
    assert len((chosen * codes).sum(1).unique()) == 2**12


def test_inverse_rankings_share_their_states():
    x = torch.rand(4, 10, dtype=DTYPE) + 1
    ranks = torch.rand(1, 4, 10).argsort(2)
    regions = [Region.of([(0, count, count)] * 4) for count in range(11)]
    tails = [Region.of([(10 - count, 10, count)] * 4) for count in range(11)]
    forward, sent = Forward(lambda rows: rows.cumsum(1)), []
    asking = MaskedModel(
        forward,
        x,
        torch.full((4,), 9),
        keys=torch.zeros(4, dtype=torch.long),
        perturbation=replace_by(0.0),
    )
    before = forward.n_evaluations
    first = asking.without(ranks, regions, elements_of(x))[0]
    sent.append(forward.n_evaluations - before)
    second = asking.without(9 - ranks, tails, elements_of(x))[0]
    sent.append(forward.n_evaluations - before)
    assert torch.equal(first, second)
    assert sent == [40, 40]
