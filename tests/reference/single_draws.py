"""Squared errors of sizes that were drawn once, slowly: collapsed strata (Cochran, 1977)."""

from __future__ import annotations

import math


def squared_errors(
    values: list[float], errors: list[float], sizes: list[int], counts: list[bool]
) -> list[float]:
    """Return one sample's squared errors, where NaN ones come from neighbouring sizes."""
    found = list(errors)
    by_size = sorted((place for place in range(len(sizes)) if counts[place]), key=sizes.__getitem__)
    unknown = [place for place in by_size if math.isnan(errors[place])]
    if len(unknown) == 1:
        (lonely,) = unknown
        at = by_size.index(lonely)
        near = by_size[at + 1 :][:1] or by_size[:at][-1:]
        found[lonely] = (values[lonely] - values[near[0]]) ** 2 if near else math.nan
        return found
    while unknown:
        group = unknown[:3] if len(unknown) == 3 else unknown[:2]
        unknown = unknown[len(group) :]
        mean = sum(values[place] for place in group) / len(group)
        variance = sum((values[place] - mean) ** 2 for place in group) / (len(group) - 1)
        for place in group:
            found[place] = variance
    return found
