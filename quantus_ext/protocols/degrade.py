"""Explanations degraded by a known amount, so that their true ranking is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.arrays import tensor_from
from quantus_ext.engine import sampling
from quantus_ext.engine.sampling import Purpose

Maps = TypeVar("Maps", np.ndarray, Tensor)


def degrade(
    a_batch: Maps,
    fractions: float | Sequence[float],
    seed: int = 0,
    *,
    index_batch: np.ndarray | Tensor | None = None,
    among: np.ndarray | Tensor | None = None,
) -> Maps:
    r"""Replace a fraction of each sample's values by a random permutation of those same values.

    A sample keeps the distribution of its values. A larger fraction permutes more of them,
    including those of a smaller one. Single values are counted: if positions are the elements, sum
    maps over channels first.

    Parameters
    ----------
    a_batch : array or tensor, shape (n, \*map)
        Attributions.
    fractions : float or sequence of float in [0, 1]
        Noise r: ``⌊r·values⌋`` values are permuted; 0 changes nothing, 1 permutes all.
    seed : int, default 0
        With the sample's index, determines the permutation.
    index_batch : array of int, shape (n,), optional
        Global indices of the samples, by default 0, …, n - 1.
    among : array of bool that broadcasts to ``a_batch``, optional
        Which values take part; the others, such as padding, stay and are not counted.

    Returns
    -------
    array or tensor
        Like ``a_batch``, shape (n, \*map) for one fraction, (fractions, n, \*map) for a sequence.

    Raises
    ------
    ValueError, TypeError
        If a fraction is not a number in [0, 1], or the indices do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.protocols import degrade
    >>> a = np.arange(10.0)[None]
    >>> levels = degrade(a, [0, 0.4, 1])
    >>> [int((level != a).sum()) for level in levels]
    [0, 4, 10]
    >>> bool((np.sort(levels[2]) == a).all())
    True
    """
    levels = _levels(tensor_from("a_batch", a_batch), fractions, seed, index_batch, among)
    if isinstance(a_batch, Tensor):
        return levels
    return levels.numpy()


def _levels(
    a: Tensor,
    fractions: float | Sequence[float],
    seed: int,
    index_batch: np.ndarray | Tensor | None,
    among: np.ndarray | Tensor | None,
) -> Tensor:
    if a.ndim < 2:
        raise ValueError(f"a_batch must have shape (n, *map), has {tuple(a.shape)}")
    seed = checks.fixed_seed("seed", seed)
    noises = checks.numbers("fractions", fractions)
    if not all(0 <= noise <= 1 for noise in noises):
        raise ValueError(f"fractions must be between 0 and 1, is {checks.shown(fractions)}")
    flat = a.flatten(1)
    n, count = flat.shape
    given = np.arange(n) if index_batch is None else index_batch
    index = torch.from_numpy(checks.sample_indices(given, n)).to(a.device)
    keys = sampling.sample_keys(seed, index)
    takes_part = torch.ones(a.shape, dtype=torch.bool, device=a.device)
    if among is not None:
        try:
            takes_part &= torch.as_tensor(checks.mask("among", among), device=a.device)
        except RuntimeError as error:
            raise ValueError(
                f"among must broadcast to a_batch, {tuple(a.shape)}: {error}"
            ) from error
    checks.all_finite("a_batch", a.where(takes_part, 0))
    outside = ~takes_part.flatten(1)
    totals = (~outside).sum(1).tolist()
    last = torch.iinfo(torch.int64).max
    # A larger fraction includes the positions of a smaller one.
    places = sampling.distinct(keys, count, Purpose.DEGRADED_PLACE)
    places = places.masked_fill(outside, last).argsort(1)
    lots = sampling.distinct(keys, count, Purpose.DEGRADED_VALUE)

    def level(noise: float) -> Tensor:
        counts = [sampling.snapped_floor(noise * total) for total in totals]
        moves = (
            torch.arange(count, device=a.device) < torch.tensor(counts, device=a.device)[:, None]
        )
        # Those that move, in random order; the others stay.
        drawn = lots.gather(1, places).masked_fill(~moves, last).argsort(1)
        sources = torch.where(moves, places.gather(1, drawn), places)
        return flat.scatter(1, places, flat.gather(1, sources)).reshape(a.shape)

    levels = torch.stack([level(noise) for noise in noises])
    return levels if isinstance(checks.listed(fractions), list) else levels[0]
