"""Whether an explainer's maps carry the input as a factor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from quantus.functions.explanation_func import explain

_NAMES = {
    **dict.fromkeys(
        (
            *("IntegratedGradients", "InputXGradient", "DeepLift", "DeepLiftShap", "GradientShap"),
            *("LRP", "Occlusion", "FeatureAblation", "FeaturePermutation", "Lime", "KernelShap"),
        ),
        True,
    ),
    **dict.fromkeys(("Gradient", "Saliency", "Deconvolution"), False),
}
"""What ``quantus.explain`` calls its methods. What a feature's presence adds, as Lime's and
KernelShap's coefficients say, is a share of the output, though captum says otherwise of them."""


def carries_input(function: Callable[..., Any] | None, keywords: Mapping[str, Any]) -> bool | None:
    """Return whether maps carry the input factor; None where that is not known.

    Known of ``quantus.explain`` by the name of its method, and of captum's explainers by what they
    say of themselves, given as ``explainer.attribute`` or around it by ``functools.partial``.

    Examples
    --------
    >>> import quantus
    >>> from quantus_ext.evaluation.explainers import carries_input
    >>> carries_input(quantus.explain, {"method": "Saliency"}), carries_input(len, {})
    (False, None)
    """
    while isinstance(function, functools.partial):
        keywords = {**function.keywords, **keywords}
        function = function.func
    if function is explain:
        return _NAMES.get(str(keywords.get("method")))
    explainer = getattr(function, "__self__", None)
    named = _NAMES.get(type(explainer).__name__)
    said = getattr(explainer, "multiplies_by_inputs", None)
    return named if said is not None and named is not None else said
