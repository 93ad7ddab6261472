r"""The number of elements in the explanation, from F-Fidelity's curve (Theorem 1 and D.8).

If the c₁ elements that matter are ranked first, ``FFid⁺(s)`` rises until ⌊βt⌋ elements are removed,
at s = βt/α. If that is below c₁, the curve then has a plateau up to c₁, because everything removed
matters, and falls afterwards. So the size is the end of the plateau.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from quantus_ext import checks, functional
from quantus_ext.adapters.base import adapter_of, default_removal
from quantus_ext.arrays import tensor_from
from quantus_ext.batch import tensor_of
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import over_positions
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import FineTuner, MaskSampler, resolve_tuned_model, tuning_seed
from quantus_ext.finetune.training import as_input, check_labels
from quantus_ext.metrics.fidelity import check_fine_tune
from quantus_ext.protocols.ranks import ROUNDING

GRID = tuple(round(0.01 * step, 2) for step in (*range(1, 51), *range(60, 101, 10)))
"""Sizes looked at: a hundredth apart up to .5; beyond, only whether the curve has fallen."""

_EQUAL = 2.0
"""Standard errors within which a size counts as level with the maximum."""
_FALLEN = 4.0
"""Standard errors by which the curve must fall in the end. The highest of some fifty equal but
noisy points lies up to three above any of them."""
_LONGER = 1.25
"""A plateau must end at least that much later than it may begin, or it is only a peak."""


@dataclass(frozen=True)
class ExplanationSize:
    """The result of a sweep over (α, β).

    Attributes
    ----------
    sparsity : float or None
        The size of the explanation as a fraction of all elements, the median over the pairs kept;
        None if no pair has a plateau. With few elements, not every fraction is a size.
    ends : dict of (float, float) to float or None
        For each (α, β) the end of the plateau, None if the curve never falls.
    kept : tuple of (float, float)
        The pairs that count: β/α below the size, and a plateau from there on.
    """

    sparsity: float | None
    ends: dict[tuple[float, float], float | None]
    kept: tuple[tuple[float, float], ...]


def explanation_size(
    model: nn.Module,
    x_batch: np.ndarray | Tensor,
    y_batch: np.ndarray | Tensor,
    a_batch: np.ndarray | Tensor,
    *,
    fine_tune: FineTuner | nn.Module | Callable[..., nn.Module],
    alphas: float | Sequence[float] = (0.5, 0.7, 0.9),
    betas: float | Sequence[float] = (0.02, 0.05, 0.1, 0.15, 0.2),
    sparsity: Sequence[float] = GRID,
    n_samples: int = 10,
    element: str = "position",
    patch_size: int | None = None,
    perturb_baseline: float | None = None,
    seed: int = 0,
) -> ExplanationSize:
    """Find the size of explanations whose ranking is correct.

    Only the ranking is used: if it is wrong, so is the size. A random ranking gives none.

    Parameters
    ----------
    model : torch.nn.Module
        The explained model, in evaluation mode.
    x_batch : array or tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
    y_batch : array or tensor of int, shape (n,)
        Explained classes.
    a_batch : array or tensor, shape of ``x_batch`` or with one channel
        Attributions; only their ranks matter.
    fine_tune : FineTuner, torch.nn.Module or callable
        See :class:`quantus_ext.FFidelity`; tuned once, under masks of the largest β.
    alphas, betas : float or sequence of float in (0, 1]
        All pairs with β/α below 1 are tried.
    sparsity : sequence of float in (0, 1]
        Increasing sizes; the result is one of them or between two.
    n_samples : int, default 10
        Draws per sample, size and pair.
    element, patch_size
        See :class:`quantus_ext.Fidelity`.
    perturb_baseline : float, optional
        The replacement of removed elements; by default 0, or as the model's adapter says.
    seed : int, default 0

    Returns
    -------
    ExplanationSize

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.

    Examples
    --------
    A model that reads the first 20 of 100 features, ranked first:

    >>> import torch
    >>> from quantus_ext.protocols import explanation_size
    >>> class Twenty(torch.nn.Module):
    ...     def forward(self, x):
    ...         mean = x[:, :20].mean(1)
    ...         return torch.stack([1 - mean, mean], 1)
    >>> model = Twenty().eval()
    >>> x, y = torch.ones(30, 100), torch.ones(30, dtype=torch.int64)
    >>> a = (torch.arange(100) < 20).float().expand(30, -1)
    >>> found = explanation_size(
    ...     model, x, y, a, fine_tune=model, alphas=[0.9], betas=[0.1], n_samples=5
    ... )
    >>> found.sparsity
    0.2
    """
    checks.evaluation_mode(checks.module("model", model))
    device = checks.resolve_device(model, None)
    seed = checks.fixed_seed("seed", seed)
    x = as_input(tensor_from("x_batch", adapter_of(model).encoded(x_batch)), model, device)
    checks.inputs(x)
    y = torch.from_numpy(checks.labels(y_batch, len(x))).to(device)
    check_labels(model, x, y)
    ordered = adapter_of(model).in_order("a_batch", a_batch, x_batch)
    a = tensor_of("a_batch", ordered, device, None)
    a = checks.attributions(over_positions(a, x, element, patch_size=patch_size), x)
    shares = checks.fractions("sparsity", sparsity)
    n_samples = checks.positive_integer("n_samples", n_samples)
    tried = checks.fractions("betas", betas)
    pairs = [
        (alpha, beta)
        for alpha in checks.fractions("alphas", alphas)
        for beta in tried
        if beta < alpha
    ]
    if not pairs:
        raise ValueError(f"betas must hold one below an alpha, is {betas}, and alphas {alphas}")
    perturbation = default_removal(model)
    if perturb_baseline is not None:
        perturbation = replace_by(checks.finite_number("perturb_baseline", perturb_baseline))
    masks = MaskSampler(
        perturbation=perturbation,
        beta=max(tried),
        element=element,
        patch_size=patch_size,
        feature_mask=adapter_of(model).feature_mask,
        seed=tuning_seed(fine_tune),
    )
    if fine_tune is None:
        raise TypeError("fine_tune must be a FineTuner, a torch.nn.Module or a callable, is None")
    check_fine_tune(fine_tune)
    tuned, _ = resolve_tuned_model(fine_tune, model, masks)
    with checks.about_model("fine_tune"):
        check_labels(tuned, x, y)
    forward = Forward.of_module(tuned, device, softmax=True)
    clean = forward.clean(x)
    elements = masks.elements(x)
    totals = elements.totals()
    # The fraction actually removed, which rounding changes for few elements.
    sizes = [fmean(sampling.snapped_floor(share * t) / t for t in totals) for share in shares]
    places, first = np.unique(sizes, return_index=True)
    caps = {beta: [max(sampling.snapped_floor(beta * t), 1) for t in totals] for beta in tried}
    curves: dict[tuple[float, float], NDArray[np.float64]] = {}
    asked: dict[tuple[float, tuple[int, ...]], NDArray[np.float64]] = {}
    for alpha, beta in pairs:
        state = (alpha, tuple(caps[beta]))
        if state in asked:
            curves[alpha, beta] = asked[state]
            continue
        scores = functional.fidelity(
            forward,
            x,
            a,
            y,
            sparsity=[shares[place] for place in first],
            elements=elements,
            perturbation=perturbation,
            # Fid⁻ is not used, so nothing is removed for it.
            alpha=(alpha, 0.0),
            beta=beta,
            n_draws=n_samples,
            output="probability",
            seed=seed,
            clean=clean,
        )
        asked[state] = curves[alpha, beta] = scores.details["curve_plus"].cpu().numpy()
    forward.warn_of_second_softmax()
    removed = {beta: fmean(np.divide(caps[beta], totals)) for beta in tried}
    return size_from_curves(curves, places.tolist(), removed=removed)


def size_from_curves(
    curves: Mapping[tuple[float, float], ArrayLike],
    sparsity: Sequence[float],
    *,
    removed: Mapping[float, float] | None = None,
) -> ExplanationSize:
    """Find the size that curves for several (α, β) agree on.

    Parameters
    ----------
    curves : mapping of (float, float) to array, shape (n, S)
        For each (α, β) the samples' FFid⁺, in its probability form, at each sparsity.
    sparsity : sequence of float, S of them
        Increasing; the actual fractions, as in ``details["size"]``.
    removed : mapping of float to float, optional
        For each β the largest fraction actually removed, ``⌊βt⌋`` of t elements; by default β.
        Pairs with the same α and the same fraction count once.

    Returns
    -------
    ExplanationSize

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext.protocols.explanation_size import size_from_curves
    >>> sizes = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    >>> noise = 0.01 * np.random.default_rng(0).normal(size=(50, 5))
    >>> size_from_curves({(0.9, 0.1): [0.3, 0.5, 0.5, 0.4, 0.3] + noise}, sizes).sparsity
    0.3
    >>> size_from_curves({(0.9, 0.1): [0.1, 0.2, 0.2, 0.2, 0.2] + noise}, sizes).sparsity is None
    True
    """
    places = np.array(checks.numbers("sparsity", sparsity))
    if places.ndim != 1 or (np.diff(places) <= 0).any():
        raise ValueError(f"sparsity must increase, is {sparsity}")
    ends = {pair: _plateau_end(np.asarray(c, float), places) for pair, c in curves.items()}
    kept: list[tuple[float, float]] = []
    sizes: list[float] = []
    shares = removed or {beta: beta for _, beta in ends}
    distinct = {(alpha, shares[beta]): (alpha, beta) for alpha, beta in reversed(ends)}.values()
    for alpha, beta in sorted(distinct, key=lambda pair: shares[pair[1]] / pair[0]):
        begin, end = shares[beta] / alpha, ends[alpha, beta]
        if sizes and begin >= np.median(sizes):
            # From here on, the plateau ends at β/α, wherever the explanation ends.
            break
        if end is not None and end >= _LONGER * begin:
            kept.append((alpha, beta))
            sizes.append(end)
    return ExplanationSize(float(np.median(sizes)) if sizes else None, ends, tuple(kept))


def _plateau_end(curve: NDArray[np.float64], places: NDArray[np.float64]) -> float | None:
    """Return the last size level with the maximum, None if the curve does not fall after it."""
    if curve.ndim != 2 or curve.shape[1] != len(places) or len(curve) < 2:
        raise ValueError(
            f"curves must have shape (n, {len(places)}) with n at least 2, one has {curve.shape}"
        )
    # Paired differences remove the variation between samples.
    below = curve[:, [curve.mean(0).argmax()]] - curve
    mean, error = below.mean(0), below.std(0, ddof=1) / np.sqrt(len(curve))
    rounding = ROUNDING * np.abs(curve).max()
    if mean[-1] <= _FALLEN * error[-1] + rounding:
        return None
    return float(places[np.flatnonzero(mean <= _EQUAL * error + rounding)[-1]])
