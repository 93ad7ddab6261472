"""Infidelity (Yeh et al., 2019) as a Quantus metric."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import inf
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np
from quantus.functions.loss_func import mse
from quantus.functions.perturb_func import batch_baseline_replacement_by_indices
from quantus.helpers.enums import DataType, EvaluationCategory, ScoreDirection
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext import checks, draws, functional, perturbation
from quantus_ext.adapters.base import adapter_of, default_removal, sparing
from quantus_ext.base import CommonArguments, TorchMetric
from quantus_ext.batch import Batch
from quantus_ext.draws import AutoDraws
from quantus_ext.engine.bridges import name_of
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.replacements import SAME, checked_baseline
from quantus_ext.functional.cumulative_infidelity import cumulative_infidelity
from quantus_ext.functional.scores import Scores

Scheme = Literal["patch", "subset", "all", "quantus"]

_DEFAULT_PATCH_SIZE = 4
_DEFAULT_FRACTION = 0.1
_MOST_DRAWS = 200


class Infidelity(TorchMetric):
    r"""Infidelity, ``E_I[(I·Φ - (f(x) - f(x - I)))²]`` (Yeh et al., 2019); lower is better.

    Scores are comparable only under the same perturbation.

    Parameters
    ----------
    loss_func : "mse" or callable
        A loss other than the squared error needs ``scheme="quantus"``.
    perturb_patch_sizes : int or list of int, optional
        For ``scheme="patch"`` and ``"quantus"``: the sides of patches, from which each draw chooses
        one at random. By default 4, or half of the shortest axis if that is 4 or less. For
        padded inputs, 4 or all of a shorter sample.
    n_perturb_samples : int, "auto" or AutoDraws, default 200
        Largest number of draws per sample. Up to 1,024 equally likely masks (one patch size) are
        drawn without replacement; if there are no more masks than draws, all are used.
        ``"auto"``: as few as the means over samples need; see
        :class:`~quantus_ext.draws.AutoDraws`. For ``scheme="quantus"``: the number of repeats,
        computed only if they differ.
    scheme : {"patch", "subset", "all", "quantus"}, default "patch"
        What a draw perturbs: a random window over the spatial axes (a time window for series, as
        many features as its side for tables); a random subset of the elements; every element, for
        additive noise; or, to reproduce old results, what ``quantus.Infidelity`` perturbs.
    subset_fraction : float, optional
        For ``scheme="subset"``: the fraction of elements that a draw perturbs, 0.1 by default.
    multiply_by_inputs : bool, default False
        Whether the attributions include the input as a factor (Integrated Gradients,
        Input×Gradient, SHAP, LRP): then ``I = (x - x̃) / (x - inputs_baseline)``, which is the 0/1
        mask of perturbed elements if ``perturb_baseline`` is the explainer's baseline, and for
        token ids. Maps summed over channels need it to be the mask. For gradients, ``I = x - x̃``.
    inputs_baseline : float, str or array, default 0.0
        The explainer's baseline for that factor: any ``perturb_baseline`` except ``"uniform"``, or
        ``"same"`` if it is the replacement itself, such as the background rows of SHAP. Maps cannot
        attribute anything to values equal to it.
    rescale : bool, default False
        Return ``E[(βa - b)²]`` with the best-fitting scale ``β = E[ab] / E[a²]``.
    perturb_func : callable, optional
        A function of Quantus or your own, or one of captum in
        :func:`quantus_ext.perturbation.from_captum`; by default
        ``batch_baseline_replacement_by_indices``.
    perturb_baseline : float, str or array, default "black"
        As in Quantus: ``"black"`` is the minimum of the sample.
    perturb_func_kwargs : dict, optional
        Keyword arguments for ``perturb_func``.
    tolerance : float, optional
        Target standard error: a sample stops drawing when it is reached, checked at fixed counts
        from 8 on.
    **common
        See :class:`quantus_ext.base.TorchMetric`.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from quantus_ext import Infidelity
    >>> model = torch.nn.Linear(6, 2).eval()
    >>> x = np.random.default_rng(0).normal(size=(3, 6))
    >>> gradients = model.weight.detach()[[0, 1, 0]]
    >>> scores = Infidelity(perturb_baseline=0.0)(model, x, np.array([0, 1, 0]), gradients)
    >>> max(scores) < 1e-10
    True
    """

    name = "Infidelity"
    score_direction = ScoreDirection.LOWER
    score_range = (0.0, inf)
    draws_argument = "n_perturb_samples"
    evaluation_category = EvaluationCategory.FAITHFULNESS
    _shown_defaults: ClassVar[Mapping[str, Any]] = {
        "loss_func": mse,
        "subset_fraction": _DEFAULT_FRACTION,
        "perturb_func": batch_baseline_replacement_by_indices,
        "perturb_baseline": "black",
    }

    def __init__(
        self,
        loss_func: str | Callable[..., Any] = "mse",
        perturb_patch_sizes: int | Sequence[int] | None = None,
        n_perturb_samples: int | Literal["auto"] | AutoDraws = _MOST_DRAWS,
        *,
        scheme: Scheme = "patch",
        subset_fraction: float | None = None,
        multiply_by_inputs: bool = False,
        inputs_baseline: float | str | np.ndarray = 0.0,
        rescale: bool = False,
        perturb_func: Callable[..., Any] | None = None,
        perturb_baseline: float | str | np.ndarray | None = None,
        perturb_func_kwargs: dict[str, Any] | None = None,
        tolerance: float | None = None,
        **common: Unpack[CommonArguments],
    ) -> None:
        super().__init__(**common)
        checks.one_of("scheme", scheme, ("patch", "subset", "all", "quantus"))
        loss_func = _loss(loss_func)
        rescale = checks.flag("rescale", rescale)
        multiply_by_inputs = checks.flag("multiply_by_inputs", multiply_by_inputs)
        if scheme != "quantus" and loss_func is not mse:
            raise ValueError(
                f'loss_func other than "mse" needs scheme="quantus", scheme is {scheme!r}'
            )
        if scheme == "quantus":
            for name, value in (
                ("rescale", rescale),
                ("multiply_by_inputs", multiply_by_inputs),
                ("tolerance", tolerance is not None),
                ("n_perturb_samples without a number", not isinstance(n_perturb_samples, Integral)),
            ):
                if value:
                    raise ValueError(f'{name} is not defined for scheme="quantus"')
            # Quantus declares it for the class; here it depends on the instance's scheme.
            self.data_applicability = {DataType.IMAGE}  # type: ignore[misc]
        self.loss_func = loss_func
        self.perturb_patch_sizes = checks.optional(
            checks.positive_integers, "perturb_patch_sizes", perturb_patch_sizes
        )
        self.n_perturb_samples, self.auto_draws = draws.read(
            "n_perturb_samples", n_perturb_samples, _MOST_DRAWS
        )
        if rescale and self.auto_draws is not None:
            raise ValueError(
                "n_perturb_samples must be a number where rescale is True, is automatic: the scale "
                "is fitted to the draws of each sample, so that few draws make scores too low"
            )
        self.scheme = scheme
        self.subset_fraction = (
            _DEFAULT_FRACTION
            if subset_fraction is None
            else checks.fraction("subset_fraction", subset_fraction)
        )
        for name, given, schemes in (
            ("perturb_patch_sizes", perturb_patch_sizes is not None, ("patch", "quantus")),
            ("subset_fraction", subset_fraction is not None, ("subset",)),
        ):
            if given and scheme not in schemes:
                wanted = " or ".join(f'scheme="{each}"' for each in schemes)
                raise ValueError(f"{name} needs {wanted}, scheme is {scheme!r}: leave {name} out")
        self.multiply_by_inputs = multiply_by_inputs
        self.inputs_baseline = checked_baseline("inputs_baseline", inputs_baseline)
        self.rescale = rescale
        if rescale:
            # Declared for the class; it differs for this instance.
            self.nan_reason = (  # type: ignore[misc]
                f"{type(self).nan_reason}, or only one perturbation of them is possible, which any "
                "map can be rescaled to fit: use a smaller perturb_patch_sizes or subset_fraction"
            )
        self.perturb_func = perturbation.bind(
            batch_baseline_replacement_by_indices if perturb_func is None else perturb_func,
            perturb_baseline,
            perturb_func_kwargs,
            default_baseline="black",
        )
        if scheme == "quantus" and not perturbation.takes_indices(self.perturb_func):
            raise ValueError(
                'perturb_func must be a function of arr and indices with scheme="quantus", is '
                f"{name_of(self.perturb_func.func)}"
            )
        self._perturbs = perturb_func is not None or perturb_baseline is not None
        self.tolerance = checks.optional(checks.positive_number, "tolerance", tolerance)
        self.computes_spaces = scheme != "quantus"

    def _shown_argument(self, name: str) -> Any:
        if name.startswith("perturb_") and name != "perturb_patch_sizes":
            return perturbation.bound_argument(self.perturb_func, name)
        return super()._shown_argument(name)

    @property
    def over_embeddings(self) -> bool:  # type: ignore[override]
        """See :class:`quantus_ext.base.TorchMetric`.

        On ids there is no difference of inputs, so that ``I`` must be the mask.
        """
        return not self.multiply_by_inputs or self._perturbs

    @property
    def takes_classes(self) -> bool:
        """See :attr:`quantus_ext.base.TorchMetric.takes_classes`; a pilot is of one class."""
        return self.scheme != "quantus" and self.auto_draws is None

    def reading(self, carry_inputs: bool | None) -> Infidelity:
        """See :meth:`quantus_ext.base.TorchMetric.reading`."""
        if carry_inputs in (None, self.multiply_by_inputs) or self.scheme == "quantus":
            return self
        other = copy.copy(self)
        other.multiply_by_inputs = bool(carry_inputs)
        return other

    @property
    def evaluations_a_sample(self) -> int | None:
        """See :attr:`quantus_ext.base.TorchMetric.evaluations_a_sample`."""
        # A patch grid depends on the input size; `tolerance` evaluates an extreme first.
        return None if self.scheme == "quantus" else self.n_perturb_samples + 2

    def elements(self, batch: Batch) -> Elements:
        """See :meth:`quantus_ext.base.TorchMetric.elements`: positions, which draws perturb."""
        return elements_of(batch.x, features=batch.features)

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        resolved = perturbation.resolve(self.perturb_func)
        adapter = adapter_of(batch.model)
        by_adapter = adapter.takes_presence or adapter.replacement is not None
        if not batch.x.is_floating_point() or (by_adapter and not self._perturbs):
            resolved = default_removal(batch.model)
        else:
            resolved = sparing(resolved, batch.model)
        inputs_baseline = self._baseline_of_codes() if adapter.coded else self.inputs_baseline
        same = isinstance(inputs_baseline, str) and inputs_baseline == SAME
        by_mask = self.multiply_by_inputs and (resolved.replaces or same)
        embedded = adapter.takes_ids and batch.x.ndim == 3
        if embedded and not by_mask and batch.maps.shape[2] < batch.x.shape[1]:
            raise ValueError(
                f"a_batch must be over the embeddings, of shape (n, L, {batch.x.shape[1]}), where "
                "these are perturbed; for attributions per token use multiply_by_inputs=True and "
                "leave perturb_func and perturb_baseline out"
            )
        patch_sizes = self._patch_sizes(batch.x, is_padded=adapter.feature_mask is not None)
        self._check_quantus_scheme(batch.x, patch_sizes)
        if self.scheme == "quantus":
            return cumulative_infidelity(
                forward,
                batch.x,
                batch.maps,
                batch.y,
                perturb_func=self.perturb_func,
                loss_func=self.loss_func,
                patch_sizes=patch_sizes,
                n_repeats=self.n_perturb_samples,
                is_random=resolved.random,
                **batch.known,
            )
        return functional.infidelity(
            forward,
            batch.x,
            batch.maps,
            batch.y if batch.targets is None else batch.targets,
            perturbation=resolved,
            scheme=self.scheme,
            patch_sizes=patch_sizes,
            subset_fraction=self.subset_fraction,
            elements=None if batch.features is None else self.elements(batch),
            multiply_by_inputs=self.multiply_by_inputs,
            inputs_baseline=inputs_baseline,
            rescale=self.rescale,
            n_draws=self.n_perturb_samples,
            tolerance=self.tolerance,
            **batch.known,
        )

    def _baseline_of_codes(self) -> str:
        """Return the baseline of maps over codes, which have no differences: ``I`` is the mask."""
        default = isinstance(self.inputs_baseline, (int, float)) and self.inputs_baseline == 0
        if not self.multiply_by_inputs or not (default or self.inputs_baseline == SAME):
            raise ValueError(
                "multiply_by_inputs must be True, and inputs_baseline 'same' or left out, for a "
                "table with categories or missing values: there is no difference of its values, so "
                "maps must say what a value as a whole contributes, as those of SHAP do"
            )
        return SAME

    def _patch_sizes(self, x: Tensor, *, is_padded: bool) -> list[int]:
        """Return the sides of the patches, by default one that fits the inputs."""
        if self.perturb_patch_sizes is not None:
            return self.perturb_patch_sizes
        shortest = min(x.shape[1 if x.ndim == 2 else 2 :])
        if shortest > _DEFAULT_PATCH_SIZE:
            return [_DEFAULT_PATCH_SIZE]
        # A window over everything is only one mask, for which just the sum of a map counts. Of
        # padded samples the size must not depend on how far they are padded.
        return [shortest if is_padded else max(shortest // 2, 1)]

    def _check_quantus_scheme(self, x: Tensor, patch_sizes: list[int]) -> None:
        if self.scheme != "quantus":
            return
        if x.ndim != 4:
            raise ValueError(
                f'scheme="quantus" needs images (n, C, H, W), x_batch has {tuple(x.shape)}'
            )
        for size in patch_sizes:
            if any(length % size for length in x.shape[2:]):
                raise ValueError(
                    'perturb_patch_sizes must divide height and width with scheme="quantus", '
                    f"has {size} for {tuple(x.shape[2:])}"
                )


def _loss(loss_func: object) -> Callable[..., Any]:
    if isinstance(loss_func, str):
        checks.one_of("loss_func", loss_func, ("mse",))
        return mse
    return checks.function("loss_func", loss_func)
