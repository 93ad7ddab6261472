"""The metrics as pure functions on tensors."""

from quantus_ext.functional.average_drop import average_drop
from quantus_ext.functional.fidelity import fidelity
from quantus_ext.functional.infidelity import infidelity
from quantus_ext.functional.inverse import inverse, make_reference, permuted
from quantus_ext.functional.p_score import p_score
from quantus_ext.functional.removal_curves import removal_curves
from quantus_ext.functional.scores import Scores
from quantus_ext.functional.syn_score import syn_score

__all__ = [
    "Scores",
    "average_drop",
    "fidelity",
    "infidelity",
    "inverse",
    "make_reference",
    "p_score",
    "permuted",
    "removal_curves",
    "syn_score",
]
