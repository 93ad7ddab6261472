"""Faithfulness metrics for Quantus that are the papers', fast, and carry a standard error."""

from quantus_ext import functional, metaquantus
from quantus_ext.card import Card, card_of, cards
from quantus_ext.draws import AutoDraws
from quantus_ext.engine.plan import Plan
from quantus_ext.engine.shared import answers_shared, clean_outputs_shared
from quantus_ext.evaluation import Evaluation, evaluate
from quantus_ext.finetune import FineTuner
from quantus_ext.metrics import (
    ABPC,
    QGE,
    ROAR,
    AverageDrop,
    AverageGain,
    AverageIncrease,
    Deletion,
    FFidelity,
    Fidelity,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
)
from quantus_ext.registry import register, unregister

__version__ = "0.1.0"

__all__ = [
    "ABPC",
    "QGE",
    "ROAR",
    "AutoDraws",
    "AverageDrop",
    "AverageGain",
    "AverageIncrease",
    "Card",
    "Deletion",
    "Evaluation",
    "FFidelity",
    "Fidelity",
    "FineTuner",
    "Infidelity",
    "Insertion",
    "LeRF",
    "MoRF",
    "PScore",
    "Plan",
    "RFidelity",
    "SynScore",
    "answers_shared",
    "card_of",
    "cards",
    "clean_outputs_shared",
    "evaluate",
    "functional",
    "metaquantus",
    "register",
    "unregister",
]
