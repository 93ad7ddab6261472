r"""Fidelity, R-Fidelity and F-Fidelity (Zheng et al., ICLR 2025), which differ in two numbers.

Remove elements of the explanation (the top s), and of the rest, and see whether the answer stays:
``Fid⁺ = 1(y = f(x)) - E[1(y = f(x without k⁺ of the top s))]`` and ``Fid⁻`` likewise with k⁻ of
the other t - s. All of them gone is Fidelity (eq. 1-2), a fraction α of them R-Fidelity (eq. 3-4),
and at most βt elements, asked of a model tuned to stand that, F-Fidelity (eq. 6).
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
from quantus_ext.functional.fidelity_sizes import Sign, Sizes
from quantus_ext.functional.removal import Output, Without, answers_without
from quantus_ext.functional.scores import Scores, maps_of


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

    Their means are over the sizes ``⌊sparsity·t⌋`` of a sample with t elements, 0 included: those
    that several sparsities come to are asked for and count once.

    Parameters
    ----------
    forward : Forward or callable
        The model that answers: rows in, (rows, classes) out; probabilities where
        ``output="probability"``.
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs.
    a : Tensor, shape of ``x`` or with one channel; or (m, n, …), m maps of each sample
        Attributions; only their ranks count.
    y : Tensor, int64, shape (n,)
        Explained classes.
    sparsity : sequence of float in (0, 1]
        Explanation sizes as shares of a sample's elements.
    elements : Elements, optional
        By default each position is one, over all channels.
    perturbation : Perturbation, optional
        What removed elements become; by default 0.
    alpha : (float, float), default (1, 1)
        α⁺ and α⁻, the shares removed by a draw.
    beta : float, default 1
        At most this share of all elements is removed.
    n_draws : int, default 1
        Draws for each sample, size and sign, or the most of them with ``tolerance``. Where the
        subsets that can go are at most 1,024 and replacements are not random, none is drawn
        twice, so that as many draws as there are subsets are made at most and give the exact mean.
    score : {"plus", "minus", "gap"}
        Which mean over the different sizes is the score; ``gap = plus - minus``.
    output : {"label", "probability"}
        ``1(y = f(·))``, or the probability of y in its place.
    tolerance : float, optional
        Target standard error of the mean over sizes, of either sign or, with ``score="gap"``, of
        their difference. A sample's draws for all sizes stop, at 8, 12, 16, 24, 32, … of each,
        when it is reached; those for single sizes that are known well enough stop before.
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
    scores = []
    for each in maps_of(a, x):
        answers = answers_without(
            masked,
            each,
            regions,
            elements=elements,
            output=output,
            n_draws=n_draws,
            target=target,
        )
        scores.append(_scored(answers, sizes, score))
    return Scores.stack(scores) if a.ndim > x.ndim else scores[0]


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
        "sparsity": plus.new_tensor(sizes.sparsity).expand(len(plus), -1),
        "size": sizes.of_samples(plus.device),
    }
    return Scores(means[score], squared_error.sqrt(), details, (answers.rests_on,))
