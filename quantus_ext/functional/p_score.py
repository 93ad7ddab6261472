"""PScore (M4): agreement of an explanation with those of other well-trained models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantus_ext.functional.scores import Scores


def p_score(a: Tensor, others: Sequence[Tensor]) -> Scores:
    r"""Compare maps with the mean of other models' maps of the same inputs.

    ``PScore(x) = cos(1/|M| Σ_{g∈M} A(x, g)/‖A(x, g)‖, A(x, f))``, between -1 and 1, higher is
    better. Each map is scaled to unit length first, so that models with large gradients do not
    dominate. A map of zeros adds nothing, and scores 0.

    Parameters
    ----------
    a : Tensor, shape (n, \*map)
        Attributions of the scored model.
    others : sequence of Tensor, shape (n, \*map)
        Attributions of the other models, by the same explainer. If one of the two has a single
        channel, the channels of the other are summed.

    Returns
    -------
    Scores
        ``details`` has ``similarity``, the cosine similarity with each other model, shape (n,
        models).

    Raises
    ------
    ValueError
        If there are no others.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional import p_score
    >>> a = torch.tensor([[1.0, 1.0]])
    >>> others = [torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.1]])]
    >>> round(float(p_score(a, others).score), 6)
    1.0
    """
    if not others:
        raise ValueError("others must hold at least one map for each sample, is empty")
    if a.ndim > 2 and any(other.shape[1] != a.shape[1] for other in others):
        a = a.sum(1, keepdim=True)
        others = [other.sum(1, keepdim=True) for other in others]
    own = _unit(a)
    units = torch.stack([_unit(other) for other in others], 1)
    score = (own * _unit(units.mean(1))).sum(1)
    similarity = (own.unsqueeze(1) * units).sum(2)
    return Scores(score, torch.zeros_like(score), {"similarity": similarity})


def _unit(maps: Tensor) -> Tensor:
    """Return maps of unit length, however small they were, flat; zeros stay."""
    flat = maps.flatten(1).double()
    largest = flat.abs().amax(1, keepdim=True)
    # Divide by the largest value first: squares of a saturated model's gradients underflow.
    flat = flat / largest.where(largest > 0, 1.0)
    length: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return flat / length.clamp(min=1.0)
