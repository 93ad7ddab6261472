"""Replacements of elements: baselines, background rows, shifted and blurred copies, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext import checks
from quantus_ext.arrays import array_of, numbers_of
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Rows
from quantus_ext.engine.padding import PaddingPreserving
from quantus_ext.engine.perturb import Baseline, Native, Perturbation, Replacement
from quantus_ext.engine.sampling import Purpose
from quantus_ext.engine.tables import table

BASELINES = ("mean", "uniform", "black", "white")
SAME = "same"
"""Of an explainer's baseline: whatever chosen elements become."""
Scope = Literal["sample", "channel", "value"]


def replace_by(
    baseline: float | str | np.ndarray | Tensor,
    *,
    scope: Scope = "sample",
    uniform_low: float = 0.0,
    uniform_high: float = 1.0,
) -> Native:
    """Replace by a baseline.

    Parameters
    ----------
    baseline : float, str or array
        A number; ``"black"``, ``"white"`` or ``"mean"`` for the sample's own minimum, maximum or
        mean, as in Quantus; ``"uniform"`` for a random value in [uniform_low, uniform_high);
        or an array with one value a channel or of a sample's shape.
    scope : {"sample", "channel", "value"}
        What gets a uniform value of its own.
    uniform_low, uniform_high : float
        Range of ``"uniform"``.

    Raises
    ------
    ValueError
        If ``baseline`` is an unknown name, not finite, or an array that fits neither channels
        nor samples.
    TypeError
        If ``baseline`` is something else.
    """
    if isinstance(baseline, str):
        checks.one_of("perturb_baseline", baseline.lower(), BASELINES)
    else:
        baseline = _real_baseline("perturb_baseline", baseline)
    if isinstance(baseline, str) and baseline.lower() == "uniform":
        return Native(_uniform_values(scope, uniform_low, uniform_high), random=True, replaces=True)
    return Native(
        lambda x: _fixed(baseline_values(baseline, x)),
        random=False,
        replaces=True,
        baseline=baseline,
    )


def replaces_by(perturbation: Perturbation, baseline: Baseline) -> bool:
    """Whether a perturbation replaces by this baseline, as far as is known without the samples."""
    inner = perturbation.inner if isinstance(perturbation, PaddingPreserving) else perturbation
    own = inner.baseline if isinstance(inner, Native) else None
    if own is None or isinstance(own, Tensor) or isinstance(baseline, Tensor):
        return False
    if isinstance(own, str) or isinstance(baseline, str):
        return str(own).lower() == str(baseline).lower()
    return np.array_equal(own, baseline)


def baseline_like(perturbation: Perturbation, baseline: Baseline, x: Tensor) -> Tensor:
    """Return what ``inputs_baseline`` is, broadcasting to ``x``, with padding left out as there."""
    if isinstance(perturbation, PaddingPreserving):
        x = perturbation.seen(x)
    return baseline_values(baseline, x, name="inputs_baseline")


def checked_baseline(name: str, baseline: object) -> float | str | np.ndarray:
    """Return an explainer's baseline: a number, a name that is not random, or a finite array."""
    if isinstance(baseline, str):
        fixed = [each for each in BASELINES if each != "uniform"]
        checks.one_of(name, baseline.lower(), [*fixed, SAME])
        return baseline.lower()
    real = _real_baseline(name, baseline)
    if isinstance(real, Tensor):
        real = real.cpu().numpy()
    if isinstance(real, np.ndarray) and not np.isfinite(real).all():
        raise ValueError(f"{name} must be finite, is {checks.shown(real)}")
    return real


def _real_baseline(name: str, baseline: object) -> float | np.ndarray | Tensor:
    """Return a baseline that is no name: a finite number or an array; a tensor where it is."""
    if isinstance(baseline, Tensor) and baseline.ndim:
        # It may be on a device that nothing should wait for.
        return numbers_of(name, baseline)
    if not isinstance(checks.listed(baseline), list):
        return checks.finite_number(name, baseline)
    values = array_of(name, baseline)
    if not values.size or values.dtype.kind == "b":
        raise TypeError(f"{name} must hold numbers, is {checks.shown(baseline)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, is {checks.shown(baseline)}")
    return values


def draw_from(background: np.ndarray | Tensor) -> Native:
    r"""Replace by the values of a random row of a background set, one row for each draw.

    Values that are replaced together come from the same row, whatever the other values are: draws
    are from the marginal distribution, as is usual for tables.

    Parameters
    ----------
    background : array, shape (m, \*sample)

    Raises
    ------
    ValueError
        If ``background`` has no rows, is not finite, or does not fit the samples.
    """
    rows = background if isinstance(background, Tensor) else torch.from_numpy(np.array(background))
    if rows.ndim < 2 or not len(rows) or not bool(rows.isfinite().all()):
        raise ValueError(
            f"background must hold at least one row of finite values, has shape {tuple(rows.shape)}"
        )

    def replacement(x: Tensor) -> Replacement:
        if rows.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"background must have rows of shape {tuple(x.shape[1:])}, has "
                f"{tuple(rows.shape[1:])}"
            )
        own = rows.to(x.device, x.dtype, non_blocking=True)

        def draw(samples: Rows, keys: Tensor) -> Tensor:
            return own[sampling.integers(keys, [len(own)], Purpose.VALUE).squeeze(-1)]

        return draw

    return Native(replacement, random=True, replaces=True)


def shift_by(
    shift: float | str | np.ndarray | Tensor,
    *,
    uniform_low: float = 0.0,
    uniform_high: float = 1.0,
) -> Native:
    """Add a value, given as for :func:`replace_by`; ``"uniform"`` is one value a channel."""
    if isinstance(shift, str) and shift.lower() == "uniform":
        return Native(
            _shifted(_uniform_values("channel", uniform_low, uniform_high)),
            random=True,
            replaces=False,
        )
    return Native(
        lambda x: _fixed(x + baseline_values(shift, x, name="input_shift")),
        random=False,
        replaces=False,
    )


def blur(kernel_size: int | Sequence[int] = 15, *, zeros_beyond: bool = False) -> Native:
    """Replace by the mean over a window around each position.

    Parameters
    ----------
    kernel_size : int or sequence of int
        Sides of the window along the spatial axes. Where a side k is even, the window reaches
        k/2 positions back and k/2 - 1 ahead.
    zeros_beyond : bool, default False
        Pad with zeros beyond the borders, as Quantus does, which darkens them. By default the mean
        is over the part of the window that is inside, so that a constant image does not change.
    """

    def blurred(x: Tensor) -> Replacement:
        sides = _sides(kernel_size, x)
        return _fixed(_smoothed(x, [np.full(side, 1 / side) for side in sides], zeros_beyond))

    return Native(blurred, random=False, replaces=False)


def gaussian_blur(kernel_size: int | Sequence[int] = 51, sigma: float = 20.0) -> Native:
    """Replace by a Gaussian mean around each position, over the part of the kernel that is inside.

    Parameters
    ----------
    kernel_size : int or sequence of int, default 51
        Sides of the kernel along the spatial axes, odd.
    sigma : float, default 20.0
        The Gaussian's standard deviation, in positions.

    Raises
    ------
    ValueError, TypeError
        If ``sigma`` is not a number above 0; if a side is not odd.
    """
    checks.positive_number("blur_sigma", sigma)

    def blurred(x: Tensor) -> Replacement:
        sides = _sides(kernel_size, x)
        if any(side % 2 == 0 for side in sides):
            raise ValueError(f"blur_kernel_size must be odd for a Gaussian, is {kernel_size}")
        kernels = []
        for side in sides:
            weights = np.exp(-0.5 * ((np.arange(side) - side // 2) / sigma) ** 2)
            kernels.append(weights / weights.sum())
        return _fixed(_smoothed(x, kernels, zeros_beyond=False))

    return Native(blurred, random=False, replaces=False)


def gaussian_noise(mean: float = 0.0, std: float = 0.01) -> Native:
    """Add Gaussian noise, independent for each value.

    Raises
    ------
    ValueError
        If ``std`` is negative.
    """
    if std < 0:
        raise ValueError(f"perturb_std must be at least 0, is {std}")

    def noise(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        return sampling.normal(keys, count, Purpose.VALUE, dtype) * std + mean

    return Native(_noisy(noise), random=True, replaces=False)


def uniform_noise(low: float, high: float) -> Native:
    """Add noise that is uniform between ``low`` and ``high``, independent for each value.

    Raises
    ------
    ValueError
        If ``low`` is not below ``high``.
    """
    if not low < high:
        raise ValueError(f"uniform noise needs lower_bound below upper_bound, has {low} and {high}")

    def noise(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        return sampling.uniform(keys, count, Purpose.VALUE, dtype) * (high - low) + low

    return Native(_noisy(noise), random=True, replaces=False)


def baseline_values(
    baseline: float | str | np.ndarray | Tensor, x: Tensor, *, name: str = "perturb_baseline"
) -> Tensor:
    """Return baseline values that broadcast to ``x``, shape (n, \\*sample).

    See :func:`replace_by` for what ``baseline`` may be; errors call the argument ``name``.
    """
    ones = (1,) * (x.ndim - 1)
    if isinstance(baseline, str):
        statistic = baseline.lower()
        flat = x.flatten(1)
        if statistic == "mean":
            return flat.nanmean(1).reshape(-1, *ones)
        if statistic == "black":
            return flat.nan_to_num(torch.inf).amin(1).reshape(-1, *ones)
        if statistic == "white":
            return flat.nan_to_num(-torch.inf).amax(1).reshape(-1, *ones)
        raise ValueError(f"{name} must be one of {BASELINES}, is {baseline!r}")
    if not isinstance(baseline, (int, float, np.generic, np.ndarray, Tensor)):
        raise TypeError(
            f"{name} must be a number, a name or an array, is {type(baseline).__name__}"
        )
    if isinstance(baseline, (int, float)):
        return torch.full((1, *ones), baseline, dtype=x.dtype, device=x.device)
    if not isinstance(baseline, Tensor):
        # A copy, because torch takes no array that is reversed.
        baseline = torch.from_numpy(np.array(baseline))
    values = baseline.to(x.device, x.dtype, non_blocking=True)
    if values.ndim == 0:
        return values.reshape(1, *ones)
    if values.shape == x.shape[1:]:
        return values.unsqueeze(0)
    if x.ndim > 2 and values.shape == x.shape[1:2]:
        return values.reshape(1, -1, *ones[1:])
    raise ValueError(
        f"{name} must be one number, one per channel {tuple(x.shape[1:2])} or of a "
        f"sample's shape {tuple(x.shape[1:])}, has shape {tuple(values.shape)}"
    )


def _of_samples(values: Tensor, samples: Rows) -> Tensor:
    """Pick samples' rows, or the one row that all share, with an axis for draws."""
    return (values if len(values) == 1 else values[samples]).unsqueeze(1)


def _fixed(values: Tensor) -> Replacement:
    return lambda samples, keys: _of_samples(values, samples)


def _uniform_values(scope: Scope, low: float, high: float) -> Callable[[Tensor], Replacement]:
    def replacement(x: Tensor) -> Replacement:
        shape = {
            "sample": (1,) * (x.ndim - 1),
            "channel": (x.shape[1] if x.ndim > 2 else 1, *(1,) * (x.ndim - 2)),
            "value": tuple(x.shape[1:]),
        }[scope]

        def draw(samples: Rows, keys: Tensor) -> Tensor:
            u = sampling.uniform(keys, int(np.prod(shape)), Purpose.VALUE, x.dtype)
            return (u * (high - low) + low).reshape(*keys.shape, *shape)

        return draw

    return replacement


def _noisy(
    noise: Callable[[Tensor, int, torch.dtype], Tensor],
) -> Callable[[Tensor], Replacement]:
    def values(x: Tensor) -> Replacement:
        def draw(samples: Rows, keys: Tensor) -> Tensor:
            drawn = noise(keys, x[0].numel(), x.dtype)
            if x.ndim == 3:
                # Time axis first, so that padding at the end changes no draw.
                return drawn.reshape(*keys.shape, *x.shape[:0:-1]).transpose(-1, -2)
            return drawn.reshape(*keys.shape, *x.shape[1:])

        return draw

    return _shifted(values)


def _shifted(values: Callable[[Tensor], Replacement]) -> Callable[[Tensor], Replacement]:
    """Add random values to the samples' own."""

    def replacement(x: Tensor) -> Replacement:
        added = values(x)
        return lambda samples, keys: added(samples, keys) + x[samples].unsqueeze(1)

    return replacement


def _sides(kernel_size: int | Sequence[int], x: Tensor) -> list[int]:
    """Return the kernel's side along each spatial axis of samples; a table has one."""
    axes = max(x.ndim - 2, 1)
    given = checks.positive_integers("blur_kernel_size", kernel_size)
    sides = given * axes if len(given) == 1 and not isinstance(kernel_size, Sequence) else given
    if len(sides) != axes:
        raise ValueError(
            f"blur_kernel_size must be a positive integer or {axes} of them, is {kernel_size}"
        )
    return sides


def _smoothed(x: Tensor, kernels: Sequence[np.ndarray], zeros_beyond: bool) -> Tensor:
    """Return weighted means around each position, over what is inside; NaN is not."""
    wide = torch.promote_types(x.dtype, torch.float32)
    # Padding is that in all channels.
    weights = (~(x if x.ndim == 2 else x[:, :1]).isnan()).to(wide)
    sums = x.to(wide).nan_to_num()
    for axis, kernel in enumerate(kernels, start=x.ndim - len(kernels)):
        sums = _correlated(sums, kernel, axis)
        if not zeros_beyond:
            weights = _correlated(weights, kernel, axis)
    if not zeros_beyond:
        # Where nothing is inside there is nothing to replace.
        sums = torch.where(weights > 0, sums / weights, 0.0)
    return sums.to(x.dtype)


_POSITIONS_AT_ONCE = 256
"""Positions along an axis that one matrix product smooths: of long series the matrix, which is
mostly zeros, would not fit the memory."""


def _correlated(x: Tensor, kernel: np.ndarray, axis: int) -> Tensor:
    """Return sums weighted by a kernel along an axis, with zeros beyond its ends."""
    x = x.movedim(axis, -1)
    length, side = x.shape[-1], len(kernel)
    padded = F.pad(x, (side // 2, side - 1 - side // 2))
    parts = []
    for first in range(0, length, _POSITIONS_AT_ONCE):
        count = min(_POSITIONS_AT_ONCE, length - first)
        band = np.zeros((count + side - 1, count))
        for position in range(count):
            band[position : position + side, position] = kernel
        weights = table(band, x.device, x.dtype)
        parts.append(padded[..., first : first + count + side - 1] @ weights)
    return torch.cat(parts, -1).movedim(-1, axis)
