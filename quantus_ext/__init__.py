"""Faithfulness metrics for Quantus that are the papers', fast, and carry a standard error."""

from quantus_ext import functional
from quantus_ext.finetune import FineTuner
from quantus_ext.metrics import QGE, ROAR, FFidelity, Fidelity, Infidelity, RFidelity

__version__ = "0.1.0"

__all__ = [
    "QGE",
    "ROAR",
    "FFidelity",
    "Fidelity",
    "FineTuner",
    "Infidelity",
    "RFidelity",
    "functional",
]
