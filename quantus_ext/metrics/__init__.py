"""The metrics: Quantus's arguments in, a list of floats out; the formulas are in functional."""

from quantus_ext.metrics.fidelity import FFidelity, Fidelity, RFidelity
from quantus_ext.metrics.infidelity import Infidelity
from quantus_ext.metrics.qge import QGE

__all__ = ["QGE", "FFidelity", "Fidelity", "Infidelity", "RFidelity"]
