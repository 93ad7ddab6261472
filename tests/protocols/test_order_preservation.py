"""Rank correlations against pairs counted one by one, and the strata."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

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
    edges = [*np.sort(q)[::15], q.max()]
    np.testing.assert_array_equal(result.edges, edges)
    for k, (tau, rho) in enumerate(zip(result.tau_by_stratum, result.rho_by_stratum, strict=True)):
        chosen = (edges[k] <= q) & ((q < edges[k + 1]) | (k == 3))
        assert tau == pytest.approx(kendall(q[chosen], t[chosen]))
        assert rho == pytest.approx(spearman(q[chosen], t[chosen]))


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
    for quality in (q, q.round(), np.sign(q)):
        first = order_preservation(quality, t)
        second = order_preservation(quality[shuffled], t[shuffled])
        assert first.tau == pytest.approx(second.tau)
        np.testing.assert_allclose(first.tau_by_stratum, second.tau_by_stratum)


def test_equal_qualities_are_in_one_stratum():
    q, t = np.repeat([0.0, 0.0, 1.0, 2.0], 10), np.tile(np.arange(10.0), 4)
    q[t == 0] += 1e-3
    result = order_preservation(q, t, n_strata=3)
    # All 18 zeros lie from the second edge on, none between the first and it.
    assert result.edges.tolist() == [0, 0, 1, 2.001]
    expected = [np.nan, *(kendall(q[part], t[part]) for part in (q < 1, q >= 1))]
    np.testing.assert_allclose(result.tau_by_stratum, expected)


def test_tensors():
    q = torch.arange(30.0, requires_grad=True)
    assert order_preservation(q, q.detach()).tau == pytest.approx(1)


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


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e300])
def test_scale_does_not_count_and_rounding_does_not_rank(scale):
    q, transformed = np.array([0.1, 0.2, 0.3, 0.1 + 0.2]), np.array([1.0, 2.0, 3.0, 3.0])
    found = order_preservation(q * scale, transformed, n_strata=1)
    assert (found.tau, found.rho) == pytest.approx((1, 1))
    flat = order_preservation(q, scale * np.array([0.3, 0.1 + 0.2, 0.3, 0.3]), n_strata=1)
    assert np.isnan([flat.tau, flat.rho]).all()
