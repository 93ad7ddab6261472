"""PScore (M4) as a Quantus metric."""

from __future__ import annotations

from collections.abc import Sequence

from quantus.helpers.enums import EvaluationCategory, ScoreDirection
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks, functional
from quantus_ext.base import CommonArguments, TorchMetric
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.functional.scores import Scores
from quantus_ext.identity import content_key
from quantus_ext.memory import Memory

_maps: Memory[Tensor] = Memory(
    lambda maps: maps.numel() * maps.element_size(), most_entries=256, most_bytes=512 * 2**20
)


class PScore(TorchMetric):
    r"""PScore: agreement of the map with those of other good models, by the same explainer.

    The cosine between the map and the mean of the unit-length maps that the call's own
    ``explain_func`` makes of an ensemble of well-trained models (M4); higher is better. Where
    models agree on what matters, an explainer that finds it gives similar maps for all of them.

    The ensemble's maps are found again by the content of model, explainer and data, so that a
    second metric or call does not explain again. What an explainer draws from a global random
    state, or reads from another file of one's own, is no part of that, nor are hooks on a model.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        The ensemble, in evaluation mode and on the scored model's device. The scored model itself,
        known by its weights, is left out.
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
    evaluation_category = EvaluationCategory.FAITHFULNESS

    def __init__(self, models: Sequence[nn.Module], **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        self.models = list(models)
        for number, model in enumerate(self.models):
            if not isinstance(model, nn.Module):
                raise TypeError(f"models[{number}] must be a torch.nn.Module, is {model!r}")
        if not self.models:
            raise ValueError("models must hold at least one model, is empty")
        self._keys: dict[int, str] = {}

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return the model itself; what was known of the models of the last call is forgotten."""
        self._keys = {}
        return model

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        scored = self._key(batch.model)
        models = {n: model for n, model in enumerate(self.models) if self._key(model) != scored}
        if not models:
            raise ValueError("models must hold another model than the scored one, holds only that")
        explained = [self._explained(n, model, batch) for n, model in models.items()]
        others = [self._prepared(a, batch.x, features=batch.features) for a in explained]
        return functional.p_score(batch.a, others)

    def _key(self, model: nn.Module) -> str:
        """Return what a model is known by, computed once a call."""
        if id(model) not in self._keys:
            self._keys[id(model)] = content_key(model)
        return self._keys[id(model)]

    def _explained(self, number: int, model: nn.Module, batch: Batch) -> Tensor:
        checks.evaluation_mode(model, f"models[{number}]")
        checks.resolve_device(model, batch.x.device)
        explainer = (batch.explain.require(), batch.explain.keywords)
        key = content_key(self._key(model), explainer, batch.x, batch.y)
        maps = _maps.get(key)
        if maps is None:
            # A copy, because what was returned may be a buffer that is written again.
            maps = batch.explain(model, batch.x, batch.y).cpu().clone()
            _maps.put(key, maps)
        return maps.to(batch.x.device)
