"""Any function from arrays to class scores as a module: trees, ONNX, a remote call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.arrays import array_of
from quantus_ext.engine.progress import progress_bar

Predict = Callable[[np.ndarray], Any]
"""Rows in, (rows, classes) scores out."""
Corrupt = Callable[[Tensor, int, Tensor], Tensor]
"""(inputs, draw, indices) -> corrupted copy, as :class:`quantus_ext.finetune.MaskSampler`."""


class BlackBox(Adapter):
    """A prediction function as a torch module, for the metrics that need predictions only.

    It goes into every metric here, and into those of Quantus that don't ask for gradients.

    Parameters
    ----------
    predict : callable
        From an array of rows, in the inputs' own type and shape, to an array (rows, classes):
        ``predict_proba`` of scikit-learn, XGBoost, LightGBM or CatBoost, an ONNX Runtime session,
        a remote call.
    classes : int
        How many scores a row has; of one, ``predict`` may return shape (rows,).
    max_rows_per_call : int, optional
        More rows than that go out in several calls.
    display_progressbar : bool, default False
        Count rows as they are answered, for functions that are slow.
    key : str, optional
        A name of what ``predict`` answers, as ``"model-2026-11"``, by which stores and caches know
        it in place of its code and what that holds; to be changed whenever the answers do.
    check_rows : bool, default False
        Ask up to 12 rows more, once for each metric and kind of input at most, to find out whether
        answers depend on chance or on the other rows of a call. Not unless asked, for calls may
        have a price.

    Attributes
    ----------
    n_calls : int
        Calls of ``predict`` so far.

    Notes
    -----
    The outputs are taken as they are. Where they are probabilities already, call metrics with
    ``softmax=False``: removal metrics take a softmax by default, and warn of it there.

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import BlackBox
    >>> def predict(rows):
    ...     share = rows.mean(1)
    ...     return np.stack([1 - share, share], 1)
    >>> x = np.ones((1, 4))
    >>> Deletion(4)(BlackBox(predict, classes=2), x, np.array([1]), x, softmax=False)
    [0.5]
    """

    unread = frozenset({"n_calls", "max_rows_per_call", "display_progressbar", "check_rows"})
    asks_outside: ClassVar[bool] = True
    """Whether the answers may come from elsewhere, so that no content shows what they depend on."""

    def __init__(
        self,
        predict: Predict,
        classes: int,
        *,
        max_rows_per_call: int | None = None,
        display_progressbar: bool = False,
        key: str | None = None,
        check_rows: bool = False,
    ) -> None:
        super().__init__()
        checks.function("predict", predict)
        self.key = checks.optional(checks.text, "key", key)
        if key is not None:
            self.unread = self.unread | {"predict"}
        self.predict = predict
        self.classes = checks.positive_integer("classes", classes)
        self.max_rows_per_call = checks.optional(
            checks.positive_integer, "max_rows_per_call", max_rows_per_call
        )
        self.display_progressbar = checks.flag("display_progressbar", display_progressbar)
        self.check_rows = checks.flag("check_rows", check_rows)
        self.n_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (n, classes), in the inputs' floating type.

        Raises
        ------
        RuntimeError
            If ``predict`` raises; the message says on which call.
        ValueError
            If it returns another shape, or what is no number.
        """
        rows = x.detach().cpu().numpy()
        size = self.max_rows_per_call or max(len(rows), 1)
        parts = []
        with progress_bar(shown=self.display_progressbar, total=len(rows), unit="row") as bar:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                parts.append(self._scores(part))
                bar.update(len(part))
        # Scores have more digits than inputs in half precision.
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.from_numpy(np.concatenate(parts)).to(x.device, dtype)

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        try:
            # A copy, because the rows are a buffer that is written again.
            returned = self.predict(rows.copy())
        except Exception as error:
            raise RuntimeError(
                f"predict failed on call {self.n_calls}, with {len(rows)} rows: {error}"
            ) from error
        if isinstance(returned, Tensor):
            returned = returned.detach().cpu()
        try:
            scores = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"predict must return an array of numbers: {error}") from error
        if self.classes == 1 and scores.shape == (len(rows),):
            scores = scores[:, np.newaxis]
        if scores.shape != (len(rows), self.classes):
            raise ValueError(
                f"predict must return shape {(len(rows), self.classes)}, on call {self.n_calls} "
                f"it returned {scores.shape}"
            )
        return scores


def refit(
    make_estimator: Callable[[], Any],
    x: np.ndarray,
    y: np.ndarray,
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
    x : array, shape (n, \\*sample)
        Training inputs.
    y : array of int, shape (n,)
        Their labels.
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
    rows = np.ascontiguousarray(array_of("x", x))
    checks.inputs(torch.from_numpy(rows), "x")
    labels = checks.labels(y, len(rows), "y")
    most = int(labels.max()) + 1
    known = most if classes is None else checks.positive_integer("classes", classes)
    if known < most:
        raise ValueError(f"classes must be at least {most} for the labels in y, is {known}")

    def fine_tune(model: nn.Module, masks: Corrupt) -> BlackBox:
        inputs = torch.from_numpy(rows.copy())
        index = torch.arange(len(inputs))
        parts = [inputs, *(masks(inputs, draw, index) for draw in range(1, copies + 1))]
        estimator = make_estimator()
        estimator.fit(torch.cat(parts).numpy(), np.tile(labels, len(parts)))
        return BlackBox(estimator.predict_proba, known)

    return fine_tune
