"""Models that are not torch classifiers, as every metric takes them."""

from quantus_ext.adapters.black_box import BlackBox, refit
from quantus_ext.adapters.outputs import BinaryLogit, Regression

__all__ = ["BinaryLogit", "BlackBox", "Regression", "refit"]
