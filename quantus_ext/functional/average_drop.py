r"""Average drop, increase (Chattopadhay et al., 2018) and gain (Zhang et al., 2024).

The map, scaled to [0, 1], says how much of each element stays. With the output ``p`` for the input
and ``o`` for what stays of it, the drop is ``max(p - o, 0) / p``, the increase ``1(o > p)``, and
the gain ``max(o - p, 0) / (1 - p)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext.engine.answers import OUTPUT
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.masked import MaskedModel, SampleArguments
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.functional.scores import Scores, maps_of

MaskScore = Literal["drop", "increase", "gain"]


def average_drop(
    forward: Forward | Predict,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    scores: Sequence[MaskScore] = ("drop", "increase", "gain"),
    elements: Elements | None = None,
    perturbation: Perturbation | None = None,
    **samples: Unpack[SampleArguments],
) -> dict[MaskScore, Scores]:
    r"""Compare the output for an input with that for the input weighted by the map.

    An element with attribution ``φ`` keeps the share ``m = (φ - min φ) / (max φ - min φ)`` of its
    value, ``x̃ + m (x - x̃)``, where ``x̃`` is its replacement. A constant map keeps nothing.

    Parameters
    ----------
    forward : Forward or callable
        The model: rows in, probabilities (rows, classes) out. Of other outputs, the drop and the
        gain are NaN where the original one is negative, and the gain where it is above 1.
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs.
    a : Tensor, shape of ``x`` or with one channel; or (m, n, …), m maps of each sample
        Attributions.
    y : Tensor, int64, shape (n,)
        Explained classes.
    scores : sequence of {"drop", "increase", "gain"}
        The scores to return; all come from the same evaluation.
    elements : Elements, optional
        By default every position, over all channels.
    perturbation : Perturbation, optional
        The replacement ``x̃``; by default 0.
    **samples
        Seed and more; see :class:`quantus_ext.engine.masked.SampleArguments`.

    Returns
    -------
    dict of Scores
        By name. ``details`` has ``drop``, ``increase``, ``gain``, ``original_score`` and
        ``masked_score``, the output for the weighted input. The standard error is NaN if the
        perturbation is random, and otherwise 0.

    Raises
    ------
    ValueError
        If ``x`` holds integers, which cannot be weighted.

    Examples
    --------
    The model's output is the first feature, and the map keeps half of it:

    >>> import torch
    >>> from quantus_ext.functional import average_drop
    >>> result = average_drop(
    ...     lambda rows: rows,
    ...     torch.tensor([[0.8, 0.5, 0.1]]),
    ...     torch.tensor([[1.0, 2.0, 0.0]]),
    ...     torch.tensor([0]),
    ... )
    >>> {name: round(float(scores.score), 6) for name, scores in result.items()}
    {'drop': 0.5, 'increase': 0.0, 'gain': 0.0}
    """
    if not x.is_floating_point():
        raise ValueError(f"x must hold floating-point numbers to be weighted, holds {x.dtype}")
    elements = elements_of(x) if elements is None else elements
    masked = MaskedModel(forward, x, y, perturbation, **samples)
    original = masked.original[:, OUTPUT]
    error = torch.full_like(original, torch.nan if masked.perturbation.random else 0.0)
    found: dict[MaskScore, list[Scores]] = {name: [] for name in scores}
    for own in maps_of(a, x):
        answers, asked = masked.weighted(shares_of(own, elements), elements)
        output = answers[:, OUTPUT]
        each = _scores(original, output)
        details = {"original_score": original, "masked_score": output, **each}
        for name in scores:
            found[name].append(Scores(each[name], error, details, (asked,)))
    return {
        name: Scores.stack(each) if a.ndim > x.ndim else each[0] for name, each in found.items()
    }


def shares_of(a: Tensor, elements: Elements) -> Tensor:
    """Return how much of each element stays, float64, shape (n, T); 0 for a constant map.

    Parameters
    ----------
    a : Tensor
        Attributions, see :meth:`quantus_ext.engine.elements.Elements.scores`.
    elements : Elements

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.elements import elements_of
    >>> from quantus_ext.functional.average_drop import shares_of
    >>> maps = torch.tensor([[-1.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
    >>> shares_of(maps, elements_of(maps)).tolist()
    [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    scores = elements.scores(a)
    highest = scores.amax(1, keepdim=True)
    lowest = scores.masked_fill(~elements.present, torch.inf).amin(1, keepdim=True)
    width = highest - lowest
    shares = (scores - lowest) / width.where(width > 0, 1.0)
    return shares.masked_fill(~elements.present, 0.0)


def _scores(original: Tensor, output: Tensor) -> dict[str, Tensor]:
    change = output - original
    drop, gain = (-change).clamp(min=0), change.clamp(min=0)
    return {
        "drop": _quotient(drop, original),
        "increase": (change > 0).double().masked_fill(change.isnan(), torch.nan),
        # Nothing is missing from 1 of an output that is no probability.
        "gain": _quotient(gain, 1 - original).masked_fill(original < 0, torch.nan),
    }


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, NaN where the whole is negative, or 0 and the part not; 0 / 0 = 0.

    Of a probability nothing can be lost at 0, or gained at 1.
    """
    unknown = (whole < 0) | ((whole == 0) & (part > 0))
    return (part / whole.where(part != 0, 1.0)).masked_fill(unknown, torch.nan)
