"""Elements: what is removed at once, and how scores and masks of elements relate to values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.sampling import Purpose

Rows = slice | Tensor
ELEMENTS = ("position", "channel_value", "patch", "segment")


@dataclass(frozen=True)
class Elements:
    """A grouping of the values of n samples into elements.

    Attributes
    ----------
    group : Tensor, int64, shape (1 or n, V), or None
        The element of each of the mask's V values; None where each value is an element.
    counts : Tensor, int64, shape (n,)
        Elements of each sample, ``t`` in the formulas.
    largest : int
        The largest of ``counts``, T.
    mask_shape : tuple of int
        A mask's shape for one sample, with V values: the sample's own, or with one channel that
        stands for all.
    """

    group: Tensor | None
    counts: Tensor
    largest: int
    mask_shape: tuple[int, ...]

    def scores(self, a: Tensor) -> Tensor:
        """Return element scores, shape (n, T), −∞ where a sample has fewer elements.

        Parameters
        ----------
        a : Tensor, shape (n, \\*sample) or with one channel
            Attributions: summed over channels, averaged over an element's positions.

        Raises
        ------
        ValueError
            If every channel value is an element and the attributions have one channel.
        """
        if len(self.mask_shape) > 1 and self.mask_shape[0] == 1:
            a = a.sum(1, keepdim=True)
        if a.shape[1:] != self.mask_shape:
            raise ValueError(
                f"a_batch must have a value for each of {self.mask_shape} with "
                f"element='channel_value', has {tuple(a.shape[1:])}"
            )
        values = a.flatten(1).double()
        if self.group is not None:
            group = self.group.expand(len(a), -1)
            sums = values.new_zeros(len(a), self.largest).scatter_add_(1, group, values)
            sizes = torch.zeros_like(sums).scatter_add_(1, group, torch.ones_like(values))
            values = sums / sizes.clamp(min=1)
        missing = torch.arange(self.largest, device=a.device) >= self.counts[:, None]
        return values.masked_fill(missing, -torch.inf)

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
        # A stable sort of a random order leaves tied elements in random order.
        shuffled = sampling.distinct(keys, self.largest, Purpose.TIE).argsort(1)
        by_score = scores.gather(1, shuffled).sort(stable=True, dim=1, descending=True).indices
        order = shuffled.gather(1, by_score)
        return order.argsort(1)

    def totals(self) -> list[int]:
        """Return ``counts`` on the host; only groupings that differ are read from the device."""
        if self.group is None or len(self.group) == 1:
            return [self.largest] * len(self.counts)
        return [int(count) for count in self.counts.tolist()]

    def expand(self, chosen: Tensor, samples: Rows) -> Tensor:
        """Return the values' mask, shape (b, d, \\*mask_shape), of chosen elements (b, d, T)."""
        if self.group is not None:
            group = self.group if len(self.group) == 1 else self.group[samples]
            chosen = chosen.gather(2, group.unsqueeze(1).expand(*chosen.shape[:2], -1))
        return chosen.reshape(*chosen.shape[:2], *self.mask_shape)

    def take(self, rows: Rows) -> Elements:
        """Return the elements of some of the samples."""
        shared = self.group is None or len(self.group) == 1
        group = self.group if shared or self.group is None else self.group[rows]
        return Elements(group, self.counts[rows], self.largest, self.mask_shape)


def elements_of(
    x: Tensor,
    element: str = "position",
    *,
    patch_size: int | None = None,
    segments: Tensor | None = None,
) -> Elements:
    """Group the values of samples into elements.

    Parameters
    ----------
    x : Tensor, shape (n, F), (n, C, T) or (n, C, H, W)
    element : {"position", "channel_value", "patch", "segment"}
        A position over all channels (a pixel, a time step; a feature of a table); every channel
        value by itself; a k-sided patch (a window in time); or what ``segments`` says.
    patch_size : int, optional
        k, for ``"patch"``. At the far borders patches are cut off.
    segments : Tensor of int, shape (n, \\*spatial), optional
        Segment ids of each position, any integers, for ``"segment"``.

    Raises
    ------
    ValueError
        If ``element`` is unknown or what it needs is missing or does not fit.
    """
    if element not in ELEMENTS:
        raise ValueError(f"element must be one of {ELEMENTS}, is {element!r}")
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    shape = spatial if x.ndim == 2 else (1, *spatial)
    if element == "channel_value":
        shape = tuple(x.shape[1:])
    if element in ("position", "channel_value"):
        return Elements(None, _full(x, prod(shape)), prod(shape), shape)
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
        largest = prod(-(-length // patch_size) for length in spatial)
        return Elements(group.reshape(1, -1), _full(x, largest), largest, shape)
    if segments is None or tuple(segments.shape) != (len(x), *spatial):
        found = None if segments is None else tuple(segments.shape)
        raise ValueError(
            f"s_batch must hold segment ids of shape {(len(x), *spatial)} with "
            f"element='segment', has {found}"
        )
    groups, counts = zip(*(_dense(row) for row in segments.flatten(1).to(x.device)), strict=True)
    return Elements(torch.stack(groups), torch.tensor(counts, device=x.device), max(counts), shape)


def _full(x: Tensor, count: int) -> Tensor:
    return torch.full((len(x),), count, dtype=torch.long, device=x.device)


def _dense(ids: Tensor) -> tuple[Tensor, int]:
    unique, group = ids.unique(return_inverse=True)
    return group, len(unique)
