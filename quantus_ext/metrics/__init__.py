"""The metrics: Quantus's arguments in, a list of floats out; the formulas are in functional."""

from quantus_ext.metrics.average_drop import AverageDrop, AverageGain, AverageIncrease
from quantus_ext.metrics.fidelity import FFidelity, Fidelity, RFidelity
from quantus_ext.metrics.infidelity import Infidelity
from quantus_ext.metrics.p_score import PScore
from quantus_ext.metrics.qge import QGE
from quantus_ext.metrics.removal_curves import ABPC, Deletion, Insertion, LeRF, MoRF
from quantus_ext.metrics.roar import ROAR
from quantus_ext.metrics.syn_score import SynScore

__all__ = [
    "ABPC",
    "QGE",
    "ROAR",
    "AverageDrop",
    "AverageGain",
    "AverageIncrease",
    "Deletion",
    "FFidelity",
    "Fidelity",
    "Infidelity",
    "Insertion",
    "LeRF",
    "MoRF",
    "PScore",
    "RFidelity",
    "SynScore",
]
