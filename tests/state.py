"""What must be as before, whatever happens: models, data, global states, other people's modules."""

from __future__ import annotations

import itertools
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import quantus
import torch
from quantus.functions import (  # noqa: F401
    complexity_func,
    explanation_func,
    loss_func,
    norm_func,
    normalise_func,
    perturb_func,
    similarity_func,
)
from torch import Tensor, nn

# Torch's optimisers import its compiler, which sets variables of the environment and makes a
# folder: once, and not within the test that happens to be the first.
torch.compile(torch.neg, backend="eager")(torch.ones(1))


def of_model(model: nn.Module) -> dict[str, Any]:
    """Return a model's parts, their attributes, hooks and modes, and its weights, by content."""
    state: dict[str, Any] = {}
    for name, part in model.named_modules(remove_duplicate=False):
        state[f"{name} itself"] = id(part), type(part), getattr(part, "training", None)
        for key, value in vars(part).items():
            state[f"{name} {key}"] = _content(value)
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        gradient = None if tensor.grad is None else _bytes(tensor.grad)
        state[f"weight {name}"] = id(tensor), _content(tensor), tensor.dtype, gradient
    return state


def of_data(values: Any) -> Any:
    """Return arrays, tensors and containers of them by content, and all else by identity."""
    if isinstance(values, dict):
        return id(values), {key: of_data(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return id(values), [of_data(value) for value in values]
    if isinstance(values, np.ndarray):
        return id(values), values.tobytes(), values.shape, values.flags.writeable
    return _content(values)


def of_process() -> dict[str, Any]:
    """Return global random states and settings, Quantus's functions and metrics, and files."""
    state: dict[str, Any] = {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "numpy's generator": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "torch": _bytes(torch.get_rng_state()),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "numpy's errors": np.geterr(),
        "warnings": list(warnings.filters),
        "functions' modes": torch._C._len_torch_function_stack(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "metrics": repr(quantus.AVAILABLE_METRICS),
        "explainers": repr(quantus.AVAILABLE_XAI_METHODS_CAPTUM),
        "files": sorted(Path(tempfile.gettempdir()).rglob("*")),
    }
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("quantus.functions", "quantus.helpers", "quantus.metrics")):
            for key, value in vars(module).items():
                if callable(value):
                    state[f"{name}.{key}"] = id(value)
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name what is not as before."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        # Weights that a hook computes are new with each forward pass.
        return _bytes(value), value.stride(), value.requires_grad
    if isinstance(value, dict):
        return id(value), [(key, id(each)) for key, each in value.items()]
    return id(value)


def _bytes(tensor: Tensor) -> Any:
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
