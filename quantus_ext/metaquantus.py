"""What meta-evaluation with MetaQuantus needs; MetaQuantus itself is not imported.

Every metric of the package is an ``estimator`` of ``MetaEvaluation`` as it is::

    evaluation(estimator=metric, …, score_direction=quantus_ext.metaquantus.score_direction(metric))

F-Fidelity tunes one copy for each perturbed model, found again for every explainer. Tuning can heal
a model whose weights were perturbed a little, so that a low adversary score of its model test may
speak for the tuning, not against the metric: see ``metric.health``.
"""

from __future__ import annotations

from typing import Any

from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric

from quantus_ext import checks
from quantus_ext.metrics.qge import better_scores


class DirectionText(str):
    """A direction that is true as a condition where lower is better, and only there.

    MetaQuantus 0.0.5 asks ``if score_direction:``, and so takes every text that is not empty for
    "lower"; its proposed fix compares with "higher" and "lower".

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
    """Return which scores are better in a form that every MetaQuantus reads rightly.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric, ScoreDirection or {"higher", "lower"}
        A metric, of Quantus or of this package, or a direction for one that declares none. What
        Region Perturbation and Consistency declare wrongly in Quantus 0.6 is corrected.

    Returns
    -------
    str
        "higher" or "lower": compares, hashes, pickles and is written to JSON as that text, but is
        false as a condition for "higher" (:class:`DirectionText`).

    Raises
    ------
    ValueError, TypeError
        If a metric declares no direction, a text is neither, or it is a class.

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
