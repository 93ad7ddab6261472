"""Protocols that put metrics to the test."""

from quantus_ext.protocols.degrade import degrade
from quantus_ext.protocols.explanation_size import ExplanationSize, explanation_size
from quantus_ext.protocols.mask_robustness import MaskRobustness, mask_robustness
from quantus_ext.protocols.metric_agreement import (
    M4_METRICS,
    BestMethod,
    MetricAgreement,
    best_method,
    method_sensitivity,
    metric_agreement,
    overall_score,
)
from quantus_ext.protocols.order_preservation import OrderPreservation, order_preservation
from quantus_ext.protocols.plant_shortcut import PlantedShortcut, plant_shortcut
from quantus_ext.protocols.rank_agreement import RankAgreement, rank_agreement

__all__ = [
    "M4_METRICS",
    "BestMethod",
    "ExplanationSize",
    "MaskRobustness",
    "MetricAgreement",
    "OrderPreservation",
    "PlantedShortcut",
    "RankAgreement",
    "best_method",
    "degrade",
    "explanation_size",
    "mask_robustness",
    "method_sensitivity",
    "metric_agreement",
    "order_preservation",
    "overall_score",
    "plant_shortcut",
    "rank_agreement",
]
