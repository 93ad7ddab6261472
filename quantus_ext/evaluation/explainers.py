"""What is known of explainers: whether their maps carry the input, and where they surprise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quantus.functions.explanation_func import explain
from torch import nn

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
    function, keywords = _without_partials(function, keywords)
    if function is explain:
        return _NAMES.get(str(keywords.get("method")))
    explainer = getattr(function, "__self__", None)
    known = _NAMES.get(type(explainer).__name__)
    said = getattr(explainer, "multiplies_by_inputs", None)
    return known if said is not None and known is not None else said


def surprises(
    function: Callable[..., Any] | None, keywords: Mapping[str, Any], model: nn.Module
) -> Iterator[str]:
    """Yield what an explainer does that its name does not say.

    Known of ``quantus.explain`` and of captum's explainers, as in :func:`carries_input`.

    Examples
    --------
    >>> import quantus, torch
    >>> from quantus_ext.evaluation.explainers import surprises
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU())
    >>> (said,) = surprises(quantus.explain, {"method": "DeepLift"}, model)
    >>> said[:44]
    "captum's DeepLift has no rule for GELU and t"
    """
    method = named(function, keywords)
    function, keywords = _without_partials(function, keywords)
    explainer = getattr(function, "__self__", None)
    if function is explain and keywords.get("xai_lib", "captum") != "captum":
        return
    if function is explain and method == "IntegratedGradients":
        yield (
            "quantus.explain takes 10 steps of the trapezoid rule, whose weights sum to 0.9, so "
            "the maps are 0.9 times Integrated Gradients even of a linear model, which metrics of "
            "the size of maps punish, as Infidelity. For 50 steps without this factor give a "
            "function that returns captum.attr.IntegratedGradients(model).attribute(inputs, "
            'target=targets, n_steps=50, method="gausslegendre"), see docs/surprises.md'
        )
    if method in ("DeepLift", "DeepLiftShap"):
        own = getattr(explainer, "model", model)
        without = sorted({type(part).__name__ for part in own.modules() if _has_no_rule(part)})
        if without:
            yield (
                f"captum's {method} has no rule for {', '.join(without)} and takes gradients "
                "there, so maps do not add up to f(x) - f(baseline), and are Input×Gradient if "
                "the network has no other nonlinear layer. Use Integrated Gradients"
            )


CONSTANT = {
    "Lime": "captum's Lime has a penalty by default, which leaves small effects out: pass a "
    "smaller one, interpretable_model=SkLearnLasso(alpha=1e-4), or use KernelShap"
}
"""Why the maps of an explainer may be constant, by its name."""


def named(function: Callable[..., Any] | None, keywords: Mapping[str, Any]) -> str | None:
    """Return the name of a method of ``quantus.explain`` or of an explainer of captum."""
    function, keywords = _without_partials(function, keywords)
    if function is explain:
        return str(keywords.get("method"))
    return type(getattr(function, "__self__", None)).__name__


def _without_partials(
    function: Callable[..., Any] | None, keywords: Mapping[str, Any]
) -> tuple[Callable[..., Any] | None, Mapping[str, Any]]:
    while isinstance(function, functools.partial):
        keywords = {**function.keywords, **keywords}
        function = function.func
    return function, keywords


_WITH_RULE = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax)
"""Of torch's activations those for which captum has a rule."""


def _has_no_rule(part: nn.Module) -> bool:
    return type(part).__module__ == nn.ReLU.__module__ and type(part) not in _WITH_RULE
