r"""Fidelity, R-Fidelity and F-Fidelity (Zheng et al., ICLR 2025).

``Fid⁺ = 1(y = f(x)) - E[1(y = f(x without k⁺ of the top s))]``; ``Fid⁻`` removes k⁻ of the other
t - s. Fidelity removes all of them (eq. 1-2), R-Fidelity a fraction α (eq. 3-4), F-Fidelity at most
βt elements, and evaluates a model fine-tuned for that (eq. 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.masked import MaskedModel, SampleArguments
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.tables import table
from quantus_ext.functional.fidelity_sizes import Sign, Sizes
from quantus_ext.functional.removal import Output, Without, answers_without
from quantus_ext.functional.scores import Scores, maps_of
from quantus_ext.functional.single_draws import squared_errors


def fidelity(
    forward: Forward | Predict,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    sparsity: Sequence[float],
    elements: Elements | None = None,
    perturbation: Perturbation | None = None,
    alpha: tuple[float, float] = (1.0, 1.0),
    beta: float = 1.0,
    n_draws: int = 1,
    score: Sign = "plus",
    output: Output = "label",
    tolerance: float | None = None,
    **samples: Unpack[SampleArguments],
) -> Scores:
    """Compute Fid⁺, Fid⁻ and their difference over a grid of explanation sizes.

    Means are over the distinct sizes ``⌊sparsity·t⌋`` of a sample with t elements, including 0. A
    size that several sparsities share is evaluated and counted once.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, (rows, classes) out; probabilities for ``output="probability"``.
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs.
    a : Tensor, shape of ``x`` or with one channel; or (m, n, …), m maps of each sample
        Attributions; only their ranks matter.
    y : Tensor, int64, shape (n,)
        Explained classes.
    sparsity : sequence of float in (0, 1]
        Explanation sizes as fractions of a sample's elements.
    elements : Elements, optional
        By default every position, over all channels.
    perturbation : Perturbation, optional
        The replacement of removed elements; by default 0.
    alpha : (float, float), default (1, 1)
        α⁺ and α⁻, the fractions that a draw removes.
    beta : float, default 1
        The largest fraction of all elements that is removed.
    n_draws : int, default 1
        Draws per sample, size and sign; with ``tolerance``, their largest number. If at most 1,024
        subsets can be removed and replacements are not random, they are drawn without replacement;
        if there are no more subsets than draws, the mean is exact. Of one draw the standard errors
        come from neighbouring sizes; see
        ``quantus_ext.functional.single_draws``.
    score : {"plus", "minus", "gap"}
        Which mean over the distinct sizes is the score; ``gap = plus - minus``.
    output : {"label", "probability"}
        ``1(y = f(·))``, or the probability of y.
    tolerance : float, optional
        Target standard error of the mean over sizes, for both signs or, with ``score="gap"``, for
        their difference. A sample stops drawing when it is reached, checked at 8, 12, 16, 24, 32, …
        draws per size; sizes that are known well enough stop earlier.
    **samples
        Seed and more; see :class:`quantus_ext.engine.masked.SampleArguments`.

    Returns
    -------
    Scores
        ``details`` has ``plus``, ``minus``, ``gap`` (n,), and of shape (n, sizes)
        ``curve_plus``, ``curve_minus``, their standard errors ``error_plus`` and
        ``error_minus``, ``sparsity`` and ``size``.

    Examples
    --------
    A model that reads the first feature, explained rightly:

    >>> import torch
    >>> from quantus_ext.functional import fidelity
    >>> x = torch.ones(1, 4)
    >>> a = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    >>> result = fidelity(
    ...     lambda rows: torch.stack([0.5 - rows[:, 0], rows[:, 0] - 0.5], 1),
    ...     x,
    ...     a,
    ...     torch.tensor([1]),
    ...     sparsity=[0.25, 0.5],
    ... )
    >>> result.details["curve_plus"].tolist(), result.details["curve_minus"].tolist()
    ([[1.0, 1.0]], [[0.0, 0.0]])
    """
    sparsity = checks.fractions("sparsity", sparsity)
    alpha = (checks.finite_number("alpha", alpha[0]), checks.finite_number("alpha", alpha[1]))
    beta = checks.fraction("beta", beta)
    n_draws = checks.positive_integer("n_draws", n_draws)
    if tolerance is not None:
        tolerance = checks.positive_number("tolerance", tolerance)
    elements = elements or elements_of(x)
    sizes = Sizes.of(elements.totals(), sparsity, alpha, beta)
    sizes.warn(stacklevel=3)
    regions = sizes.regions()
    target = None if tolerance is None else sizes.target(tolerance, score, x.device)
    masked = MaskedModel(forward, x, y, perturbation, **samples)
    scores = [
        _scored(answers if n_draws > 1 else _with_errors(answers, sizes), sizes, score)
        for answers in answers_without(
            masked,
            maps_of(a, x),
            regions,
            elements=elements,
            output=output,
            n_draws=n_draws,
            target=target,
        )
    ]
    return Scores.stack(scores) if a.ndim > x.ndim else scores[0]


def _with_errors(answers: Without, sizes: Sizes) -> Without:
    """Return answers of one draw with standard errors."""
    device = answers.without.device
    found = torch.empty_like(answers.squared_error)
    for sign in (0, 1):
        columns = (slice(None), slice(sign, None, 2))
        found[columns] = squared_errors(
            answers.without[columns],
            answers.squared_error[columns],
            sizes.of_samples(device),
            sizes.first(device),
        )
    return answers._replace(squared_error=found.gather(1, answers.asked.expand_as(found)))


def _scored(answers: Without, sizes: Sizes, score: Sign) -> Scores:
    """Return the means over sizes, of which the regions are plus and minus in turn."""
    change = answers.original[:, None] - answers.without
    weights = sizes.weights(change.device)
    plus, minus = (change[:, sign::2] for sign in (0, 1))
    error_plus, error_minus = (answers.squared_error[:, sign::2].sqrt() for sign in (0, 1))
    means = {"plus": (plus * weights).sum(1), "minus": (minus * weights).sum(1)}
    means["gap"] = means["plus"] - means["minus"]
    of_signs = {"plus": (1.0, 0.0), "minus": (0.0, 1.0), "gap": (1.0, -1.0)}[score]
    squared_error = answers.squared_error_of(
        torch.stack([weights * of_sign for of_sign in of_signs], 2).flatten(1)
    )
    details = {
        **means,
        "curve_plus": plus,
        "curve_minus": minus,
        "error_plus": error_plus,
        "error_minus": error_minus,
        "sparsity": table(sizes.sparsity, plus.device, plus.dtype).expand(len(plus), -1),
        "size": sizes.of_samples(plus.device),
    }
    return Scores(means[score], squared_error.sqrt(), details, (answers.rests_on,))
