r"""Infidelity (Yeh et al., 2019): how badly Φ predicts what a perturbation does.

With ``a = I·Φ``, what the explanation predicts, and ``b = f(x) - f(x - I)``, what happens,
infidelity is ``E_I[(a - b)²]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.draws import FIRST, Block, Cells, Target, sum_draws, sum_until_known
from quantus_ext.engine.elements import Elements, Rows, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.perturb import (
    SAME,
    CaptumFunction,
    Perturbation,
    baseline_like,
    replace_by,
    replaces_by,
)
from quantus_ext.engine.populations import by_population
from quantus_ext.functional.infidelity_draws import (
    Choose,
    Scheme,
    listed,
    populations,
    sampler_of,
)
from quantus_ext.functional.infidelity_moments import N_SUMS, Moments, power_sums
from quantus_ext.functional.scores import Scores


def infidelity(
    forward: Forward | Predict,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    perturbation: Perturbation | None = None,
    scheme: Scheme = "patch",
    patch_sizes: Sequence[int] = (4,),
    subset_fraction: float = 0.1,
    elements: Elements | None = None,
    multiply_by_inputs: bool = False,
    inputs_baseline: float | str | np.ndarray | Tensor = 0.0,
    rescale: bool = False,
    n_draws: int = 200,
    tolerance: float | None = None,
    seed: int = 0,
    index: Tensor | None = None,
    clean: Tensor | None = None,
) -> Scores:
    r"""Compute ``E_I[(I·Φ - (f(x) - f(x - I)))²]``, lower is better.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, (rows, classes) out.
    x : Tensor, shape (n, F), (n, C, T) or (n, C, H, W)
        Inputs.
    a : Tensor, shape of ``x``, or with one channel
        Attributions Φ. One channel stands for the sum over all of them, spread evenly.
    y : Tensor, int64, shape (n,)
        Explained classes.
    perturbation : Perturbation, optional
        What chosen elements become; by default the sample's minimum.
    scheme : {"patch", "subset", "all"}
        Which elements a draw perturbs: a window at random over the spatial axes (for tables as
        many features as the window's side), a random subset, or every element.
    patch_sizes : sequence of int
        Sides of the window, one chosen at random for each draw.
    subset_fraction : float
        Share of the elements in a subset, rounded down, at least one element.
    elements : Elements, optional
        What a draw chooses from, where that is not every position: windows are then of elements
        that follow each other, cut to a sample's number of them.
    multiply_by_inputs : bool, default False
        The attributions already carry the input factor (Integrated Gradients, SHAP, …), so
        ``I = (x - x̃) / (x - inputs_baseline)``. That is the mask of perturbed elements where they
        are replaced by the attributions' own baseline, and for token ids always. Otherwise
        ``I = x - x̃``.
    inputs_baseline : float, str or array, default 0.0
        The baseline of that input factor, as a perturbation's: a number, ``"black"``, ``"white"``,
        ``"mean"``, or an array with one value a channel or of a sample's shape; or ``"same"``,
        whatever chosen elements become, so that ``I`` is the mask. Of values equal to it such
        attributions say nothing: replaced by another value, they have ``I = 0``.
    rescale : bool, default False
        Score ``E[(βa - b)²]`` with ``β = E[ab] / E[a²]`` instead.
    n_draws : int, default 200
        Draws a sample, or the most of them where ``tolerance`` is given. Where the masks are
        equally likely (with one patch size), at most 1,024, and all that is random, none is
        drawn twice, so that as many draws as there are masks are made at most and give the exact
        mean.
    tolerance : float, optional
        Stop drawing for a sample once its standard error is known to be at most this.
    seed : int, default 0
        With ``index`` it fixes every draw.
    index : Tensor, int64, shape (n,), optional
        Global sample indices, by default 0, …, n - 1.
    clean : Tensor, shape (n, classes), optional
        The model's outputs for ``x``, where they are known already.

    Returns
    -------
    Scores
        ``details`` has ``infidelity``, ``rescaled_infidelity``, ``scale`` (β), ``faithfulness``
        (``1 - E[(max(β, 0) a - b)²] / E[b²]``), ``correlation`` (of a and b over draws) and
        ``n_draws``. What rests on β is corrected for β being fitted to the same draws, and NaN
        where only one perturbation is possible, which β fits whatever the map.

    Raises
    ------
    ValueError
        If an argument breaks a rule; or if the attributions carry the input factor, are summed
        over channels, and ``I`` differs from channel to channel, so that the sum can't be split.

    Examples
    --------
    A linear model explained by its own weights, which is perfect:

    >>> import torch
    >>> from quantus_ext.functional import infidelity
    >>> w = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    >>> x = torch.arange(8, dtype=torch.float64).reshape(2, 4)
    >>> result = infidelity(
    ...     lambda rows: rows @ w.T,
    ...     x,
    ...     w.expand(2, 4),
    ...     torch.zeros(2, dtype=torch.long),
    ...     patch_sizes=[2],
    ...     n_draws=32,
    ... )
    >>> bool((result.score < 1e-24).all()), result.details["faithfulness"].tolist()
    (True, [1.0, 1.0])
    """
    forward = forward if isinstance(forward, Forward) else Forward(forward)
    perturbation = perturbation or replace_by("black")
    # Sums of draws are no place to keep a graph.
    x, a = x.detach(), a.detach().double()
    index = torch.arange(len(x), device=x.device) if index is None else index
    keys = sampling.sample_keys(seed, index)
    patch_sizes = checks.positive_integers("patch_sizes", patch_sizes)
    subset_fraction = checks.fraction("subset_fraction", subset_fraction)
    n_draws = checks.positive_integer("n_draws", n_draws)
    if tolerance is not None:
        tolerance = checks.positive_number("tolerance", tolerance)
    independent = sampler_of(scheme, x, patch_sizes, subset_fraction, elements)
    kind = scheme if perturbation.uses_mask else "all"
    equally_likely = kind != "patch" or len(set(patch_sizes)) == 1
    possible = populations(kind, x, patch_sizes, subset_fraction, elements)
    groups = by_population(
        possible, listed=equally_likely and not perturbation.random, device=x.device
    )
    clean = forward.clean(x) if clean is None else clean
    known = clean.gather(1, y[:, None])

    if multiply_by_inputs and isinstance(perturbation, CaptumFunction):
        raise ValueError(
            "multiply_by_inputs must be False where perturb_func returns I itself, from_captum's: "
            "let that function divide by the inputs"
        )
    # Masks treat channels alike, but for those of single channel values.
    alike = x.ndim > 2 and (elements is None or elements.mask_shape != x.shape[1:])
    factor = _InputFactor.of(x, perturbation, inputs_baseline) if multiply_by_inputs else None

    def sum_with(choose: Choose, rows: Rows, start: int, stop: int) -> Tensor:
        own = None if factor is None else factor.take(rows)
        predicted = _predicted_change(x[rows], a[rows], perturbation, own, alike=alike)
        targets, original = y[rows], known[rows].double()

        def statistic(block: Block) -> Tensor:
            labels = targets[block.samples][:, None, None].expand(*block.outputs.shape[:2], 1)
            changed = original[block.samples] - block.outputs.gather(2, labels).squeeze(2)
            return power_sums(predicted(block), changed)

        return sum_draws(
            forward,
            x[rows],
            clean[rows],
            keys[rows],
            sampler=choose(rows),
            perturbation=perturbation,
            statistic=statistic,
            start=start,
            stop=stop,
        )

    def variance(sums: Tensor, counts: Tensor) -> Tensor:
        return Moments(sums, counts).loss(rescale)[1]

    cells = []
    sizes = torch.full_like(keys, torch.inf, dtype=torch.float64)
    for rows, population in groups:
        choose = independent
        if population is not None:
            choose = listed(population, keys, elements or elements_of(x))
            sizes[rows] = torch.full_like(sizes[rows], population.total)
        cells.append(Cells(0, rows, population, n_draws, functools.partial(sum_with, choose)))
    single = torch.tensor([population.single for population in possible], device=x.device)
    spread = torch.zeros_like(known)
    if tolerance is not None and max(group.limit for group in cells) > FIRST:
        # How far apart losses can plausibly be: what perturbing everything at once does.
        extreme = sum_with(sampler_of("all", x, patch_sizes, 1.0, elements), slice(None), 0, 1)
        moments = Moments(extreme, torch.ones_like(extreme[:, 0]))
        spread = moments.product(0, 2).unsqueeze(1)
        if not rescale:
            # Rescaled, a map of zeros is as good as any other can be bad.
            spread = spread.maximum(moments.product(2, 0).unsqueeze(1))
    drawn = sum_until_known(
        cells,
        shape=(len(x), 1, N_SUMS),
        target=None if tolerance is None else Target(tolerance, [0]),
        variance=variance,
        spread=spread.double(),
    )
    moments = Moments(drawn.sums[:, 0], drawn.counts[:, 0], sizes, single)
    divided = factor is None or factor.baseline is None or not alike or a.shape == x.shape
    if not divided and bool(moments.product(1, 0).isnan().any()):
        raise ValueError(_CANNOT_SPLIT)
    score = moments.loss(rescale)[0]
    error = drawn.squared_error[:, 0].sqrt()
    return Scores(score, error.where(~score.isnan(), torch.nan), moments.details())


@dataclass(frozen=True)
class _InputFactor:
    """``I = (x - x̃) / (x - baseline)``, of attributions that carry the input as a factor.

    Attributes
    ----------
    baseline : Tensor, float64, broadcasting to the samples, or None
        None where chosen elements become the baseline, so that ``I`` is the mask.
    replaces : bool
        Whether chosen elements lose their value entirely.
    """

    baseline: Tensor | None
    replaces: bool

    @classmethod
    def of(
        cls,
        x: Tensor,
        perturbation: Perturbation,
        inputs_baseline: float | str | np.ndarray | Tensor,
    ) -> _InputFactor:
        if isinstance(inputs_baseline, str) and inputs_baseline.lower() == SAME:
            return cls(None, perturbation.replaces)
        if not x.is_floating_point() or replaces_by(perturbation, inputs_baseline):
            return cls(None, perturbation.replaces)
        baseline = baseline_like(perturbation, inputs_baseline, x).double()
        return cls(baseline.expand(len(x), *baseline.shape[1:]), perturbation.replaces)

    def take(self, rows: Rows) -> _InputFactor:
        """Return that of some of the samples."""
        return self if self.baseline is None else replace(self, baseline=self.baseline[rows])

    def interpreted(self, original: Tensor, perturbed: Tensor, baseline: Tensor) -> Tensor:
        """Return ``I``, where elements are chosen."""
        difference = original - baseline
        quotient = torch.where(difference == 0, 0.0, (original - perturbed) / difference)
        # The quotient's limit, also for a value that is the baseline before.
        return torch.where(perturbed == baseline, 1.0, quotient) if self.replaces else quotient


def _predicted_change(
    x: Tensor, a: Tensor, perturbation: Perturbation, factor: _InputFactor | None, *, alike: bool
) -> Callable[[Block], Tensor]:
    """Return the function from a block to ``I·Φ``, shape (b, d), in double precision.

    ``alike`` says that masks treat channels alike.
    """
    # A map summed over the channels counts once an element. Where `I` is a difference of inputs it
    # is spread evenly over them; where it is a share of the input factor it must be the same in
    # all, for the sum can't be divided among them.
    summed = a.shape != x.shape
    whole = summed and factor is not None and alike
    phi = (a.expand_as(x) / x.shape[1] if summed and not whole else a).double()
    weight = _known_weight(x, perturbation, factor)
    if weight is not None:
        if whole and weight.shape[1] > 1:
            if not bool(_same_over(1, weight).all()):
                raise ValueError(_CANNOT_SPLIT)
            weight = weight[:, :1]
        # In double precision, for the quotient of an element that is never drawn must not overflow.
        added = weight * phi
        if alike:
            added = added.sum(1, keepdim=True)
        added = added.flatten(1).unsqueeze(2)

        def summed_up(block: Block) -> Tensor:
            # As bytes, which are converted several times as fast as truth values.
            mask = block.mask.view(torch.int8).to(added.dtype).flatten(2)
            mask = mask.expand(-1, -1, added.shape[1])
            return (mask @ added[block.samples]).squeeze(2)

        return summed_up

    axes = tuple(range(2, x.ndim + 1))

    def predicted(block: Block) -> Tensor:
        original, perturbed = x[block.samples].unsqueeze(1).double(), block.perturbed.double()
        if block.interpretation is not None:
            change = block.interpretation.double()
        elif factor is None or factor.baseline is None:
            change = original - perturbed
        else:
            baseline = factor.baseline[block.samples].unsqueeze(1)
            change = factor.interpreted(original, perturbed, baseline)
            if factor.replaces:
                change = change * block.mask
            if whole:
                change = change[:, :, :1].where(_same_over(2, change), torch.nan)
        return (change * phi[block.samples].unsqueeze(1)).sum(axes)

    return predicted


def _known_weight(
    x: Tensor, perturbation: Perturbation, factor: _InputFactor | None
) -> Tensor | None:
    """Return ``I`` of each element if it is chosen, float64, None where that is not known."""
    if factor is not None and factor.baseline is None:
        return torch.ones((1,) * x.ndim, dtype=torch.float64, device=x.device)
    fixed = perturbation.prepare(x).fixed
    if fixed is None:
        return None
    original, perturbed = x.double(), fixed.double()
    if factor is None or factor.baseline is None:
        return original - perturbed
    return factor.interpreted(original, perturbed, factor.baseline)


def _same_over(axis: int, values: Tensor) -> Tensor:
    """Return where values are the same along an axis, which is kept."""
    return values.isclose(values.narrow(axis, 0, 1), rtol=1e-6).all(axis, keepdim=True)


_CANNOT_SPLIT = (
    "a_batch must have a value for each channel with multiply_by_inputs=True where elements become "
    "something else than inputs_baseline: I = (x - x̃) / (x - inputs_baseline) differs from channel "
    "to channel there, and a map summed over channels can't be divided among them. Pass maps that "
    "are not summed; or let elements become the explainer's baseline, given as perturb_baseline "
    'and as inputs_baseline, which "same" says of any replacement'
)
