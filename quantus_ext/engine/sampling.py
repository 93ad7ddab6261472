r"""Random draws without state.

A draw is a function of (seed, sample index, draw index, element index). So it needs no generator,
and it is the same for every order, batch size, chunk, split and device. The function
is SplitMix64 (Steele, Lea and Flood, 2014) written in 64-bit integer tensor operations: every
(seed, sample, draw, purpose) names a stream, and elements count along it.
"""

from __future__ import annotations

import functools
import math
import secrets
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantus_ext.engine.tables import table

# The constants of SplitMix64 as signed 64-bit integers; tensor products wrap around modulo 2**64.
_GAMMA = -0x61C8864680B583EB
_STEPS = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))
_LAST_SHIFT = 31

_NUMBERS_AT_ONCE = {"cpu": 2**16, "cuda": 2**22}
"""Random numbers that are made and compared at once: on a processor as many as its caches hold, on
a GPU enough to keep it busy."""


class Purpose(IntEnum):
    """What a random number is used for; numbers of different purposes are independent."""

    SUBSET = 1
    PATCH_SIZE = 2
    PATCH_OFFSET = 3
    VALUE = 4
    BRIDGE = 5
    TIE = 6
    MASK_SIZE = 7
    MASK_ORDER = 8
    STATE = 9
    REFERENCE_TIE = 11
    REFERENCE_ORDER = 12
    GLOBAL_STATE = 14
    EXPLAINER_STATE = 15
    SAMPLE_ORDER = 16
    PILOT = 17
    DEGRADED_PLACE = 21
    DEGRADED_VALUE = 22


def fresh_seed() -> int:
    """Return a seed from the operating system's entropy, leaving every global generator alone."""
    return secrets.randbits(62)


def other_seed(seed: int, purpose: Purpose) -> int:
    """Return a seed whose draws are independent of those of ``seed``."""
    key = sample_keys(seed, torch.zeros(1, dtype=torch.int64))
    return int(bits(key, 1, purpose)) & (2**62 - 1)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros (torch's own shift copies the sign bit)."""
    shifted = z >> bits
    shifted &= (1 << (64 - bits)) - 1
    return shifted


def _mix(z: Tensor) -> Tensor:
    """Return SplitMix64's output for each state; ``z`` is overwritten."""
    if z.device.type == "cpu":
        _mix_array(z.numpy().view(np.uint64))
        return z
    for bits, multiplier in _STEPS:
        z ^= _shift_right(z, bits)
        z *= multiplier
    z ^= _shift_right(z, _LAST_SHIFT)
    return z


def _mix_array(z: NDArray[np.uint64]) -> None:
    """Mix on a processor: several times as fast as torch, whose 64-bit products are slow."""
    shifted = np.empty_like(z)
    for bits, multiplier in _STEPS:
        z ^= np.right_shift(z, np.uint64(bits), out=shifted)
        z *= np.uint64(multiplier % 2**64)
    z ^= np.right_shift(z, np.uint64(_LAST_SHIFT), out=shifted)


def sample_keys(seed: int, index: Tensor) -> Tensor:
    """Return one 64-bit key per sample.

    Parameters
    ----------
    seed : int
        At least 0; seeds are taken modulo 2**64.
    index : Tensor, int64, shape (n,)
        Global indices of the samples.

    Returns
    -------
    Tensor, int64, shape (n,)
    """
    wrapped = seed % 2**64
    signed = wrapped - 2**64 if wrapped >= 2**63 else wrapped
    stream = _mix(torch.full_like(index, signed) + _GAMMA)
    return _mix(stream + (index + 1) * _GAMMA)


def draw_keys(keys: Tensor, start: int, stop: int) -> Tensor:
    """Return the keys of draws ``start`` to ``stop - 1`` of each sample.

    Parameters
    ----------
    keys : Tensor, int64, shape (n,)
        From :func:`sample_keys`.
    start, stop : int
        Range of draw indices.

    Returns
    -------
    Tensor, int64, shape (n, stop - start)
    """
    draws = torch.arange(start + 1, stop + 1, device=keys.device)
    return _mix(keys.unsqueeze(-1) + draws * _GAMMA)


def bits(keys: Tensor, count: int, purpose: Purpose) -> Tensor:
    """Return ``count`` random 64-bit integers per draw, shape (\\*keys.shape, count)."""
    return bits_of(torch.arange(count, device=keys.device), keys, purpose)


def state_seed(seed: int, index: Tensor, purpose: Purpose) -> int:
    """Return the seed of the global random states for a batch, below 2**32.

    Parameters
    ----------
    seed : int
    index : Tensor, int64, shape (n,)
        Global indices of the batch's samples; the first one counts.
    purpose : Purpose
        What the states are for.
    """
    return int(bits(sample_keys(seed, index[:1]), 1, purpose)) & (2**32 - 1)


def bits_of(elements: Tensor, keys: Tensor, purpose: Purpose) -> Tensor:
    """Return the random 64-bit integers of some elements (\\*keys.shape or 1, m) of each draw."""
    stream = _mix(keys ^ int(purpose))
    return _mix(stream.unsqueeze(-1) + (elements + 1) * _GAMMA)


def uniform(
    keys: Tensor, count: int, purpose: Purpose, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return ``count`` uniform numbers per draw, inside (0, 1) and symmetric around 1/2.

    The numbers lie on the midpoints of a grid that ``dtype`` represents exactly, so that neither
    0 nor 1 occurs: as far apart as numbers just above 1 are, 2**-52 in float64, 2**-23 in float32.

    Returns
    -------
    Tensor, shape (\\*keys.shape, count)
    """
    width = round(-math.log2(torch.finfo(dtype).eps))
    grid = torch.float64 if dtype == torch.float64 else torch.float32
    u = (_shift_right(bits(keys, count, purpose), 64 - width).to(grid) + 0.5) * 2.0**-width
    return u.to(dtype)


def normal(
    keys: Tensor, count: int, purpose: Purpose, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return ``count`` standard normal numbers per draw, by inverting the distribution function.

    Inversion needs one number per element, and torch computes it element by element, so a value
    does not depend on its place in a chunk. Types narrower than float32 would lose the tails, so
    their values are computed in float32 and rounded.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    numbers: Tensor = torch.special.ndtri(uniform(keys, count, purpose, wide))
    return numbers.to(dtype)


def integers(keys: Tensor, bounds: Sequence[int] | Tensor, purpose: Purpose) -> Tensor:
    """Return uniform integers in [0, bound), one for each of ``bounds``.

    Parameters
    ----------
    keys : Tensor, int64, shape (n, d)
    bounds : sequence of int, or Tensor of shape (n, d, m)
        Exclusive upper bounds, at least 1.

    Returns
    -------
    Tensor, int64, shape (n, d, m)
    """
    if not isinstance(bounds, Tensor) and len(set(bounds)) == 1:
        # A number costs no copy from the host.
        return (uniform(keys, len(bounds), purpose) * bounds[0]).long()
    limits = bounds if isinstance(bounds, Tensor) else table(bounds, keys.device)
    return (uniform(keys, limits.shape[-1], purpose) * limits).long()


def distinct(keys: Tensor, count: int, purpose: Purpose) -> Tensor:
    """Return ``count`` random integers per draw that are never equal within a draw.

    The lowest bits carry the element's index: two elements can tie in the random bits, never in
    all of them, so ranks are a permutation and subsets have exact sizes.
    """
    return _distinct_of(torch.arange(count, device=keys.device), keys, count, purpose)


def _distinct_of(elements: Tensor, keys: Tensor, count: int, purpose: Purpose) -> Tensor:
    tail = (1 << max(count - 1, 1).bit_length()) - 1
    numbers = bits_of(elements, keys, purpose)
    numbers &= ~tail
    numbers |= elements
    return numbers


def subsets(keys: Tensor, count: int, size: int | Tensor, among: Tensor | None = None) -> Tensor:
    """Return uniformly random subsets of exactly ``size`` elements.

    Parameters
    ----------
    keys : Tensor, int64, shape (n, d)
    count : int
        Elements in all.
    size : int, or Tensor of shape (n or 1, d or 1, 1)
        Elements chosen, 0 to as many as there are to choose from.
    among : Tensor, optional
        Elements to choose from, by default all: bool, shape (n, count); or their indices, int64,
        shape (n, m), where all draws choose from as many, which is faster.

    Returns
    -------
    Tensor, bool, shape (n, d, count)
    """
    if isinstance(size, int) and size == 0:
        return torch.zeros(*keys.shape, count, dtype=torch.bool, device=keys.device)
    indices = torch.arange(count, device=keys.device)
    least = None
    if among is not None and among.dtype == torch.bool:
        largest = torch.iinfo(torch.int64).max
        # What is not among them comes last; taking a maximum is faster than filling by a mask.
        least = torch.where(among, -largest - 1, largest).unsqueeze(1)
    elif among is not None:
        indices = among.unsqueeze(1)
    sizes = size if isinstance(size, int) else size.expand(*keys.shape, 1)
    most = _NUMBERS_AT_ONCE["cpu" if keys.device.type == "cpu" else "cuda"]
    at_once = max(most // max(len(keys) * indices.shape[-1], 1), 1)
    parts = []
    for first in range(0, keys.shape[1], at_once):
        draws = slice(first, first + at_once)
        ranks = _distinct_of(indices, keys[:, draws], count, Purpose.SUBSET)
        if least is not None:
            torch.maximum(ranks, least, out=ranks)
        parts.append(ranks <= _nth(ranks, sizes if isinstance(sizes, int) else sizes[:, draws]))
    chosen = torch.cat(parts, 1)
    if indices.ndim == 1:
        return chosen
    mask = torch.zeros(*keys.shape, count, dtype=torch.bool, device=keys.device)
    return mask.scatter_(2, indices.expand_as(chosen), chosen)


def _nth(ranks: Tensor, size: int | Tensor) -> Tensor:
    """Return the ``size``-th smallest rank of each draw, shape (n, d, 1)."""
    on_processor = ranks.device.type == "cpu"
    if isinstance(size, int):
        if on_processor:
            # Several times as fast as torch's kthvalue.
            partitioned = np.partition(ranks.numpy(), size - 1, axis=-1)
            return torch.from_numpy(partitioned[..., size - 1 : size])
        return ranks.kthvalue(size, dim=-1, keepdim=True).values
    ordered = (
        torch.from_numpy(np.sort(ranks.numpy(), axis=-1))
        if on_processor
        else ranks.sort(dim=-1).values
    )
    # With one more in front, the threshold of an empty subset is below every rank.
    lowest = torch.full_like(ranks[..., :1], torch.iinfo(torch.int64).min)
    return torch.cat([lowest, ordered], -1).gather(-1, size)


def windows(keys: Tensor, shape: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Return random windows of equal sides that lie wholly inside the axes.

    The side is drawn from ``sizes``, then each position that fits is equally likely.

    Parameters
    ----------
    keys : Tensor, int64, shape (n, d)
    shape : sequence of int
        Lengths of the spatial axes, from one (time) to three (depth, height, width).
    sizes : sequence of int
        Sides, each at most the shortest axis.

    Returns
    -------
    Tensor, bool, shape (n, d, \\*shape)
    """
    if len(sizes) == 1:
        fitting = [length - sizes[0] + 1 for length in shape]
        return windows_at(integers(keys, fitting, Purpose.PATCH_OFFSET), sizes[0], shape)
    choice = integers(keys, [len(sizes)], Purpose.PATCH_SIZE)
    side = table(list(sizes), keys.device)[choice]
    fits = table(list(shape), keys.device) - side + 1
    return windows_at(integers(keys, fits, Purpose.PATCH_OFFSET), side, shape)


def windows_at(start: Tensor, side: int | Tensor, shape: Sequence[int]) -> Tensor:
    """Return the windows with these first positions.

    Parameters
    ----------
    start : Tensor, int64, shape (\\*windows, axes)
    side : int, or Tensor of shape (\\*windows, 1)
    shape : sequence of int
        Lengths of the axes.

    Returns
    -------
    Tensor, bool, shape (\\*windows, \\*shape)
    """
    # Bytes are combined several times as fast as truth values.
    inside = torch.ones((), dtype=torch.int8, device=start.device)
    for axis, length in enumerate(shape):
        position = torch.arange(length, device=start.device)
        first = start[..., axis : axis + 1]
        along = ((position >= first) & (position < first + side)).view(torch.int8)
        inside = inside.unsqueeze(-1) & along.reshape(
            *along.shape[:-1], *(1 for _ in range(axis)), length
        )
    return inside.view(torch.bool)


@functools.lru_cache(4096)
def snapped_floor(value: float) -> int:
    """Round down after snapping to 1e-9, so that 0.29 of 100 is 29 and 0.55 of 100 is 55."""
    return math.floor(round(value, 9))
