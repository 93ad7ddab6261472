"""The metrics as pure functions on tensors."""

from quantus_ext.functional.fidelity import fidelity
from quantus_ext.functional.infidelity import infidelity
from quantus_ext.functional.inverse import inverse, make_reference, permuted
from quantus_ext.functional.scores import Scores

__all__ = ["Scores", "fidelity", "infidelity", "inverse", "make_reference", "permuted"]
