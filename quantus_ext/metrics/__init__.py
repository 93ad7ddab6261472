"""The metrics: Quantus's arguments in, a list of floats out; the formulas are in functional."""

from quantus_ext.metrics.fidelity import FFidelity, Fidelity, RFidelity
from quantus_ext.metrics.infidelity import Infidelity
from quantus_ext.metrics.qge import QGE
from quantus_ext.metrics.roar import ROAR

__all__ = ["QGE", "ROAR", "FFidelity", "Fidelity", "Infidelity", "RFidelity"]
