"""Confidence sequences, value by value, as their papers give them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def hedged_capital(values: Sequence[float], mean: float, alpha: float) -> list[tuple[float, float]]:
    """Return the capital of both bettors after each value in [0, 1] (Waudby-Smith and Ramdas).

    One bets that values are larger than ``mean`` on average, the other that they are smaller. The
    bets rest on the values before.
    """
    up = down = 1.0
    past: list[float] = []
    running, squares = 0.5, 0.25
    found = []
    for count, value in enumerate(values, start=1):
        variance = squares / count
        stake = math.sqrt(2 * math.log(2 / alpha) / (variance * count * math.log(count + 1)))
        up *= 1 + min(stake, 0.75 / mean) * (value - mean)
        down *= 1 - min(stake, 0.75 / (1 - mean)) * (value - mean)
        found.append((up, down))
        past.append(value)
        running = (0.5 + sum(past)) / (count + 1)
        squares += (value - running) ** 2
    return found


def side(values: Sequence[float], mean: float, alpha: float) -> int:
    """Return on which side of ``mean`` the true one lies, 0 where that is not known."""
    for up, down in hedged_capital(values, mean, alpha):
        if (up + down) / 2 >= 1 / alpha:
            return 1 if up > down else -1
    return 0


def t_mixture(values: Sequence[float], alpha: float) -> tuple[float, float]:
    """Return the interval from a mixture of t statistics (Lindon et al., 2022)."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    tuned = 300 / (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha)))
    ratio = tuned / (tuned + n)
    root = (alpha**2 * ratio) ** (1 / n)
    half = math.sqrt((n - 1) * (1 - root) / (root - ratio) * variance / n)
    return mean - half, mean + half
