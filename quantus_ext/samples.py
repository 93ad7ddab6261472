"""From the arguments of a call to checked tensors on the model's device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter, adapter_of, input_dtype
from quantus_ext.adapters.token_checks import NoCodes
from quantus_ext.batch import (
    channels_are_first,
    check_embedding_axis,
    features_of,
    of_explained_class,
    segmentations_of,
    tensor_of,
)
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.keywords import check_shared, told_apart
from quantus_ext.engine.modules import keywords_of, parts_with_mode, with_keywords
from quantus_ext.engine.rows import belonging_to


@dataclass(frozen=True)
class Samples:
    """All samples of a call; no explanation is in it.

    Attributes
    ----------
    model : nn.Module
        The explained one.
    answering : nn.Module
        The same with the call's keywords, over embeddings where these are perturbed.
    adapter : Adapter
    device : torch.device
    explained : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs, channels first.
    x : Tensor
        What is perturbed: the inputs, or their embeddings.
    y : numpy.ndarray of int, shape (n,), or None
        Explained classes; None for the model's predictions.
    targets : numpy.ndarray of int, shape (n, m), or None
        The class of each of m maps, where each has one of its own; ``y`` are those of the first.
    s : array or tensor, optional
    index : Tensor, int64, shape (n,)
        Global indices.
    numbers : Tensor, int64, shape (n,)
        Which samples of the call these are.
    features : Tensor, int64, shape (n or 1, \\*spatial), or None
        What the adapter says of the inputs.
    embedded : Adapter or None
        The adapter over embeddings, where ``x`` are these.
    channels_last : tuple of int or None
        Shape of the inputs as they were given, if their channels came last.
    is_told : bool
        Whether an explainer is to put the model into evaluation mode.
    """

    model: nn.Module
    answering: nn.Module
    adapter: Adapter
    device: torch.device
    explained: Tensor
    x: Tensor
    y: np.ndarray | None
    targets: np.ndarray | None
    s: np.ndarray | Tensor | None
    index: Tensor
    numbers: Tensor
    features: Tensor | None
    embedded: Adapter | None
    channels_last: tuple[int, ...] | None
    is_told: bool

    @classmethod
    def of_call(
        cls,
        model: nn.Module,
        x_batch: np.ndarray | Tensor,
        y_batch: np.ndarray | Tensor | None,
        s_batch: np.ndarray | Tensor | None,
        *,
        channel_first: bool | None,
        model_predict_kwargs: Mapping[str, Any] | None,
        device: str | torch.device | None,
        index_batch: np.ndarray | Tensor | None,
        may_be_told: bool,
        n_classes: int | None = None,
    ) -> Samples:
        """Take the arguments of a metric's call; see ``TorchMetric.__call__``.

        With ``may_be_told`` a model may still be in training mode. ``n_classes`` is the number of
        columns of ``y_batch``, where it has some.
        """
        is_told = may_be_told and any(part.training for _, part in parts_with_mode(model))
        if not is_told:
            checks.evaluation_mode(model)
        torch_device = checks.resolve_device(model, device)
        checks.on_device("x_batch", x_batch, torch_device)
        adapter = adapter_of(model)
        x_batch = adapter.encoded(x_batch)
        inputs = tensor_of("x_batch", x_batch, torch_device, input_dtype(model))
        checks.inputs(inputs)
        if channel_first is None:
            channel_first = adapter.channel_first
        if channel_first is None:
            channel_first = channels_are_first(inputs, model)
        last = not channel_first and inputs.ndim > 2
        x = inputs.movedim(-1, 1) if last else inputs
        n = len(x)
        adapter.check_inputs(x)
        given = np.arange(n) if index_batch is None else index_batch
        checks.rows_for_samples("s_batch", s_batch, n)
        s = segmentations_of(s_batch)
        if s is not None:
            checks.samples("s_batch", s, n)
            checks.all_finite("s_batch", torch.as_tensor(s))
        y = targets = None
        if n_classes is not None:
            targets = checks.targets(adapter.encoded_labels(y_batch), n, n_classes, distinct=False)
            y = targets[:, 0]
        elif y_batch is not None:
            y = checks.labels(adapter.encoded_labels(y_batch), n)
        return cls(
            model=model,
            answering=with_keywords(model, model_predict_kwargs),
            adapter=adapter,
            device=torch_device,
            explained=x,
            x=x,
            y=y,
            targets=targets,
            s=s,
            index=torch.from_numpy(checks.sample_indices(given, n)).to(torch_device),
            numbers=torch.arange(n, device=torch_device),
            features=features_of(adapter, x),
            embedded=None,
            channels_last=tuple(inputs.shape) if last else None,
            is_told=is_told,
        )

    def part(self, places: NDArray[np.int64]) -> Samples:
        """Return some of the samples."""
        rows = torch.from_numpy(places).to(self.device)
        features, s = self.features, self.s
        if s is not None:
            s = s[rows.to(s.device)] if isinstance(s, Tensor) else s[places]
        return replace(
            self,
            explained=self.explained[rows],
            x=self.x[rows],
            y=None if self.y is None else self.y[places],
            targets=None if self.targets is None else self.targets[places],
            s=s,
            index=self.index[rows],
            numbers=self.numbers[rows],
            features=features if features is None or len(features) == 1 else features[rows],
        )

    def for_maps(self, places: Sequence[int]) -> Samples:
        """Return the samples with the classes of some of the maps."""
        if self.targets is None:
            return self
        targets = self.targets[:, list(places)]
        return replace(self, y=targets[:, 0], targets=targets)

    def labels(self) -> Tensor:
        """Return the explained classes, by default the model's predictions."""
        if self.y is not None:
            return torch.from_numpy(self.y).to(self.device)
        self.require_predictions()
        forward = Forward.of_module(self.answering, self.device, softmax=None)
        return forward.clean(self.x, self.numbers).argmax(1)

    def require_predictions(self) -> None:
        """Raise ValueError if the largest output of the model is not its prediction."""
        if not self.adapter.one_softmax:
            raise ValueError(
                f"y_batch must be given for a {type(self.adapter).__name__}, whose largest output "
                "is not its prediction"
            )

    def map_of(self, a: object) -> Tensor:
        """Return attributions as a tensor, channels first."""
        checks.on_device("a_batch", a, self.device)
        values = tensor_of("a_batch", a, self.device, None)
        last = self.channels_last
        if last is not None and values.ndim == len(last) and values.shape[:-1] == last[:-1]:
            values = values.movedim(-1, 1)
        check_embedding_axis(values, self.adapter, self.explained)
        if self.y is None:
            return values
        return of_explained_class(values, self.answering, self.explained, self.y)

    def over_embeddings(self) -> Samples:
        """Return the samples as a model of token ids embeds them, where it is one."""
        embedded = self.adapter.over_embeddings()
        if embedded is None:
            return self
        answering = with_keywords(embedded, keywords_of(self.answering))
        x = embedded.embed(self.x)
        _check_embedded(self.answering, answering, self.x, x)
        return replace(self, answering=answering, x=x, embedded=embedded)

    def with_keywords_read(self, batch_size: int, *, carries_entries: bool) -> Samples:
        """Return the samples with it known which keywords of the model have an entry for each.

        Raises
        ------
        ValueError
            If the model, asked about a few inputs, does not do what it must, or a metric cannot
            carry such entries along.
        """
        keywords = told_apart(
            self.model, keywords_of(self.answering), self.explained, sizes=(batch_size,)
        )
        if not carries_entries:
            check_shared(keywords)
        self.adapter.check_answers(self.explained, keywords or {})
        return replace(self, answering=with_keywords(self.model, keywords))

    def laid_out(self, a: Tensor) -> Tensor:
        """Return attributions over embeddings, (n, L, D), as the embeddings are laid out."""
        return a if self.embedded is None or a.ndim != 3 else a.movedim(-1, 1)


def _check_embedded(model: nn.Module, embedded: nn.Module, x: Tensor, rows: Tensor) -> None:
    """Raise ValueError unless a model answers over embeddings as it does over ids."""
    cause = None
    with torch.no_grad(), belonging_to(torch.arange(min(len(x), 2), device=x.device)):
        expected = model(x[:2])
        try:
            with NoCodes():
                found = embedded(rows[:2])
        except (IndexError, RuntimeError, ValueError) as error:
            found, cause = torch.full_like(expected, torch.inf), error
    if not torch.allclose(
        expected, found, rtol=1e-2, atol=torch.finfo(expected.dtype).eps ** 0.5, equal_nan=True
    ):
        raise ValueError(
            "model must give the same outputs for embeddings as for ids, does not: it embeds "
            "tokens elsewhere than in `embedding`, or uses the ids too (such as an end token's), "
            "so only perturbations of ids are possible"
        ) from cause
