"""Rank agreement: examples by hand, scipy on tied scores, and what becomes of undefined ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from quantus_ext.protocols import rank_agreement

TRUTH = [0.0, 0.5, 1.0]


def test_by_hand():
    plus = [[0.5, 0.1], [0.3, 0.3], [0.1, 0.2]]
    minus = [[0.1, 0.2], [0.2, 0.1], [0.3, 0.3]]
    result = rank_agreement({"metric": (plus, minus)}, TRUTH)
    # Areas .3, .3, .15 tie two; ranks 2.5, 2.5, 1 against 1, 2, 3 give -√3/2.
    np.testing.assert_allclose(result.macro, [[-np.sqrt(3) / 2, np.sqrt(3) / 2, -1.0]])
    np.testing.assert_allclose(result.by_sparsity[0, 0], [-1, 0.5])
    np.testing.assert_allclose(result.by_sparsity[0, 1], [1, 0.5])
    np.testing.assert_allclose(result.by_sparsity[0, 2], [-1, -0.5])
    np.testing.assert_allclose(result.micro, [[-0.25, 0.75, -0.75]])
    np.testing.assert_allclose(result.spread, [[0.75, 0.25, 0.25]])


def test_equals_scipy_with_and_without_ties():
    generator = np.random.default_rng(0)
    truth = np.array([0, 0.2, 0.4, 0.6, 0.8, 1])
    for decimals in (1, 8):
        plus, minus = generator.random((2, 6, 19)).round(decimals)
        result = rank_agreement({"metric": (plus, minus)}, truth)
        for s in range(19):
            expected = [
                spearmanr(plus[:, s], truth).statistic,
                spearmanr(minus[:, s], truth).statistic,
                spearmanr(plus[:, s], minus[:, s]).statistic,
            ]
            np.testing.assert_allclose(result.by_sparsity[0, :, s], expected)


def test_areas_follow_the_sparsities():
    # At even steps the areas are .5 and .45; crowded to the left, where the second is better.
    plus = [[0.0, 0.5, 1.0], [0.5, 0.5, 0.3]]
    minus = [[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]]
    even = rank_agreement({"metric": (plus, minus)}, [0, 1])
    crowded = rank_agreement({"metric": (plus, minus)}, [0, 1], sparsity=[0.05, 0.9, 0.95])
    assert even.macro[0, 0] == -1
    assert crowded.macro[0, 0] == 1


def test_ranks_share_the_best_and_know_what_better_is():
    good = [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]
    bad = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    flat = [[1.0, 1.0]] * 3
    result = rank_agreement(
        {"a": (good, bad), "b": (good, bad), "c": (bad, good), "d": (flat, flat)}, TRUTH
    )
    assert result.mean_rank[:, 0].tolist() == [1, 1, 3, 4]
    assert result.mean_rank[:, 1].tolist() == [1, 1, 3, 4]
    # c's two signs disagree with the truth and agree with each other.
    assert result.mean_rank[:, 2].tolist() == [1, 1, 1, 4]


def test_undefined_is_nan_counted_and_shown():
    plus = [[0.0, 0.9], [0.0, 0.5], [0.0, 0.1]]
    minus = [[0.0, 0.0]] * 3
    result = rank_agreement({"metric": (plus, minus)}, TRUTH)
    assert np.isnan(result.by_sparsity[0, 0, 0])
    assert result.micro[0, 0] == -1
    assert np.isnan(result.micro[0, 1:]).all()
    assert np.isnan(result.macro[0, 1:]).all()
    assert result.undefined.tolist() == [[1, 2, 2]]
    table = result.to_markdown()
    assert "-1.00 ± 0.00 (1 undefined)" in table
    assert "undefined (2)" in table


def test_rounding_does_not_rank():
    plus = [[0.1 + 0.2], [0.3], [0.0]]
    result = rank_agreement({"metric": (plus, plus)}, TRUTH)
    assert result.by_sparsity[0, 0, 0] == pytest.approx(-np.sqrt(3) / 2)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e-10, 1e-9, 1.0, 1e30, 1e300])
def test_the_scale_of_scores_does_not_count(scale):
    truth = np.linspace(0, 1, 6)
    plus, minus = (1 - truth)[:, None] * [1.0, 0.5, 0.2], truth[:, None] * [1.0, 0.7, 0.3]
    result = rank_agreement({"metric": (plus * scale, minus * scale)}, truth)
    np.testing.assert_allclose(result.macro, [[-1, 1, -1]])
    np.testing.assert_allclose(result.micro, [[-1, 1, -1]])
    # Nor beside a thousand times larger ones, but what is beyond double precision does not rank.
    shifted = rank_agreement({"metric": ((plus + 1e3) * scale, (minus + 1e3) * scale)}, truth)
    np.testing.assert_allclose(shifted.macro, result.macro)
    same = scale * (1 + 1e-15 * plus)
    assert np.isnan(rank_agreement({"metric": (same, same)}, truth).macro).all()


def test_a_size_that_comes_twice_counts_once():
    # Columns 0 and 1 are the same size of few elements.
    generator = np.random.default_rng(0)
    plus, minus = (generator.random((6, 3))[:, [0, 0, 1, 2]] for _ in range(2))
    truth = np.arange(6.0)
    twice = rank_agreement({"m": (plus, minus)}, truth, sparsity=[0.2, 0.2, 0.4, 0.8])
    once = rank_agreement({"m": (plus[:, 1:], minus[:, 1:])}, truth, sparsity=[0.2, 0.4, 0.8])
    for name in ("macro", "by_sparsity", "micro", "spread", "undefined", "mean_rank"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(once, name))


@pytest.mark.parametrize(
    ("metrics", "truth", "message"),
    [
        ({}, TRUTH, "metrics must hold"),
        ({"m": ([[1.0]], [[1.0]])}, TRUTH, "scores of 'm' must have shape"),
        ({"m": ([[1.0]] * 3, [[1.0, 2.0]] * 3)}, TRUTH, "one shape"),
        ({"m": ([[1.0], [np.nan], [0]], [[1.0]] * 3)}, TRUTH, "level 1"),
        ({"m": ([[1.0]], [[1.0]])}, [0.0], "truth"),
    ],
)
def test_bad_input(metrics, truth, message):
    with pytest.raises(ValueError, match=message):
        rank_agreement(metrics, truth)


def test_sparsities_that_do_not_increase():
    scores = [[1.0, 2.0]] * 3
    with pytest.raises(ValueError, match="increasing"):
        rank_agreement({"m": (scores, scores)}, TRUTH, sparsity=[0.2, 0.1])
