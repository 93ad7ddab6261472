"""What a metric's tests are made of: inputs of each modality, cases, and a spy on the model.

A metric is covered by being registered: a :class:`Case` in ``tests/cases.py`` with a slow numpy
reference makes ``tests/test_contract.py`` check the whole contract on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext.base import TorchMetric
from quantus_ext.engine.forward import Forward
from quantus_ext.finetune import known

Predict = Callable[[np.ndarray], np.ndarray]
"""Rows in, (rows, classes) out, all numpy: what a reference knows of a model."""


@dataclass(frozen=True)
class Inputs:
    """A model in evaluation mode and explanations of some of its predictions."""

    model: nn.Module
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray

    def predict(self, *, softmax: bool) -> Predict:
        def rows_to_outputs(rows: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                outputs = self.model(torch.from_numpy(rows))
                return (outputs.softmax(-1) if softmax else outputs).numpy()

        return rows_to_outputs

    def rows(self, chosen: slice) -> Inputs:
        return Inputs(self.model, self.x[chosen], self.y[chosen], self.a[chosen])

    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "x_batch": self.x,
            "y_batch": self.y,
            "a_batch": self.a,
            "s_batch": planted(self.x),
            "explain_func": gradients,
        }

    def call(self, metric: TorchMetric, **keywords: object) -> np.ndarray:
        return np.array(metric(**{**self.arguments(), **keywords}))


def planted(x: np.ndarray) -> np.ndarray:
    """Mark some of the elements of each sample, by their values alone."""
    return (x if x.ndim == 2 else x.sum(1)) > 0


def gradients(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    """Explain by the gradient of the explained output."""
    dtype = next(model.parameters()).dtype
    with torch.enable_grad():
        x = torch.from_numpy(np.array(inputs)).to(dtype).requires_grad_()
        outputs = model(x).gather(1, torch.from_numpy(np.array(targets))[:, None])
        return torch.autograd.grad(outputs.sum(), x)[0].numpy()


Reference = Callable[[Predict, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(predict, x, y, a, index) -> scores, by a slow re-derivation from the paper."""


@dataclass(frozen=True)
class Case:
    """One way of using a metric.

    Attributes
    ----------
    metric : callable
        Makes it; takes the keywords of ``quantus_ext.base.CommonArguments``.
    reference : callable
        See :data:`Reference`.
    modalities : tuple of str
        Names of :data:`MODALITIES` on which the case is defined.
    is_random : bool
        Whether scores depend on the seed.
    exact_on : tuple of str
        Modalities on which they don't, because every mask is drawn.
    counts_every_row : bool
        Whether ``n_evaluations`` is all that goes through the model. F-Fidelity's health report
        and trainings ask it too.
    trains : bool
        Whether a call trains a model, for which outputs that are NaN are an error.
    asks : bool
        Whether scores depend on the model's outputs.
    explains : bool
        Whether a call explains other models, also where attributions are passed.
    needs_segmentations : bool
        Whether a call needs ``s_batch``.
    """

    metric: Callable[..., TorchMetric]
    reference: Reference
    modalities: tuple[str, ...] = ("image", "series", "table")
    is_random: bool = True
    exact_on: tuple[str, ...] = ()
    counts_every_row: bool = True
    trains: bool = False
    asks: bool = True
    explains: bool = False
    needs_segmentations: bool = False


def _image_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)
    )


def _series_net() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))


def _table_net() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 4))


def _volume_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(36, 4)
    )


MODALITIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "image": (_image_net, (3, 8, 8)),
    "series": (_series_net, (2, 12)),
    "table": (_table_net, (7,)),
    "volume": (_volume_net, (2, 4, 4, 6)),
}


def make_inputs(modality: str, n: int = 5, dtype: torch.dtype = torch.float64) -> Inputs:
    """Make a small random network of a modality with inputs and maps that have no ties."""
    build, shape = MODALITIES[modality]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = build().to(dtype).eval()
    generator = np.random.default_rng(11)
    numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    x = generator.normal(size=(n, *shape)).astype(numpy_dtype)
    a = generator.normal(size=(n, *shape)).astype(numpy_dtype)
    return Inputs(model, x, generator.integers(0, 4, n), a)


@contextmanager
def rows_seen(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect copies of all the rows that go through ``model`` for scores.

    Not those of the checks whether rows influence each other, and whether hooks, as the one that
    is put here, change gradients: ``n_evaluations`` leaves them out.
    """
    seen: list[Tensor] = []

    def aside(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **keywords: Any) -> Any:
            before = len(seen)
            outputs = function(*arguments, **keywords)
            del seen[before:]
            return outputs

        return called

    handle = model.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    try:
        with (
            mock.patch.object(Forward, "probe", aside(Forward.probe)),
            mock.patch.object(known, "_gradients", aside(known._gradients)),
        ):
            yield seen
    finally:
        handle.remove()


def sorted_rows(seen: list[Tensor]) -> np.ndarray:
    """Return the rows as a sorted array, so that their order does not count."""
    if not seen:
        return np.empty((0, 0))
    rows = torch.cat(seen).flatten(1).numpy()
    return rows[np.lexsort(rows.T)]
