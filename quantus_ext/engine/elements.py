"""Elements, the units of removal: their scores, ranks and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.sampling import Purpose
from quantus_ext.engine.tables import table

Rows = slice | Tensor
ELEMENTS = ("position", "channel_value", "patch", "segment")


@dataclass(frozen=True)
class Elements:
    """A grouping of the values of n samples into elements.

    Attributes
    ----------
    group : Tensor, int64, shape (1 or n, V), or None
        The element of each of the mask's V values, or T for a value that belongs to none; None if
        each value is an element.
    counts : Tensor, int64, shape (n,)
        The number of elements of each sample, ``t`` in the formulas.
    largest : int
        The largest of ``counts``, T.
    mask_shape : tuple of int
        The shape of one sample's mask, with V values: that of the sample, or with one channel for
        all channels.
    averages : bool
        Whether an element's score is the mean over its positions, as for patches and segments, or
        their sum, as for columns that encode one variable.
    """

    group: Tensor | None
    counts: Tensor
    largest: int
    mask_shape: tuple[int, ...]
    averages: bool = True

    @property
    def present(self) -> Tensor:
        """Which elements each sample has, bool, shape (n, T)."""
        return torch.arange(self.largest, device=self.counts.device) < self.counts[:, None]

    def scores(self, a: Tensor) -> Tensor:
        """Return element scores, shape (n, T), −∞ where a sample has fewer elements.

        Parameters
        ----------
        a : Tensor, shape (n, \\*sample) or with one channel
            Attributions: summed over channels, and averaged or summed over an element's positions.

        Raises
        ------
        ValueError
            If every channel value is an element and the attributions have one channel.
        """
        a = a.double()
        if len(self.mask_shape) > 1 and self.mask_shape[0] == 1:
            a = a.sum(1, keepdim=True)
        if a.shape[1:] != self.mask_shape:
            raise ValueError(
                f"a_batch must have a value for each of {self.mask_shape} with "
                f"element='channel_value', has {tuple(a.shape[1:])}"
            )
        values = a.flatten(1)
        if self.group is not None:
            group = self.group.expand(len(a), -1)
            # One more for values outside every element.
            sums = values.new_zeros(len(a), self.largest + 1).scatter_add_(1, group, values)
            if self.averages:
                sizes = torch.zeros_like(sums).scatter_add_(1, group, torch.ones_like(values))
                sums = sums / sizes.clamp(min=1)
            values = sums[:, :-1]
        return values.masked_fill(~self.present, -torch.inf)

    def spread(self, scores: Tensor) -> Tensor:
        """Return maps (n, \\*mask_shape) with these element sums (n, T), 0 outside of elements."""
        if self.group is None:
            return scores.reshape(-1, *self.mask_shape)
        group = self.group.expand(len(scores), -1)
        ones = torch.ones_like(group, dtype=scores.dtype)
        sizes = scores.new_zeros(len(scores), self.largest + 1).scatter_add_(1, group, ones)
        values = F.pad(scores, (0, 1)) / sizes.clamp(min=1)
        return values.gather(1, group).reshape(-1, *self.mask_shape)

    def ranks(self, a: Tensor, keys: Tensor) -> Tensor:
        """Return ranks, 0 for the most relevant element, ties broken at random but seeded.

        Parameters
        ----------
        a : Tensor
            Attributions, see :meth:`scores`.
        keys : Tensor, int64, shape (n,)
            From :func:`quantus_ext.engine.sampling.sample_keys`.

        Returns
        -------
        Tensor, int64, shape (n, T)
        """
        scores = self.scores(a)
        on_processor = scores.device.type == "cpu"
        return inverse((_order_on_processor if on_processor else _order)(scores, keys))

    def totals(self) -> list[int]:
        """Return ``counts`` on the host; only groupings that differ are read from the device."""
        if self.group is None or len(self.group) == 1:
            return [self.largest] * len(self.counts)
        return [int(count) for count in self.counts.tolist()]

    def expand(self, chosen: Tensor, samples: Rows) -> Tensor:
        """Return the values' mask, shape (b, d, \\*mask_shape), of chosen elements (b, d, T)."""
        if self.group is not None:
            group = self.group if len(self.group) == 1 else self.group[samples]
            chosen = F.pad(chosen, (0, 1))
            chosen = chosen.gather(2, group.unsqueeze(1).expand(*chosen.shape[:2], -1))
        return chosen.reshape(*chosen.shape[:2], *self.mask_shape)

    def take(self, rows: Rows) -> Elements:
        """Return the elements of some of the samples."""
        shared = self.group is None or len(self.group) == 1
        group = self.group if shared or self.group is None else self.group[rows]
        return replace(self, group=group, counts=self.counts[rows])


def inverse(permutations: Tensor) -> Tensor:
    """Return the inverse of each row: ranks from an order, and an order from ranks."""
    places = torch.arange(permutations.shape[1], device=permutations.device)
    return torch.empty_like(permutations).scatter_(1, permutations, places.expand_as(permutations))


def _order(scores: Tensor, keys: Tensor) -> Tensor:
    """Return the elements from the highest score down, tied ones in random order."""
    # A stable sort of a random order leaves tied elements in random order.
    shuffled = sampling.distinct(keys, scores.shape[1], Purpose.TIE).argsort(1)
    by_score = scores.gather(1, shuffled).sort(stable=True, dim=1, descending=True).indices
    return shuffled.gather(1, by_score)


def _order_on_processor(scores: Tensor, keys: Tensor) -> Tensor:
    """Do as :func:`_order` by numpy's sort, which is several times as fast as torch's."""
    values = -scores.numpy()
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    begins = np.ones(order.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    tied = np.flatnonzero(~begins.all(1))
    if len(tied):
        # One key: first the run of equal scores, then a random number.
        width = np.uint64(order.shape[1].bit_length())
        run = begins[tied].cumsum(1, dtype=np.uint64)
        elements = order[tied]
        numbers = sampling.bits_of(torch.from_numpy(elements), keys[tied], Purpose.TIE).numpy()
        # Map signed integers to unsigned ones in the same order.
        numbers = numbers.view(np.uint64) ^ np.uint64(2**63)
        at_random = np.argsort(run << (np.uint64(64) - width) | numbers >> width, axis=1)
        order[tied] = np.take_along_axis(elements, at_random, axis=1)
    return torch.from_numpy(order)


def elements_of(
    x: Tensor,
    element: str = "position",
    *,
    patch_size: int | None = None,
    segments: Tensor | None = None,
    features: Tensor | None = None,
) -> Elements:
    """Group the values of samples into elements.

    Parameters
    ----------
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
    element : {"position", "channel_value", "patch", "segment"}
        A position over all channels (a pixel, a time step, a feature of a table); each channel
        value by itself; a patch of side k (a window in time); or a segment.
    patch_size : int, optional
        k, for ``"patch"``. Patches at the far borders are smaller if k does not divide the axis.
    segments : Tensor of int, shape (n, \\*spatial), optional
        The segment id of each position, any integer, for ``"segment"``.
    features : Tensor of int, shape (n or 1, \\*spatial), optional
        The ids that an adapter's ``feature_mask`` returns. For ``"position"``, positions with equal
        ids are one element. Positions with a negative id belong to no element, for any ``element``.

    Raises
    ------
    ValueError
        If ``element`` is unknown, the argument that it needs is missing or has another shape, or a
        sample has no element.
    """
    if element not in ELEMENTS:
        raise ValueError(f"element must be one of {ELEMENTS}, is {element!r}")
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    shape = spatial if x.ndim == 2 else (1, *spatial)
    if element == "channel_value":
        shape = tuple(x.shape[1:])
    if element in ("position", "channel_value"):
        if features is None:
            return Elements(None, _full(x, prod(shape)), prod(shape), shape)
        if element == "position":
            return _grouped(features, x, shape, features, averages=False)
        each = torch.arange(prod(shape), device=x.device).reshape(1, *shape)
        return _grouped(each, x, shape, features if x.ndim == 2 else features.unsqueeze(1))
    if element == "patch":
        if patch_size is None or not 1 <= patch_size <= min(spatial):
            raise ValueError(
                f"patch_size must be between 1 and the shortest axis of {spatial} with "
                f"element='patch', is {patch_size}"
            )
        group = torch.zeros((), dtype=torch.long, device=x.device)
        for length in spatial:
            along = torch.arange(length, device=x.device) // patch_size
            group = group.unsqueeze(-1) * -(-length // patch_size) + along
        if features is not None:
            return _grouped(group.unsqueeze(0), x, shape, features)
        largest = prod(-(-length // patch_size) for length in spatial)
        return Elements(group.reshape(1, -1), _full(x, largest), largest, shape)
    if segments is None or tuple(segments.shape) != (len(x), *spatial):
        found = None if segments is None else tuple(segments.shape)
        raise ValueError(
            f"s_batch must hold segment ids of shape {(len(x), *spatial)} with "
            f"element='segment', has {found}"
        )
    segments = segments.to(x.device)
    return _grouped(
        segments, x, shape, torch.zeros_like(segments) if features is None else features
    )


def over_positions(
    a: Tensor,
    x: Tensor,
    element: str,
    *,
    patch_size: int | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """Return maps with one value per element as maps with that value at each of its positions.

    Other maps are returned unchanged; a later check names what is wrong with them.

    Parameters
    ----------
    a : Tensor, shape (n, \\*patches), (n, 1, \\*patches) or (n, elements)
        Values of the patches along each axis; or values of elements, in the order of patches, or
        of segments with the ids 0, 1, …
    x : Tensor, shape (n, \\*sample)
        The explained inputs.
    element, patch_size, segments
        See :func:`elements_of`.

    Returns
    -------
    Tensor, shape (n, F) or (n, 1, \\*spatial)

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.elements import over_positions
    >>> over_positions(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 3), "patch", patch_size=2)
    tensor([[1., 1., 2.]])
    """
    channel = () if x.ndim == 2 else (1,)
    spatial = tuple(x.shape[len(channel) + 1 :])
    own = tuple(a.shape[1:])
    if a.shape[:1] != x.shape[:1] or own in (spatial, (1, *spatial), tuple(x.shape[1:])):
        return a
    if element == "patch" and patch_size is not None:
        grid = tuple(-(-length // patch_size) for length in spatial)
        if own in (grid, (*channel, *grid), (prod(grid),)):
            a = a.reshape(len(a), *channel, *grid)
            for axis, length in enumerate(spatial, start=len(channel) + 1):
                a = a.repeat_interleave(patch_size, axis).narrow(axis, 0, length)
            return a
    if element == "segment" and segments is not None and a.ndim == 2:
        ids = segments.to(a.device).long()
        if tuple(ids.shape) == (len(x), *spatial) and ids.min() >= 0 and ids.max() < a.shape[1]:
            return a.gather(1, ids.flatten(1)).reshape(len(a), *channel, *spatial)
    return a


def _full(x: Tensor, count: int) -> Tensor:
    return torch.full((len(x),), count, dtype=torch.long, device=x.device)


def _grouped(
    ids: Tensor, x: Tensor, shape: tuple[int, ...], features: Tensor, *, averages: bool = True
) -> Elements:
    """Make elements of the positions with equal ids, without those whose feature is negative."""
    ids, features = torch.broadcast_tensors(ids, features)
    rows = zip(ids.flatten(1), (features >= 0).flatten(1), strict=True)
    groups, counts = zip(*(_dense(*row) for row in rows), strict=True)
    if min(counts) == 0:
        raise ValueError(
            f"sample {counts.index(0)} has no element that could be removed, but padding or "
            "special tokens only"
        )
    largest = max(counts)
    group = torch.stack([each.where(each >= 0, largest) for each in groups])
    known = table(counts, x.device).expand(len(x))
    return Elements(group, known, largest, shape, averages)


def _dense(ids: Tensor, inside: Tensor) -> tuple[Tensor, int]:
    """Return the ids of the positions inside renumbered from 0, -1 elsewhere; and how many."""
    unique, group = ids[inside].unique(return_inverse=True)
    return torch.full_like(ids, -1).masked_scatter(inside, group), len(unique)
