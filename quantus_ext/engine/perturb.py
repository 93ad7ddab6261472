"""What chosen elements become: replaced, shifted, blurred, noisy, or by anybody's function.

A perturbation is prepared once for a batch of samples (baseline values, blurred copies) and then
applied to whole blocks of draws by one masked write. Masks have the shape (b, d, \\*mask), where
``mask`` is the sample's shape or has one channel that stands for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Rows
from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from quantus_ext.engine.sampling import Purpose

Apply = Callable[[Rows, Tensor, Tensor, Tensor], Tensor]
"""(samples, mask (b, d, \\*mask), keys (b, d), buffer (b, d, \\*sample)) -> perturbed, same shape
as the buffer, and usually the buffer itself."""


class Prepared(NamedTuple):
    """What depends on the samples alone, computed once.

    Attributes
    ----------
    apply : callable
        See :data:`Apply`.
    fixed : Tensor, optional
        What elements become when they are chosen, where that is known; it broadcasts to the
        samples.
    interpretation : callable, optional
        Gives Infidelity's ``I`` of what ``apply`` made last, where the perturbation says itself
        what that is.
    """

    apply: Apply
    fixed: Tensor | None
    interpretation: Callable[[], Tensor] | None = None


Baseline = float | str | np.ndarray | Tensor
"""See :func:`replace_by`."""

Replacement = Callable[[Rows, Tensor], Tensor]
"""(samples, keys (b, d)) -> values that broadcast to (b, d, \\*sample)."""


class Perturbation(Protocol):
    """What an engine loop needs to know of a perturbation."""

    @property
    def random(self) -> bool:
        """Whether two draws with the same mask differ."""

    @property
    def replaces(self) -> bool:
        """Whether chosen elements lose their value entirely, so that ``I`` can be the mask."""

    @property
    def uses_mask(self) -> bool:
        """Whether it matters which elements are chosen."""

    def prepare(self, x: Tensor) -> Prepared:
        """Compute once what depends on the samples ``x``, shape (n, \\*sample), alone."""


@dataclass(frozen=True)
class Native:
    """A perturbation written in tensor operations, on the device of the samples.

    Parameters
    ----------
    replacement : callable
        From the samples to a :data:`Replacement`.
    random, replaces : bool
        See :class:`Perturbation`.
    baseline : float, str or array, optional
        What chosen elements become, where that was given as a baseline.
    """

    replacement: Callable[[Tensor], Replacement]
    random: bool
    replaces: bool
    baseline: Baseline | None = None

    @property
    def uses_mask(self) -> bool:
        """See :class:`Perturbation`."""
        return True

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`Perturbation`."""
        values = self.replacement(x)
        fixed = None if self.random else values(slice(None), torch.empty(0)).squeeze(1)
        write = _write_bits if x.device.type == "cpu" else _write

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            return write(mask, values(samples, keys), x[samples].unsqueeze(1), buffer)

        return Prepared(apply, fixed)


def _write(mask: Tensor, values: Tensor, original: Tensor, buffer: Tensor) -> Tensor:
    """Fill the buffer with values where the mask is true and with the original elsewhere."""
    return torch.where(mask, values, original, out=buffer)


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _write_bits(mask: Tensor, values: Tensor, original: Tensor, buffer: Tensor) -> Tensor:
    """Do as :func:`_write`, several times as fast on a processor, whose `where` takes one by one.

    Of the bits in which value and original differ those of masked elements are turned, so that
    not a bit of either is lost.
    """
    words = _WORDS[buffer.element_size()]
    # Broadcasting along the last axis is slow in channels-last layout, and a copy is not.
    plain = buffer if buffer.is_contiguous() else torch.empty(buffer.shape, dtype=buffer.dtype)
    target, known = plain.view(words), original.view(words)
    torch.bitwise_and(known ^ values.view(words), mask.to(words).neg_(), out=target)
    target ^= known
    return plain if plain is buffer else buffer.copy_(plain)


def changeable(fixed: Tensor | None, x: Tensor) -> Tensor | None:
    """Return which values become others when they are chosen, bool, shape of ``x``.

    None where that is all of them, or not known. For ``fixed`` see :class:`Prepared`.
    """
    if fixed is None:
        return None
    differs = differing_bits(x, fixed.to(x.dtype))
    return None if bool(differs.all()) else differs


def differing_bits(a: Tensor, b: Tensor) -> Tensor:
    """Return where values of one type are not the same, as a model sees them: 0 is not -0."""
    words = _WORDS[a.element_size()]
    return a.view(words) != b.view(words)


@dataclass(frozen=True)
class Sparing:
    """A perturbation that neither sees nor changes padding.

    Parameters
    ----------
    inner : Perturbation
    padding : callable
        From samples (n, \\*sample) to bool, shape (n, \\*spatial).
    """

    inner: Perturbation
    padding: Callable[[Tensor], Tensor]

    @property
    def random(self) -> bool:
        """See :class:`Perturbation`."""
        return self.inner.random

    @property
    def replaces(self) -> bool:
        """See :class:`Perturbation`."""
        return self.inner.replaces

    @property
    def uses_mask(self) -> bool:
        """See :class:`Perturbation`."""
        return self.inner.uses_mask

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`Perturbation`."""
        padding = self.padding(x).unsqueeze(1)
        if isinstance(self.inner, CaptumFunction):
            raise ValueError(
                "perturb_func must be a function of arr where samples have padding, is one that "
                "returns (I, x - I)"
            )
        inner = self.inner.prepare(self.seen(x) if isinstance(self.inner, Native) else x)

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            perturbed = inner.apply(samples, mask, keys, buffer)
            beyond = padding[samples].unsqueeze(1)
            rows = buffer.copy_(torch.where(beyond, x[samples].unsqueeze(1), perturbed))
            found = self.padding(rows.flatten(0, 1)).reshape(*keys.shape, *beyond.shape[3:])
            if not bool((found == beyond.squeeze(2)).all()):
                raise ValueError(
                    "perturb_baseline or perturb_func makes steps that read as padding: choose "
                    "another value for the padding"
                )
            return rows

        fixed = None if inner.fixed is None else torch.where(padding, x, inner.fixed)
        return Prepared(apply, fixed)

    def seen(self, x: Tensor) -> Tensor:
        """Return samples whose padding is no number, so that no statistic counts it."""
        return x.masked_fill(self.padding(x).unsqueeze(1), torch.nan)


def once(perturbation: Perturbation, x: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    """Return samples perturbed by one draw each.

    Parameters
    ----------
    perturbation : Perturbation
    x : Tensor, shape (n, \\*sample)
    mask : Tensor, bool, shape (n, 1, \\*mask)
    keys : Tensor, int64, shape (n, 1)
    """
    apply = perturbation.prepare(x).apply
    return apply(slice(None), mask, keys, torch.empty_like(x).unsqueeze(1)).squeeze(1)


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
        What has one uniform value of its own.
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
    # Tensors may be on a device that nothing should wait for.
    known = isinstance(baseline, (int, float, np.generic, np.ndarray))
    if known and not np.isfinite(baseline).all():
        raise ValueError(f"perturb_baseline must be finite, is {baseline}")
    if isinstance(baseline, str) and baseline.lower() not in BASELINES:
        raise ValueError(f"perturb_baseline must be one of {BASELINES}, is {baseline!r}")
    if isinstance(baseline, str) and baseline.lower() == "uniform":
        return Native(_uniform_values(scope, uniform_low, uniform_high), random=True, replaces=True)
    return Native(
        lambda x: _fixed(baseline_values(baseline, x)),
        random=False,
        replaces=True,
        baseline=baseline,
    )


def replaces_by(perturbation: Perturbation, baseline: Baseline) -> bool:
    """Whether a perturbation is known, without a look at samples, to replace by this baseline."""
    inner = perturbation.inner if isinstance(perturbation, Sparing) else perturbation
    own = inner.baseline if isinstance(inner, Native) else None
    if own is None or isinstance(own, Tensor) or isinstance(baseline, Tensor):
        return False
    if isinstance(own, str) or isinstance(baseline, str):
        return str(own).lower() == str(baseline).lower()
    return np.array_equal(own, baseline)


def baseline_like(perturbation: Perturbation, baseline: Baseline, x: Tensor) -> Tensor:
    """Return what ``inputs_baseline`` is, broadcasting to ``x``, with padding left out as there."""
    if isinstance(perturbation, Sparing):
        x = perturbation.seen(x)
    return baseline_values(baseline, x, name="inputs_baseline")


def checked_baseline(name: str, baseline: object) -> float | str | np.ndarray:
    """Return an explainer's baseline: a number, a name that is not random, or a finite array."""
    if isinstance(baseline, str):
        fixed = [each for each in BASELINES if each != "uniform"]
        checks.one_of(name, baseline.lower(), [*fixed, SAME])
        return baseline.lower()
    baseline = checks.plain(baseline)
    if isinstance(baseline, Tensor):
        baseline = baseline.detach().cpu().numpy()
    if not isinstance(baseline, np.ndarray):
        return checks.finite_number(name, baseline)
    if not np.isfinite(baseline).all():
        raise ValueError(f"{name} must be finite, is {baseline}")
    return baseline


def draw_from(background: np.ndarray | Tensor) -> Native:
    r"""Replace by the values of a random row of a background set, one row for each draw.

    Values that go together come from the same row; those that stay are not looked at, so this
    draws from the marginal distribution, as is usual for tables.

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
        own = rows.to(x)

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
        Take zeros for what is beyond the borders, as Quantus does, which darkens them. By default
        it is the mean over what of the window is inside, so that a constant stays what it is.
    """

    def blurred(x: Tensor) -> Replacement:
        sides = _sides(kernel_size, x)
        return _fixed(_smoothed(x, [np.full(side, 1 / side) for side in sides], zeros_beyond))

    return Native(blurred, random=False, replaces=False)


def gaussian_blur(kernel_size: int | Sequence[int] = 51, sigma: float = 20.0) -> Native:
    """Replace by a Gaussian mean around each position, over what of its kernel is inside.

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
    values = baseline.to(x.device, x.dtype)
    if values.ndim == 0:
        return values.reshape(1, *ones)
    if values.shape == x.shape[1:]:
        return values.unsqueeze(0)
    if x.ndim > 2 and values.shape == x.shape[1:2]:
        return values.reshape(1, -1, *ones[1:])
    raise ValueError(
        f"{name} must be one number, one a channel {tuple(x.shape[1:2])} or of a "
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
                # Time by time, so that padding at the end moves nothing.
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
        weights = torch.from_numpy(band).to(x)
        parts.append(padded[..., first : first + count + side - 1] @ weights)
    return torch.cat(parts, -1).movedim(-1, axis)


Convention = Literal["flat", "sample", "pixels", "mask", "whole", "whole_batch"]
"""How a function of Quantus's kind wants to be called:

flat
    ``arr`` (1, values) and ``indices`` (1, count) over all values, as Infidelity and
    Pixel-Flipping call it;
sample
    ``arr`` (\\*sample), a list of indices into the flattened ``indexed_axes``;
pixels
    ``arr`` (\\*sample) and a list of flat positions, all channels, as ROAD calls it;
mask
    ``arr`` (\\*sample) and a boolean ``mask`` of its shape;
whole, whole_batch
    ``arr`` (\\*sample) or (1, \\*sample), nothing chosen.
"""


@dataclass(frozen=True)
class Bridge:
    """Any perturbation function, called row by row as Quantus would call it.

    The global random states of Python, numpy and torch are seeded for each (sample, draw) and
    put back afterwards.

    Parameters
    ----------
    function : callable
        Takes and returns numpy arrays.
    convention : Convention
        How it is called.
    keywords : mapping
        Passed on every call.
    random, replaces : bool
        See :class:`Perturbation`.
    """

    function: Callable[..., Any]
    convention: Convention
    keywords: Mapping[str, Any] = field(default_factory=dict)
    random: bool = True
    replaces: bool = False

    @property
    def uses_mask(self) -> bool:
        """See :class:`Perturbation`."""
        return self.convention not in ("whole", "whole_batch")

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`Perturbation`."""
        arrays = x.detach().cpu().numpy()

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            chosen = mask.expand(*keys.shape, *mask.shape[2:]).cpu().numpy()
            seeds = sampling.bits(keys, 1, Purpose.BRIDGE).squeeze(-1).cpu().numpy()
            seeds = seeds & (2**32 - 1)
            rows = arrays[samples if isinstance(samples, slice) else samples.cpu().numpy()]
            with isolated_random_state():
                for row, draw in np.ndindex(*keys.shape):
                    seed_global_generators(int(seeds[row, draw]))
                    perturbed = self._call(rows[row].copy(), chosen[row, draw])
                    buffer[row, draw] = torch.from_numpy(perturbed)
            return buffer

        return Prepared(apply, None)

    def _call(self, arr: np.ndarray, mask: np.ndarray) -> np.ndarray:
        arguments = self._arguments(arr, mask)
        name = name_of(self.function)
        try:
            result = np.asarray(self.function(**arguments))
        except Exception as error:
            raise ValueError(
                f"perturb_func {name} failed on a sample of shape {arr.shape}: {error}"
            ) from error
        # Not only the size: a turned image has the same, and reshaping would scramble it.
        if result.shape != arguments["arr"].shape:
            raise ValueError(
                f"perturb_func {name} must keep the shape {arguments['arr'].shape}, "
                f"returned {result.shape}"
            )
        if not np.isfinite(result).all():
            raise ValueError(f"perturb_func {name} must return finite values, returned {result}")
        # A reversed view is none that torch takes.
        return np.ascontiguousarray(result.reshape(arr.shape), dtype=arr.dtype)

    def _arguments(self, arr: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        full = np.broadcast_to(mask, arr.shape)
        channelled = arr.ndim > 1
        each_channel = channelled and len(mask) == len(arr)
        match self.convention:
            case "flat":
                chosen: dict[str, Any] = {"indices": np.flatnonzero(full)[None]}
                arr = arr.reshape(1, -1)
            case "sample":
                axes = range(1, arr.ndim) if channelled and not each_channel else range(arr.ndim)
                chosen = {
                    "indices": np.flatnonzero(full if full.ndim == len(axes) else full[0]).tolist(),
                    "indexed_axes": np.array(axes),
                }
            case "pixels":
                chosen = {"indices": np.flatnonzero(full.any(0) if channelled else full)}
            case "mask":
                chosen = {"mask": full}
            case "whole_batch":
                chosen = {}
                arr = arr[None]
            case "whole":
                chosen = {}
        return {**self.keywords, "arr": arr, **chosen}


@dataclass(frozen=True)
class CaptumFunction:
    """A function of tensors that returns ``(I, x - I)``, as captum's infidelity takes them.

    It is called with one row at a time, the global random states, also of the row's device, seeded
    for each (sample, draw) as for :class:`Bridge`, so that its draws do not depend on how many rows
    go through the model at once.

    Parameters
    ----------
    function : callable
        Inputs (1, \\*sample), on their device -> ``I`` and perturbed inputs of the same shape.
    """

    function: Callable[..., Any]
    random: bool = field(default=True, init=False)
    replaces: bool = field(default=False, init=False)
    uses_mask: bool = field(default=False, init=False)

    def __call__(self, inputs: Tensor, *others: Any, **keywords: Any) -> Any:
        """Call the function, so that captum takes this object too."""
        return self.function(inputs, *others, **keywords)

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`Perturbation`."""
        made: list[Tensor] = []

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            seeds = sampling.bits(keys, 1, Purpose.BRIDGE).squeeze(-1).cpu().numpy()
            seeds = seeds & (2**32 - 1)
            interpretation = torch.empty(buffer.shape, dtype=x.dtype, device=x.device)
            with isolated_random_state(x.device):
                for row, draw in np.ndindex(*keys.shape):
                    seed_global_generators(int(seeds[row, draw]), x.device)
                    pair = self._call(x[samples][row : row + 1].clone())
                    interpretation[row, draw], buffer[row, draw] = (part[0] for part in pair)
            made[:] = [interpretation]
            return buffer

        return Prepared(apply, None, lambda: made[0])

    def _call(self, row: Tensor) -> list[Tensor]:
        name = name_of(self.function)
        try:
            returned = self.function(row)
        except Exception as error:
            raise ValueError(
                f"perturb_func {name} failed on inputs of shape {tuple(row.shape)}: {error}"
            ) from error
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            raise ValueError(
                f"perturb_func {name} must return (I, x - I), returned {type(returned).__name__}"
            )
        # captum's decorator wraps each in a tuple of one.
        pair = [
            part[0] if isinstance(part, (tuple, list)) and len(part) == 1 else part
            for part in returned
        ]
        for part in pair:
            if not isinstance(part, Tensor) or part.shape != row.shape:
                found = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(
                    f"perturb_func {name} must return two tensors of shape {tuple(row.shape)}, "
                    f"one is {found}"
                )
            if not bool(part.isfinite().all()):
                raise ValueError(f"perturb_func {name} must return finite values, returned {part}")
        return pair


def name_of(function: Callable[..., Any]) -> str:
    """Return how errors call a function."""
    return str(getattr(function, "__name__", repr(function)))
