"""F-Fidelity without gradients: what cannot be tuned is trained again, on masked copies too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.black_box import BlackBox
from quantus_ext.adapters.frames import DataFrame
from quantus_ext.arrays import array_of
from quantus_ext.engine.modules import without_keywords

Corrupt = Callable[[Tensor, int, Tensor], Tensor]
"""(inputs, draw, indices) -> corrupted copy, as :class:`quantus_ext.finetune.MaskSampler`."""


def refit(
    make_estimator: Callable[[], Any],
    x: Any,
    y: Any,
    *,
    copies: int = 5,
    classes: int | None = None,
) -> Callable[[nn.Module, Corrupt], BlackBox]:
    """Return a ``fine_tune`` for F-Fidelity that trains a fresh estimator on masked copies.

    What cannot be tuned further can be trained again: on the training data once as they are and
    ``copies`` times under random masks, as the metric asks for them.

    Parameters
    ----------
    make_estimator : callable
        Makes an untrained estimator with ``fit`` and ``predict_proba``, as scikit-learn's.
    x : array, shape (n, \\*sample), or pandas.DataFrame
        Training inputs. With a frame the explained model must be a
        :class:`~quantus_ext.adapters.DataFrame`.
    y : array of int, shape (n,)
        Their labels. With a frame also words: whatever the estimator is fitted with.
    copies : int, default 5
        Masked copies of each sample.
    classes : int, optional
        By default one more than the largest label. The estimator must give a score for each.

    Raises
    ------
    TypeError, ValueError
        If an argument breaks one of these rules.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from quantus_ext import FFidelity
    >>> from quantus_ext.adapters import BlackBox, refit
    >>> x = np.random.default_rng(0).normal(size=(60, 20))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> tree = DecisionTreeClassifier(random_state=0).fit(x, y)
    >>> model = BlackBox(tree.predict_proba, classes=2)
    >>> retrain = refit(lambda: DecisionTreeClassifier(random_state=0), x, y)
    >>> scores = FFidelity(0.1, fine_tune=retrain)(model, x[:3], y[:3], np.abs(x[:3]))
    >>> len(scores)
    3
    """
    checks.function("make_estimator", make_estimator)
    copies = checks.positive_integer("copies", copies)
    if isinstance(x, pd.DataFrame):
        return _refit_of_frames(make_estimator, x, y, copies, classes)
    return _refit_of_arrays(make_estimator, x, y, copies, classes)


def _refit_of_arrays(
    make_estimator: Callable[[], Any], x: Any, y: Any, copies: int, classes: int | None
) -> Callable[[nn.Module, Corrupt], BlackBox]:
    rows = np.ascontiguousarray(array_of("x", x))
    checks.inputs(torch.from_numpy(rows), "x")
    labels = checks.labels(y, len(rows), "y")
    most = int(labels.max()) + 1
    known = most if classes is None else checks.positive_integer("classes", classes)
    if known < most:
        raise ValueError(f"classes must be at least {most} for the labels in y, is {known}")

    def fine_tune(model: nn.Module, masks: Corrupt) -> BlackBox:
        estimator = make_estimator()
        estimator.fit(_and_masked(rows, masks, copies), np.tile(labels, copies + 1))
        return BlackBox(estimator.predict_proba, known)

    return fine_tune


def _refit_of_frames(
    make_estimator: Callable[[], Any], x: pd.DataFrame, y: Any, copies: int, classes: int | None
) -> Callable[[nn.Module, Corrupt], BlackBox]:
    targets = np.ravel(np.asarray(y))
    checks.samples("y", targets, len(x))

    def fine_tune(model: nn.Module, masks: Corrupt) -> BlackBox:
        table = without_keywords(model)
        if not isinstance(table, DataFrame):
            try:
                of_numbers = _refit_of_arrays(make_estimator, x, y, copies, classes)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    "model must be an adapters.DataFrame where x of refit is a frame with more "
                    f"than numbers, is a {type(table).__name__}"
                ) from error
            return of_numbers(model, masks)
        estimator = make_estimator()
        masked = _and_masked(table.encode(x, "x"), masks, copies)
        estimator.fit(table.decode(masked), np.tile(targets, copies + 1))
        return table.around(estimator)

    return fine_tune


def _and_masked(rows: np.ndarray, masks: Corrupt, copies: int) -> np.ndarray:
    """Return rows as they are, and under random masks as often as ``copies`` says."""
    inputs = torch.from_numpy(rows.copy())
    index = torch.arange(len(inputs))
    masked = (masks(inputs, draw, index) for draw in range(1, copies + 1))
    return torch.cat([inputs, *masked]).numpy()
