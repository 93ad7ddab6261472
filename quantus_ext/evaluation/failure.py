"""An error in a cell of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """The error that a metric or an explainer raised on some samples.

    Attributes
    ----------
    explainer, metric : str
    start, stop : int
        The samples of the shard.
    error, traceback : str
    """

    explainer: str
    metric: str
    start: int
    stop: int
    error: str
    traceback: str
