r"""Infidelity (Yeh et al., 2019): how well the map predicts the effect of a perturbation.

With the predicted change ``a = I·Φ`` and the actual change ``b = f(x) - f(x - I)``, infidelity is
``E_I[(a - b)²]``.
"""

from __future__ import annotations

import warnings
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
from quantus_ext.engine.tables import table
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
        Attributions Φ. A single channel is the sum over all channels, spread evenly.
    y : Tensor, int64, shape (n,), or (n, m) with a class for each map
        Explained classes.
    perturbation : Perturbation, optional
        The replacement of chosen elements; by default the minimum of the sample.
    scheme : {"patch", "subset", "all"}
        What a draw perturbs: a random window over the spatial axes (for tables, as many features as
        the side of the window), a random subset, or every element.
    patch_sizes : sequence of int
        Sides of the window, from which each draw chooses one at random.
    subset_fraction : float
        Fraction of the elements in a subset, rounded down, at least one element.
    elements : Elements, optional
        What a draw chooses from, if not every position. Windows then consist of consecutive
        elements, at most all of a sample's.
    multiply_by_inputs : bool, default False
        Whether the attributions include the input as a factor (Integrated Gradients, SHAP, …), so
        that ``I = (x - x̃) / (x - inputs_baseline)``: the mask of perturbed elements if they are
        replaced by the attributions' own baseline, and always for token ids. Otherwise
        ``I = x - x̃``.
    inputs_baseline : float, str or array, default 0.0
        The baseline of that factor: a number, ``"black"``, ``"white"``, ``"mean"``, or an array
        with one value per channel or of a sample's shape; or ``"same"``, the replacement itself, so
        that ``I`` is the mask. Attributions of values equal to the baseline say nothing: if these
        are replaced by another value, ``I = 0``.
    rescale : bool, default False
        Return ``E[(βa - b)²]`` with ``β = E[ab] / E[a²]``.
    n_draws : int, default 200
        Draws per sample; with ``tolerance``, their largest number. If at most 1,024 masks are
        equally likely (one patch size) and nothing else is random, they are drawn without
        replacement; if there are no more masks than draws, the mean is exact.
    tolerance : float, optional
        Stop drawing for a sample when its standard error is at most this.
    **samples
        Seed and more; see :class:`quantus_ext.engine.masked.SampleArguments`.

    Returns
    -------
    Scores
        ``details`` has ``infidelity``, ``rescaled_infidelity``, ``scale`` (β), ``faithfulness``
        (``1 - E[(max(β, 0) a - b)²] / E[b²]``), ``correlation`` (of a and b over draws) and
        ``n_draws``. Values that depend on β are corrected for it being fitted to the same draws.
        They are NaN if only one perturbation is possible, since β then fits any map.

    Raises
    ------
    ValueError
        If an argument is invalid, or if attributions that include the input are summed over
        channels and ``I`` differs between channels, so that the sum cannot be divided.

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
    # Only masks of single channel values differ between channels.
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
        single = [population.single for population in possible]
        if any(single) and kind != "all":
            warnings.warn(
                f"only one mask is possible for {sum(single)} of {len(single)} samples, so their "
                "scores depend on the sum of a map and not on its order: use smaller patch sizes, "
                "or another subset_fraction",
                UserWarning,
                stacklevel=4,
            )
        return cells, sizes, table(single, x.device)

    def spread(self, rescale: bool) -> tuple[Tensor, Tensor]:
        """Return how far apart losses can plausibly be, (n, m), and the rows asked for it, (n,).

        That is what perturbing everything at once does.
        """
        everything = sampler_of("all", self.masked.x, self.patch_sizes, 1.0, self.elements)
        sums = self._sums(everything, self.masked.name_of("all"))
        extreme, asked = sums(slice(None), 0, 1)
        moments = Moments(extreme, torch.ones_like(extreme[..., 0]))
        spread = moments.product(0, 2)
        # After rescaling, no map can score worse than a map of zeros.
        return spread if rescale else spread.maximum(moments.product(2, 0)), asked

    def _sums(self, choose: Sampler, name: str | None) -> SumRows:
        known = self.masked.original[..., OUTPUT]

        def statistic(block: Block) -> Tensor:
            # Of several classes, one a map, (b, d, m).
            changed = known[block.samples].unsqueeze(1) - block.answers[..., OUTPUT]
            predicted = self.predicted(block)
            if self.masked.spaces is not None and block.changes is not None:
                first = predicted[..., : block.changes.shape[1]]
                self.masked.spaces.compare(slice(None), block.samples, first, block.changes)
            return power_sums(predicted, changed.movedim(1, -1))

        return lambda rows, start, stop: self.masked.sum_draws(
            rows,
            self.masked.keys,
            choose,
            statistic,
            start,
            stop,
            name=name,
            needs_perturbed=not self.predicted.by_mask,
            # The draws that every sample has, whatever its tolerance and that of other maps.
            n_compared=FIRST,
        )
