"""Random masks for training, with the elements and the perturbation of the evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from quantus_ext import checks
from quantus_ext.adapters.base import FeatureMask
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import ELEMENTS, Elements, elements_of
from quantus_ext.engine.perturb import Perturbation, checked_perturbation, once
from quantus_ext.engine.sampling import Purpose
from quantus_ext.shown import ShownByArguments


class MaskSampler(ShownByArguments):
    """Perturbs random elements: ``P_β`` of F-Fidelity (Zheng et al., 2025, eq. 5).

    Masks depend on (seed, sample index, draw) only, and are independent of those that an evaluation
    with the same seed draws.

    Parameters
    ----------
    perturbation : Perturbation
        The replacement of masked elements.
    beta : float
        β, the largest fraction of elements that is masked, in (0, 1].
    element : {"position", "channel_value", "patch", "segment"}, default "position"
        See :func:`quantus_ext.engine.elements.elements_of`.
    patch_size : int, optional
        For ``element="patch"``.
    feature_mask : callable, optional
        That of the model's adapter; see :class:`quantus_ext.adapters.Adapter`.
    segments : Tensor of int, shape (N, \\*spatial), optional
        Segment ids of all samples, for ``element="segment"``.
    seed : int, default 0

    Raises
    ------
    ValueError
        If an argument is invalid; in a call with ``element="segment"``, without ``segments``.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.replacements import replace_by
    >>> from quantus_ext.finetune import MaskSampler
    >>> masks = MaskSampler(perturbation=replace_by(0.0), beta=0.25)
    >>> x = torch.ones(100, 3, 4, 4)
    >>> sorted({int(removed) for removed in (masks(x) == 0).sum((1, 2, 3))})
    [0, 3, 6, 9, 12]
    """

    def __init__(
        self,
        *,
        perturbation: Perturbation,
        beta: float,
        element: str = "position",
        patch_size: int | None = None,
        feature_mask: FeatureMask | None = None,
        segments: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        checks.one_of("element", element, ELEMENTS)
        self.perturbation = checked_perturbation(perturbation)
        self.beta = checks.fraction("beta", beta)
        self.element = element
        self.patch_size = checks.patch_size(element, patch_size)
        self.feature_mask = checks.optional(checks.function, "feature_mask", feature_mask)
        self.segments = checks.optional(_segment_ids, "segments", segments)
        self.seed = checks.fixed_seed("seed", seed)

    def __call__(self, x: Tensor, draw: int = 0, index: Tensor | None = None) -> Tensor:
        """Return a copy with a random number of random elements perturbed, over all channels.

        Parameters
        ----------
        x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        draw : int, default 0
        index : Tensor, int64, shape (n,), optional
            The samples' indices, by default 0, …, n - 1.

        Returns
        -------
        Tensor, shape of ``x``
            The number of masked elements per sample is uniform on {0, …, ⌊βt⌋}; if ⌊βt⌋ is 0, on
            {0, 1}.
        """
        keys = self._keys(x, draw, index)
        elements = self.elements(x, index)
        bounds = [max(sampling.snapped_floor(self.beta * t), 1) + 1 for t in elements.totals()]
        limits = torch.tensor(bounds, device=x.device)[:, None, None]
        return self._masked(x, keys, elements, sampling.integers(keys, limits, Purpose.MASK_SIZE))

    def at(self, x: Tensor, fraction: float, draw: int = 0, index: Tensor | None = None) -> Tensor:
        """Return a copy with exactly ``⌊fraction·t⌋`` random elements of each sample perturbed."""
        elements = self.elements(x, index)
        share = checks.finite_number("fraction", fraction)
        sizes = [sampling.snapped_floor(share * t) for t in elements.totals()]
        if len(set(sizes)) == 1:
            return self._masked(x, self._keys(x, draw, index), elements, sizes[0])
        counts = torch.tensor(sizes, device=x.device)[:, None, None]
        return self._masked(x, self._keys(x, draw, index), elements, counts)

    def count(self, x: Tensor, fraction: float) -> int:
        """Return ``⌊fraction·t⌋`` for the sample with the most elements."""
        share = checks.finite_number("fraction", fraction)
        return sampling.snapped_floor(share * self.elements(x).largest)

    def elements(self, x: Tensor, index: Tensor | None = None) -> Elements:
        """Return the elements of samples.

        Parameters
        ----------
        x : Tensor, shape (n, \\*sample)
        index : Tensor, int64, shape (n,), optional
            The samples' indices, by default 0, …, n - 1.

        Raises
        ------
        ValueError
            With ``element="segment"``, without ``segments``.
        """
        own = None
        if self.element == "segment":
            if self.segments is None:
                raise ValueError(
                    "element='segment' needs segment maps, which these training data do not have: "
                    "pass a tuned model or a callable as fine_tune, give them to the FineTuner as "
                    "s, or use element='patch'"
                )
            rows = torch.arange(len(x)) if index is None else index
            own = self.segments[rows.to(self.segments.device)].to(x.device)
        features = None if self.feature_mask is None else self.feature_mask(x)
        return elements_of(
            x, self.element, patch_size=self.patch_size, segments=own, features=features
        )

    def _keys(self, x: Tensor, draw: int, index: Tensor | None) -> Tensor:
        index = torch.arange(len(x)) if index is None else index
        keys = sampling.sample_keys(self.seed, index.to(x.device))
        return sampling.draw_keys(keys, draw, draw + 1)

    def _masked(self, x: Tensor, keys: Tensor, elements: Elements, sizes: int | Tensor) -> Tensor:
        # The first number made the size. The second is a key of its own, or training would see
        # the very masks that the evaluation draws by these keys.
        own = sampling.bits(keys, 2, Purpose.MASK_SIZE)[..., 1]
        among = None if self.feature_mask is None else elements.present
        chosen = sampling.subsets(own, elements.largest, sizes, among)
        return once(self.perturbation, x, elements.expand(chosen, slice(None)), own)


def _segment_ids(name: str, values: object) -> Tensor:
    """Return segment ids, a tensor of integers with an axis of samples, or raise TypeError."""
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if isinstance(values, Tensor) and values.ndim > 1 and values.dtype in integers:
        return values
    raise TypeError(
        f"{name} must be a tensor of integer segment ids, shape (n, *spatial), is "
        f"{checks.shown(values)}"
    )
