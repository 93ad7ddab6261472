"""QGE, slowly, from equations 4, 5 and 7 of the paper: one sample and one variable at a time."""

from __future__ import annotations

import numpy as np

from quantus_ext.engine.sampling import Purpose
from tests.harness import Predict, Reference
from tests.reference import infidelity, splitmix


def _numbers(seed: int, index: int, draw: int, count: int, purpose: Purpose) -> list[int]:
    """Random integers that never tie, because their lowest bits are the variable's position."""
    width = max(count - 1, 1).bit_length()
    key = splitmix.draw_key(seed, index, draw)
    return [
        splitmix.signed(z >> width << width | i)
        for i, z in enumerate(splitmix.bits(key, count, purpose))
    ]


Element = list[list[int]]
"""The positions of an element, each with the numbers of its values in the flat map."""


def single_values(a: np.ndarray) -> list[Element]:
    """Every value of one sample's map is an element."""
    return [[[value]] for value in range(a.size)]


def positions(a: np.ndarray) -> list[Element]:
    """Every feature of a table, else every position with the values of all its channels."""
    numbers = np.arange(a.size).reshape(a.shape)
    if a.ndim == 1:
        return [[[int(number)]] for number in numbers]
    return [[numbers[(slice(None), *where)].tolist()] for where in np.ndindex(a.shape[1:])]


def grouped(a: np.ndarray, ids: np.ndarray) -> list[Element]:
    """Positions with one id are an element; its positions go from the first to the last."""
    each = positions(a)
    flat = ids.ravel().tolist()
    return [
        [each[place][0] for place, other in enumerate(flat) if other == one]
        for one in sorted(set(flat))
    ]


def patch_ids(shape: tuple[int, ...], side: int) -> np.ndarray:
    """Number patches row by row; those at the far borders are cut."""
    ids = np.zeros(shape, dtype=int)
    for where in np.ndindex(shape):
        number = 0
        for at, length in zip(where, shape, strict=True):
            number = number * -(-length // side) + at // side
        ids[where] = number
    return ids


def score(values: list[float], element: Element) -> float:
    """Mean over an element's positions of the sum over channels."""
    return sum(sum(values[v] for v in position) for position in element) / len(element)


def moved(a: np.ndarray, pairs: list[tuple[Element, Element]]) -> np.ndarray:
    """Give each first element of a pair the values of the second, or its score, spread evenly."""
    values = a.ravel().tolist()
    made = list(values)
    for element, source in pairs:
        if len(element) == len(source):
            for position, other in zip(element, source, strict=True):
                for value, from_ in zip(position, other, strict=True):
                    made[value] = values[from_]
        else:
            for position in element:
                for value in position:
                    made[value] = score(values, source) / len(position)
    return np.array(made, dtype=a.dtype).reshape(a.shape)


def inverse(
    a: np.ndarray, index: int, *, seed: int = 0, elements: list[Element] | None = None
) -> np.ndarray:
    """Equation 4 for one sample: the most attributed variable gets what the least has, …"""
    elements = single_values(a) if elements is None else elements
    values = a.ravel().tolist()
    ties = _numbers(seed, index, 0, len(elements), Purpose.REFERENCE_TIE)
    least_first = sorted(range(len(elements)), key=lambda i: (score(values, elements[i]), ties[i]))
    ranked = [elements[i] for i in least_first]
    return moved(a, list(zip(ranked, ranked[::-1], strict=True)))


def permuted(
    a: np.ndarray,
    index: int,
    *,
    draw: int,
    seed: int = 0,
    elements: list[Element] | None = None,
) -> np.ndarray:
    """A random order of one sample's variables."""
    elements = single_values(a) if elements is None else elements
    numbers = _numbers(seed, index, draw, len(elements), Purpose.REFERENCE_ORDER)
    order = sorted(range(len(elements)), key=lambda i: numbers[i])
    return moved(a, [(elements[to], elements[i]) for to, i in enumerate(order)])


def squared_residual(
    predict: Predict, x: np.ndarray, y: np.ndarray, a: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Infidelity where the one draw replaces every element by 0.25."""
    result = []
    for sample, label, phi in zip(x, y, a, strict=True):
        masks = [np.ones(sample.shape, dtype=bool)]
        pair = infidelity.changes(predict, sample, int(label), phi, masks, baseline=0.25)
        result.append(float(np.mean((pair[0] - pair[1]) ** 2)))
    return np.array(result)


def qge(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    quality: Reference = squared_residual,
    n_random: int = 0,
) -> np.ndarray:
    """Equation 5, or 7 with ``n_random``, turned because a low quality measure is good here."""
    score = quality(predict, x, y, a, index)
    # Infidelity perturbs positions, so these are the variables.
    if n_random:
        made = [
            [
                permuted(map_, int(i), draw=draw, elements=positions(map_))
                for map_, i in zip(a, index, strict=True)
            ]
            for draw in range(n_random)
        ]
    else:
        made = [
            [
                inverse(map_, int(i), elements=positions(map_))
                for map_, i in zip(a, index, strict=True)
            ]
        ]
    compared = [quality(predict, x, y, np.stack(references), index) for references in made]
    return np.mean(compared, axis=0) - score
