"""What a worker gets and gives back: shards of samples, and records of their scores."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantus_ext.engine.spaces import SPACES
from quantus_ext.evaluation.plan import Method
from quantus_ext.evaluation.rows import Data, Rows

_TRACEBACK = 4000
"""Characters of a traceback that are kept, its end."""


@dataclass(frozen=True)
class Shard:
    """Some samples on their way to a worker.

    Attributes
    ----------
    start, stop : int
        Places in the order in which samples are scored.
    index : numpy.ndarray of int, shape (n,)
        The samples' numbers.
    x, y : Rows
    s : Rows or None
    maps : dict of int to Rows
        Of the explainers, by place, whose maps are there already.
    """

    start: int
    stop: int
    index: NDArray[np.int64]
    x: Rows
    y: Rows
    s: Rows | None
    maps: dict[int, Rows]

    @classmethod
    def of(
        cls,
        data: Data,
        order: NDArray[np.int64] | None,
        methods: Mapping[int, Method],
        start: int,
        stop: int,
    ) -> Shard:
        """Cut samples out, with their maps by these explainers, as far as there are some.

        Data and maps are in the order in which samples are scored.
        """
        maps = {
            place: method.maps.part(start, stop)
            for place, method in methods.items()
            if method.maps is not None
        }
        index = np.arange(start, stop) if order is None else order[start:stop]
        return cls(start, stop, index, *data.part(start, stop), maps)


@dataclass(frozen=True)
class Scored:
    """What one metric says of one shard by one explainer.

    Attributes
    ----------
    score, error : numpy.ndarray, float64, shape (n,)
        NaN where the metric failed.
    flags : numpy.ndarray, int64, shape (n,)
        What makes scores arbitrary, sums of :class:`quantus_ext.flags.Flag`.
    space : numpy.ndarray, float64, shape (n, 4)
        What maps leave unexplained in each space; see :class:`quantus_ext.spaces.Fit`.
    class_scores, class_errors : numpy.ndarray, float64, shape (n, k), or None
        Of k classes of each sample, whose mean is ``score``.
    n_evaluations : int
        Rows through the model that they rest on.
    n_rows : int
        Rows that were sent for them and for the maps scored together with them; those are counted
        with the first of these.
    seconds : float
    plan : tuple of int and str, or None
        Rows a forward pass and their layout, where the metric says so.
    failure, traceback : str or None
        What it raised.
    """

    score: np.ndarray
    error: np.ndarray
    flags: np.ndarray
    space: np.ndarray
    n_evaluations: int
    n_rows: int
    seconds: float
    plan: tuple[int, str] | None = None
    failure: str | None = None
    traceback: str | None = None
    class_scores: np.ndarray | None = None
    class_errors: np.ndarray | None = None


@dataclass(frozen=True)
class Record:
    """What is known of one shard by one explainer.

    Attributes
    ----------
    method : int
        Place of the explainer.
    start, stop : int
        Places in the order in which samples are scored.
    cells : dict of str to Scored
    maps : dict of int to numpy.ndarray
        Attributions of the samples that are shown as cases.
    seconds : float
        Of the explaining.
    threads : int
        Of torch, while it was computed.
    left : tuple of str
        What explainers and metrics left of which the shard's first record tells.
    """

    method: int
    start: int
    stop: int
    cells: dict[str, Scored]
    maps: dict[int, np.ndarray]
    seconds: float
    threads: int
    left: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Names of the cells that failed."""
        return [name for name, scored in self.cells.items() if scored.failure is not None]


def told(before: str, error: BaseException) -> tuple[str, str]:
    """Return what was raised and the end of its traceback."""
    text = "".join(traceback.format_exception(error))
    return f"{before}{type(error).__name__}: {error}", text[-_TRACEBACK:]


def failed(n: int, seconds: float, failure: str, trace: str) -> Scored:
    """Return the scores of n samples that there are none of."""
    unknown = np.full(n, np.nan)
    none = np.zeros(n, dtype=np.int64)
    spaces = np.full((n, len(SPACES)), np.nan)
    return Scored(unknown, unknown, none, spaces, 0, 0, seconds, None, failure, trace)
