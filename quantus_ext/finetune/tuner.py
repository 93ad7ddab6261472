"""Fine-tuning under random masks (Zheng et al., ICLR 2025, eq. 5 and lines 3-8 of Algorithm 1)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of, default_removal
from quantus_ext.engine import sampling
from quantus_ext.engine.bridges import name_of
from quantus_ext.engine.fence import Fence
from quantus_ext.engine.modules import called_alike, is_closed, without_keywords
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.plan import Precision
from quantus_ext.engine.turns import turns
from quantus_ext.finetune import cache, data
from quantus_ext.finetune.known import identify
from quantus_ext.finetune.masks import MaskSampler
from quantus_ext.finetune.training import (
    Corrupt,
    Settings,
    TuningReport,
    as_input,
    copy_model,
    draws_itself,
    isolated_training,
    predictions,
    train,
    with_weights,
)
from quantus_ext.identity import PROBES, content_of

_VERSION = 4
"""Part of the cache's key: to be raised when the same settings give other weights."""


class FineTuner:
    """Tunes a copy of a model to stand random masks.

    A tuned model is found again by the content of weights, data and settings, within the process
    and with ``cache_dir`` from one process to the next, and by what the model answers to the first
    8 training inputs, and what masks make of these. Where that cannot tell models apart, a copy is
    tuned each time. On a processor the same seed gives the same weights; on a GPU up to the order
    in which its kernels add.

    Parameters
    ----------
    x : array or tensor; or DataLoader or Dataset
        Training inputs, at least 3, of shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W);
        or what gives ``(x, y)`` pairs. Read once, into memory.
    y : array or tensor of int, shape (n,), optional
        Labels. None: what the model predicts for ``x``.
    epochs : int, default 10
        At most.
    lr : float, default 1e-3
        Learning rate.
    optimiser : callable, default torch.optim.Adam
        From parameters and ``lr=`` to an optimiser.
    batch_size : int, default 64
        At least 2, for batch norm.
    validation_fraction : float, default 0.1
        Share of the data that is held out to choose the checkpoint, under masks.
    patience : int, default 3
        Epochs after which training stops if neither accuracy nor loss became better.
    seed : int or None, default 0
        Of the split, the order of batches and dropout. None: fresh, once for this tuner.
    precision : {"float32", "bfloat16", "auto"}, default "float32"
        Of the passes, by autocast; weights and steps stay in single precision. Auto is bfloat16
        where the device computes in it.
    compile : bool, default False
        Compile training and validation passes, which takes a minute or more before it saves any.
    device : str or torch.device, optional
        Must be the model's.
    cache_dir : str or Path, optional
        Where tuned weights are written and looked for.
    display_progressbar : bool, default True

    Attributes
    ----------
    report : TuningReport or None
        Of the last call.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.finetune import FineTuner
    >>> x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    >>> y = (x.sum(1) > 0).long()
    >>> model = torch.nn.Linear(10, 2).eval()
    >>> tuner = FineTuner(x, y, epochs=2, display_progressbar=False)
    >>> tuned = tuner.fine_tune(model, beta=0.3)
    >>> tuned is model, tuned.training, tuner.report.cache_hit
    (False, False, False)
    """

    def __init__(
        self,
        x: np.ndarray | Tensor | DataLoader[Any] | Dataset[Any],
        y: np.ndarray | Tensor | None = None,
        *,
        epochs: int = 10,
        lr: float = 1e-3,
        optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        batch_size: int = 64,
        validation_fraction: float = 0.1,
        patience: int = 3,
        seed: int | None = 0,
        precision: Precision = "float32",
        compile: bool = False,  # noqa: A002 - as every metric calls it
        device: str | torch.device | None = None,
        cache_dir: str | Path | None = None,
        display_progressbar: bool = True,
    ) -> None:
        checks.function("optimiser", optimiser)
        batch_size = checks.positive_integer("batch_size", batch_size)
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, is {batch_size}")
        validation_fraction = checks.fraction("validation_fraction", validation_fraction)
        if validation_fraction == 1:
            raise ValueError("validation_fraction must be below 1, is 1")
        # Gradients in float16 vanish without a scale of their own.
        checks.one_of("precision", precision, ("float32", "bfloat16", "auto"))
        checked_seed = checks.seed(seed)
        self.settings = Settings(
            epochs=checks.positive_integer("epochs", epochs),
            lr=checks.positive_number("lr", lr),
            optimiser=optimiser,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            patience=checks.positive_integer("patience", patience),
            seed=sampling.fresh_seed() if checked_seed is None else checked_seed,
            precision=precision,
            compile=checks.flag("compile", compile),
        )
        self.data = data.read(x, y, seed=self.settings.seed)
        checks.optional(checks.torch_device, "device", device)
        self.device = device
        folder = checks.optional(checks.address, "cache_dir", cache_dir)
        self.cache_dir = None if folder is None else Path(folder).expanduser()
        self.display_progressbar = checks.flag("display_progressbar", display_progressbar)
        self.report: TuningReport | None = None

    def __call__(
        self, model: nn.Module, mask_sampler: Corrupt, teacher: nn.Module | None = None
    ) -> nn.Module:
        """Return a copy of ``model``, tuned under the masks of ``mask_sampler``.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode. It is not changed; all weights of the copy are trained, also
            where the model's are frozen.
        mask_sampler : MaskSampler or callable
            From (inputs, draw, indices of the samples) to the inputs that it is trained on.
        teacher : nn.Module, optional
            Whose predictions are the labels where there are none, by default ``model``.

        Returns
        -------
        nn.Module
            In evaluation mode, on the model's device.

        Raises
        ------
        ValueError, TypeError
            If the data or the optimiser do not fit the model, or it is in training mode.
        RuntimeError
            If the training diverges; nothing is cached then.
        """
        checks.module("model", model)
        if any(map(is_closed, model.modules())):
            raise TypeError(
                "model must be a torch.nn.Module without a ScriptModule to be tuned, and without "
                "an exported program: pass what it was made from, or a tuned model as fine_tune"
            )
        with turns.asking(model):
            checks.evaluation_mode(model)
        device = checks.resolve_device(model, self.device)
        x, y = self.data.x, self.data.y
        known = [identify(model, x, device)]
        if y is None and teacher is not None:
            known.append(identify(teacher, x, device))
        content = content_of(
            *(_VERSION, device.type, self.data.key, self.settings, mask_sampler),
            *(each.content.key for each in known),
        )
        findable = not content.unread and all(each.findable for each in known)
        with isolated_training(device, self.settings.seed, draws=draws_itself(mask_sampler)):
            first = as_input(x[:PROBES], model, device)
            masked = mask_sampler(first, 1, torch.arange(len(first))).cpu()
        found = cache.find(content.key, self.cache_dir, known, masked) if findable else None
        trained = found
        if trained is None:
            trained = train(
                model,
                x,
                predictions(teacher or model, x, device) if y is None else y,
                mask_sampler,
                self.settings,
                description="fine-tuning",
                display_progressbar=self.display_progressbar,
            )
            if findable:
                answers = (*(each.answers for each in known), masked)
                cache.keep(content.key, trained._replace(answers=answers), self.cache_dir)
        tuned = with_weights(model, trained.state)
        self.report = replace(trained.report, cache_hit=found is not None)
        return tuned

    def fine_tune(
        self,
        model: nn.Module,
        *,
        beta: float = 0.1,
        element: str = "position",
        patch_size: int | None = None,
        perturbation: Perturbation | None = None,
    ) -> nn.Module:
        """Return the tuned copy itself, as F-Fidelity with the same arguments uses it.

        Parameters
        ----------
        model : nn.Module
        beta, element, patch_size
            See :class:`quantus_ext.finetune.MaskSampler`.
        perturbation : Perturbation, optional
            By default 0, or what the model's adapter says.
        """
        checks.module("model", model)
        masks = MaskSampler(
            perturbation=default_removal(model) if perturbation is None else perturbation,
            beta=beta,
            element=element,
            patch_size=patch_size,
            feature_mask=adapter_of(model).feature_mask,
            seed=tuning_seed(self),
        )
        return self(model, masks)


def tuning_seed(fine_tune: object) -> int:
    """Return the seed of the masks to tune under: the tuner's own, so that the draws of a metric
    with another seed are answered by the same copy.
    """  # noqa: D205 - one sentence
    return fine_tune.settings.seed if isinstance(fine_tune, FineTuner) else 0


def tuned_by(
    tuner: FineTuner, model: nn.Module, mask_sampler: Corrupt, teacher: nn.Module | None = None
) -> tuple[nn.Module, TuningReport | None]:
    """Return a tuned copy with the report of this very call, whatever other threads have tuned."""
    own = copy.copy(tuner)
    tuned = own(model, mask_sampler, **({} if teacher is None else {"teacher": teacher}))
    tuner.report = own.report
    return tuned, own.report


def resolve_tuned_model(
    fine_tune: FineTuner | nn.Module | Callable[[nn.Module, MaskSampler], nn.Module],
    model: nn.Module,
    mask_sampler: MaskSampler,
) -> tuple[nn.Module, TuningReport | None]:
    """Return the model that ``fine_tune`` stands for.

    Parameters
    ----------
    fine_tune : FineTuner, nn.Module or callable
        Training data with settings, a ready model, or any ``(model, mask_sampler) -> model``,
        which gets a copy of the model that it may change, with seeded global generators.
    model : nn.Module
        The model explained. Where it comes :class:`~quantus_ext.engine.modules.WithKeywords`,
        a callable gets the model itself, and its or the ready model is called with the keywords.
    mask_sampler : MaskSampler

    Returns
    -------
    tuned : nn.Module
        In evaluation mode, on the model's device.
    report : TuningReport or None
        None unless a :class:`~quantus_ext.FineTuner` made it.

    Raises
    ------
    TypeError
        If ``fine_tune`` is none of these, or the callable returns no module.
    RuntimeError
        If the callable raises an error.
    ValueError
        If the tuned model is in training mode or on another device.
    """
    if isinstance(fine_tune, FineTuner):
        return tuned_by(fine_tune, model, mask_sampler)
    if isinstance(fine_tune, nn.Module):
        tuned, what = fine_tune, "fine_tune"
    elif callable(fine_tune):
        what = "the model that fine_tune returned"
        name = f"fine_tune, {name_of(fine_tune)!r},"
        device = checks.resolve_device(model, None)
        with isolated_training(device, mask_sampler.seed):
            copied = copy_model(without_keywords(model))
            try:
                with Fence(name).around(model):
                    tuned = fine_tune(copied, mask_sampler)
            except Exception as error:
                raise RuntimeError(f"fine_tune raised {type(error).__name__}: {error}") from error
    else:
        raise TypeError(
            "fine_tune must be a FineTuner, a torch.nn.Module or a callable "
            f"(model, mask_sampler) -> model, is {fine_tune!r}"
        )
    if not isinstance(tuned, nn.Module):
        raise TypeError(f"{what} must be a torch.nn.Module, is {tuned!r}")
    checks.evaluation_mode(tuned, what)
    ours, theirs = checks.resolve_device(model, None), checks.resolve_device(tuned, None, what)
    if ours != theirs:
        raise ValueError(f"{what} is on {str(theirs)!r} but the model is on {str(ours)!r}")
    return called_alike(tuned, model), None
