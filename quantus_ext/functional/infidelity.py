r"""Infidelity (Yeh et al., 2019): how badly Φ predicts what a perturbation does.

With ``a = I·Φ``, what the explanation predicts, and ``b = f(x) - f(x - I)``, what happens,
infidelity is ``E_I[(a - b)²]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine.answers import OUTPUT, Asked
from quantus_ext.engine.draws import FIRST, Cells, SumRows, Target, sum_until_known
from quantus_ext.engine.elements import Elements, Rows, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.masked import Block, MaskedModel, Sampler
from quantus_ext.engine.perturb import (
    SAME,
    CaptumFunction,
    Perturbation,
    baseline_like,
    replace_by,
    replaces_by,
)
from quantus_ext.engine.populations import by_population
from quantus_ext.functional.infidelity_draws import Scheme, listed, populations, sampler_of
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
    numbers: Tensor | None = None,
) -> Scores:
    r"""Compute ``E_I[(I·Φ - (f(x) - f(x - I)))²]``, lower is better.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, (rows, classes) out.
    x : Tensor, shape (n, F), (n, C, T) or (n, C, H, W)
        Inputs.
    a : Tensor, shape of ``x``, or with one channel; or (m, n, …), m maps of each sample
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
    numbers : Tensor, int64, shape (n,), optional
        Which samples of a call these are, for models that hold something for each; see
        :func:`quantus_ext.adapters.samples_of_rows`.

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
    patch_sizes = checks.positive_integers("patch_sizes", patch_sizes)
    subset_fraction = checks.fraction("subset_fraction", subset_fraction)
    n_draws = checks.positive_integer("n_draws", n_draws)
    if tolerance is not None:
        tolerance = checks.positive_number("tolerance", tolerance)
    perturbation = perturbation or replace_by("black")
    if multiply_by_inputs and isinstance(perturbation, CaptumFunction):
        raise ValueError(
            "multiply_by_inputs must be False where perturb_func returns I itself, from_captum's: "
            "let that function divide by the inputs"
        )
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
    x, keys = masked.x, masked.keys
    maps = a.detach() if a.ndim > x.ndim else a.detach().unsqueeze(0)
    m = len(maps)
    independent = sampler_of(scheme, x, patch_sizes, subset_fraction, elements)
    kind = scheme if perturbation.uses_mask else "all"
    equally_likely = kind != "patch" or len(set(patch_sizes)) == 1
    possible = populations(kind, x, patch_sizes, subset_fraction, elements)
    groups = by_population(
        possible, listed=equally_likely and not perturbation.random, device=x.device
    )
    # Masks treat channels alike, but for those of single channel values.
    alike = x.ndim > 2 and (elements is None or elements.mask_shape != x.shape[1:])
    factor = _InputFactor.of(x, perturbation, inputs_baseline) if multiply_by_inputs else None
    predicted = _Predicted(masked, maps, factor, alike=alike)
    known = masked.original[:, OUTPUT]

    def statistic(block: Block) -> Tensor:
        changed = known[block.samples, None] - block.answers[..., OUTPUT]
        return power_sums(predicted(block), changed)

    def sum_with(choose: Sampler, name: str | None) -> SumRows:
        return lambda rows, start, stop: masked.sum_draws(
            rows,
            keys,
            choose,
            statistic,
            start,
            stop,
            name=name,
            needs_perturbed=not predicted.by_mask,
        )

    def variance(sums: Tensor, counts: Tensor) -> Tensor:
        return Moments(sums, counts).loss(rescale)[1]

    settings = (kind, list(patch_sizes), subset_fraction)
    grouping = None if elements is None else elements.group
    cells = []
    sizes = torch.full_like(keys, torch.inf, dtype=torch.float64)
    for rows, population in groups:
        choose = independent
        if population is not None:
            choose = listed(population, keys, elements or elements_of(x))
            sizes[rows] = torch.full_like(sizes[rows], population.total)
        name = masked.name_of(settings, grouping, population)
        cells.append(Cells(slice(0, m), rows, population, n_draws, sum_with(choose, name)))
    single = torch.tensor([population.single for population in possible], device=x.device)
    spread = torch.zeros_like(known).unsqueeze(1)
    extreme_asked = torch.zeros_like(known)
    if tolerance is not None and max(group.limit for group in cells) > FIRST:
        # How far apart losses can plausibly be: what perturbing everything at once does.
        everything = sampler_of("all", x, patch_sizes, 1.0, elements)
        extreme, extreme_asked = sum_with(everything, masked.name_of("all"))(slice(None), 0, 1)
        moments = Moments(extreme, torch.ones_like(extreme[..., 0]))
        spread = moments.product(0, 2)
        if not rescale:
            # Rescaled, a map of zeros is as good as any other can be bad.
            spread = spread.maximum(moments.product(2, 0))
    drawn = sum_until_known(
        cells,
        shape=(len(x), m, N_SUMS),
        target=None if tolerance is None else Target(tolerance, range(m)),
        variance=variance,
        spread=spread,
    )
    moments = Moments(drawn.sums.transpose(0, 1), drawn.counts.T, sizes, single)
    if predicted.divides and bool(moments.product(1, 0).isnan().any()):
        raise ValueError(_CANNOT_SPLIT)
    score = moments.loss(rescale)[0]
    scores = Scores(
        score,
        drawn.squared_error.T.sqrt().where(~score.isnan(), torch.nan),
        moments.details(),
        tuple(Asked({"draws": rows, "extreme": extreme_asked}) for rows in drawn.asked.unbind(1)),
    )
    return scores if a.ndim > x.ndim else scores.of_map(0)


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

    def interpreted(self, original: Tensor, perturbed: Tensor, baseline: Tensor) -> Tensor:
        """Return ``I``, where elements are chosen."""
        difference = original - baseline
        quotient = torch.where(difference == 0, 0.0, (original - perturbed) / difference)
        # The quotient's limit, also for a value that is the baseline before.
        return torch.where(perturbed == baseline, 1.0, quotient) if self.replaces else quotient


class _Predicted:
    """The function from a block to ``I·Φ``, shape (b, m, d), in double precision.

    A map summed over the channels counts once an element. Where `I` is a difference of inputs it is
    spread evenly over them; where it is a share of the input factor it must be the same in all, for
    the sum can't be divided among them.

    Parameters
    ----------
    masked : MaskedModel
    maps : Tensor, shape (m, n, \\*map)
    factor : _InputFactor or None
    alike : bool
        Whether masks treat channels alike.

    Attributes
    ----------
    by_mask : bool
        Whether what is added by an element is known before it is drawn.
    divides : bool
        Whether sums over channels would have to be divided.
    """

    def __init__(
        self, masked: MaskedModel, maps: Tensor, factor: _InputFactor | None, *, alike: bool
    ) -> None:
        self._x = masked.x
        self._maps = maps
        self._factor = factor
        self._alike = alike
        summed = maps.shape[1:] != self._x.shape
        self._whole = summed and factor is not None and alike
        self._spread = summed and not self._whole
        self.divides = self._whole and factor is not None and factor.baseline is not None
        weight = _known_weight(masked, factor)
        self.by_mask = weight is not None
        if weight is not None and self._whole and weight.shape[1] > 1:
            if not bool(_same_over(1, weight).all()):
                raise ValueError(_CANNOT_SPLIT)
            weight = weight[:, :1]
        self._weight = weight
        self._added: tuple[Rows, Tensor] | None = None

    def __call__(self, block: Block) -> Tensor:
        if self._weight is not None:
            # As bytes, which are converted several times as fast as truth values.
            mask = block.mask.view(torch.int8).to(torch.float64).flatten(2)
            added = self._added_by(block.samples, self._weight)
            return added @ mask.expand(-1, -1, added.shape[2]).transpose(1, 2)
        assert block.perturbed is not None
        phi = self._phi(block.samples).unsqueeze(2)
        factor, axes = self._factor, tuple(range(2, phi.ndim - 1))
        original = self._x[block.samples].unsqueeze(1).double()
        perturbed = block.perturbed.double()
        if block.interpretation is not None:
            change = block.interpretation.double()
        elif factor is None or factor.baseline is None:
            change = original - perturbed
        else:
            baseline = factor.baseline[block.samples].unsqueeze(1)
            change = factor.interpreted(original, perturbed, baseline)
            if factor.replaces:
                change = change * block.mask
            if self._whole:
                change = change[:, :, :1].where(_same_over(2, change), torch.nan)
        return torch.stack([(change * own).sum(axes) for own in phi], 1)

    def _phi(self, samples: Rows) -> Tensor:
        """Return the maps of some samples, float64, shape (m, b, \\*map)."""
        maps = self._maps[:, samples].double()
        if not self._spread:
            return maps
        channels = self._x.shape[1]
        return maps.expand(-1, -1, channels, *maps.shape[3:]) / channels

    def _added_by(self, samples: Rows, weight: Tensor) -> Tensor:
        """Return what each element adds to a sum, shape (b, m, values); the last is kept.

        In double precision, for the quotient of an element that is never drawn must not overflow.
        """
        if self._added is None or self._added[0] is not samples:
            added = self._phi(samples) * (weight if len(weight) == 1 else weight[samples])
            if self._alike:
                added = added.sum(2, keepdim=True)
            self._added = samples, added.flatten(2).movedim(0, 1)
        return self._added[1]


def _known_weight(masked: MaskedModel, factor: _InputFactor | None) -> Tensor | None:
    """Return ``I`` of each element if it is chosen, float64, None where that is not known."""
    if factor is not None and factor.baseline is None:
        return masked.x.new_ones((1,) * masked.x.ndim, dtype=torch.float64)
    if masked.fixed is None:
        return None
    original, perturbed = masked.x.double(), masked.fixed.double()
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
