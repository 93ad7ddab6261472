"""Which elements a draw of Infidelity perturbs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Elements, Rows
from quantus_ext.engine.masked import Sampler
from quantus_ext.engine.populations import Population, Subsets, Windows, draws_of
from quantus_ext.engine.tables import table

Scheme = Literal["patch", "subset", "all"]


def sampler_of(
    scheme: Scheme,
    x: Tensor,
    patch_sizes: Sequence[int],
    subset_fraction: float,
    elements: Elements | None,
) -> Sampler:
    """Return the scheme's masks: one channel stands for all, tables have none."""
    checks.one_of("scheme", scheme, ("patch", "subset", "all"))
    if elements is not None:
        return _sampler_of_elements(scheme, elements, patch_sizes, subset_fraction, _ordered(x))
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    count = int(np.prod(spatial))
    if scheme == "patch" and not 1 <= min(patch_sizes) <= max(patch_sizes) <= min(spatial):
        raise ValueError(
            f"patch sizes must be between 1 and the shortest axis of {spatial}, "
            f"has {list(patch_sizes)}"
        )

    def shaped(mask: Tensor) -> Tensor:
        channel = () if x.ndim == 2 else (1,)
        return mask.reshape(*mask.shape[:2], *channel, *spatial)

    def patch(samples: Rows, draws: slice, keys: Tensor) -> Tensor:
        if x.ndim == 2:
            if len(patch_sizes) == 1:
                return sampling.subsets(keys, count, patch_sizes[0])
            sizes = table(list(patch_sizes), x.device)
            choice = sampling.integers(keys, [len(patch_sizes)], sampling.Purpose.PATCH_SIZE)
            return sampling.subsets(keys, count, sizes[choice])
        return shaped(sampling.windows(keys, spatial, patch_sizes))

    def subset(samples: Rows, draws: slice, keys: Tensor) -> Tensor:
        size = _subset_size(subset_fraction, count)
        return shaped(sampling.subsets(keys, count, size))

    def everything(samples: Rows, draws: slice, keys: Tensor) -> Tensor:
        return torch.ones((*keys.shape, *(1,) * (x.ndim - 1)), dtype=torch.bool, device=x.device)

    return {"patch": patch, "subset": subset, "all": everything}[scheme]


def _ordered(x: Tensor) -> bool:
    """Whether elements follow each other: tables have no order, texts, integer ids, have one."""
    return x.ndim > 2 or not x.is_floating_point()


def _subset_size(fraction: float, count: int) -> int:
    return max(sampling.snapped_floor(fraction * count), 1)


def populations(
    scheme: Scheme,
    x: Tensor,
    patch_sizes: Sequence[int],
    subset_fraction: float,
    elements: Elements | None,
) -> list[Population]:
    """Return the masks that each sample's draws can be; of patches, those of the smallest size."""
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    axes, ordered = [spatial] * len(x), x.ndim > 2
    if elements is not None:
        axes, ordered = [(t,) for t in elements.totals()], _ordered(x)

    def population(lengths: tuple[int, ...]) -> Population:
        count = math.prod(lengths)
        if scheme == "patch" and ordered:
            return Windows(lengths, min(*patch_sizes, *lengths))
        size = {
            "patch": min(*patch_sizes, count),
            "subset": _subset_size(subset_fraction, count),
            "all": count,
        }[scheme]
        return Subsets(count, size)

    return [population(lengths) for lengths in axes]


def listed(population: Population, keys: Tensor, elements: Elements) -> Sampler:
    """Return the masks of a population without repetition."""
    masks = draws_of(population, keys, None if elements.group is None else elements.present)
    return lambda samples, draws, _: elements.expand(masks(samples, draws), samples)


def _sampler_of_elements(
    scheme: Scheme,
    elements: Elements,
    patch_sizes: Sequence[int],
    subset_fraction: float,
    ordered: bool,
) -> Sampler:
    """Return the scheme's masks over each sample's own elements."""
    present, t = elements.present, elements.counts
    place = torch.arange(elements.largest, device=t.device)
    shares = [_subset_size(subset_fraction, n) for n in elements.totals()]
    share = table(shares, t.device)
    sides = table(list(patch_sizes), t.device)

    def choose(samples: Rows, keys: Tensor) -> Tensor:
        total = t[samples][:, None, None]
        if scheme == "all":
            return present[samples].unsqueeze(1).expand(-1, keys.shape[1], -1)
        if scheme == "subset":
            size = share[samples][:, None, None]
            return sampling.subsets(keys, elements.largest, size, present[samples])
        choice = sampling.integers(keys, [len(patch_sizes)], sampling.Purpose.PATCH_SIZE)
        side = sides[choice].minimum(total)
        if not ordered:
            return sampling.subsets(keys, elements.largest, side, present[samples])
        first = sampling.integers(keys, total - side + 1, sampling.Purpose.PATCH_OFFSET)
        return (place >= first) & (place < first + side)

    return lambda samples, draws, keys: elements.expand(choose(samples, keys), samples)
