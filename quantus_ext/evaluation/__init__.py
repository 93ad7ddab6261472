"""Explainers × metrics × shards: evaluated anywhere, resumed, reported, watched over releases."""

from quantus_ext.evaluation.case import Case
from quantus_ext.evaluation.comparison import Compared, Comparison
from quantus_ext.evaluation.dispatch import WorkerError
from quantus_ext.evaluation.drift import Drift, Drifted
from quantus_ext.evaluation.estimate import Estimate
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.ranking import Ranked, Ranking
from quantus_ext.evaluation.result import Evaluation
from quantus_ext.evaluation.run import evaluate
from quantus_ext.evaluation.store import StoreError

__all__ = [
    "Case",
    "Compared",
    "Comparison",
    "Drift",
    "Drifted",
    "Estimate",
    "Evaluation",
    "Failure",
    "Ranked",
    "Ranking",
    "StoreError",
    "WorkerError",
    "evaluate",
]
