"""In which space a map explains the model: as logit, probability, log-probability or contrast."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantus_ext.engine.spaces import SPACES, Space

FITS = 0.5
"""The largest share of the outputs' change that a map which explains a space leaves over."""
EXACT = 0.01
"""That share where log-probabilities are scored: these hardly move near a probability of 1, so that
right maps of them, which know of larger changes, often seem to explain logits."""
CLEARLY = 4.0
"""How many times as much it leaves over in another space that it fits clearly worse."""
FEWEST = 4
"""Samples that a warning needs."""

NAMES: dict[Space, str] = {
    "logit": "logit",
    "probability": "probability",
    "log_probability": "log-probability",
    "contrast": "contrast with the next class",
}


class Fit(NamedTuple):
    """How well a map fits in each space.

    Attributes
    ----------
    unexplained : dict of str to float
        The share of the outputs' change that the map does not predict, the median over samples; of
        the spaces in which that is known.
    n : int
        Samples of which it is known.
    """

    unexplained: dict[Space, float]
    n: int

    @classmethod
    def of(cls, shares: NDArray[np.float64]) -> Fit:
        """Take ``details["space"]`` of one map, shape (n, 4).

        Examples
        --------
        >>> import numpy as np
        >>> from quantus_ext.spaces import Fit
        >>> fit = Fit.of(np.array(4 * [[0.1, 9.0, 0.8, np.nan]]))
        >>> fit.space, fit.better_than("probability")
        ('logit', True)
        """
        known = np.isfinite(shares)
        # The same samples for every space that is known of most of them.
        spaces = known.sum(0) * 2 > max(known.any(1).sum(), 1)
        rows = known[:, spaces].all(1)
        if not spaces.any() or not rows.any():
            return cls({}, 0)
        medians = np.median(shares[rows], axis=0)
        found = {
            space: float(value)
            for space, value, is_known in zip(SPACES, medians, spaces, strict=True)
            if is_known
        }
        return cls(found, int(rows.sum()))

    @property
    def space(self) -> Space | None:
        """The space that the map fits best; None where it fits none."""
        best = min(self.unexplained, key=self.unexplained.__getitem__, default=None)
        return best if best is not None and self.unexplained[best] <= FITS else None

    def better_than(self, scored: Space) -> bool:
        """Whether the map fits another space clearly better than this one."""
        space = self.space
        if space in (None, scored) or scored not in self.unexplained or self.n < FEWEST:
            return False
        assert space is not None
        best = self.unexplained[space]
        fits = scored != "log_probability" or best <= EXACT
        return fits and self.unexplained[scored] > CLEARLY * best

    def warning(self, scored: Space) -> str:
        """Return what to say where that is so."""
        space = self.space
        assert space is not None
        own, other = self.unexplained[scored], self.unexplained[space]
        return (
            f"fits the {NAMES[space]} better than the {NAMES[scored]}, which is scored: it leaves "
            f"{other:.2g} of the change of the first unexplained, {own:.2g} of that of the second "
            f"(median of {self.n} samples). If it explains the {NAMES[space]}, pass "
            f'output="{space}", or give maps of the {NAMES[scored]}'
        )
