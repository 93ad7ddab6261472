"""A sample to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantus_ext.shown import ShownByArguments


@dataclass(frozen=True, repr=False)
class Case(ShownByArguments):
    """A sample to show.

    Attributes
    ----------
    index : int
    x : numpy.ndarray
    y : int
    maps : dict of str to numpy.ndarray
        Attributions by explainer.
    name, class_name : str, optional
        Of the sample, and of the explained class.
    tokens : tuple of str, optional
        Of a text, one for each id.
    feature_names : tuple of str, optional
        Of the columns of a table, or of the channels of a series.
    values : tuple of str, optional
        The values of a row of a data frame, as it has them.
    typical : tuple of two numpy.ndarray, optional
        Mean and standard deviation of a table's columns.
    inside : numpy.ndarray of bool, optional
        Which positions metrics remove or count; padding is not.
    """

    index: int
    x: np.ndarray
    y: int
    maps: Mapping[str, np.ndarray]
    name: str | None = None
    class_name: str | None = None
    tokens: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    typical: tuple[np.ndarray, np.ndarray] | None = None
    inside: np.ndarray | None = None
