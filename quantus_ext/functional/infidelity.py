r"""Infidelity (Yeh et al., 2019): how badly Φ predicts what a perturbation does.

With ``a = I·Φ``, what the explanation predicts, and ``b = f(x) - f(x - I)``, what happens,
infidelity is ``E_I[(a - b)²]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.draws import FIRST, Block, Cells, Target, sum_draws, sum_until_known
from quantus_ext.engine.elements import Elements, Rows, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.perturb import Perturbation, replace_by
from quantus_ext.engine.populations import by_population
from quantus_ext.functional.infidelity_draws import Choose, Scheme, listed, populations, sampler_of
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
    inputs_baseline: float = 0.0,
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
        The attributions already carry the input factor (Integrated Gradients, SHAP, …), so ``I``
        is the mask where elements are replaced, which should be by the attributions' own
        baseline, else ``(x - x̃) / (x - inputs_baseline)``. Otherwise ``I = x - x̃``.
    inputs_baseline : float, default 0.0
        The baseline of that input factor. Values equal to it count as unperturbed.
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
        ``n_draws``.

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
    inputs_baseline = checks.finite_number("inputs_baseline", inputs_baseline)
    n_draws = checks.positive_integer("n_draws", n_draws)
    if tolerance is not None:
        tolerance = checks.positive_number("tolerance", tolerance)
    independent = sampler_of(scheme, x, patch_sizes, subset_fraction, elements)
    kind = scheme if perturbation.uses_mask else "all"
    equally_likely = kind != "patch" or len(set(patch_sizes)) == 1
    groups = by_population(
        populations(kind, x, patch_sizes, subset_fraction, elements),
        listed=equally_likely and not perturbation.random,
        device=x.device,
    )
    clean = forward.clean(x) if clean is None else clean
    known = clean.gather(1, y[:, None])

    def sum_with(choose: Choose, rows: Rows, start: int, stop: int) -> Tensor:
        predicted = _predicted_change(
            x[rows],
            a[rows],
            perturbation,
            multiply_by_inputs,
            inputs_baseline,
            alike=elements is None or elements.mask_shape != x.shape[1:],
        )
        targets, original = y[rows], known[rows]

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
    for rows, population in groups:
        choose = independent
        if population is not None:
            choose = listed(population, keys, elements or elements_of(x))
        cells.append(Cells(0, rows, population, n_draws, functools.partial(sum_with, choose)))
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
    moments = Moments(drawn.sums[:, 0], drawn.counts[:, 0])
    return Scores(moments.loss(rescale)[0], drawn.squared_error[:, 0].sqrt(), moments.details())


def _predicted_change(
    x: Tensor,
    a: Tensor,
    perturbation: Perturbation,
    multiply_by_inputs: bool,
    inputs_baseline: float,
    *,
    alike: bool,
) -> Callable[[Block], Tensor]:
    """Return the function from a block to ``I·Φ``, shape (b, d).

    ``alike`` says that masks treat channels alike, as all do but those of single channel values.
    """
    by_mask = multiply_by_inputs and perturbation.replaces
    one_channel = alike and x.ndim > 2
    # A map summed over the channels counts once an element, so it is spread evenly over them;
    # a mask treats channels alike, so there it is their sum that counts.
    if by_mask and one_channel:
        phi = a.sum(1, keepdim=True)
    else:
        phi = a if a.shape == x.shape else a.expand_as(x) / x.shape[1]

    def interpreted(change: Tensor, original: Tensor) -> Tensor:
        """Return ``I`` where inputs change by ``change``."""
        if not multiply_by_inputs:
            return change
        factor = original - inputs_baseline
        return torch.where(factor == 0, 0.0, change / factor)

    fixed = None if by_mask else perturbation.prepare(x).fixed
    if by_mask or fixed is not None:
        # What an element adds is known before it is drawn. In double precision, for the quotient
        # of an element that is never drawn must not overflow either.
        added = phi
        if fixed is not None:
            added = interpreted(x.double() - fixed.double(), x.double()) * added
        if one_channel:
            added = added.sum(1, keepdim=True)
        added = added.flatten(1).unsqueeze(2)

        def summed(block: Block) -> Tensor:
            # As bytes, which are converted several times as fast as truth values.
            mask = block.mask.view(torch.int8).to(added.dtype).flatten(2)
            mask = mask.expand(-1, -1, added.shape[1])
            return (mask @ added[block.samples]).squeeze(2)

        return summed

    axes = tuple(range(2, x.ndim + 1))

    def predicted(block: Block) -> Tensor:
        original = x[block.samples].unsqueeze(1).double()
        change = interpreted(original - block.perturbed, original)
        return (change * phi[block.samples].unsqueeze(1)).sum(axes)

    return predicted
