"""Copies of a model that were tuned to stand the removal of elements, and how well they do."""

from quantus_ext.finetune.cache import clear_memory
from quantus_ext.finetune.health import Health, health_report
from quantus_ext.finetune.masks import MaskSampler
from quantus_ext.finetune.training import TuningReport
from quantus_ext.finetune.tuner import FineTuner, resolve_tuned_model, segments_of, tuning_seed

__all__ = [
    "FineTuner",
    "Health",
    "MaskSampler",
    "TuningReport",
    "clear_memory",
    "health_report",
    "resolve_tuned_model",
    "segments_of",
    "tuning_seed",
]
