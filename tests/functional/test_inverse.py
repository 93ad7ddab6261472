"""The value swap: hand-made maps, the slow reference, ties, and random orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantus_ext.engine.elements import Elements, elements_of
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


IMAGES = (2, 3, 7, 8)


def segment_ids(n: int = 2) -> np.ndarray:
    """Of four sizes, with gaps between the numbers, other ones for each sample."""
    ids = np.random.default_rng(1).choice([-4, 0, 3, 90], (n, 7, 8), p=[0.1, 0.2, 0.3, 0.4])
    return ids * (1 + np.arange(n))[:, None, None]


def grouping(kind: str) -> tuple[Elements, list[list[qge.Element]]]:
    """Return the elements of IMAGES for the package, and for the slow reference."""
    x, ids = torch.zeros(IMAGES), segment_ids()
    one = np.zeros(IMAGES[1:])
    slow = {
        "position": [qge.positions(one)] * 2,
        "channel_value": [qge.single_values(one)] * 2,
        "patch": [qge.grouped(one, qge.patch_ids((7, 8), 3))] * 2,
        "segment": [qge.grouped(one, each) for each in ids],
    }
    side = 3 if kind == "patch" else None
    return elements_of(x, kind, patch_size=side, segments=torch.from_numpy(ids)), slow[kind]


kinds = pytest.mark.parametrize("kind", ["position", "channel_value", "patch", "segment"])


@kinds
@pytest.mark.parametrize("channels", [1, 3])
def test_elements_equal_the_slow_reference(kind: str, channels: int):
    fast_elements, slow_elements = grouping(kind)
    if channels == 1:
        if kind == "channel_value":
            with pytest.raises(ValueError, match="must have a value for each of"):
                inverse(maps((1, 7, 8), 2), elements=fast_elements)
            return
        # A map of one channel: the first values of each position.
        slow_elements = [[[p[:1] for p in e] for e in each] for each in slow_elements]
    a, index = maps((channels, 7, 8), 2), [5, 1000]
    made = inverse(a, seed=9, index=torch.tensor(index), elements=fast_elements)
    for map_, own, i, elements in zip(a.numpy(), made.numpy(), index, slow_elements, strict=True):
        np.testing.assert_allclose(
            own, qge.inverse(map_, i, seed=9, elements=elements), rtol=1e-12, atol=1e-15
        )
    made = permuted(a, draw=2, seed=9, index=torch.tensor(index), elements=fast_elements)
    for map_, own, i, elements in zip(a.numpy(), made.numpy(), index, slow_elements, strict=True):
        slow = qge.permuted(map_, i, draw=2, seed=9, elements=elements)
        np.testing.assert_allclose(own, slow, rtol=1e-12, atol=1e-15)


@kinds
def test_the_order_of_elements_is_exactly_turned_round(kind: str):
    a, elements = maps(IMAGES[1:], 2), grouping(kind)[0]
    keys = torch.arange(2)
    made = inverse(a, elements=elements)
    last = elements.counts[:, None] - 1
    present = elements.present
    turned = (last - elements.ranks(made, keys))[present]
    assert torch.equal(elements.ranks(a, keys)[present], turned)
    torch.testing.assert_close(
        elements.scores(made).sort(1).values, elements.scores(a).sort(1).values
    )
    again = inverse(made, elements=elements)
    torch.testing.assert_close(elements.scores(again), elements.scores(a))
    if kind in ("position", "channel_value"):
        assert torch.equal(made.flatten(1).sort(1).values, a.flatten(1).sort(1).values)
        assert torch.equal(again, a)


def test_equal_patches_keep_their_values_and_cut_ones_their_sums():
    # Two patches of two and a cut one of one, which is second: nothing but places changes.
    a = torch.tensor([[1.0, 3.0, -5.0, 5.0, 1.5]])
    elements = elements_of(a, "patch", patch_size=2)
    assert inverse(a, elements=elements).tolist() == [[-5.0, 5.0, 1.0, 3.0, 1.5]]
    # The cut one is first and changes with (−5, 5), whose mean is 0.
    a[0, 4] = 9.0
    assert inverse(a, elements=elements).tolist() == [[1.0, 3.0, 9.0, 9.0, 0.0]]


def test_what_is_in_no_element_stays():
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    features = torch.tensor([[1, -1, 0, 0, -1]])
    elements = elements_of(a, features=features)
    # Columns that are one feature count by their sum, 7 over one column and 1 over two.
    assert inverse(a, elements=elements).tolist() == [[7.0, 2.0, 0.5, 0.5, 5.0]]


def test_tied_elements_are_ranked_by_the_seed():
    a = torch.zeros(200, 3, 2, 2)
    a[:, 0], a[:, 1] = 1.0, -1.0  # every position sums to 0
    a[:, 2, 0, 0] = 1.0
    elements = elements_of(a)
    takers = inverse(a, elements=elements)[:, 2].flatten(1).argmax(1)
    assert sorted(takers.unique().tolist()) == [1, 2, 3]
    assert takers.bincount().max() < 100


def test_elements_and_among_exclude_each_other():
    a = torch.ones(1, 4)
    with pytest.raises(ValueError, match="among and elements are both given"):
        inverse(a, elements=elements_of(a), among=torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="a must be of a floating-point type with elements"):
        permuted(a.long(), elements=elements_of(a))


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"kind must be one of .*, is 'opposite'"):
        make_reference(torch.ones(1, 3), "opposite")
