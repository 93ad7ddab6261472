"""References for an explanation: its values on other variables.

QGE (Eiras-Franco et al., 2025) compares an explanation with its inverse, which ranks the variables
in reverse order. The conventional reference is a random order.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Elements
from quantus_ext.engine.elements import inverse as inverse_of
from quantus_ext.engine.sampling import Purpose

Kind = Literal["inverse", "random", "negated"]
KINDS: tuple[Kind, ...] = ("inverse", "random", "negated")


def inverse(
    a: Tensor,
    *,
    seed: int = 0,
    index: Tensor | None = None,
    among: Tensor | None = None,
    elements: Elements | None = None,
) -> Tensor:
    r"""Give the largest value to the least attributed variable, and so on (equation 4).

    With variables ranked ``π_1, …, π_t`` by increasing attribution, ``inv(a)[π_i] = a[π_{t+1-i}]``:
    the values stay, the ranking is reversed. Without ties, the inverse of the inverse is the
    original. Ties are ranked at random.

    Variables are single values; or, with ``elements``, what a metric removes at once, ranked by
    element score. All values of an element then move together, in their order, to an element of the
    same size. If two elements differ in size, each gets the other's score, spread evenly over its
    values.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions.
    seed : int, default 0
        With ``index``, determines the ranking of ties.
    index : Tensor, int64, shape (n,), optional
        Global sample indices, by default 0, …, n - 1.
    among : Tensor, bool, that broadcasts to ``a``, optional
        Which variables exchange values; the others, such as padding, keep theirs.
    elements : Elements, optional
        The variables, if not single values; values outside every element stay.

    Returns
    -------
    Tensor, shape and dtype of ``a``

    Raises
    ------
    ValueError, TypeError
        If an argument has the wrong type or shape, a value of ``a`` is not finite, or both
        ``among`` and ``elements`` are given.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional import inverse
    >>> inverse(torch.tensor([[0.25, -1.0, 4.0, 0.5]]))
    tensor([[ 0.5000,  4.0000, -1.0000,  0.2500]])

    Pairs of neighbours as elements, of which the first has the highest score:

    >>> from quantus_ext.engine.elements import elements_of
    >>> a = torch.tensor([[5.0, -1.0, 0.0, 1.0, 2.0, 1.0]])
    >>> inverse(a, elements=elements_of(a, "patch", patch_size=2))
    tensor([[ 0.,  1.,  5., -1.,  2.,  1.]])
    """
    index = _checked(a, index)
    scores, among = _variables(a, among, elements)
    # Sorting a shuffled copy stably leaves tied values in the shuffle's order.
    shuffle = _order(seed, index, 0, scores.shape[1], Purpose.REFERENCE_TIE)
    ranked = scores.gather(1, shuffle).argsort(dim=1, stable=True)
    variables = _in_front(shuffle.gather(1, ranked), among)
    place = torch.arange(scores.shape[1], device=a.device)
    last = among.sum(1, keepdim=True) - 1
    opposite = torch.where(place <= last, last - place, place)
    return _given(a, variables, variables.gather(1, opposite), scores, elements)


def permuted(
    a: Tensor,
    *,
    draw: int = 0,
    seed: int = 0,
    index: Tensor | None = None,
    among: Tensor | None = None,
    elements: Elements | None = None,
) -> Tensor:
    r"""Give each sample's values to its variables in a uniformly random order.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions.
    draw : int, default 0
        Which of the seed's random orders.
    seed, index, among, elements
        As for :func:`inverse`.

    Returns
    -------
    Tensor, shape and dtype of ``a``

    Raises
    ------
    ValueError, TypeError
        As for :func:`inverse`.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional import permuted
    >>> a = torch.arange(6.0).reshape(2, 3)
    >>> torch.equal(permuted(a).sort(1).values, a)
    True
    """
    index = _checked(a, index)
    scores, among = _variables(a, among, elements)
    order = _order(seed, index, draw, scores.shape[1], Purpose.REFERENCE_ORDER)
    place = torch.arange(scores.shape[1], device=a.device)
    variables, shuffled = _in_front(place.expand(scores.shape), among), _in_front(order, among)
    sources = torch.where(place < among.sum(1, keepdim=True), shuffled, variables)
    return _given(a, variables, sources, scores, elements)


def make_reference(
    a: Tensor,
    kind: Kind,
    *,
    draw: int = 0,
    seed: int = 0,
    index: Tensor | None = None,
    among: Tensor | None = None,
    elements: Elements | None = None,
) -> Tensor:
    r"""Return the explanations that ``a`` is compared with.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions.
    kind : {"inverse", "random", "negated"}
        :func:`inverse`; :func:`permuted`; or ``-a``, which ranks like the inverse but has other
        values.
    draw, seed, index, among, elements
        As for :func:`permuted`; ``draw`` matters for random references only.

    Returns
    -------
    Tensor, shape and dtype of ``a``

    Raises
    ------
    ValueError, TypeError
        As for :func:`inverse`, or if ``kind`` is unknown.
    """
    checks.one_of("kind", kind, KINDS)
    if kind == "random":
        return permuted(a, draw=draw, seed=seed, index=index, among=among, elements=elements)
    if kind == "inverse":
        return inverse(a, seed=seed, index=index, among=among, elements=elements)
    return -a


def _in_front(order: Tensor, among: Tensor) -> Tensor:
    """Put the variables that change values in front, in their order."""
    outside = (~among).int().gather(1, order)
    return order.gather(1, outside.argsort(dim=1, stable=True))


def _variables(a: Tensor, among: Tensor | None, elements: Elements | None) -> tuple[Tensor, Tensor]:
    """Return what variables are ranked by and which of them change values, (n, variables)."""
    if elements is None:
        every = torch.ones((), dtype=torch.bool, device=a.device)
        return a.flatten(1), (every if among is None else among).expand(a.shape).flatten(1)
    if among is not None:
        raise ValueError("among and elements are both given, pass one")
    if not a.is_floating_point():
        raise TypeError(f"a must be of a floating-point type with elements, is of {a.dtype}")
    return elements.scores(a), elements.present


def _given(
    a: Tensor, variables: Tensor, sources: Tensor, scores: Tensor, elements: Elements | None
) -> Tensor:
    """Return maps in which each of ``variables`` (n, t) has what its source has in ``a``."""
    if elements is None:
        flat = a.flatten(1)
        return (
            torch.empty_like(flat).scatter_(1, variables, flat.gather(1, sources)).reshape(a.shape)
        )
    source_of = torch.empty_like(sources).scatter_(1, variables, sources)
    # With one mask value for all channels, these move together.
    values = a.reshape(len(a), -1, prod(elements.mask_shape))
    channels = values.shape[1]
    if elements.group is None:
        return values.gather(2, _each_channel(source_of, channels)).reshape(a.shape)
    group = elements.group.expand(len(a), -1)
    # Values outside every element stay: they form one more element.
    source_of = F.pad(source_of, (0, 1), value=elements.largest)
    members = group.argsort(dim=1, stable=True)
    sizes = torch.zeros_like(source_of).scatter_add_(1, group, torch.ones_like(group))
    first = sizes.cumsum(1) - sizes
    place = inverse_of(members) - first.gather(1, group)
    source = source_of.gather(1, group)
    size, source_size = sizes.gather(1, group), sizes.gather(1, source)
    taken = members.gather(1, (first.gather(1, source) + place).clamp(max=group.shape[1] - 1))
    swapped = values.gather(2, _each_channel(taken, channels))
    score = F.pad(scores, (0, 1)).gather(1, source)
    spread = score / channels if elements.averages else score / (size * channels)
    alike = (size == source_size).unsqueeze(1)
    return torch.where(alike, swapped, spread.unsqueeze(1).to(a.dtype)).reshape(a.shape)


def _each_channel(places: Tensor, channels: int) -> Tensor:
    return places.unsqueeze(1).expand(-1, channels, -1)


def _checked(a: Tensor, index: Tensor | None) -> Tensor:
    """Return the index of each sample, once everything is as it must be.

    Another length would leave rows of the result unwritten, and NaN has no rank.
    """
    if not isinstance(a, Tensor):
        raise TypeError(f"a must be a tensor, is {type(a).__name__}")
    if a.ndim < 2:
        raise ValueError(f"a must have shape (n, *map), has {tuple(a.shape)}")
    checks.all_finite("a", a)
    if index is None:
        return torch.arange(len(a), device=a.device)
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a tensor, is {type(index).__name__}")
    if index.dtype != torch.int64:
        raise TypeError(f"index must be of int64, is of {index.dtype}")
    if index.shape != (len(a),):
        raise ValueError(
            f"index must have shape ({len(a)},), one for each sample, has {tuple(index.shape)}"
        )
    return index


def _order(seed: int, index: Tensor, draw: int, count: int, purpose: Purpose) -> Tensor:
    """Return a random order of ``count`` variables for each sample, shape (n, count)."""
    keys = sampling.draw_keys(sampling.sample_keys(seed, index), draw, draw + 1)
    return sampling.distinct(keys, count, purpose).squeeze(1).argsort(1)
