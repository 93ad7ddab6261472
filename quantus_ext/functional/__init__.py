"""The metrics as pure functions on tensors."""

from quantus_ext.functional.infidelity import infidelity
from quantus_ext.functional.scores import Scores

__all__ = ["Scores", "infidelity"]
