"""Several explained classes of each sample: which they are, and their maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.arrays import array_of
from quantus_ext.base import TorchMetric
from quantus_ext.engine.forward import Forward
from quantus_ext.evaluation.plan import Cell, as_called
from quantus_ext.evaluation.rows import Rows
from quantus_ext.finetune.training import as_input

_TOP = re.compile(r"top([1-9]\d*)")
_RULE = 'targets must be "all", "top3" or alike, classes for all samples, or an array (n, k)'


def classes_of(
    targets: object,
    model: nn.Module,
    x: Rows,
    cells: Sequence[Cell],
    *,
    batch_size: int,
    device: str | torch.device | None,
) -> NDArray[np.int64]:
    """Return the explained classes of each sample, shape (n, k).

    Parameters
    ----------
    targets : "all", "top3" or alike, sequence of int, or array of int, shape (n, k)
        As in :func:`quantus_ext.evaluate`. The most probable classes come in descending order, of
        equal outputs the first one.
    model : torch.nn.Module
    x : Rows
    cells : sequence of Cell
        Whose calls the model is asked as.
    batch_size : int
    device : str or torch.device, optional

    Raises
    ------
    TypeError, ValueError
        If they are not classes of the model, or a metric cannot be asked about several.
    """
    for cell in cells:
        if isinstance(cell.metric, TorchMetric):
            cell.metric.refuse_several_classes("targets")
    if isinstance(targets, str):
        n_top = _TOP.fullmatch(targets)
        if targets != "all" and n_top is None:
            raise ValueError(f"{_RULE}, is {targets!r}")
        found = _from_outputs(
            targets, int(n_top[1]) if n_top else None, model, x, cells, batch_size, device
        )
    else:
        given = array_of("targets", adapter_of(model).encoded_labels(targets))
        if given.ndim not in (1, 2) or given.size == 0:
            raise ValueError(f"{_RULE}; has the shape {given.shape}")
        if given.ndim == 1:
            given = np.tile(given, (len(x), 1))
        found = checks.targets(given, len(x), given.shape[1], "targets")
    return found


def _from_outputs(
    targets: str,
    n_top: int | None,
    model: nn.Module,
    x: Rows,
    cells: Sequence[Cell],
    batch_size: int,
    device: str | torch.device | None,
) -> NDArray[np.int64]:
    """Return all classes, or those with the largest outputs."""
    adapter = adapter_of(model)
    if not (adapter.one_softmax or adapter.own_softmax):
        raise ValueError(
            f"targets must not be {targets!r} for a {type(adapter).__name__}, whose outputs are "
            "not scores of classes of which one is right: pass them as an array (n, k)"
        )
    if any(cell.call.get("model_predict_kwargs") for cell in cells):
        raise ValueError(
            f"targets must not be {targets!r} with model_predict_kwargs, of which each call can "
            "have its own: pass the classes as a list, or as an array (n, k)"
        )
    own = checks.resolve_device(model, device)
    forward = Forward.of_module(model, own, softmax=None)
    first = {"channel_first": False} if any(cell.channels_last for cell in cells) else {}

    def outputs(start: int, stop: int) -> torch.Tensor:
        rows = as_called(torch.as_tensor(x.part(start, stop).read()), first)
        return forward.clean(as_input(rows, model, own), torch.arange(start, stop, device=own))

    width = int(outputs(0, 1).shape[1])
    if n_top is None:
        return np.tile(np.arange(width), (len(x), 1))
    if n_top > width:
        raise ValueError(
            f"targets must be at most the {width} classes of the model, is {targets!r}"
        )
    parts = [
        outputs(start, min(start + batch_size, len(x))).argsort(dim=1, descending=True, stable=True)
        for start in range(0, len(x), batch_size)
    ]
    return np.concatenate([part[:, :n_top].cpu().numpy() for part in parts])


def maps_of_classes(name: str, maps: NDArray[Any], x: NDArray[Any], k: int) -> list[NDArray[Any]]:
    """Return given maps class by class; SHAP values of tables (n, F, classes) are for each class.

    Parameters
    ----------
    name : str
        The explainer's.
    maps : array, shape (n, k, \\*map) or (n, F, classes)
    x : array
        The inputs.
    k : int
        Explained classes.

    Raises
    ------
    ValueError
        If maps have no axis of classes, or two that could be it.
    """
    by_class = maps.ndim > x.ndim and maps.shape[1] == k
    shap = x.ndim == 2 and maps.ndim == 3 and maps.shape[1] == x.shape[1]
    if by_class and shap and maps.shape[2] == maps.shape[1]:
        raise ValueError(
            f"maps of xai_methods[{name!r}] have the shape {maps.shape}, in which features and "
            "classes cannot be told apart: pass a function that explains the classes it is given"
        )
    if by_class:
        return list(np.moveaxis(maps, 1, 0))
    if shap:
        return [maps] * k
    raise ValueError(
        f"maps of xai_methods[{name!r}] must have an axis of {k} classes after that of samples, "
        f"(n, {k}, …), with an axis of channels where inputs have one; have the shape {maps.shape}"
    )
