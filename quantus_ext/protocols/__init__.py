"""Protocols that put metrics to the test."""

from quantus_ext.protocols.degrade import degrade
from quantus_ext.protocols.order_preservation import OrderPreservation, order_preservation
from quantus_ext.protocols.rank_agreement import RankAgreement, rank_agreement

__all__ = ["OrderPreservation", "RankAgreement", "degrade", "order_preservation", "rank_agreement"]
