"""Draws, slowly: SplitMix64 as published (Steele, Lea and Flood, 2014), one Python integer at a
time, and what the docstrings of ``quantus_ext.engine.sampling`` say is made of its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import numpy as np

_WORD = 2**64


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
    return z ^ (z >> 31)


def generator(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) % _WORD
        yield mix(state)


def nth(state: int, n: int) -> int:
    return next(islice(generator(state % _WORD), n, None))


def draw_key(seed: int, sample: int, draw: int) -> int:
    return nth(nth(nth(seed, 0), sample), draw)


def bits(key: int, count: int, purpose: int) -> list[int]:
    return list(islice(generator(mix(key ^ purpose)), count))


def uniforms(key: int, count: int, purpose: int, width: int = 52) -> list[Fraction]:
    """Midpoints of 2**width cells of (0, 1)."""
    cells = (z >> (64 - width) for z in bits(key, count, purpose))
    return [Fraction(2 * cell + 1, 2 ** (width + 1)) for cell in cells]


def integers(key: int, bounds: list[int], purpose: int) -> list[int]:
    numbers = uniforms(key, len(bounds), purpose)
    return [int(u * bound) for u, bound in zip(numbers, bounds, strict=True)]


def order(key: int, count: int, purpose: int) -> list[int]:
    """Elements by their signed numbers, the lowest bits of which are the element's index."""
    width = max(count - 1, 1).bit_length()
    numbers = [z >> width << width | i for i, z in enumerate(bits(key, count, purpose))]
    return sorted(range(count), key=lambda i: signed(numbers[i]))


def subset(key: int, count: int, size: int, purpose: int) -> np.ndarray:
    """The ``size`` first elements."""
    chosen = np.zeros(count, dtype=bool)
    chosen[order(key, count, purpose)[:size]] = True
    return chosen


def window(
    key: int, shape: tuple[int, ...], sizes: list[int], size_purpose: int, offset_purpose: int
) -> np.ndarray:
    side = sizes[integers(key, [len(sizes)], size_purpose)[0]]
    starts = integers(key, [length - side + 1 for length in shape], offset_purpose)
    chosen = np.zeros(shape, dtype=bool)
    chosen[tuple(slice(start, start + side) for start in starts)] = True
    return chosen


def signed(z: int) -> int:
    return z - _WORD if z >= _WORD // 2 else z
