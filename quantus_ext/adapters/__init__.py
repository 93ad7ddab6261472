"""Models that are not torch classifiers of images, as every metric takes them."""

from quantus_ext.adapters.base import Adapter
from quantus_ext.adapters.black_box import BlackBox
from quantus_ext.adapters.columns import Columns
from quantus_ext.adapters.frames import DataFrame
from quantus_ext.adapters.generation import Generation
from quantus_ext.adapters.graphs import Graphs
from quantus_ext.adapters.outputs import BinaryLogit, MultiOutput, Regression
from quantus_ext.adapters.refitting import refit
from quantus_ext.adapters.series import Series
from quantus_ext.adapters.targets import Targets
from quantus_ext.adapters.tokens import EmbeddedTokens, TextClassifier, TokenIds
from quantus_ext.engine.rows import PerSample, Shared, samples_of_rows

__all__ = [
    "Adapter",
    "BinaryLogit",
    "BlackBox",
    "Columns",
    "DataFrame",
    "EmbeddedTokens",
    "Generation",
    "Graphs",
    "MultiOutput",
    "PerSample",
    "Regression",
    "Series",
    "Shared",
    "Targets",
    "TextClassifier",
    "TokenIds",
    "refit",
    "samples_of_rows",
]
