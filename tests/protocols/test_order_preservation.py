"""Rank correlations against pairs counted one by one, and the strata."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from quantus_ext.protocols import order_preservation


def kendall(q: np.ndarray, t: np.ndarray) -> float:
    """τ-b by counting pairs."""
    agreement = q_pairs = t_pairs = 0
    for i, j in combinations(range(len(q)), 2):
        before, after = np.sign(q[i] - q[j]), np.sign(t[i] - t[j])
        agreement += before * after
        q_pairs += before != 0
        t_pairs += after != 0
    return agreement / (q_pairs * t_pairs) ** 0.5


def spearman(q: np.ndarray, t: np.ndarray) -> float:
    """Pearson correlation of ranks, ties sharing the mean rank."""
    ranks = [[(v < u).sum() + ((v == u).sum() - 1) / 2 for u in v] for v in (q, t)]
    return float(np.corrcoef(ranks)[0, 1])


def test_by_hand():
    # Of ten pairs one is turned round.
    result = order_preservation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4], n_strata=1)
    assert result.tau == pytest.approx((9 - 1) / 10)
    assert result.rho == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert result.tau_by_stratum == pytest.approx([result.tau])


@pytest.mark.parametrize("decimals", [1, 9], ids=["ties", "no ties"])
def test_equals_counted_pairs(decimals: int):
    generator = np.random.default_rng(5)
    q = generator.normal(size=60).round(decimals)
    t = (q + generator.normal(size=60)).round(decimals)
    result = order_preservation(q, t, n_strata=4)
    assert result.tau == pytest.approx(kendall(q, t))
    assert result.rho == pytest.approx(spearman(q, t))
    order = q.argsort(kind="stable").reshape(4, 15)
    for stratum, tau, rho in zip(order, result.tau_by_stratum, result.rho_by_stratum, strict=True):
        assert tau == pytest.approx(kendall(q[stratum], t[stratum]))
        assert rho == pytest.approx(spearman(q[stratum], t[stratum]))
    np.testing.assert_array_equal(result.edges, [*q[order[:, 0]], q.max()])


def test_strata_go_from_worst_to_best():
    q = np.arange(40.0)
    t = np.concatenate([-q[:20], q[20:]])
    result = order_preservation(q, t, n_strata=2)
    assert result.tau_by_stratum.tolist() == [-1, 1]
    assert result.edges.tolist() == [0, 20, 39]


def test_orders_do_not_depend_on_the_order_of_the_explanations():
    generator = np.random.default_rng(5)
    q, t = generator.normal(size=(2, 50))
    shuffled = generator.permutation(50)
    first, second = order_preservation(q, t), order_preservation(q[shuffled], t[shuffled])
    assert first.tau == second.tau
    np.testing.assert_array_equal(first.tau_by_stratum, second.tau_by_stratum)


@pytest.mark.filterwarnings("error")
def test_a_constant_has_no_order():
    result = order_preservation(np.arange(4), np.ones(4), n_strata=1)
    assert np.isnan([result.tau, result.rho, *result.tau_by_stratum]).all()


@pytest.mark.parametrize(
    ("q", "transformed", "n_strata", "message"),
    [
        ([1, 2], [1, 2, 3], 1, r"transformed must have q's shape \(2,\), has shape \(3,\)"),
        ([[1, 2]], [1, 2], 1, r"q must have shape \(explanations,\), has \(1, 2\)"),
        ([1, np.nan], [1, 2], 1, "q must be finite, explanation 1 has nan"),
        ([1, 2, 3], [1, 2, 3], 2, "n_strata must leave at least two .* is 2 for 3 explanations"),
        ([1, 2, 3], [1, 2, 3], 0, "n_strata must be at least 1, is 0"),
    ],
)
def test_bad_input(q, transformed, n_strata, message):
    with pytest.raises(ValueError, match=message):
        order_preservation(q, transformed, n_strata=n_strata)
