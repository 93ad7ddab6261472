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
    r"""PScore: agreement of the map with those of other good models, by the same explainer.

    The cosine between the map and the mean of the unit-length maps that the call's own
    ``explain_func`` makes of an ensemble of well-trained models (M4); higher is better. Where
    models agree on what matters, an explainer that finds it gives similar maps for all of them.

    The ensemble's maps are found again by the content of model, explainer and data, so that a
    second metric or call does not explain again; and by the answers to 8 samples of a batch, where
    content does not tell all of a model, as with code of one's own or hooks. What an explainer
    reads from a file is no part of that. All models are explained from the same global random
    states.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        The ensemble, in evaluation mode and on the scored model's device. The scored model itself,
        known in the same way, is left out.
    **common
        See :class:`quantus_ext.base.TorchMetric`.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules; on a call, if there is no ``explain_func`` or no
        other model in ``models``.
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
        """Return the model itself; what was known of the models of the last call is forgotten."""
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
            return self._prepared(made.maps.to(batch.x.device), batch.x, batch.features)
        # A copy, because what was returned may be a buffer that is written again.
        maps = explain(model, batch.x, batch.y, first).cpu().clone()
        if not asked.unread:
            _maps.put(asked.key, _Made(maps, None if content.closed else known.of(model)))
        return self._prepared(maps.to(batch.x.device), batch.x, batch.features)


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
            # As explainers do, in turns: the global random states are every thread's.
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
