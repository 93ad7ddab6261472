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
from quantus_ext.engine.elements import ELEMENTS
from quantus_ext.engine.fence import Fence
from quantus_ext.engine.modules import called_alike, is_closed, without_keywords
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.plan import Precision
from quantus_ext.engine.turns import turns
from quantus_ext.finetune import cache, data
from quantus_ext.finetune.known import identify, refuse_bent
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
from quantus_ext.shown import ShownByArguments

_VERSION = 4
"""Part of the cache's key: to be raised when the same settings give other weights."""


class FineTuner(ShownByArguments):
    """Fine-tunes copies of a model, so that they handle random masks.

    A copy is recognised by the content of weights, data and settings, and by the model's answers to
    the first 8 training inputs and their masked versions: within the process and, with
    ``cache_dir``, in later ones. If these do not identify the model, a copy is tuned each time. On
    a CPU, the same seed gives the same weights; on a GPU, up to the order of additions in its
    kernels.

    Parameters
    ----------
    x : array or tensor; or DataLoader or Dataset
        Training inputs, channels first, at least 3, of shape (n, F), (n, C, T), (n, C, H, W) or
        (n, C, D, H, W); or an iterable of ``(x, y)`` pairs. Loaded into memory once.
    y : array or tensor of int, shape (n,), optional
        Labels. None: the model's predictions for ``x``.
    s : array or tensor of int, shape (n, \\*spatial), optional
        Segment ids of ``x``, as of the words of texts, for metrics with ``element="segment"``.
    epochs : int, default 10
        Largest number of epochs.
    lr : float, default 1e-3
        Learning rate.
    optimiser : callable, default torch.optim.Adam
        Takes parameters and ``lr=``, returns an optimiser.
    batch_size : int, default 64
        At least 2, for batch norm.
    validation_fraction : float, default 0.1
        Fraction of the data held out to choose the checkpoint, under masks.
    patience : int, default 3
        Epochs without better accuracy or loss after which training stops.
    seed : int or None, default 0
        For the split, the order of batches and dropout. None draws one for this tuner.
    precision : {"float32", "bfloat16", "auto"}, default "float32"
        Precision of the passes, by autocast; weights and steps stay in single precision. ``"auto"``
        is bfloat16 if the device computes in it.
    compile : bool, default False
        Compile training and validation passes, which takes a minute or more.
    device : str or torch.device, optional
        Must be the model's.
    cache_dir : str or Path, optional
        Folder for tuned weights.
    display_progressbar : bool, default True

    Attributes
    ----------
    report : TuningReport or None
        Of the last call.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.

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
        s: np.ndarray | Tensor | None = None,
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
        # In float16, gradients underflow without loss scaling.
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
        self.data = data.read(x, y, s, seed=self.settings.seed)
        checks.optional(checks.torch_device, "device", device)
        self.device = device
        folder = checks.optional(checks.address, "cache_dir", cache_dir)
        self.cache_dir = None if folder is None else Path(folder).expanduser()
        self.display_progressbar = checks.flag("display_progressbar", display_progressbar)
        self.report: TuningReport | None = None

    def _shown_argument(self, name: str) -> Any:
        for part in (self.settings, self.data, self):
            if hasattr(part, name):
                return getattr(part, name)
        raise AttributeError(name)

    def __call__(
        self, model: nn.Module, mask_sampler: Corrupt, teacher: nn.Module | None = None
    ) -> nn.Module:
        """Return a copy of ``model``, fine-tuned under the masks of ``mask_sampler``.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode. It is not changed. All weights of the copy are trained, including
            frozen ones.
        mask_sampler : MaskSampler or callable
            From (inputs, draw, indices of the samples) to the inputs to train on.
        teacher : nn.Module, optional
            Its predictions are the labels if there are none; by default ``model``.

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
        known = [identify(model, x, device, is_trained=True)]
        refuse_bent(model, x, device, known[0])
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
        """Return the copy that F-Fidelity uses with the same arguments.

        Parameters
        ----------
        model : nn.Module
        beta, element, patch_size
            See :class:`quantus_ext.finetune.MaskSampler`.
        perturbation : Perturbation, optional
            By default 0, or as the model's adapter says.
        """
        checks.module("model", model)
        checks.one_of("element", element, ELEMENTS)
        masks = MaskSampler(
            perturbation=default_removal(model) if perturbation is None else perturbation,
            beta=beta,
            element=element,
            patch_size=patch_size,
            feature_mask=adapter_of(model).feature_mask,
            segments=segments_of(self, element),
            seed=tuning_seed(self),
        )
        return self(model, masks)


def tuning_seed(fine_tune: object) -> int:
    """Return the seed of the training masks.

    It is the tuner's own, so that metrics with different seeds use the same copy.
    """
    return fine_tune.settings.seed if isinstance(fine_tune, FineTuner) else 0


def segments_of(fine_tune: object, element: str) -> Tensor | None:
    """Return the segment ids of the data that a tuner trains on, where segments are elements."""
    if isinstance(fine_tune, FineTuner) and element == "segment":
        return fine_tune.data.s
    return None


def tuned_by(
    tuner: FineTuner, model: nn.Module, mask_sampler: Corrupt, teacher: nn.Module | None = None
) -> tuple[nn.Module, TuningReport | None]:
    """Return a fine-tuned copy with the report of this very call, in any thread."""
    own = copy.copy(tuner)
    tuned = own(model, mask_sampler, **({} if teacher is None else {"teacher": teacher}))
    tuner.report = own.report
    return tuned, own.report


def resolve_tuned_model(
    fine_tune: FineTuner | nn.Module | Callable[[nn.Module, MaskSampler], nn.Module],
    model: nn.Module,
    mask_sampler: MaskSampler,
) -> tuple[nn.Module, TuningReport | None]:
    """Return the fine-tuned model that ``fine_tune`` provides.

    Parameters
    ----------
    fine_tune : FineTuner, nn.Module or callable
        Training data with settings, a fine-tuned model, or a function
        ``(model, mask_sampler) -> model``. The function gets a copy of the model that it may
        change, with seeded global generators.
    model : nn.Module
        The explained model. If it is :class:`~quantus_ext.engine.modules.WithKeywords`, a function
        gets the model inside, and the result is called with the same keyword arguments.
    mask_sampler : MaskSampler

    Returns
    -------
    tuned : nn.Module
        In evaluation mode, on the model's device.
    report : TuningReport or None
        None unless a :class:`~quantus_ext.FineTuner` trained it.

    Raises
    ------
    TypeError
        If ``fine_tune`` is none of these, or the function returns no module.
    RuntimeError
        If the function raises an error.
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
