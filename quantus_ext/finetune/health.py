"""How well a model and its tuned copy stand the masks (Zheng et al., 2025, §5.4 and D.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.engine.forward import Forward
from quantus_ext.finetune.masks import MaskSampler
from quantus_ext.finetune.training import as_input
from quantus_ext.finetune.tuner import TuningReport

_ROWS, _DRAWS = 512, 16
"""Small sets are masked more than once, up to so many rows or draws."""
_CHUNK = 64
_TOLERATED = 0.05
"""Accuracy that a model may lose under masks and still count as robust, and share of answers in
which a tuned model may differ from the original."""


@dataclass(frozen=True)
class Health:
    """Accuracies of the original and the tuned model under random masks.

    Attributes
    ----------
    fraction : list of float
        Shares of elements masked, increasing from 0: β/2, β and what the evaluation removes.
    count : list of int
        Elements masked.
    original_accuracy, tuned_accuracy : list of float
        Shares of answers that are the labels.
    agreement : list of float
        Shares of the tuned model's answers that are the original's for the unmasked input.
    verdict : str
        What that means, in a sentence or two.
    report : TuningReport or None
        Epochs, seconds and cache hit, where a :class:`quantus_ext.finetune.FineTuner` trained.
    """

    fraction: list[float]
    count: list[int]
    original_accuracy: list[float]
    tuned_accuracy: list[float]
    agreement: list[float]
    verdict: str
    report: TuningReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return asdict(self)


def health_report(
    original: nn.Module,
    tuned: nn.Module,
    x: np.ndarray | Tensor,
    y: np.ndarray | Tensor,
    mask_sampler: MaskSampler,
    fractions: Sequence[float] = (),
    report: TuningReport | None = None,
) -> Health:
    """Measure both models with exactly ``⌊fraction·t⌋`` random elements masked.

    Parameters
    ----------
    original, tuned : nn.Module
        In evaluation mode, on one device.
    x : array or tensor, shape (n, \\*sample)
    y : array or tensor of int, shape (n,)
        Labels.
    mask_sampler : MaskSampler
        With ``element="segment"`` nothing is masked: random masks need patches or positions.
    fractions : sequence of float
        Besides 0, β/2 and β: the shares that the evaluation will really remove.
    report : TuningReport, optional
        Kept in the result.

    Returns
    -------
    Health
    """
    device = checks.resolve_device(original, None)
    inputs = torch.as_tensor(x)
    labels = torch.from_numpy(checks.labels(y, len(inputs), "y")).to(device)
    models = [Forward.of_module(model, device) for model in (original, tuned)]
    rows = [slice(start, start + _CHUNK) for start in range(0, len(inputs), _CHUNK)]
    clean = torch.cat([_answers(models[0], as_input(inputs[r], original, device)) for r in rows])
    counts = {0: 0.0}
    if mask_sampler.element != "segment":
        beta = mask_sampler.beta
        shares = (beta / 2, *fractions, beta)
        counts = {mask_sampler.count(inputs, share): share for share in shares} | counts
    accuracies = []
    for count, fraction in sorted(counts.items()):
        draws = max(min(_ROWS // len(inputs), _DRAWS), 1) if count else 1
        hits = torch.zeros(3, dtype=torch.float64, device=device)
        for r in rows:
            part = as_input(inputs[r], original, device)
            index = torch.arange(r.start, r.start + len(part))
            for draw in range(draws):
                rows_in = mask_sampler.at(part, fraction, draw, index) if count else part
                first, second = (_answers(model, rows_in) for model in models)
                pairs = ((first, labels[r]), (second, labels[r]), (second, clean[r]))
                hits += torch.stack([(a == b).sum() for a, b in pairs])
        accuracies.append((hits / (len(inputs) * draws)).tolist())
    masked = [counts[count] for count in sorted(counts)]
    before, after, agreement = (list(column) for column in zip(*accuracies, strict=True))
    return Health(
        fraction=masked,
        count=sorted(counts),
        original_accuracy=before,
        tuned_accuracy=after,
        agreement=agreement,
        verdict=_verdict(masked, before, after, agreement[0]),
        report=report,
    )


def _answers(model: Forward, rows: Tensor) -> Tensor:
    return model.clean(rows).argmax(1)


def _verdict(
    fraction: list[float], original: list[float], tuned: list[float], agreement: float
) -> str:
    worst = min(range(len(tuned)), key=tuned.__getitem__)
    lost = max(tuned[0], original[0]) - tuned[worst]
    if len(fraction) == 1:
        said = "Whether the models stand the masks is not known: nothing was masked at random."
    elif original[0] - min(original) <= _TOLERATED:
        said = (
            f"The original model is robust already: its accuracy is {original[0]:.3f}, and "
            f"{min(original):.3f} at worst with up to {fraction[-1]:.1%} masked, so for such "
            "removals the plain metric would do."
        )
    elif lost > _TOLERATED:
        said = (
            f"The tuned model is still not robust: its accuracy is {tuned[worst]:.3f} with "
            f"{fraction[worst]:.1%} masked, {lost:.3f} less than on whole inputs, so scores "
            "mix missing information with unfamiliar inputs. Train on more data or for longer, "
            "or take a smaller beta."
        )
    else:
        said = (
            f"The tuned model is robust where the original is not: its accuracy is "
            f"{tuned[worst]:.3f} at worst, the original's {min(original):.3f}."
        )
    if agreement < 1 - _TOLERATED:
        said += (
            f" On whole inputs it answers as the original in only {agreement:.1%} of cases, "
            "so scores say less about the original."
        )
    return said
