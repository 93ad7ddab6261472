"""Fine-tuning under random masks (Zheng et al., ICLR 2025, eq. 5 and lines 3-8 of Algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from quantus_ext import checks
from quantus_ext.engine import sampling
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import Perturbation, replace_by
from quantus_ext.finetune import cache, data
from quantus_ext.finetune.identity import content_key
from quantus_ext.finetune.masks import MaskSampler
from quantus_ext.finetune.training import (
    Corrupt,
    Settings,
    as_input,
    copy_model,
    isolated_training,
    train,
    with_weights,
)

_VERSION = 1
"""Part of the cache's key: to be raised when the same settings give other weights."""


@dataclass(frozen=True)
class TuningReport:
    """How a tuned model was got.

    Attributes
    ----------
    epochs : int
        Epochs trained.
    kept_epoch : int
        The epoch whose weights were kept.
    accuracy_before, accuracy : float
        On held-out masked training data, of the original and of the kept weights.
    seconds : float
        That the training took, then, if the model came from the cache.
    cache_hit : bool
        Whether it did.
    """

    epochs: int
    kept_epoch: int
    accuracy_before: float
    accuracy: float
    seconds: float
    cache_hit: bool


class FineTuner:
    """Tunes a copy of a model to stand random masks.

    A tuned model is found again by the content of weights, data and settings, within the process
    and with ``cache_dir`` from one process to the next. On a processor the same seed gives the
    same weights; on a GPU up to the order in which its kernels add.

    Parameters
    ----------
    x : array or tensor, shape (n, F), (n, C, T) or (n, C, H, W); or DataLoader or Dataset
        Training inputs, channels first, at least 3; or what gives ``(x, y)`` pairs. Read once,
        into memory.
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
        device: str | torch.device | None = None,
        cache_dir: str | Path | None = None,
        display_progressbar: bool = True,
    ) -> None:
        if not callable(optimiser):
            raise TypeError(
                "optimiser must be callable with parameters and lr=, as torch.optim.Adam is; "
                f"is {optimiser!r}"
            )
        if checks.positive_integer("batch_size", batch_size) < 2:
            raise ValueError(f"batch_size must be at least 2, is {batch_size}")
        if checks.fraction("validation_fraction", validation_fraction) == 1:
            raise ValueError("validation_fraction must be below 1, is 1")
        checked_seed = checks.seed(seed)
        self.settings = Settings(
            epochs=checks.positive_integer("epochs", epochs),
            lr=checks.positive_number("lr", lr),
            optimiser=optimiser,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            patience=checks.positive_integer("patience", patience),
            seed=sampling.fresh_seed() if checked_seed is None else checked_seed,
        )
        self.data = data.read(x, y, seed=self.settings.seed)
        self.device = device
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.display_progressbar = display_progressbar
        self.report: TuningReport | None = None

    def __call__(self, model: nn.Module, mask_sampler: Corrupt) -> nn.Module:
        """Return a copy of ``model``, tuned under the masks of ``mask_sampler``.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode. It is not changed; all weights of the copy are trained, also
            where the model's are frozen.
        mask_sampler : MaskSampler or callable
            From (inputs, draw, indices of the samples) to the inputs that it is trained on.

        Returns
        -------
        nn.Module
            In evaluation mode, on the model's device.

        Raises
        ------
        ValueError
            If the data do not fit the model, or the model is in training mode.
        RuntimeError
            If the training diverges; nothing is cached then.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, is {type(model).__name__}")
        checks.evaluation_mode(model)
        device = checks.resolve_device(model, self.device)
        key = content_key(_VERSION, device.type, model, self.data.key, self.settings, mask_sampler)
        found = cache.find(key, model.state_dict(), self.cache_dir)
        entry = found or self._train(model, mask_sampler, device)
        if found is None:
            cache.keep(key, entry, self.cache_dir)
        tuned = with_weights(model, entry.state)
        self.report = TuningReport(**entry.record, cache_hit=found is not None)
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
        perturbation : Perturbation, default ``replace_by(0.0)``
        """
        masks = MaskSampler(
            perturbation=replace_by(0.0) if perturbation is None else perturbation,
            beta=beta,
            element=element,
            patch_size=patch_size,
        )
        return self(model, masks)

    def _train(self, model: nn.Module, mask_sampler: Corrupt, device: torch.device) -> cache.Entry:
        started = time.perf_counter()
        x, y = self.data.x, self.data.y
        outcome = train(
            model,
            x,
            _predictions(model, x, device) if y is None else y,
            mask_sampler,
            self.settings,
            description="fine-tuning",
            display_progressbar=self.display_progressbar,
        )
        record = outcome._asdict()
        state = record.pop("state")
        return cache.Entry(state, {**record, "seconds": time.perf_counter() - started})


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
        The model explained.
    mask_sampler : MaskSampler

    Returns
    -------
    tuned : nn.Module
        In evaluation mode, on the model's device.
    report : TuningReport or None
        None unless a :class:`FineTuner` made it.

    Raises
    ------
    TypeError
        If ``fine_tune`` is none of these, or the callable returns no module.
    ValueError
        If the tuned model is in training mode or on another device.
    """
    if isinstance(fine_tune, FineTuner):
        return fine_tune(model, mask_sampler), fine_tune.report
    if isinstance(fine_tune, nn.Module):
        tuned, what = fine_tune, "fine_tune"
    elif callable(fine_tune):
        what = "the model that fine_tune returned"
        device = checks.resolve_device(model, None)
        with isolated_training(device, mask_sampler.seed):
            tuned = fine_tune(copy_model(model), mask_sampler)
    else:
        raise TypeError(
            "fine_tune must be a FineTuner, a torch.nn.Module or a callable "
            f"(model, mask_sampler) -> model, is {fine_tune!r}"
        )
    if not isinstance(tuned, nn.Module):
        raise TypeError(f"{what} must be a torch.nn.Module, is {tuned!r}")
    training = [name for name, module in tuned.named_modules() if module.training]
    if training:
        where = f" (its submodule {training[0]!r} is not)" if training[0] else ""
        raise ValueError(f"{what} must be in evaluation mode, call .eval(){where}")
    ours, theirs = (checks.resolve_device(module, None) for module in (model, tuned))
    if ours != theirs:
        raise ValueError(f"{what} is on {str(theirs)!r} but the model is on {str(ours)!r}")
    return tuned, None


def _predictions(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    forward = Forward.of_module(model, device, softmax=None)
    parts = (forward.clean(as_input(part, model, device)) for part in x.split(256))
    return torch.cat([part.argmax(1).cpu() for part in parts])
