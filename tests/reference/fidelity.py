"""Fidelity, R-Fidelity and F-Fidelity, slowly, from equations 1 to 6 of Zheng et al. (2025)."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from quantus_ext.engine.sampling import Purpose
from tests.harness import Predict
from tests.reference import splitmix


def positions(
    shape: tuple[int, ...], element: str, size: int | None, segments
) -> list[list[tuple]]:
    """Return, for one sample, the list of elements, each a list of indices into the sample."""
    spatial = shape if len(shape) == 1 else shape[1:]
    channels = [()] if len(shape) == 1 else [(c,) for c in range(shape[0])]
    if element == "channel_value":
        return [[index] for index in np.ndindex(*shape)]
    groups: dict[object, list[tuple[int, ...]]] = {}
    for place in np.ndindex(*spatial):
        if element == "position":
            name: object = place
        elif element == "patch":
            name = tuple(p // size for p in place)
        else:
            name = segments[place]
        groups.setdefault(name, []).extend((*channel, *place) for channel in channels)
    return [groups[name] for name in sorted(groups)]


def element_scores(
    phi: np.ndarray, elements: list[list[tuple[int, ...]]], element: str
) -> np.ndarray:
    """Sum over channels, average over an element's positions."""
    channels = 1 if phi.ndim == 1 or element == "channel_value" else phi.shape[0]
    return np.array([sum(phi[i] for i in group) * channels / len(group) for group in elements])


def floor(share: float, count: int) -> int:
    return math.floor(Fraction(str(share)) * count)


def ceil(share: float, count: int) -> int:
    return math.ceil(Fraction(str(share)) * count)


def curves(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    sparsity: tuple[float, ...] = (0.1, 0.3, 0.5, 0.9),
    alpha: float = 1.0,
    beta: float = 1.0,
    n_samples: int = 1,
    output: str = "label",
    element: str = "position",
    patch_size: int | None = None,
    segments: np.ndarray | None = None,
    baseline: float = 0.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return Fid⁺ and Fid⁻, each of shape (n, sizes)."""

    def answers(rows: list[np.ndarray], label: int) -> np.ndarray:
        outputs = predict(np.stack(rows))
        return outputs[:, label] if output == "probability" else outputs.argmax(1) == label

    result: dict[str, list[list[float]]] = {"plus": [], "minus": []}
    for n, (sample, label, phi, i) in enumerate(zip(x, y, a, index, strict=True)):
        own = None if segments is None else segments[n]
        elements = positions(sample.shape, element, patch_size, own)
        t = len(elements)
        order = np.argsort(-element_scores(phi, elements, element))
        sample_key = splitmix.nth(splitmix.nth(seed, 0), int(i))
        differences: dict[str, list[float]] = {"plus": [], "minus": []}
        sizes: list[int] = []
        for level, share in enumerate(sparsity):
            s = floor(share, t)
            sizes.append(s)
            if s in sizes[:-1]:
                # A size that was asked for already.
                for values in differences.values():
                    values.append(values[sizes.index(s)])
                continue
            cap = max(floor(beta, t), 1)
            parts = {
                "plus": (order[:s], min(floor(alpha, s), cap)),
                "minus": (order[s:], min(ceil(alpha, t - s), cap)),
            }
            for sign, (name, (members, k)) in enumerate(parts.items()):
                cell_key = splitmix.nth(sample_key, 2 * level + sign)
                rows = []
                for gone in removals(cell_key, sorted(members), k, t, n_samples):
                    row = sample.copy()
                    for e in gone:
                        row[tuple(zip(*elements[e], strict=True))] = baseline
                    rows.append(row)
                differences[name].append(
                    float(answers([sample], label)[0] - np.mean(answers(rows, label)))
                )
        for name, values in differences.items():
            result[name].append(values)
    return {name: np.array(values) for name, values in result.items()}


def removals(key: int, members: list[int], k: int, t: int, n_samples: int) -> list[list[int]]:
    """Return what each draw removes: subsets in random order while these are at most 1,024."""
    if math.comb(len(members), k) <= 1024:
        subsets = list(itertools.combinations(members, k))
        order = splitmix.order(key, len(subsets), Purpose.MASK_ORDER)
        return [list(subsets[place]) for place in order[:n_samples]]
    drawn = []
    for draw in range(n_samples):
        order = splitmix.order(splitmix.nth(key, draw), t, Purpose.SUBSET)
        drawn.append([e for e in order if e in members][:k])
    return drawn


def mean_over_sizes(curve: np.ndarray, sparsity: tuple[float, ...], t: int) -> float:
    """Average over the sizes that sparsities come to, each once."""
    values = {floor(share, t): value for share, value in zip(sparsity, curve, strict=True)}
    return float(np.mean(list(values.values())))


def fidelity(
    predict: Predict,
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    index: np.ndarray,
    *,
    score: str = "plus",
    sparsity: tuple[float, ...] = (0.1, 0.3, 0.5, 0.9),
    element: str = "position",
    patch_size: int | None = None,
    segments: np.ndarray | None = None,
    **settings: object,
) -> np.ndarray:
    """Return one score a sample."""
    grouping = {"element": element, "patch_size": patch_size, "segments": segments}
    both = curves(predict, x, y, a, index, sparsity=sparsity, **grouping, **settings)
    plus, minus = (
        np.array(
            [
                mean_over_sizes(
                    curve,
                    sparsity,
                    len(positions(sample.shape, element, patch_size, own)),
                )
                for curve, sample, own in zip(
                    both[name], x, [None] * len(x) if segments is None else segments, strict=True
                )
            ]
        )
        for name in ("plus", "minus")
    )
    return {"plus": plus, "minus": minus, "gap": plus - minus}[score]
