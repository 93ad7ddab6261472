"""A small problem to tune on: which of a table's first four features is the largest."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import FineTuner, MaskSampler


def data(n: int = 160, features: int = 10) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(3).normal(size=(n, features)).astype(np.float32)
    return x, x[:, :4].argmax(1)


def network(*last: nn.Module, features: int = 10, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(features, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(8, 4),
            *last,
        ).eval()


def removed(arr: np.ndarray, mask: np.ndarray, how: str = "double") -> np.ndarray:
    return np.where(mask, -arr if how in {"turn", "negate", "flip", "invert"} else 2 * arr, arr)


def masks(beta: float = 0.3, **settings) -> MaskSampler:
    return MaskSampler(perturbation=settings.pop("by", replace_by(0.0)), beta=beta, **settings)


def make_tuner(x=None, y=None, **settings) -> FineTuner:
    if x is None:
        x, y = data()
    quick = {"epochs": 2, "lr": 0.02, "batch_size": 16, "display_progressbar": False}
    return FineTuner(x, y, **{**quick, **settings})


def weights(model: nn.Module) -> np.ndarray:
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()]).numpy()
