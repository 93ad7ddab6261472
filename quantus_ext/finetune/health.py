"""How well a model and its fine-tuned copy tolerate masks (Zheng et al., 2025, §5.4 and D.2)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.plan import Precision
from quantus_ext.engine.turns import turns
from quantus_ext.finetune.masks import MaskSampler
from quantus_ext.finetune.training import TuningReport, as_input

_ROWS = 256
_CHECKED, _DRAWS = 512, 16
"""Small sets are masked more than once, up to so many rows or draws."""
_TOLERATED = 0.05
"""Accuracy that a model may lose under masks and still count as robust, and share of answers in
which a tuned model may differ from the original."""


@dataclass(frozen=True)
class Health:
    """Accuracies of the original and the fine-tuned model under random masks.

    Attributes
    ----------
    fraction : list of float
        Fractions of elements masked, increasing from 0: β/2, β and those of the evaluation.
    count : list of int
        Elements masked.
    original_accuracy, tuned_accuracy : list of float
        Shares of predictions equal to the labels.
    agreement : list of float
        Shares of the tuned model's predictions equal to the original's for the unmasked input.
    verdict : str
        The conclusion, in a sentence or two.
    report : TuningReport or None
        Epochs, seconds and cache hit, if a :class:`quantus_ext.FineTuner` trained.
    """

    fraction: list[float]
    count: list[int]
    original_accuracy: list[float]
    tuned_accuracy: list[float]
    agreement: list[float]
    verdict: str
    report: TuningReport | None = None

    @property
    def is_healed(self) -> bool:
        """Whether the tuned model is clearly better than the original on unmasked inputs."""
        return not loses_little([self.tuned_accuracy[0], self.original_accuracy[0]], _TOLERATED)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return asdict(self)


def measure(
    models: Sequence[nn.Module],
    x: Tensor,
    y: np.ndarray | Tensor,
    masks: MaskSampler,
    fractions: Sequence[float],
    n_draws: int,
    name: str = "y",
    precision: Precision = "float32",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Measure models with exactly ``⌊fraction·t⌋`` random elements of each sample masked.

    Parameters
    ----------
    models : sequence of nn.Module
        In evaluation mode, on one device.
    x : Tensor, shape (n, \*sample)
    y : array or tensor of int, shape (n,)
        Labels.
    masks : MaskSampler
    fractions : sequence of float
    n_draws : int
        Masks per sample and fraction; one if nothing is masked.
    name : str, default "y"
        The name of the labels in errors.
    precision : {"float32", "bfloat16", "float16", "auto"}
        Of the forward passes.

    Returns
    -------
    accuracy, agreement : numpy.ndarray, shape (models, fractions)
        Shares of predictions equal to the labels, and equal to the first model's for unmasked
        inputs.

    Raises
    ------
    ValueError, TypeError
        If labels do not fit.
    """
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(turns.asking(model))
        return _measured(models, x, y, masks, fractions, n_draws, name, precision)


def _measured(
    models: Sequence[nn.Module],
    x: Tensor,
    y: np.ndarray | Tensor,
    masks: MaskSampler,
    fractions: Sequence[float],
    n_draws: int,
    name: str,
    precision: Precision,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    device = checks.resolve_device(models[0], None)
    known = checks.labels(y, len(x), name)
    labels = torch.from_numpy(known).to(device)
    forwards = [Forward.of_module(model, device, precision=precision) for model in models]
    masked = [fraction > 0 and masks.count(x, fraction) > 0 for fraction in fractions]
    draws = [n_draws if some else 1 for some in masked]
    hits = torch.zeros(2, len(models), len(fractions), dtype=torch.float64, device=device)
    for index in torch.arange(len(x)).split(_ROWS):
        rows, wanted = as_input(x[index], models[0], device), labels[index]
        own = index.to(device)
        outputs = [forward.clean(rows, own) for forward in forwards]
        checks.labels_below(known, outputs[0].shape[1], name)
        whole = [output.argmax(1) for output in outputs]
        for level, fraction in enumerate(fractions):
            # Several draws at once, where the samples are few.
            for some in torch.arange(draws[level]).split(max(_ROWS // len(rows), 1)):
                answers = whole
                if masked[level]:
                    inputs = torch.cat([masks.at(rows, fraction, int(d), index) for d in some])
                    numbers = own.repeat(len(some))
                    answers = [forward.clean(inputs, numbers).argmax(1) for forward in forwards]
                for which, answer in enumerate(answers):
                    each = answer.reshape(len(some), len(rows))
                    hits[0, which, level] += (each == wanted).sum()
                    hits[1, which, level] += (each == whole[0]).sum()
    accuracy, agreement = hits.cpu().numpy() / (len(x) * np.array(draws))
    return accuracy, agreement


def health_report(
    original: nn.Module,
    tuned: nn.Module,
    x: np.ndarray | Tensor,
    y: np.ndarray | Tensor,
    mask_sampler: MaskSampler,
    fractions: Sequence[float] = (),
    report: TuningReport | None = None,
    precision: Precision = "float32",
) -> Health:
    r"""Measure both models with exactly ``⌊fraction·t⌋`` random elements masked.

    Parameters
    ----------
    original, tuned : nn.Module
        In evaluation mode, on one device.
    x : array or tensor, shape (n, \*sample)
    y : array or tensor of int, shape (n,)
        Labels.
    mask_sampler : MaskSampler
        With ``element="segment"`` nothing is masked: random masks need patches or positions.
    fractions : sequence of float
        Fractions that the evaluation removes, besides 0, β/2 and β.
    report : TuningReport, optional
        Stored in the result.
    precision : {"float32", "bfloat16", "float16", "auto"}
        Of the forward passes.

    Returns
    -------
    Health
    """
    inputs = torch.as_tensor(x)
    counts = {0: 0.0}
    if mask_sampler.element != "segment":
        beta = mask_sampler.beta
        shares = (*fractions, beta / 2, beta)
        counts = {mask_sampler.count(inputs, share): share for share in shares} | counts
    masked = [counts[count] for count in sorted(counts)]
    n_draws = max(min(_CHECKED // len(inputs), _DRAWS), 1)
    accuracy, agreement = measure(
        [original, tuned], inputs, y, mask_sampler, masked, n_draws, precision=precision
    )
    before, after = accuracy.tolist()
    # The accuracy of always predicting the most frequent label.
    majority = float(np.unique(np.asarray(torch.as_tensor(y).cpu()), return_counts=True)[1].max())
    return Health(
        fraction=masked,
        count=sorted(counts),
        original_accuracy=before,
        tuned_accuracy=after,
        agreement=agreement[1].tolist(),
        verdict=_verdict(masked, before, after, agreement[1, 0], majority / len(inputs)),
        report=report,
    )


def _verdict(
    fraction: list[float],
    original: list[float],
    tuned: list[float],
    agreement: float,
    majority: float,
) -> str:
    if len(fraction) == 1:
        said = "Whether the models stand the masks is not known: nothing was masked at random."
    else:
        robust, said = _robust("tuned model", tuned, max(tuned[0], original[0]), fraction, majority)
        if robust is False:
            said += (
                " Its scores mix missing information with unfamiliar inputs: more data, a longer "
                "training, another lr or a smaller beta may help."
            )
        robust, of_original = _robust("original", original, original[0], fraction, majority)
        said += f" {of_original}"
        if robust:
            said += " For such removals the plain metric would do."
    if not loses_little([tuned[0], original[0]], _TOLERATED):
        said += (
            f" The tuning healed the model: on whole inputs its accuracy rose from "
            f"{original[0]:.3f} to {tuned[0]:.3f}, so scores are those of a better model."
        )
    if agreement < 1 - _TOLERATED:
        said += (
            f" On whole inputs the tuned model answers as the original in only {agreement:.1%} of "
            "cases, so scores say less about the original."
        )
    return said


def _robust(
    name: str, accuracy: list[float], whole: float, fraction: list[float], majority: float
) -> tuple[bool | None, str]:
    """Say whether a model's accuracy stays near ``whole``, and in a sentence why."""
    worst = min(range(len(accuracy)), key=accuracy.__getitem__)
    if not loses_little([whole, accuracy[worst]], _TOLERATED):
        return False, (
            f"The {name} is not robust: its accuracy is {accuracy[worst]:.3f} with "
            f"{fraction[worst]:.1%} masked, where {whole:.3f} is reached on whole inputs."
        )
    if accuracy[0] <= majority:
        return None, (
            f"Whether the {name} is robust is not known: its accuracy is {accuracy[0]:.3f}, and "
            f"always giving the most frequent label has {majority:.3f}."
        )
    return True, (
        f"The {name} is robust: its accuracy is {accuracy[0]:.3f}, and {accuracy[worst]:.3f} at "
        f"worst with up to {fraction[-1]:.1%} masked."
    )


def loses_little(accuracy: Sequence[float], tolerance: float) -> bool:
    """Say whether accuracies fall at most ``tolerance`` below the first of them."""
    # Rounding: 1 - .95 is slightly more than .05.
    return accuracy[0] - min(accuracy) <= tolerance + 1e-9
