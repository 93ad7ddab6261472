"""Explanations to compare an explanation with: the same values on other variables.

QGE (Eiras-Franco et al., 2025) scores an explanation against its inverse, which ranks the
variables in the opposite order; the customary comparison is with a random order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.sampling import Purpose

Kind = Literal["inverse", "random", "negated"]
KINDS: tuple[Kind, ...] = ("inverse", "random", "negated")


def inverse(
    a: Tensor, *, seed: int = 0, index: Tensor | None = None, among: Tensor | None = None
) -> Tensor:
    r"""Give the largest value to the least attributed variable, and so on (equation 4).

    With variables ranked ``π_1, …, π_t`` by increasing attribution,
    ``inv(a)[π_i] = a[π_{t+1-i}]``: the values stay, the ranking is reversed. Without ties the
    inverse of the inverse is the original. Tied variables are ranked at random.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions; a sample's variables are all its values, those of all channels together.
    seed : int, default 0
        With ``index`` it decides how ties are ranked.
    index : Tensor, int64, shape (n,), optional
        Global sample indices, by default 0, …, n - 1.
    among : Tensor, bool, that broadcasts to ``a``, optional
        Which variables change values (not padding, say); the others keep theirs.

    Returns
    -------
    Tensor, shape and dtype of ``a``

    Raises
    ------
    ValueError, TypeError
        If an argument has another type or shape, or a value of ``a`` is not finite.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional import inverse
    >>> inverse(torch.tensor([[0.25, -1.0, 4.0, 0.5]]))
    tensor([[ 0.5000,  4.0000, -1.0000,  0.2500]])
    """
    index = _checked(a, index)
    flat, among = a.flatten(1), _among(a, among)
    # Sorting a shuffled copy stably leaves tied values in the shuffle's order.
    shuffle = _order(seed, index, 0, flat.shape[1], Purpose.REFERENCE_TIE)
    ranked = flat.gather(1, shuffle).argsort(dim=1, stable=True)
    variables = _in_front(shuffle.gather(1, ranked), among)
    place = torch.arange(flat.shape[1], device=a.device)
    last = among.sum(1, keepdim=True) - 1
    opposite = torch.where(place <= last, last - place, place)
    values = flat.gather(1, variables).gather(1, opposite)
    return torch.empty_like(flat).scatter_(1, variables, values).reshape(a.shape)


def permuted(
    a: Tensor,
    *,
    draw: int = 0,
    seed: int = 0,
    index: Tensor | None = None,
    among: Tensor | None = None,
) -> Tensor:
    r"""Give each sample's values to its variables in a uniformly random order.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions.
    draw : int, default 0
        Which of the seed's random orders.
    seed, index, among
        As for :func:`inverse`.

    Returns
    -------
    Tensor, shape and dtype of ``a``

    Raises
    ------
    ValueError, TypeError
        If an argument has another type or shape, or a value of ``a`` is not finite.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional import permuted
    >>> a = torch.arange(6.0).reshape(2, 3)
    >>> torch.equal(permuted(a).sort(1).values, a)
    True
    """
    index = _checked(a, index)
    flat, among = a.flatten(1), _among(a, among)
    order = _order(seed, index, draw, flat.shape[1], Purpose.REFERENCE_ORDER)
    place = torch.arange(flat.shape[1], device=a.device)
    variables, shuffled = _in_front(place.expand(flat.shape), among), _in_front(order, among)
    sources = torch.where(place < among.sum(1, keepdim=True), shuffled, variables)
    return torch.empty_like(flat).scatter_(1, variables, flat.gather(1, sources)).reshape(a.shape)


def make_reference(
    a: Tensor,
    kind: Kind,
    *,
    draw: int = 0,
    seed: int = 0,
    index: Tensor | None = None,
    among: Tensor | None = None,
) -> Tensor:
    r"""Return the explanations that ``a`` is compared with.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions.
    kind : {"inverse", "random", "negated"}
        :func:`inverse`; :func:`permuted`; or ``-a``, which ranks as the inverse does but does not
        keep the values.
    draw, seed, index, among
        As for :func:`permuted`; one draw of the kinds that are not random is like another.

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
        return permuted(a, draw=draw, seed=seed, index=index, among=among)
    return inverse(a, seed=seed, index=index, among=among) if kind == "inverse" else -a


def _in_front(order: Tensor, among: Tensor) -> Tensor:
    """Put the variables that change values in front, in their order."""
    outside = (~among).int().gather(1, order)
    return order.gather(1, outside.argsort(dim=1, stable=True))


def _among(a: Tensor, among: Tensor | None) -> Tensor:
    """Return which variables change values, shape (n, variables)."""
    every = torch.ones((), dtype=torch.bool, device=a.device)
    return (every if among is None else among).expand(a.shape).flatten(1)


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
