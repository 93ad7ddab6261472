"""ROAR, RemOve And Retrain (Hooker et al., 2019), as the F-Fidelity paper compares with it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.adapters.base import FeatureMask, adapter_of
from quantus_ext.adapters.tokens import refuse_embeddings
from quantus_ext.batch import tensor_of
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.modules import called_alike, without_keywords
from quantus_ext.engine.perturb import Perturbation, once
from quantus_ext.engine.sampling import Purpose
from quantus_ext.finetune import FineTuner, TuningReport, segments_of, tuning_seed
from quantus_ext.finetune.training import (
    as_input,
    check_labels,
    copy_model,
    isolated_training,
)
from quantus_ext.finetune.tuner import tuned_by
from quantus_ext.functional.fidelity_sizes import first_of
from quantus_ext.map_scores import MapScores
from quantus_ext.metrics.fidelity import SPARSITY, Fidelity, FidelityArguments
from quantus_ext.shown import ShownByArguments


class ROAR(Fidelity):
    r"""ROAR: Fidelity of a model that was trained without the elements that the map ranks highest.

    For each explainer, a model is trained from scratch on data without their top ``⌊u·t⌋``
    elements, by that explainer's own maps, with u uniform on (0, 1) for each sample and epoch. This
    model replaces the explained one: ``1(y = f_roar(x)) - 1(y = f_roar(x without the top s))``,
    averaged over explanation sizes; higher is better. ``details["minus"]`` evaluates it on the top
    s alone.

    Parameters
    ----------
    trainer : FineTuner
        Training data and settings, with more epochs than for fine-tuning. Without labels, the
        explained model's predictions are used. Trained models are recognised by content, including
        that of the maps.
    a_train : array or tensor, shape of the training data or with one channel or none
        The explainer's attributions for the training data, in the same form as those to be scored.
    sparsity : float or sequence of float
        See :class:`Fidelity`.
    build_model : callable, optional
        Returns an untrained model. By default a copy of the explained model, reinitialised by
        ``reset_parameters``.
    retrain : {"once", "per_sparsity"}, default "once"
        ``"per_sparsity"`` trains one model per size, with exactly the top s removed, as first
        published. This costs as many trainings; a warning says so before they begin.
    **fidelity
        See :class:`Fidelity`; ``element="segment"`` is not possible.

    Attributes
    ----------
    reports : list of TuningReport
        After a call: one per training.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid; in a call, if a part of the model has weights but no
        ``reset_parameters``.
    """

    name = "ROAR"
    # Each part has its own model, so nothing is shared.
    max_difference = 2.0

    def __init__(
        self,
        trainer: FineTuner,
        a_train: np.ndarray | Tensor,
        sparsity: float | Sequence[float] = SPARSITY,
        *,
        build_model: Callable[[], nn.Module] | None = None,
        retrain: Literal["once", "per_sparsity"] = "once",
        **fidelity: Unpack[FidelityArguments],
    ) -> None:
        super().__init__(sparsity, **fidelity)
        if not isinstance(trainer, FineTuner):
            raise TypeError(f"trainer must be a FineTuner, is {checks.shown(trainer)}")
        checks.one_of("retrain", retrain, ("once", "per_sparsity"))
        if self.element == "segment" and trainer.data.s is None:
            raise ValueError(
                "element='segment' needs segment maps of the training data: pass them as s to the "
                "FineTuner, or use element='patch'"
            )
        self.trainer = trainer
        maps = tensor_of("a_train", a_train, trainer.data.x.device, None)
        maps = self.at_positions(maps, trainer.data.x, None)
        self.a_train = checks.attributions(maps, trainer.data.x, "a_train")
        self.build_model = checks.optional(checks.function, "build_model", build_model)
        self.retrain = retrain
        self.reports: list[TuningReport] = []
        self._share: float | None = None
        self._ready: dict[float | None, nn.Module] = {}

    def score_maps(self, *arguments: Any, **keywords: Any) -> MapScores:
        """See :meth:`quantus_ext.base.TorchMetric.score_maps`.

        With ``retrain="per_sparsity"``, maps that are not given are computed for each size.
        """
        if self.retrain == "once":
            return super().score_maps(*arguments, **keywords)
        warnings.warn(
            f"retrain='per_sparsity' trains {len(self.sparsity)} models from scratch for this "
            "explainer",
            UserWarning,
            stacklevel=3,
        )
        parts = [self._at(share) for share in self.sparsity]
        found = [part.score_maps(*arguments, **keywords) for part in parts]
        self.reports = [report for part in parts for report in part.reports]
        return _mean(found)

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return the model that was trained without the most relevant elements."""
        refuse_embeddings(model, self.name)
        check_labels(model, x, y)
        if self._share in self._ready:
            return called_alike(self._ready[self._share], model)
        device = checks.resolve_device(model, None)
        with isolated_training(device, self.trainer.settings.seed):
            fresh = _fresh(model) if self.build_model is None else self.build_model()
        if not isinstance(fresh, nn.Module):
            raise TypeError(f"build_model must return a torch.nn.Module, returned {fresh!r}")
        if self.build_model is not None:
            fresh = called_alike(fresh, model)
        data = as_input(self.trainer.data.x, model, torch.device("cpu"))
        mask = adapter_of(model).feature_mask
        maps = self.prepared_maps(self.a_train, data, features=None if mask is None else mask(data))
        remove = RemoveTop(
            maps,
            perturbation=self.perturbation(model),
            element=self.element,
            patch_size=self.patch_size,
            feature_mask=adapter_of(model).feature_mask,
            segments=segments_of(self.trainer, self.element),
            share=self._share,
            seed=tuning_seed(self.trainer),
        )
        trained, report = tuned_by(self.trainer, fresh.to(device).eval(), remove, teacher=model)
        if report is not None:
            self.reports = [report]
        return trained

    def keep_of(self, scored: ROAR) -> None:
        """See :meth:`quantus_ext.base.TorchMetric.keep_of`."""
        self.reports = scored.reports

    @property
    def trains(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.trains`."""
        return not self._ready

    def settled(self, model: nn.Module, x: Tensor, y: Tensor, *, train: bool = True) -> ROAR:
        """See :meth:`quantus_ext.base.TorchMetric.settled`."""
        ready = copy.copy(self)
        parts = [self] if self.retrain == "once" else [self._at(each) for each in self.sparsity]
        ready._ready = {}
        for part in parts:
            trained = part.model_to_ask(model, x, y) if train else model
            ready._ready[part._share] = without_keywords(trained)
        return ready

    def _at(self, share: float) -> ROAR:
        """Return a metric of one size, with a model of its own."""
        part = copy.copy(self)
        part.sparsity, part.retrain, part._share = [share], "once", share
        return part


def _mean(parts: Sequence[MapScores]) -> MapScores:
    """Return the mean of scores by models of their own, over the different sizes."""
    sizes = np.concatenate([part.details["size"] for part in parts], 2)
    first = np.array([[first_of(row) for row in each] for each in sizes.tolist()], dtype=float)
    # Parts, maps, samples.
    weights = np.moveaxis(first / first.sum(2, keepdims=True), 2, 0)
    errors = np.array([part.standard_errors for part in parts])
    return replace(
        parts[0],
        scores=(weights * [part.scores for part in parts]).sum(0),
        standard_errors=np.sqrt(((weights * errors) ** 2).sum(0)),
        details={
            # Curves are concatenated, single numbers averaged.
            name: np.concatenate(values, 2) if values[0].ndim == 3 else (weights * values).sum(0)
            for name in parts[0].details
            for values in [[part.details[name] for part in parts]]
        }
        | {
            "flags": np.bitwise_or.reduce([part.details["flags"] for part in parts]),
            # Of models that were trained otherwise, maps of this one say nothing.
            "space": parts[0].details["space"],
        },
        n_evaluations=np.sum([part.n_evaluations for part in parts], 0),
        n_rows=sum(part.n_rows for part in parts),
    )


class RemoveTop(ShownByArguments):
    """Removes the elements that maps of the training data rank highest.

    Parameters
    ----------
    maps : Tensor, shape (n, \\*sample) or with one channel
    perturbation : Perturbation
        What removed elements become.
    element, patch_size
        See :func:`quantus_ext.engine.elements.elements_of`.
    feature_mask : callable, optional
        See :class:`quantus_ext.adapters.Adapter`.
    segments : Tensor of int, shape (N, \\*spatial), optional
        Segment ids of all samples, for ``element="segment"``.
    share : float, optional
        Of the elements; by default uniform on (0, 1) for each sample and draw.
    seed : int, default 0
    """

    def __init__(
        self,
        maps: Tensor,
        *,
        perturbation: Perturbation,
        element: str = "position",
        patch_size: int | None = None,
        feature_mask: FeatureMask | None = None,
        segments: Tensor | None = None,
        share: float | None = None,
        seed: int = 0,
    ) -> None:
        self.maps = maps
        self.perturbation = perturbation
        self.element = element
        self.patch_size = patch_size
        self.feature_mask = feature_mask
        self.segments = segments
        self.share = share
        self.seed = seed

    def __call__(self, x: Tensor, draw: int, index: Tensor) -> Tensor:
        """Return a copy without the top ``⌊share·t⌋`` elements.

        Parameters
        ----------
        x : Tensor, shape (n, \\*sample)
        draw : int
        index : Tensor, int64, shape (n,)
            Rows of ``maps``.
        """
        features = None if self.feature_mask is None else self.feature_mask(x)
        own = None if self.segments is None else self.segments[index].to(x.device)
        elements = elements_of(
            x, self.element, patch_size=self.patch_size, segments=own, features=features
        )
        keys = sampling.sample_keys(self.seed, index.to(x.device))
        ranks = elements.ranks(self.maps[index].to(x.device), keys)
        draws = sampling.draw_keys(keys, draw, draw + 1)
        if self.share is None:
            u = sampling.uniform(draws, 1, Purpose.MASK_SIZE).squeeze(1)
            count = (u * elements.counts[:, None]).floor()
        else:
            counts = [sampling.snapped_floor(self.share * t) for t in elements.totals()]
            count = torch.tensor(counts, device=x.device)[:, None]
        mask = elements.expand((ranks < count).unsqueeze(1), slice(None))
        return once(self.perturbation, x, mask, draws)


def _fresh(model: nn.Module) -> nn.Module:
    """Return a copy with all weights drawn anew."""
    fresh = copy_model(model)
    for name, module in fresh.named_modules():
        # nn.MultiheadAttention uses the private name.
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        own = [weight for weight in module.parameters(recurse=False) if weight.is_floating_point()]
        if callable(reset):
            with torch.no_grad():
                for weight in own:
                    weight.fill_(torch.nan)
            reset()
        # Weights from which others are computed, as by weight norm, cannot be redrawn.
        if own and (not callable(reset) or any(bool(weight.isnan().any()) for weight in own)):
            raise ValueError(
                f"build_model must make an untrained model, because the model's part {name!r} "
                f"({type(module).__name__}) has weights and no reset_parameters that draws them"
            )
    return fresh
