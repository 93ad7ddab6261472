r"""Fidelity, R-Fidelity and F-Fidelity (Zheng et al., ICLR 2025), which differ in two numbers.

Remove elements of the explanation (the top s), and of the rest, and see whether the answer stays:
``Fid⁺ = 1(y = f(x)) - E[1(y = f(x without k⁺ of the top s))]`` and ``Fid⁻`` likewise with k⁻ of
the other t - s. All of them gone is Fidelity (eq. 1-2), a fraction α of them R-Fidelity (eq. 3-4),
and at most βt elements, asked of a model tuned to stand that, F-Fidelity (eq. 6).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.draws import Target
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.masked import MaskedModel
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.regions import Region
from quantus_ext.functional.removal import Output, Without, answers_without
from quantus_ext.functional.scores import Scores

Sign = Literal["plus", "minus", "gap"]


class Counts(NamedTuple):
    """How many elements: in the explanation, removed from it, removed from the rest."""

    size: int
    plus: int
    minus: int


def removal_counts(t: int, sparsity: float, alpha: tuple[float, float], beta: float) -> Counts:
    """Count elements exactly: ``s = ⌊sparsity·t⌋``, ``k⁺ = min(⌊α⁺s⌋, ⌊βt⌋)``,
    ``k⁻ = min(⌈α⁻(t - s)⌉, ⌊βt⌋)``, at least 1 in place of a ``⌊βt⌋`` of 0.

    Examples
    --------
    >>> from quantus_ext.functional.fidelity import removal_counts
    >>> removal_counts(100, 0.29, (0.5, 0.5), beta=1.0)
    Counts(size=29, plus=14, minus=36)
    >>> removal_counts(100, 0.29, (0.5, 0.5), beta=0.1)
    Counts(size=29, plus=10, minus=10)
    """  # noqa: D205 - formulas
    size = sampling.snapped_floor(sparsity * t)
    cap = max(sampling.snapped_floor(beta * t), 1)
    plus = min(sampling.snapped_floor(alpha[0] * size), cap)
    minus = min(math.ceil(round(alpha[1] * (t - size), 9)), cap)
    return Counts(size, plus, minus)


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
    seed: int = 0,
    index: Tensor | None = None,
    clean: Tensor | None = None,
    numbers: Tensor | None = None,
) -> Scores:
    """Compute Fid⁺, Fid⁻ and their difference over a grid of explanation sizes.

    Their means are over the sizes ``⌊sparsity·t⌋`` of a sample with t elements, 0 included: those
    that several sparsities come to are asked for and count once.

    Parameters
    ----------
    forward : Forward or callable
        The model that answers: rows in, (rows, classes) out; probabilities where
        ``output="probability"``.
    x : Tensor, shape (n, F), (n, C, T) or (n, C, H, W)
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
    seed, index, clean, numbers
        As for :func:`quantus_ext.functional.infidelity`.

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
    # Counts are known on the host, so that nothing waits for the device.
    totals = elements.totals()
    if beta < 1 and sampling.snapped_floor(beta * min(totals)) == 0:
        warnings.warn(
            f"beta = {beta} of {min(totals)} elements is none; 1 is removed instead",
            UserWarning,
            stacklevel=2,
        )
    counts_of = {
        t: [removal_counts(t, share, alpha, beta) for share in sparsity]
        for t in dict.fromkeys(totals)
    }
    none = [t for t, counts in counts_of.items() if not any(count.size for count in counts)]
    if none:
        warnings.warn(
            f"sparsity = {list(sparsity)} of {min(none)} elements is none: the score says nothing "
            "of the map; larger sparsities do",
            UserWarning,
            stacklevel=2,
        )
    sizes = torch.tensor([[count.size for count in counts_of[t]] for t in totals], device=x.device)
    # A size that several sparsities come to counts where it comes first.
    first = torch.tensor(
        [first_of([count.size for count in counts_of[t]]) for t in totals], device=x.device
    )
    weights = first.double() / first.sum(1, keepdim=True)
    # What must be known is the sum over the different sizes, of one sign or of both.
    signs = (0, 0) if score == "gap" else (0, 1)
    target = None
    if tolerance is not None:
        target = Target(
            tolerance * first.sum(1, keepdim=True),
            signs * len(sparsity),
            torch.tensor(
                [_next_sizes([count.size for count in counts_of[t]]) for t in totals],
                device=x.device,
            ),
        )

    regions = []
    for level in range(len(sparsity)):
        counts = [counts_of[t][level] for t in totals]
        regions += [
            Region.of((0, count.size, count.plus) for count in counts),
            Region.of(
                (count.size, t, count.minus) for count, t in zip(counts, totals, strict=True)
            ),
        ]
    masked = MaskedModel.of(
        forward,
        x,
        y,
        perturbation=perturbation,
        seed=seed,
        index=index,
        clean=clean,
        numbers=numbers,
    )
    of_signs = {"plus": (1.0, 0.0), "minus": (0.0, 1.0), "gap": (1.0, -1.0)}[score]

    def scored(answers: Without) -> Scores:
        # Streams alternate: plus and minus of the first size, of the second, …
        change = answers.original[:, None] - answers.without
        plus, minus = (change[:, sign::2] for sign in (0, 1))
        error_plus, error_minus = (answers.squared_error[:, sign::2] for sign in (0, 1))
        means = {"plus": (plus * weights).sum(1), "minus": (minus * weights).sum(1)}
        means["gap"] = means["plus"] - means["minus"]
        squared_error = answers.squared_error_of(
            torch.stack([weights * of_sign for of_sign in of_signs], 2).flatten(1)
        )
        details = {
            **means,
            "curve_plus": plus,
            "curve_minus": minus,
            "error_plus": error_plus.sqrt(),
            "error_minus": error_minus.sqrt(),
            "sparsity": torch.tensor(list(sparsity), dtype=plus.dtype, device=plus.device).expand(
                len(plus), -1
            ),
            "size": sizes,
        }
        return Scores(means[score], squared_error.sqrt(), details, (answers.rests_on,))

    scores = [
        scored(
            answers_without(
                masked,
                each,
                regions,
                elements=elements,
                output=output,
                n_draws=n_draws,
                target=target,
            )
        )
        for each in (a.detach() if a.ndim > x.ndim else a.detach().unsqueeze(0))
    ]
    return Scores.stack(scores) if a.ndim > x.ndim else scores[0]


def first_of(sizes: Sequence[int]) -> list[bool]:
    """Return which sizes count in a mean over them: those that come for the first time.

    Examples
    --------
    >>> from quantus_ext.functional.fidelity import first_of
    >>> first_of([0, 0, 1, 2, 2])
    [True, False, True, True, False]
    """
    return [size not in sizes[:place] for place, size in enumerate(sizes)]


_FEW_SIZES = 4


def _next_sizes(sizes: Sequence[int]) -> list[list[int]]:
    """Return for each column, plus and minus in turn, those of the next smaller and larger size.

    One more than the last column stands for none. Where sizes are few they may be too unlike.
    """
    none = 2 * len(sizes)
    nearest = [[none, none] for _ in range(none)]
    levels = [level for level, comes in enumerate(first_of(sizes)) if comes]
    if len(levels) > _FEW_SIZES:
        levels.sort(key=lambda level: sizes[level])
        for smaller, larger in itertools.pairwise(levels):
            for sign in (0, 1):
                nearest[2 * smaller + sign][1] = 2 * larger + sign
                nearest[2 * larger + sign][0] = 2 * smaller + sign
    return nearest
