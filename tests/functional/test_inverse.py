"""The value swap: hand-made maps, the slow reference, ties, and random orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantus_ext.functional import inverse, make_reference, permuted
from tests.reference import qge

SHAPES = [(7,), (3, 5), (2, 4, 3)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def maps(shape: tuple[int, ...], n: int = 4, zeros: float = 0.0) -> torch.Tensor:
    generator = np.random.default_rng(3)
    values = generator.normal(size=(n, *shape))
    flat = values.reshape(n, -1)
    flat[:, : int(zeros * flat.shape[1])] = 0
    return torch.from_numpy(generator.permuted(flat, axis=1).reshape(values.shape))


def test_by_hand():
    a = torch.tensor([[4.0, 1.0, 3.0], [-2.0, 0.5, 0.0]])
    assert inverse(a).tolist() == [[1.0, 4.0, 3.0], [0.5, -2.0, 0.0]]


def test_swaps_values_and_does_not_flip_signs_or_rescale():
    a = torch.tensor([[1.0, 2.0, 10.0, 3.0]])
    assert inverse(a).tolist() == [[10.0, 3.0, 1.0, 2.0]]
    assert inverse(a).tolist() != (-a).tolist()
    assert inverse(a).tolist() != (a.max() + a.min() - a).tolist()


@shapes
def test_equals_the_slow_reference(shape):
    index = [5, 0, 1000, 1]
    for zeros in (0.0, 0.8):
        a = maps(shape, zeros=zeros)
        fast = inverse(a, seed=9, index=torch.tensor(index))
        slow = [qge.inverse(m, i, seed=9) for m, i in zip(a.numpy(), index, strict=True)]
        np.testing.assert_array_equal(fast, np.stack(slow))
        fast = permuted(a, draw=2, seed=9, index=torch.tensor(index))
        slow = [qge.permuted(m, i, draw=2, seed=9) for m, i in zip(a.numpy(), index, strict=True)]
        np.testing.assert_array_equal(fast, np.stack(slow))


@shapes
def test_the_inverse_of_the_inverse_is_the_original(shape):
    a = maps(shape)
    assert not torch.equal(inverse(a), a)
    assert torch.equal(inverse(inverse(a)), a)


@given(hnp.arrays(np.float32, (2, 6), elements=st.floats(-3, 3, width=16)))
def test_keeps_the_values_and_reverses_every_strict_order(values):
    a = torch.from_numpy(values)
    swapped = inverse(a)
    assert torch.equal(swapped.sort(1).values, a.sort(1).values)
    for i, j in itertools.permutations(range(6), 2):
        assert (swapped[:, i] >= swapped[:, j])[a[:, i] < a[:, j]].all()


def test_eighty_percent_zeros():
    a = maps((5, 20), zeros=0.8)
    swapped = inverse(a)
    assert torch.equal(swapped.flatten(1).sort(1).values, a.flatten(1).sort(1).values)
    distinct = a != 0
    for map_, its_inverse, chosen in zip(a, swapped, distinct, strict=True):
        assert chosen.sum() == 20
        # The zeros lie between the negative and the positive values, whose places change hands.
        ranked = map_[chosen].argsort()
        assert (its_inverse[chosen][ranked].diff() <= 0).all()
        assert its_inverse[chosen & (map_ < 0)].min() >= 0
        assert its_inverse[chosen & (map_ > 0)].max() <= 0


def test_ties_are_broken_by_the_seed_and_never_by_position():
    a = torch.zeros(400, 10)
    a[:, 3] = 1.0
    takers = inverse(a).argmax(1)
    assert not (takers == 3).any()
    counts = takers.bincount(minlength=10)
    # 400 draws over nine places: chi-squared with 8 degrees of freedom stays below 26 (p = .001).
    assert float(((counts[counts > 0] - 400 / 9) ** 2 / (400 / 9)).sum()) < 26
    assert (counts > 0).sum() == 9
    assert torch.equal(takers, inverse(a).argmax(1))
    assert not torch.equal(takers, inverse(a, seed=1).argmax(1))
    rows = torch.arange(100, 250)
    assert torch.equal(inverse(a[rows], index=rows), inverse(a)[rows])


def test_random_orders_are_uniform_and_differ_by_draw_and_sample():
    a = torch.arange(3.0).expand(6000, 3)
    orders = permuted(a)
    counts = np.unique(orders.numpy(), axis=0, return_counts=True)[1]
    # Six orders: chi-squared with 5 degrees of freedom stays below 20.5 (p = .001).
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5
    same = (permuted(a, draw=1) == orders).all(1).double().mean()
    assert abs(same - 1 / 6) < 0.02
    assert torch.equal(permuted(a[7:9], index=torch.tensor([7, 8])), orders[7:9])


def test_reference_kinds():
    a = maps((7,))
    assert torch.equal(make_reference(a, "inverse", seed=4), inverse(a, seed=4))
    assert torch.equal(make_reference(a, "random", draw=3), permuted(a, draw=3))
    assert torch.equal(make_reference(a, "negated"), -a)


def test_a_single_variable_and_other_number_types():
    assert inverse(torch.ones(2, 1)).tolist() == [[1.0], [1.0]]
    assert inverse(torch.tensor([[1, 2, 5]])).tolist() == [[5, 2, 1]]
    assert inverse(torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("function", [inverse, permuted])
@pytest.mark.parametrize(
    ("a", "index", "error", "message"),
    [
        (np.ones((1, 3)), None, TypeError, "a must be a tensor, is ndarray"),
        (torch.ones(3), None, ValueError, r"a must have shape \(n, \*map\), has \(3,\)"),
        (torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]), None, ValueError, "a must .* in sample 1"),
        (torch.tensor([[1.0, torch.inf]]), None, ValueError, "a must be finite"),
        (torch.ones(2, 3), [0, 1], TypeError, "index must be a tensor, is list"),
        (torch.ones(2, 3), torch.ones(2), TypeError, "index must be of int64, is of torch.float32"),
        (torch.ones(2, 3), torch.tensor([0]), ValueError, r"index .* \(2,\), .* has \(1,\)"),
        (torch.ones(1, 3), torch.tensor([0, 1]), ValueError, r"index .* \(1,\), .* has \(2,\)"),
    ],
)
def test_bad_arguments(function, a, index, error, message):
    with pytest.raises(error, match=message):
        function(a, index=index)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"kind must be one of .*, is 'opposite'"):
        make_reference(torch.ones(1, 3), "opposite")
