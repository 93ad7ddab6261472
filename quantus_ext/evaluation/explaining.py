"""Attributions of a shard: what an explainer returns, or maps that were given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.arrays import array_of
from quantus_ext.batch import Explainer, of_explained_class
from quantus_ext.engine.fence import Fence
from quantus_ext.evaluation.plan import Method, Plan, takes
from quantus_ext.evaluation.records import Shard, told
from quantus_ext.evaluation.targets import maps_of_classes
from quantus_ext.finetune.training import as_input


@dataclass(frozen=True)
class Explained:
    """The attributions of a shard by one explainer, or why there are none.

    Attributes
    ----------
    maps : numpy.ndarray or None
    seconds : float
    failure : (str, str) or None
        What was raised, and the end of its traceback.
    several : bool
        Whether there are maps of several classes, shape (n, k, …).
    """

    maps: np.ndarray | None
    seconds: float
    failure: tuple[str, str] | None
    several: bool = False

    def cases(self, cases: Sequence[int], start: int, stop: int) -> dict[int, np.ndarray]:
        """Return the maps of those samples that are shown, of several classes for the first."""
        if self.maps is None:
            return {}
        shown = self.maps[:, 0] if self.several else self.maps
        return {case: np.array(shown[case - start]) for case in cases if start <= case < stop}


@dataclass(frozen=True)
class Explaining:
    """A model and how its predictions are explained.

    Attributes
    ----------
    model : nn.Module
    plan : Plan
    """

    model: nn.Module
    plan: Plan

    @property
    def _device(self) -> torch.device:
        return checks.resolve_device(self.model, self.plan.device)

    def keywords(self, explainer: Method) -> dict[str, Any]:
        """Return the keyword arguments of an explainer's calls."""
        if self.plan.device is None or not takes(explainer.function, "device"):
            return explainer.keywords
        return {"device": self.plan.device, **explainer.keywords}

    def explained(self, method: int, shard: Shard, x: np.ndarray, y: np.ndarray) -> Explained:
        """Explain the samples of a shard by one explainer, or say why that failed.

        Parameters
        ----------
        method : int
            Place of the explainer.
        shard : Shard
        x, y : numpy.ndarray
            Its inputs and explained classes, (n,) or (n, k).
        """
        start = time.perf_counter()
        try:
            maps = self._explain(self.plan.methods[method], method, shard, x, y)
        except (Exception, SystemExit) as error:
            failure = told("explaining failed: ", error)
            return Explained(None, time.perf_counter() - start, failure)
        return Explained(maps, time.perf_counter() - start, None, several=y.ndim > 1)

    def _explain(
        self, explainer: Method, method: int, shard: Shard, x: np.ndarray, y: np.ndarray
    ) -> np.ndarray:
        """Return the attributions, shape (n, …), of several classes (n, k, …)."""
        known = shard.maps.get(method)
        maps = None if known is None else known.read()
        if y.ndim == 1:
            return self._explain_class(explainer, maps, shard.index, x, y)
        given: Sequence[np.ndarray | None] = [None] * y.shape[1]
        if maps is not None:
            given = maps_of_classes(explainer.name, maps, x, y.shape[1])
        return np.stack(
            [
                self._explain_class(explainer, own, shard.index, x, column)
                for own, column in zip(given, y.T, strict=True)
            ],
            axis=1,
        )

    def _explain_class(
        self,
        explainer: Method,
        maps: np.ndarray | None,
        index: NDArray[np.int64],
        x: np.ndarray,
        y: np.ndarray,
    ) -> np.ndarray:
        """Return the attributions, made batch by batch from random states of the batch's own."""
        if maps is None:
            call = Explainer(
                explainer.function,
                self.keywords(explainer),
                seed=self.plan.seed,
                fence=Fence(f"the explainer {explainer.name!r}"),
            )
            adapter = adapter_of(self.model)
            parts = []
            for first in range(0, len(x), self.plan.batch_size):
                rows = slice(first, first + self.plan.batch_size)
                number = int(index[first])
                made = call.maps(self.model, x[rows], y[rows], number, self._device)
                made = adapter.in_order("what the explainer returns", made)
                # A copy, because the explainer may reuse its buffer.
                parts.append(np.array(array_of("what the explainer returns", made)))
                if parts[-1].shape[:1] != (len(x[rows]),):
                    raise ValueError(
                        f"the explainer must return a map for each of {len(x[rows])} samples, "
                        f"returned shape {parts[-1].shape}"
                    )
            maps = np.concatenate(parts)
        if maps.ndim == 3 and x.ndim == 2:
            inputs = as_input(torch.from_numpy(x), self.model, self._device)
            maps = of_explained_class(torch.from_numpy(maps), self.model, inputs, y).numpy()
        if maps.ndim == x.ndim - 1 > 1:
            last = maps.shape[1:] == x.shape[1:-1] != x.shape[2:]
            return maps[..., np.newaxis] if last else maps[:, np.newaxis]
        # Over the embeddings of token ids, or with a value an element: metrics that cannot use
        # them say so.
        return maps
