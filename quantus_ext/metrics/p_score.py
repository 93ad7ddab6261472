"""PScore (M4) as a Quantus metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from quantus.helpers.enums import EvaluationCategory, ScoreDirection
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks, functional
from quantus_ext.base import CommonArguments, TorchMetric
from quantus_ext.batch import Batch, Explainer
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.global_state import seeded
from quantus_ext.engine.modules import called_alike
from quantus_ext.engine.rows import belonging_to
from quantus_ext.finetune.training import first_outputs
from quantus_ext.functional.scores import Scores
from quantus_ext.identity import (
    Content,
    content_of,
    is_doubtful,
    probe_rows,
    same_answers,
    telling,
)
from quantus_ext.memory import Memory


class _Made(NamedTuple):
    maps: Tensor
    answers: Tensor | None
    """Of the model that was explained, for a few of the samples; None if its content tells all."""


_maps: Memory[_Made] = Memory(
    lambda made: made.maps.numel() * made.maps.element_size(),
    most_entries=256,
    most_bytes=512 * 2**20,
)


class PScore(TorchMetric):
    r"""PScore: agreement of the map with the same explainer's maps of other good models.

    The cosine similarity between the map and the mean of the unit-length maps that the call's
    ``explain_func`` computes for an ensemble of well-trained models (M4, Li et al., 2023); higher
    is better. If models agree on what matters, an explainer that finds it gives similar maps for
    all.

    The ensemble's maps are cached by the content of model, explainer and data, so further metrics
    and calls reuse them. If content does not identify a model, as with custom code or hooks, its
    answers to 8 samples of a batch are compared too. Files that an explainer reads are not
    considered. All models are explained from the same global random states.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        The ensemble, in evaluation mode and on the device of the scored model. The scored model is
        left out if it is among them.
    **common
        See :class:`quantus_ext.base.TorchMetric`.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid; in a call, if there is no ``explain_func`` or no other model in
        ``models``.
    """

    name = "PScore"
    score_direction = ScoreDirection.HIGHER
    score_range = (-1.0, 1.0)
    evaluation_category = EvaluationCategory.FAITHFULNESS
    asks_model = False
    reads_values = False

    def __init__(self, models: Sequence[nn.Module], **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        self.models = [
            checks.module(f"models[{number}]", model)
            for number, model in enumerate(checks.items("models", models))
        ]
        if not self.models:
            raise ValueError("models must hold at least one model, is empty")
        self._contents: dict[int, Content] = {}

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return the model itself, and forget what was known of the models of the last call."""
        self._contents = {}
        return model

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        known = _Answers(forward, batch)
        others = {
            number: model
            for number, model in enumerate(self.models)
            if not self._is_scored(model, batch.model, known)
        }
        if not others:
            raise ValueError("models must hold another model than the scored one, holds only that")
        return Scores.stack(
            [
                functional.p_score(
                    a,
                    [
                        self._explained(n, other, batch, explain, known)
                        for n, other in others.items()
                    ],
                )
                for a, explain in zip(batch.maps, batch.explainers, strict=True)
            ]
        )

    def _content(self, model: nn.Module) -> Content:
        """Return what can be read of a model, once a call."""
        if id(model) not in self._contents:
            hooks = [
                hook
                for module in model.modules()
                for each in (module._forward_pre_hooks, module._forward_hooks)
                for hook in each.values()
            ]
            self._contents[id(model)] = content_of(model, hooks)
        return self._contents[id(model)]

    def _is_scored(self, model: nn.Module, scored: nn.Module, known: _Answers) -> bool:
        content = self._content(model)
        if model is scored or content.key != self._content(scored).key:
            return model is scored
        return content.closed or known.same(model, content, known.of(scored))

    def _explained(
        self, number: int, model: nn.Module, batch: Batch, explain: Explainer, known: _Answers
    ) -> Tensor:
        checks.evaluation_mode(model, f"models[{number}]")
        checks.resolve_device(model, batch.x.device, f"models[{number}]")
        content = self._content(model)
        first = int(batch.index[0])
        explainer = (explain.require(), explain.keywords, explain.state(first))
        asked = content_of(content.key, explainer, batch.x, batch.y)
        made = _maps.get(asked.key) if not asked.unread else None
        if made is not None and (
            content.closed
            or (made.answers is not None and known.same(model, content, made.answers))
        ):
            return self.prepared_maps(made.maps.to(batch.x.device), batch.x, batch.features)
        # A copy, because the explainer may reuse its buffer.
        maps = explain(model, batch.x, batch.y, first).cpu().clone()
        if not asked.unread:
            _maps.put(asked.key, _Made(maps, None if content.closed else known.of(model)))
        return self.prepared_maps(maps.to(batch.x.device), batch.x, batch.features)


class _Answers:
    """What models answer to a few samples of a batch, each asked once."""

    def __init__(self, forward: Forward, batch: Batch) -> None:
        self._forward = forward
        some = probe_rows(len(batch.x))
        self._x, self._numbers = batch.x[some], batch.numbers[some]
        self._known: dict[int, Tensor] = {}

    def of(self, model: nn.Module) -> Tensor:
        """Return the outputs of a model, called as the scored one is."""
        if id(model) not in self._known:
            asked = (
                model if self._forward.model is None else called_alike(model, self._forward.model)
            )
            device = self._x.device
            # One thread at a time, like explainers: all threads share the global random states.
            with (
                seeded(0, device),
                torch.autocast(device.type, enabled=False),
                belonging_to(self._numbers),
            ):
                self._known[id(model)] = first_outputs(asked, self._x, device).cpu()
        return self._known[id(model)]

    def same(self, model: nn.Module, content: Content, answers: Tensor) -> bool:
        """Whether a model of equal content gave these answers, as far as they tell."""
        doubtful = is_doubtful(model, content)
        now = self.of(model)
        return same_answers(now, answers, exact=doubtful) and (not doubtful or telling(now))
