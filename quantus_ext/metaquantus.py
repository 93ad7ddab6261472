"""Helpers for meta-evaluation with MetaQuantus, which is not imported.

Every metric of the package works as an ``estimator`` of ``MetaEvaluation``::

    evaluation(estimator=metric, …, score_direction=quantus_ext.metaquantus.score_direction(metric))

F-Fidelity tunes one copy for each perturbed model and reuses it for every explainer. Fine-tuning
can undo the perturbation of the weights, so that a low adversary score in the model test may be due
to the tuning and not to the metric: :func:`healing` says whether it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric

from quantus_ext import checks
from quantus_ext.metrics.fidelity import FFidelity
from quantus_ext.metrics.qge import better_scores


class DirectionText(str):
    """A direction that, as a condition, is true only if lower is better.

    MetaQuantus 0.0.5 tests ``if score_direction:``, and so reads every non-empty string as "lower";
    its proposed fix compares with "higher" and "lower".

    Examples
    --------
    >>> higher = DirectionText("higher")
    >>> higher == "higher", bool(higher)
    (True, False)
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        """Whether lower is better."""
        return self == ScoreDirection.LOWER.value


def score_direction(metric: Metric[Any] | ScoreDirection | str) -> str:
    """Return which scores are better, in a form that every MetaQuantus reads correctly.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric, ScoreDirection or {"higher", "lower"}
        A metric of Quantus or of this package, or a direction for one that declares none. Wrong
        declarations of Region Perturbation and Consistency in Quantus 0.6 are corrected.

    Returns
    -------
    str
        "higher" or "lower": compares, hashes, pickles and is written to JSON as that string, but is
        false as a condition for "higher" (:class:`DirectionText`).

    Raises
    ------
    ValueError, TypeError
        If a metric declares no direction, a string is neither, or it is a class.

    Examples
    --------
    >>> import json
    >>> from quantus_ext import Infidelity, QGE
    >>> from quantus_ext.metaquantus import score_direction
    >>> score_direction(Infidelity()), score_direction(QGE(Infidelity()))
    ('lower', 'higher')
    >>> json.dumps(score_direction("higher"))
    '"higher"'
    """
    text = metric.value if isinstance(metric, ScoreDirection) else metric
    if isinstance(text, str):
        checks.one_of("metric", text, [known.value for known in ScoreDirection])
        return DirectionText(text)
    if not isinstance(metric, Metric):
        raise TypeError(f"metric must be an instance of a Quantus metric, is {metric!r}")
    return DirectionText(better_scores(metric, None).value)


@dataclass(frozen=True)
class Healing:
    """Whether fine-tuning undid the perturbation of the models that F-Fidelity was called with.

    Attributes
    ----------
    calls, healed : int
        Calls of the metric, and those in which the accuracy of the tuned copy on unmasked inputs
        was higher than the model's by more than 0.05.
    accuracy_before, accuracy_after : float
        Mean accuracies on unmasked inputs in the latter calls, of the models and of their copies;
        NaN if there are none. In MetaQuantus, the labels are the unperturbed model's predictions.
    """

    calls: int
    healed: int
    accuracy_before: float
    accuracy_after: float

    def __str__(self) -> str:
        """Say it in a sentence."""
        if not self.healed:
            return f"Tuning healed no model: {self.calls} calls."
        return (
            f"Tuning healed the model in {self.healed} of {self.calls} calls: accuracy "
            f"{self.accuracy_before:.3f} before, {self.accuracy_after:.3f} after. Where these were "
            "perturbed, a low adversary score may speak for the tuning, not against the metric."
        )


def healing(metric: FFidelity) -> Healing:
    """Return whether fine-tuning undid the perturbation of models that F-Fidelity was called with.

    MetaQuantus's model test perturbs the weights and expects different scores. F-Fidelity
    fine-tunes copies of the perturbed models, which may be as good as the unperturbed one again.
    Accuracies are measured on the inputs of the call, so the evaluation should have model tests
    only: the input test perturbs inputs.

    Parameters
    ----------
    metric : FFidelity
        After ``MetaEvaluation`` has called it. Use a new one for each evaluation.

    Returns
    -------
    Healing
        Prints as a sentence.

    Raises
    ------
    ValueError, TypeError
        If it is another metric or has not been called.

    Examples
    --------
    >>> import copy, numpy as np, torch
    >>> from quantus_ext import FFidelity
    >>> from quantus_ext.metaquantus import healing
    >>> model = torch.nn.Linear(3, 2).eval()
    >>> x = np.array([[1, 0, 0], [-1, 0, 0]], dtype=np.float32)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    >>> broken = copy.deepcopy(model)
    >>> _ = broken.weight.data.mul_(-1)
    >>> metric = FFidelity(0.5, fine_tune=model, beta=0.5, n_samples=2)
    >>> scores = metric(broken, x, np.array([0, 1]), x)
    >>> healing(metric).healed
    1
    """
    if not isinstance(metric, FFidelity):
        raise TypeError(f"metric must be an FFidelity, is {metric!r}")
    if not metric.healths:
        raise ValueError("metric must have been called, healths is empty")
    healed = [health for health in metric.healths if health.is_healed]
    before = [health.original_accuracy[0] for health in healed]
    after = [health.tuned_accuracy[0] for health in healed]
    return Healing(
        calls=len(metric.healths),
        healed=len(healed),
        accuracy_before=float(np.mean(before)) if healed else float("nan"),
        accuracy_after=float(np.mean(after)) if healed else float("nan"),
    )
