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
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.engine.answers import OUTPUT, Asked
from quantus_ext.engine.bridges import CaptumFunction
from quantus_ext.engine.draws import FIRST, Cells, SumRows, Target, sum_until_known
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.masked import Block, MaskedModel, SampleArguments, Sampler
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.populations import by_population
from quantus_ext.engine.replacements import replace_by
from quantus_ext.functional.infidelity_draws import Scheme, listed, populations, sampler_of
from quantus_ext.functional.infidelity_moments import N_SUMS, Moments, power_sums
from quantus_ext.functional.infidelity_predicted import CANNOT_SPLIT, InputFactor, Predicted
from quantus_ext.functional.scores import Scores, maps_of


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
    **samples: Unpack[SampleArguments],
) -> Scores:
    r"""Compute ``E_I[(I·Φ - (f(x) - f(x - I)))²]``, lower is better.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, (rows, classes) out.
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
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
    **samples
        Seed and more; see :class:`quantus_ext.engine.masked.SampleArguments`.

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
    masked = MaskedModel(forward, x, y, perturbation, **samples)
    maps = maps_of(a, x)
    factor = InputFactor.of(masked.x, perturbation, inputs_baseline) if multiply_by_inputs else None
    # Masks treat channels alike, but for those of single channel values.
    alike = x.ndim > 2 and (elements is None or elements.mask_shape != x.shape[1:])
    predicted = Predicted(masked, maps, factor, alike=alike)
    asking = _Asking(masked, predicted, scheme, list(patch_sizes), subset_fraction, elements)
    cells, sizes, single = asking.cells(n_draws, len(maps))
    spread, extreme_asked = masked.original.new_zeros(len(x), 1), sizes.new_zeros(len(x))
    if tolerance is not None and max(group.limit for group in cells) > FIRST:
        spread, extreme_asked = asking.spread(rescale)
    drawn = sum_until_known(
        cells,
        shape=(len(x), len(maps), N_SUMS),
        target=None if tolerance is None else Target(tolerance, range(len(maps))),
        variance=lambda sums, counts: Moments(sums, counts).loss(rescale)[1],
        spread=spread,
    )
    moments = Moments(drawn.sums.transpose(0, 1), drawn.counts.T, sizes, single)
    if predicted.divides and bool(moments.product(1, 0).isnan().any()):
        raise ValueError(CANNOT_SPLIT)
    score = moments.loss(rescale)[0]
    scores = Scores(
        score,
        drawn.squared_error.T.sqrt().where(~score.isnan(), torch.nan),
        moments.details(),
        tuple(Asked({"draws": rows, "extreme": extreme_asked}) for rows in drawn.asked.unbind(1)),
    )
    return scores if a.ndim > x.ndim else scores.of_map(0)


@dataclass(frozen=True)
class _Asking:
    """What draws perturb, and the sums over them.

    Attributes
    ----------
    masked : MaskedModel
    predicted : Predicted
    scheme, patch_sizes, subset_fraction, elements
        See :func:`infidelity`.
    """

    masked: MaskedModel
    predicted: Predicted
    scheme: Scheme
    patch_sizes: list[int]
    subset_fraction: float
    elements: Elements | None

    def cells(self, n_draws: int, n_maps: int) -> tuple[list[Cells], Tensor, Tensor]:
        """Return the draws of all maps, how many masks each sample has, and where it has one."""
        masked, x, keys = self.masked, self.masked.x, self.masked.keys
        masks = (x, self.patch_sizes, self.subset_fraction, self.elements)
        independent = sampler_of(self.scheme, *masks)
        kind = self.scheme if masked.perturbation.uses_mask else "all"
        equally_likely = kind != "patch" or len(set(self.patch_sizes)) == 1
        possible = populations(kind, *masks)
        settings = (kind, self.patch_sizes, self.subset_fraction)
        grouping = None if self.elements is None else self.elements.group
        cells = []
        sizes = torch.full_like(keys, torch.inf, dtype=torch.float64)
        for rows, population in by_population(
            possible, listed=equally_likely and not masked.perturbation.random, device=x.device
        ):
            choose = independent
            if population is not None:
                choose = listed(population, keys, self.elements or elements_of(x))
                sizes[rows] = torch.full_like(sizes[rows], population.total)
            name = masked.name_of(settings, grouping, population)
            sums = self._sums(choose, name)
            cells.append(Cells(slice(0, n_maps), rows, population, n_draws, sums))
        single = torch.tensor([population.single for population in possible], device=x.device)
        return cells, sizes, single

    def spread(self, rescale: bool) -> tuple[Tensor, Tensor]:
        """Return how far apart losses can plausibly be, (n, m), and the rows asked for it, (n,).

        That is what perturbing everything at once does.
        """
        everything = sampler_of("all", self.masked.x, self.patch_sizes, 1.0, self.elements)
        sums = self._sums(everything, self.masked.name_of("all"))
        extreme, asked = sums(slice(None), 0, 1)
        moments = Moments(extreme, torch.ones_like(extreme[..., 0]))
        spread = moments.product(0, 2)
        # Rescaled, a map of zeros is as good as any other can be bad.
        return spread if rescale else spread.maximum(moments.product(2, 0)), asked

    def _sums(self, choose: Sampler, name: str | None) -> SumRows:
        known = self.masked.original[:, OUTPUT]

        def statistic(block: Block) -> Tensor:
            changed = known[block.samples, None] - block.answers[..., OUTPUT]
            return power_sums(self.predicted(block), changed)

        return lambda rows, start, stop: self.masked.sum_draws(
            rows,
            self.masked.keys,
            choose,
            statistic,
            start,
            stop,
            name=name,
            needs_perturbed=not self.predicted.by_mask,
        )
