"""How well models tolerate random masks, and so whether the plain metric is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of, default_removal
from quantus_ext.arrays import tensor_from
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.finetune import MaskSampler
from quantus_ext.finetune.health import loses_little, measure
from quantus_ext.finetune.training import as_input, check_labels


@dataclass(frozen=True)
class MaskRobustness:
    """Accuracies under random masks, and agreement with the original model on unmasked inputs.

    Attributes
    ----------
    fractions : numpy.ndarray, shape (f,)
        Fractions of elements masked.
    accuracy, agreement : numpy.ndarray, shape (models, f)
        Shares of predictions equal to the labels, and equal to the original's for the unmasked
        input. The original model comes first, then the fine-tuned one, if any.
    """

    fractions: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    agreement: NDArray[np.float64]

    def plain_would_do(self, tolerance: float = 0.05) -> bool:
        """Whether the original loses at most ``tolerance`` of accuracy at every fraction.

        If so, the plain metric is enough.
        """
        return loses_little(self.accuracy[0].tolist(), checks.finite_number("tolerance", tolerance))

    def to_markdown(self) -> str:
        """Return a table with one line per model and quantity."""
        lines = [
            f"| masked | {' | '.join(f'{fraction:.0%}' for fraction in self.fractions)} |",
            f"| --- |{' ---: |' * len(self.fractions)}",
        ]
        for name, values in (("accuracy", self.accuracy), ("agreement", self.agreement)):
            for model, row in zip(("original", "tuned"), values, strict=False):
                lines.append(f"| {model}, {name} | {' | '.join(f'{v:.3f}' for v in row)} |")
        return "\n".join(lines)


def mask_robustness(
    model: nn.Module,
    x_batch: np.ndarray | Tensor,
    y_batch: np.ndarray | Tensor,
    fractions: Sequence[float] = (0.0, 0.05, 0.1),
    *,
    tuned: nn.Module | None = None,
    element: str = "position",
    patch_size: int | None = None,
    perturbation: Perturbation | None = None,
    n_draws: int = 1,
    seed: int = 0,
) -> MaskRobustness:
    """Measure models with exactly ``⌊fraction·t⌋`` random elements of each sample masked.

    If a model loses little, as many text models do, plain Fidelity is enough. If it loses much,
    removal takes inputs out of distribution: use F-Fidelity (§5.4 and D.2 of the paper).

    Parameters
    ----------
    model : torch.nn.Module
        The explained model, in evaluation mode.
    x_batch : array or tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
    y_batch : array or tensor of int, shape (n,)
        Labels.
    fractions : sequence of float in [0, 1], default (0, 0.05, 0.1)
        Losses are measured from the first.
    tuned : torch.nn.Module, optional
        A fine-tuned copy, for comparison.
    element, patch_size
        See :class:`quantus_ext.Fidelity`.
    perturbation : Perturbation, optional
        The replacement of masked elements; by default 0, or as the model's adapter says.
    n_draws : int, default 1
        Masks per sample and fraction.
    seed : int, default 0

    Returns
    -------
    MaskRobustness

    Raises
    ------
    ValueError, TypeError
        If a fraction is outside its range, an input is not finite, or labels or models do not fit.

    Examples
    --------
    A model that reads one feature of four answers as before unless that one is masked:

    >>> import torch
    >>> from quantus_ext.protocols import mask_robustness
    >>> class First(torch.nn.Module):
    ...     def forward(self, x):
    ...         return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)
    >>> x, y = torch.ones(100, 4), torch.ones(100, dtype=torch.int64)
    >>> mask_robustness(First().eval(), x, y, [0.0, 0.5, 1.0]).accuracy.round(1).tolist()
    [[1.0, 0.5, 0.0]]
    """
    models = [model] if tuned is None else [model, tuned]
    for name, checked in zip(("model", "tuned"), models, strict=False):
        checks.evaluation_mode(checks.module(name, checked), name)
    x = tensor_from("x_batch", adapter_of(model).encoded(x_batch))
    checks.inputs(x)
    labels = torch.from_numpy(checks.labels(y_batch, len(x)))
    shares = checks.numbers("fractions", fractions)
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f"fractions must hold numbers between 0 and 1, is {checks.shown(fractions)}"
        )
    n_draws = checks.positive_integer("n_draws", n_draws)
    masks = MaskSampler(
        perturbation=default_removal(model) if perturbation is None else perturbation,
        beta=1.0,
        element=element,
        patch_size=patch_size,
        feature_mask=adapter_of(model).feature_mask,
        seed=seed,
    )
    for name, checked in zip(("model", "tuned"), models, strict=False):
        where = checks.resolve_device(checked, None, name)
        with checks.about_model(name):
            check_labels(checked, as_input(x, checked, where), labels.to(where))
    accuracy, agreement = measure(models, x, labels, masks, shares, n_draws, name="y_batch")
    return MaskRobustness(np.array(shares), accuracy, agreement)
