"""Training masks: exact counts, uniform sizes, elements equally likely, nothing shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from quantus_ext.engine import sampling
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.replacements import gaussian_noise, replace_by
from quantus_ext.finetune import MaskSampler

SHAPES = {"image": (3, 6, 7), "series": (2, 40), "table": (42,)}


def plausible(p_value: float) -> bool:
    return p_value > 1e-6


def sampler(beta: float = 0.25, **settings) -> MaskSampler:
    return MaskSampler(perturbation=replace_by(0.0), beta=beta, **settings)


def masked_elements(masked: torch.Tensor, **settings) -> torch.Tensor:
    """Masked elements of perturbed ones, (n, T), each either masked as a whole or not at all."""
    gone = (masked == 0).double()
    elements = elements_of(masked, **settings)
    if elements.mask_shape[0] == 1 and masked.ndim > 2:
        assert bool((gone == gone[:, :1]).all()), "all channels or none"
        gone = gone[:, :1]
    values = gone.flatten(1)
    if elements.group is None:
        return values
    group = elements.group.expand(len(values), -1)
    shape = (len(values), elements.largest)
    masked_values = torch.zeros(shape, dtype=torch.double).scatter_add_(1, group, values)
    sizes = torch.zeros(shape, dtype=torch.double).scatter_add_(1, group, torch.ones_like(values))
    share = masked_values / sizes
    assert bool(((share == 0) | (share == 1)).all())
    return share


@pytest.mark.parametrize(
    ("modality", "settings"),
    [
        ("image", {}),
        ("image", {"element": "channel_value"}),
        ("image", {"element": "patch", "patch_size": 2}),
        ("series", {}),
        ("series", {"element": "patch", "patch_size": 3}),
        ("table", {}),
    ],
)
def test_sizes_are_uniform_and_elements_equally_likely(modality, settings):
    n = 4000
    x = torch.ones(n, *SHAPES[modality])
    chosen = masked_elements(sampler(**settings)(x), **settings)
    t = chosen.shape[1]
    limit = int(np.floor(0.25 * t))
    sizes = np.bincount(chosen.sum(1).long().numpy())
    assert len(sizes) == limit + 1
    assert plausible(stats.chisquare(sizes).pvalue)
    # Elements of one sample exclude each other, so frequencies are, if anything, more even than
    # chi-square expects.
    assert plausible(stats.chisquare(chosen.sum(0).numpy()).pvalue)


@pytest.mark.parametrize(("beta", "t"), [(0.29, 100), (0.55, 100), (0.1, 30), (1.0, 7), (0.7, 10)])
def test_the_largest_size_is_exact(beta, t):
    sizes = (sampler(beta)(torch.ones(3000, t)) == 0).sum(1)
    # beta*t is a whole number here, which floats miss: 0.29 * 100 is 28.999999999999996.
    assert int(sizes.max()) == round(beta * t)
    assert int(sizes.min()) == 0


@pytest.mark.parametrize("fraction", [0.0, 0.29, 0.3, 0.55, 1.0])
def test_an_exact_fraction(fraction):
    masked = sampler().at(torch.ones(50, 3, 10, 10), fraction)
    assert (masked == 0).sum((1, 2, 3)).tolist() == [3 * round(100 * fraction)] * 50


def test_one_element_where_beta_allows_none():
    sizes = (sampler(0.1)(torch.ones(400, 5)) == 0).sum(1)
    assert sizes.unique().tolist() == [0, 1]


def test_masks_are_functions_of_seed_index_and_draw():
    x = torch.ones(20, 42)
    masks = sampler()
    part = torch.tensor([3, 17, 5])
    assert torch.equal(masks(x, draw=2)[part], masks(x[part], draw=2, index=part))
    for other in (masks(x, draw=3), masks(x, draw=2, index=torch.arange(1, 21)), None):
        other = sampler(seed=1)(x, draw=2) if other is None else other
        assert not torch.equal(masks(x, draw=2), other)


def test_training_never_sees_the_masks_of_the_evaluation():
    """With the seed, samples and draws of an evaluation, overlaps are as large as by chance."""
    x = torch.ones(2000, 40)
    trained = sampler(0.25).at(x, 0.25) == 0
    keys = sampling.draw_keys(sampling.sample_keys(0, torch.arange(2000)), 0, 1)
    evaluated = sampling.subsets(keys, 40, 10).squeeze(1)
    overlap = (trained & evaluated).sum().item() / 2000
    expected, spread = 2.5, np.sqrt(2.5 * 0.75 * 30 / 39 / 2000)
    assert abs(overlap - expected) < 5 * spread


def test_noise_is_drawn_for_masked_elements_alone():
    x = torch.zeros(200, 2, 30)
    noisy = MaskSampler(perturbation=gaussian_noise(0.0, 1.0), beta=0.5)
    changed = noisy(x) != 0
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert not torch.equal(noisy(x)[:, 0], noisy(x)[:, 1])
    assert torch.equal(noisy(x), noisy(x))
    assert int(changed[:, 0].sum(1).max()) == 15


def test_the_input_stays_as_it_is():
    x = torch.ones(5, 3, 4, 4)
    sampler(1.0)(x)
    assert bool((x == 1).all())


def test_segments_are_those_of_the_samples_that_are_asked_for():
    x, ids = torch.ones(400, 12), torch.arange(400 * 12).reshape(400, 12) % 7 // 2
    index = torch.arange(400).flip(0)
    masked = sampler(beta=0.5, element="segment", segments=ids)(x, 3, index)
    elements = elements_of(masked, "segment", segments=ids[index])
    gone = masked_elements(masked, element="segment", segments=ids[index])
    assert set(gone.sum(1).tolist()) == {0.0, 1.0, 2.0}
    assert elements.largest == 4
    exact = sampler(element="segment", segments=ids).at(x, 0.5, 1, index)
    gone = masked_elements(exact, element="segment", segments=ids[index])
    assert set(gone.sum(1).tolist()) == {2.0}


def test_errors():
    with pytest.raises(ValueError, match="beta must be above 0 and at most 1, is 0"):
        sampler(0.0)
    with pytest.raises(ValueError, match=r"element must be one of .*, is 'pixel'"):
        sampler(element="pixel")
    with pytest.raises(ValueError, match=r"patch_size must be between 1 and .*\(42,\).*is 50"):
        sampler(element="patch", patch_size=50)(torch.ones(2, 42))
    segments = sampler(element="segment")
    with pytest.raises(ValueError, match="pass a tuned model or a callable as fine_tune"):
        segments(torch.ones(2, 3, 4, 4))
