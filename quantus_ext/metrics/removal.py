"""What all metrics that remove elements have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
from quantus.functions.perturb_func import baseline_replacement_by_indices
from quantus.helpers.enums import EvaluationCategory
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks, perturbation
from quantus_ext.adapters.base import adapter_of, default_removal, sparing
from quantus_ext.base import CommonArguments, TorchMetric
from quantus_ext.batch import Batch
from quantus_ext.engine.elements import ELEMENTS, Elements, elements_of, over_positions
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.flags import Cuts

Element = Literal["position", "channel_value", "patch", "segment"]


class RemovalArguments(CommonArguments, total=False):
    """Keyword arguments of every metric that removes elements; see :class:`RemovalMetric`."""

    element: Element | None
    patch_size: int | None
    perturb_func: Callable[..., Any] | None
    perturb_baseline: float | str | np.ndarray | None
    perturb_func_kwargs: dict[str, Any] | None


class RemovalMetric(TorchMetric):
    r"""A metric that removes elements in the order of their attributions.

    Parameters
    ----------
    element : {"position", "channel_value", "patch", "segment"}, optional
        What is removed at once: a pixel, time step or feature over all channels; a single value of
        a channel; a patch of side ``patch_size`` (a window in time); or the segments whose ids
        ``s_batch`` holds, shape (n, \*spatial). By default ``"patch"`` if ``patch_size`` is given,
        otherwise ``"position"``.
    patch_size : int, optional
        For ``element="patch"``.
    perturb_func : callable, optional
        A function of Quantus or your own; by default ``baseline_replacement_by_indices``.
    perturb_baseline : float, str or array, default 0.0
        As in Quantus: ``"black"`` is the minimum of the sample. For a model of token ids, the
        adapter decides by default; a value given here applies to the embeddings.
    perturb_func_kwargs : dict, optional
        Keyword arguments for ``perturb_func``.
    **common
        See :class:`quantus_ext.base.TorchMetric`.
    """

    evaluation_category = EvaluationCategory.FAITHFULNESS
    default_softmax = True
    _shown_defaults: ClassVar[Mapping[str, Any]] = {
        "element": "position",
        "perturb_func": baseline_replacement_by_indices,
        "perturb_baseline": 0.0,
    }

    def __init__(
        self,
        *,
        element: Element | None = None,
        patch_size: int | None = None,
        perturb_func: Callable[..., Any] | None = None,
        perturb_baseline: float | str | np.ndarray | None = None,
        perturb_func_kwargs: dict[str, Any] | None = None,
        **common: Unpack[CommonArguments],
    ) -> None:
        super().__init__(**common)
        if element is None:
            element = "position" if patch_size is None else "patch"
        checks.one_of("element", element, ELEMENTS)
        self.element = element
        self.patch_size = checks.patch_size(element, patch_size)
        self.over_embeddings = perturb_func is not None or perturb_baseline is not None
        self.perturb_func = perturbation.bind(
            baseline_replacement_by_indices if perturb_func is None else perturb_func,
            perturb_baseline,
            perturb_func_kwargs,
            default_baseline=0.0,
        )
        if not perturbation.resolve(self.perturb_func).uses_mask:
            raise ValueError(
                "perturb_func must change the chosen elements only, "
                f"{getattr(perturb_func, '__name__', perturb_func)} changes the whole input"
            )

    def _shown_argument(self, name: str) -> Any:
        if name.startswith("perturb_"):
            return perturbation.bound_argument(self.perturb_func, name)
        return super()._shown_argument(name)

    def perturbation(self, model: nn.Module) -> Perturbation:
        """Return the replacement of removed elements.

        Parameters
        ----------
        model : torch.nn.Module
            The explained model, whose adapter may have its own default.
        """
        if not self.over_embeddings:
            return default_removal(model)
        adapter = adapter_of(model)
        baseline = self.perturb_func.keywords.get("perturb_baseline")
        if adapter.takes_ids and isinstance(baseline, Real) and baseline == adapter.removed:
            raise ValueError(
                f"perturb_baseline must be left out to remove tokens, is {baseline}: a given value "
                "applies to the embeddings"
            )
        number = {"perturb_baseline": _number(baseline)} if isinstance(baseline, Real) else {}
        return sparing(perturbation.resolve(self.perturb_func, number), model)

    def elements(self, batch: Batch) -> Elements:
        """Return the elements of the samples; segments come from ``s_batch``."""
        return self.elements_of(batch.x, batch.s, batch.features)

    def elements_of(
        self, x: Tensor, s: np.ndarray | Tensor | None, features: Tensor | None
    ) -> Elements:
        r"""Return the elements of samples.

        Parameters
        ----------
        x : Tensor, shape (n, \*sample)
        s : array or tensor, optional
            Segmentations.
        features : Tensor, int64, shape (n or 1, \*spatial), optional
            The feature mask of the model's adapter.
        """
        return elements_of(
            x,
            self.element,
            patch_size=self.patch_size,
            segments=self._segments(s, x),
            features=features,
        )

    def cuts(self, batch: Batch) -> Cuts | None:
        """See :meth:`quantus_ext.base.TorchMetric.cuts`."""
        elements = self.elements(batch)
        return Cuts(elements, self.fractions_of(elements), self.perturbation(batch.model))

    def fractions_of(self, elements: Elements) -> Sequence[float]:
        """Return the fractions of a ranking that are removed or kept; by default none are known.

        A map with fewer values than these cut apart is flagged.

        Parameters
        ----------
        elements : Elements
            Of the samples.
        """
        return ()

    def at_positions(self, a: Tensor, x: Tensor, s: np.ndarray | Tensor | None) -> Tensor:
        """See :meth:`quantus_ext.base.TorchMetric.at_positions`."""
        segments = self._segments(s, x)
        return over_positions(a, x, self.element, patch_size=self.patch_size, segments=segments)

    def _segments(self, s: np.ndarray | Tensor | None, x: Tensor) -> Tensor | None:
        if self.element != "segment" or s is None:
            return None
        return checks.segments("s_batch", s, x)


def _number(value: Real) -> float:
    number = checks.plain(value)
    return float(number) if isinstance(number, Real) else float(value)
