r"""Infidelity (Yeh et al., 2019): how badly Φ predicts what a perturbation does.

With ``a = I·Φ``, what the explanation predicts, and ``b = f(x) - f(x - I)``, what happens,
infidelity is ``E_I[(a - b)²]``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.draws import (
    FIRST,
    Block,
    Cells,
    Sampler,
    Target,
    sum_draws,
    sum_until_known,
)
from quantus_ext.engine.elements import Elements, Rows, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from quantus_ext.engine.perturb import Perturbation, replace_by
from quantus_ext.engine.populations import (
    Population,
    Subsets,
    Windows,
    by_population,
    draws_of,
)
from quantus_ext.functional.scores import Scores

Scheme = Literal["patch", "subset", "all"]

Choose = Callable[[Rows], Sampler]
"""Rows of the batch -> the sampler of their draws."""

_ORDERS = 5
"""Powers 0 to 4 of a and of b: products up to the fourth order give the standard errors."""
_SUMS = _ORDERS**2 + 2


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
    x, a = x.detach(), a.detach()
    index = torch.arange(len(x), device=x.device) if index is None else index
    keys = sampling.sample_keys(seed, index)
    checks.positive_integer("n_draws", n_draws)
    independent = _sampler(scheme, x, patch_sizes, subset_fraction, elements)
    kind = scheme if perturbation.uses_mask else "all"
    equally_likely = kind != "patch" or len(set(patch_sizes)) == 1
    groups = by_population(
        _populations(kind, x, patch_sizes, subset_fraction, elements),
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
            return _power_sums(predicted(block), changed)

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
        return _Moments(sums, counts).loss(rescale)[1]

    cells = []
    for rows, population in groups:
        choose = independent
        if population is not None:
            choose = _listed(population, keys, elements or elements_of(x))
        cells.append(Cells(0, rows, population, n_draws, functools.partial(sum_with, choose)))
    spread = torch.zeros_like(known)
    if tolerance is not None and max(group.limit for group in cells) > FIRST:
        # How far apart losses can plausibly be: what perturbing everything at once does.
        extreme = sum_with(_sampler("all", x, patch_sizes, 1.0, elements), slice(None), 0, 1)
        moments = _Moments(extreme, torch.ones_like(extreme[:, 0]))
        spread = moments.product(0, 2).unsqueeze(1)
        if not rescale:
            # Rescaled, a map of zeros is as good as any other can be bad.
            spread = spread.maximum(moments.product(2, 0).unsqueeze(1))
    drawn = sum_until_known(
        cells,
        shape=(len(x), 1, _SUMS),
        target=None if tolerance is None else Target(tolerance, [0]),
        variance=variance,
        spread=spread.double(),
    )
    moments = _Moments(drawn.sums[:, 0], drawn.counts[:, 0])
    return Scores(moments.loss(rescale)[0], drawn.squared_error[:, 0].sqrt(), _details(moments))


def cumulative_infidelity(
    forward: Forward,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    perturb_func: Callable[..., Any],
    loss_func: Callable[..., Any],
    patch_sizes: Sequence[int] = (4,),
    n_repeats: int = 10,
    is_random: bool = False,
    seed: int = 0,
    index: Tensor | None = None,
    clean: Tensor | None = None,
) -> Scores:
    """Compute the number that ``quantus.Infidelity`` 0.6 computes, for comparison with it.

    There the patches of a fixed grid are perturbed one after the other and stay perturbed, and
    the loss is averaged over them. Repeats of deterministic work are left out.

    Parameters
    ----------
    forward : Forward
        The model.
    x : Tensor, shape (n, C, H, W)
    a : Tensor, shape of ``x``, or with one channel, which then counts for each channel
    y : Tensor, int64, shape (n,)
    perturb_func : callable
        Takes ``arr`` (n, values) and ``indices`` (n, count), as Quantus calls it.
    loss_func : callable
        Takes ``a`` and ``b`` (n, patches) and ``batched=True``; gives n losses.
    patch_sizes : sequence of int
        Sides of the grid's patches; each must divide height and width.
    n_repeats : int
        Repeats that are averaged where ``perturb_func`` is random.
    is_random : bool
        Whether it is.
    seed, index, clean
        As for :func:`infidelity`.

    Returns
    -------
    Scores
        ``details`` as for :func:`infidelity`, over patches in place of draws.
    """
    index = torch.arange(len(x), device=x.device) if index is None else index
    keys = sampling.sample_keys(seed, index)
    clean = (forward.clean(x) if clean is None else clean).gather(1, y[:, None])
    repeats = n_repeats if is_random else 1
    # A random function is given one sample at a time, so that its numbers do not depend on which
    # other samples are in the batch; a deterministic one sees them all at once.
    groups = [slice(i, i + 1) for i in range(len(x))] if is_random else [slice(0, len(x))]
    losses, sums = [], []
    with isolated_random_state():
        for rows in groups:
            repeated, total = [], torch.zeros(())
            for key in sampling.draw_keys(keys[rows][:1], 0, repeats)[0].tolist():
                seed_global_generators(key & (2**32 - 1))
                for size in patch_sizes:
                    predicted, changed = _cumulative_changes(
                        forward, x[rows], a[rows], y[rows], clean[rows], perturb_func, size
                    )
                    loss = loss_func(a=changed.numpy(), b=predicted.numpy(), batched=True)
                    repeated.append(torch.as_tensor(np.asarray(loss), dtype=torch.float64))
                    total = total + _power_sums(predicted, changed)
            losses.append(torch.stack(repeated, 1).unflatten(1, (repeats, len(patch_sizes))))
            sums.append(total)
    patches = sum(_grid(x, size)[0] * _grid(x, size)[1] for size in patch_sizes)
    counts = torch.full((len(x),), float(repeats * patches), dtype=torch.float64)
    details = _details(_Moments(torch.cat(sums), counts))
    per_repeat = torch.cat(losses).mean(2)
    score = per_repeat.mean(1)
    error = per_repeat.std(1) / repeats**0.5 if is_random else torch.zeros_like(score)
    return Scores(score, error, details)


def _sampler(
    scheme: Scheme,
    x: Tensor,
    patch_sizes: Sequence[int],
    subset_fraction: float,
    elements: Elements | None,
) -> Choose:
    """Return the scheme's masks: one channel stands for all, tables have none."""
    if elements is not None:
        return _sampler_of_elements(scheme, elements, patch_sizes, subset_fraction, _ordered(x))
    checks.one_of("scheme", scheme, ("patch", "subset", "all"))
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    count = int(np.prod(spatial))
    if scheme == "patch" and not 1 <= min(patch_sizes) <= max(patch_sizes) <= min(spatial):
        raise ValueError(
            f"patch sizes must be between 1 and the shortest axis of {spatial}, "
            f"has {list(patch_sizes)}"
        )

    def shaped(mask: Tensor) -> Tensor:
        channel = () if x.ndim == 2 else (1,)
        return mask.reshape(*mask.shape[:2], *channel, *spatial)

    def patch(samples: slice, draws: slice, keys: Tensor) -> Tensor:
        if x.ndim == 2:
            if len(patch_sizes) == 1:
                return sampling.subsets(keys, count, patch_sizes[0])
            sizes = torch.tensor(list(patch_sizes), device=x.device)
            choice = sampling.integers(keys, [len(patch_sizes)], sampling.Purpose.PATCH_SIZE)
            return sampling.subsets(keys, count, sizes[choice])
        return shaped(sampling.windows(keys, spatial, patch_sizes))

    def subset(samples: slice, draws: slice, keys: Tensor) -> Tensor:
        size = _subset_size(subset_fraction, count)
        return shaped(sampling.subsets(keys, count, size))

    def everything(samples: slice, draws: slice, keys: Tensor) -> Tensor:
        return torch.ones((*keys.shape, *(1,) * (x.ndim - 1)), dtype=torch.bool, device=x.device)

    sampler = {"patch": patch, "subset": subset, "all": everything}[scheme]
    return lambda rows: sampler


def _ordered(x: Tensor) -> bool:
    """Whether elements follow each other: tables have no order, texts, integer ids, have one."""
    return x.ndim > 2 or not x.is_floating_point()


def _subset_size(fraction: float, count: int) -> int:
    return max(sampling.snapped_floor(fraction * count), 1)


def _populations(
    scheme: Scheme,
    x: Tensor,
    patch_sizes: Sequence[int],
    subset_fraction: float,
    elements: Elements | None,
) -> list[Population]:
    """Return the masks that each sample's draws can be; of patches, those of the first size."""
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    axes, ordered = [spatial] * len(x), x.ndim > 2
    if elements is not None:
        axes, ordered = [(t,) for t in elements.totals()], _ordered(x)

    def population(lengths: tuple[int, ...]) -> Population:
        count = math.prod(lengths)
        if scheme == "patch" and ordered:
            return Windows(lengths, min(patch_sizes[0], *lengths))
        size = {
            "patch": min(patch_sizes[0], count),
            "subset": _subset_size(subset_fraction, count),
            "all": count,
        }[scheme]
        return Subsets(count, size)

    return [population(lengths) for lengths in axes]


def _listed(population: Population, keys: Tensor, elements: Elements) -> Choose:
    """Return the masks of a population without repetition."""

    def of_rows(rows: Rows) -> Sampler:
        own = elements.take(rows)
        listed = draws_of(population, keys[rows], None if own.group is None else own.present)
        return lambda samples, draws, _: own.expand(listed(samples, draws), samples)

    return of_rows


def _sampler_of_elements(
    scheme: Scheme,
    elements: Elements,
    patch_sizes: Sequence[int],
    subset_fraction: float,
    ordered: bool,
) -> Choose:
    """Return the scheme's masks over each sample's own elements."""
    checks.one_of("scheme", scheme, ("patch", "subset", "all"))

    def of_rows(rows: Rows) -> Sampler:
        own = elements.take(rows)
        present, t, place = own.present, own.counts, torch.arange(own.largest).to(own.counts)
        shares = [_subset_size(subset_fraction, n) for n in own.totals()]
        share = torch.tensor(shares, device=t.device)
        sides = torch.tensor(list(patch_sizes), device=t.device)

        def choose(samples: slice, keys: Tensor) -> Tensor:
            total = t[samples][:, None, None]
            if scheme == "all":
                return present[samples].unsqueeze(1).expand(-1, keys.shape[1], -1)
            if scheme == "subset":
                size = share[samples][:, None, None]
                return sampling.subsets(keys, own.largest, size, present[samples])
            choice = sampling.integers(keys, [len(patch_sizes)], sampling.Purpose.PATCH_SIZE)
            side = sides[choice].minimum(total)
            if not ordered:
                return sampling.subsets(keys, own.largest, side, present[samples])
            first = sampling.integers(keys, total - side + 1, sampling.Purpose.PATCH_OFFSET)
            return (place >= first) & (place < first + side)

        return lambda samples, draws, keys: own.expand(choose(samples, keys), samples)

    return of_rows


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

    fixed = None if by_mask else perturbation.fixed(x)
    if by_mask or fixed is not None:
        # What an element adds is known before it is drawn. In double precision, for the quotient
        # of an element that is never drawn must not overflow either.
        added = phi.double()
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
        original = x[block.samples].unsqueeze(1)
        change = interpreted(original - block.perturbed, original)
        return (change * phi[block.samples].unsqueeze(1)).sum(axes)

    return predicted


def _cumulative_changes(
    forward: Forward,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    clean: Tensor,
    perturb_func: Callable[..., Any],
    size: int,
) -> tuple[Tensor, Tensor]:
    """Return ``I·Φ`` and ``f(x) - f(x̃)`` as patch after patch is perturbed, each (n, patches).

    States that a patch leaves as they were are not evaluated again.
    """
    rows, columns = _grid(x, size)
    positions = np.arange(x[0].numel()).reshape(x.shape[1], rows, size, columns, size)
    original = x.detach().cpu().numpy().reshape(len(x), -1)
    phi = a.expand_as(x).cpu().numpy().reshape(len(x), -1)
    state = original.copy()
    buffer = forward.buffer(x, max(forward.chunk_size, len(x)))
    labels = y.new_empty(len(buffer))
    # The answers that are known, and of each state the place of its own among them.
    answers, place, places = [clean], torch.arange(len(x), device=x.device), []
    waiting, known = 0, len(x)
    predicted = []

    def ask() -> None:
        outputs = forward(buffer[:waiting])
        answers.append(outputs.gather(1, labels[:waiting, None]))

    for row, column in np.ndindex(rows, columns):
        indices = np.tile(positions[:, row, :, column].ravel(), (len(x), 1))
        before = state.copy()
        state = np.asarray(perturb_func(arr=state, indices=indices))
        predicted.append(torch.from_numpy(np.einsum("nv,nv->n", phi, original - state)))
        new = np.flatnonzero((state != before).any(1))
        if waiting + len(new) > len(buffer):
            ask()
            waiting = 0
        slots = slice(waiting, waiting + len(new))
        buffer[slots] = torch.from_numpy(state[new]).reshape(-1, *x.shape[1:]).to(buffer)
        which = torch.from_numpy(new).to(x.device)
        labels[slots] = y[which]
        place = place.index_copy(0, which, torch.arange(known, known + len(new)).to(place))
        places.append(place)
        waiting, known = waiting + len(new), known + len(new)
    if waiting:
        ask()
    changed = clean - torch.cat(answers)[torch.stack(places, 1), 0]
    return torch.stack(predicted, 1), changed.cpu()


def _grid(x: Tensor, size: int) -> tuple[int, int]:
    return x.shape[2] // size, x.shape[3] // size


def _power_sums(a: Tensor, b: Tensor) -> Tensor:
    """Sum over draws, in float64, the products ``aᵖ bᵠ`` and the residual's 2nd and 4th power.

    The residual's own sums are kept beside the products, from which they follow, because a
    perfect explanation leaves only what rounding makes of the difference of large sums.

    Parameters
    ----------
    a, b : Tensor, shape (n, d)

    Returns
    -------
    Tensor, float64, shape (n, 27)
    """
    a, b = a.double(), b.double()
    orders = torch.arange(_ORDERS, device=a.device)
    products = torch.einsum(
        "ndp,ndq->npq", a.unsqueeze(-1) ** orders, b.unsqueeze(-1) ** orders
    ).flatten(1)
    squared = (a - b) ** 2
    return torch.cat([products, squared.sum(1, True), (squared**2).sum(1, True)], 1)


class _Moments:
    """Means over draws, and the scores that follow from them."""

    def __init__(self, sums: Tensor, counts: Tensor) -> None:
        self.counts = counts
        means = sums / counts.unsqueeze(1)
        self._products = means[:, :-2].unflatten(1, (_ORDERS, _ORDERS))
        self._residual = means[:, -2], means[:, -1]

    def product(self, p: int, q: int) -> Tensor:
        """Return ``E[aᵖ bᵠ]``."""
        mean: Tensor = self._products[:, p, q]
        return mean

    def scale(self) -> Tensor:
        """Return ``β = E[ab] / E[a²]``, 0 where a is always 0."""
        energy = self.product(2, 0)
        return torch.where(energy == 0, 0.0, self.product(1, 1) / energy)

    def scaled_residual(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``E[(βa - b)²]`` and ``E[(βa - b)⁴]``."""
        m = self.product
        second = beta**2 * m(2, 0) - 2 * beta * m(1, 1) + m(0, 2)
        fourth = (
            beta**4 * m(4, 0)
            - 4 * beta**3 * m(3, 1)
            + 6 * beta**2 * m(2, 2)
            - 4 * beta * m(1, 3)
            + m(0, 4)
        )
        return second.clamp(min=0), fourth

    def loss(self, rescale: bool) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the variance of one draw's loss.

        Rescaled infidelity is minimal in β, so that estimating β adds nothing to its variance
        to first order: it is the variance of ``(βa - b)²`` at the estimated β.
        """
        second, fourth = self.scaled_residual(self.scale()) if rescale else self._residual
        unbiased = self.counts / (self.counts - 1)
        return second, (fourth - second**2).clamp(min=0) * unbiased

    def faithfulness(self) -> Tensor:
        """Return ``1 - E[(max(β, 0) a - b)²] / E[b²]``, NaN where b is always 0."""
        second, _ = self.scaled_residual(self.scale().clamp(min=0))
        return (1 - second / self.product(0, 2)).clamp(min=0)

    def correlation(self) -> Tensor:
        """Return the correlation of a and b, NaN where one of them is constant."""
        m = self.product
        covariance = m(1, 1) - m(1, 0) * m(0, 1)
        variances = []
        for square, mean in ((m(2, 0), m(1, 0)), (m(0, 2), m(0, 1))):
            variance = square - mean**2
            # What is left of a constant is rounding, not variance.
            constant = variance <= 1e-14 * square
            variances.append(torch.where(constant, torch.nan, variance))
        return (covariance / (variances[0] * variances[1]).sqrt()).clamp(-1, 1)


def _details(moments: _Moments) -> dict[str, Tensor]:
    return {
        "infidelity": moments.loss(False)[0],
        "rescaled_infidelity": moments.loss(True)[0],
        "scale": moments.scale(),
        "faithfulness": moments.faithfulness(),
        "correlation": moments.correlation(),
        "n_draws": moments.counts,
    }
