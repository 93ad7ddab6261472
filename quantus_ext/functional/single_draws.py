"""Standard errors of sizes that were drawn once each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_errors(values: Tensor, squared_error: Tensor, sizes: Tensor, counts: Tensor) -> Tensor:
    """Fill in unknown squared errors from how much values of neighbouring sizes differ.

    One draw does not tell how much draws of its size vary. So neighbouring sizes form groups of
    two (of three, the last of an odd number), and each gets the variance of the values within its
    group. Its expectation is the mean variance of the sizes in the group, plus that of their true
    values: the squared error of a sum over all sizes is, on average, not too small (collapsed
    strata: Cochran, 1977, "Sampling Techniques", sec. 5A.12). A single size without a draw to
    compare with gets its squared difference to the nearest size.

    Parameters
    ----------
    values : Tensor, float64, shape (n, k)
        One value a size.
    squared_error : Tensor, float64, shape (n, k)
        NaN where unknown.
    sizes : Tensor, int64, shape (n, k)
    counts : Tensor of bool, shape (n, k)
        Sizes that count; the others repeat one of these, and stay as they are.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.functional.single_draws import squared_errors
    >>> unknown = torch.full((1, 4), torch.nan)
    >>> curve = torch.tensor([[0.0, 0.5, 1.0, 1.0]])
    >>> sizes = torch.tensor([[1, 2, 3, 4]])
    >>> squared_errors(curve, unknown, sizes, torch.ones(1, 4).bool()).tolist()
    [[0.125, 0.125, 0.0, 0.0]]
    """
    last = sizes.max() + 1
    order = torch.argsort(torch.where(counts, sizes, last), dim=1, stable=True)
    value, known = values.gather(1, order), squared_error.gather(1, order)
    counted = counts.gather(1, order)
    unknown = known.isnan() & counted
    total = unknown.sum(1, keepdim=True)
    place = unknown.cumsum(1) - 1
    group = torch.minimum(place // 2, total // 2 - 1).clamp(min=0)

    def of_groups(each: Tensor) -> Tensor:
        within = torch.where(unknown, each, 0.0)
        return torch.zeros_like(value).scatter_add_(1, group, within).gather(1, group)

    members = of_groups(torch.ones_like(value))
    mean = of_groups(value) / members
    found = of_groups((value - mean) ** 2) / (members - 1)
    # The one that is alone: beside the next size, or the one before if it is the last.
    after, before = F.pad(value, (0, 1))[:, 1:], F.pad(value, (1, 0), value=torch.nan)[:, :-1]
    has_next = F.pad(counted, (0, 1))[:, 1:]
    near = torch.where(has_next, after, before)
    found = torch.where(members == 1, (value - near) ** 2, found)
    filled = torch.where(unknown, found, known)
    return torch.empty_like(filled).scatter_(1, order, filled)
