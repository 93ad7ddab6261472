"""SynScore (M4): how well a map ranks the elements of a planted ground truth above the others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from quantus_ext.functional.scores import Scores

Measure = Literal["ap", "auroc"]


def syn_score(a: Tensor, truth: Tensor, *, measure: Measure = "auroc") -> Scores:
    r"""Score maps as detectors of the planted elements; higher is better.

    ``auroc`` is the fraction of pairs (planted, other) that the map orders correctly, ties counting
    one half; 0.5 for a random map. ``ap``, the average precision, is the mean over planted elements
    of the fraction of planted ones among all that score at least as high; for a random map, about
    the fraction planted.

    Parameters
    ----------
    a : Tensor, shape (n, t)
        Element scores, −∞ where a sample has fewer elements.
    truth : Tensor, bool, shape (n, t)
        Which elements were planted.
    measure : {"auroc", "ap"}
        Which is the score; ``details`` has both.

    Returns
    -------
    Scores
        ``details`` has ``ap``, ``auroc`` and ``planted``, the fraction of elements planted. NaN if
        no element is planted, and for ``auroc`` if all are.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional import syn_score
    >>> a = torch.tensor([[0.9, 0.1, 0.8, 0.3]])
    >>> result = syn_score(a, torch.tensor([[True, True, False, False]]))
    >>> {name: float(value) for name, value in result.details.items()}
    {'ap': 0.75, 'auroc': 0.5, 'planted': 0.5}
    """
    t = (a > -torch.inf).sum(1)
    values, order = a.double().sort(dim=1, descending=True)
    planted = truth.gather(1, order).double()
    count = planted.sum(1)
    # For each value: how many are higher, and how many at least as high.
    above, at_least = (torch.searchsorted(-values, -values, right=right) for right in (False, True))
    planted_at_least = planted.cumsum(1).gather(1, at_least - 1)
    precision = planted_at_least / at_least
    ap = (precision * planted).sum(1) / count
    # Mean ranks from below, 1 to t, ties sharing theirs.
    rank = t[:, None] - (above + at_least - 1) / 2
    pairs = count * (t - count)
    auroc = ((rank * planted).sum(1) - count * (count + 1) / 2) / pairs
    details = {"ap": ap, "auroc": auroc, "planted": count / t}
    return Scores(details[measure], torch.zeros_like(ap), details)
