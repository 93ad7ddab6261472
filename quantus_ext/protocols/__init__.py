"""Protocols that put metrics to the test."""

from quantus_ext.protocols.degrade import degrade
from quantus_ext.protocols.explanation_size import ExplanationSize, explanation_size
from quantus_ext.protocols.mask_robustness import MaskRobustness, mask_robustness
from quantus_ext.protocols.order_preservation import OrderPreservation, order_preservation
from quantus_ext.protocols.rank_agreement import RankAgreement, rank_agreement

__all__ = [
    "ExplanationSize",
    "MaskRobustness",
    "OrderPreservation",
    "RankAgreement",
    "degrade",
    "explanation_size",
    "mask_robustness",
    "order_preservation",
    "rank_agreement",
]
