"""Forms in which people bring a model: each makes one of a plain module, which stays as it is.

All answer as the plain model does, within rounding, but ``quantised``, whose weights have 8 bits.
"""

from __future__ import annotations

import copy
import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

Form = Callable[[nn.Module, Tensor], nn.Module]
"""(model in evaluation mode, a batch of its inputs) -> the model in this form."""


def _quietly(form: Form) -> Form:
    """Leave out torch's warnings that a form is an old one."""

    @functools.wraps(form)
    def make(model: nn.Module, x: Tensor) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return form(model, x)

    return make


def _compiled(model: nn.Module, x: Tensor) -> nn.Module:
    # Torch counts compilations by code object, those of other tests too, and gives up after a few.
    torch.compiler.reset()
    # Of torch's backends this one runs what was traced as it is, so it needs no C++ compiler.
    return torch.compile(copy.deepcopy(model), backend="eager")


def _compiled_in_place(model: nn.Module, x: Tensor) -> nn.Module:
    torch.compiler.reset()
    changed = copy.deepcopy(model)
    changed.compile(backend="eager")
    return changed


def _compiled_part(model: nn.Module, x: Tensor) -> nn.Module:
    return nn.Sequential(_compiled(model, x)).eval()


@_quietly
def _scripted(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.jit.script(copy.deepcopy(model))


def _scripted_part(model: nn.Module, x: Tensor) -> nn.Module:
    return nn.Sequential(_scripted(model, x)).eval()


@_quietly
def _traced(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.jit.trace(copy.deepcopy(model), x[:2])


@_quietly
def _frozen(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.jit.freeze(_scripted(model, x))


def _exported(model: nn.Module, x: Tensor) -> nn.Module:
    rows = torch.export.Dim("rows", min=1, max=2**16)
    # Of a single row the exporter would make a constant.
    several = x if len(x) > 1 else x.repeat_interleave(2, 0)
    exported = torch.export.export(
        copy.deepcopy(model), (several,), dynamic_shapes=({0: rows},), strict=False
    )
    return exported.module()


def _symbolically_traced(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.fx.symbolic_trace(copy.deepcopy(model)).eval()


def _data_parallel(model: nn.Module, x: Tensor) -> nn.Module:
    return nn.DataParallel(copy.deepcopy(model)).eval()


def _averaged(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(model).eval()


def _with_weights(model: nn.Module) -> list[nn.Module]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return [module for module in model.modules() if isinstance(module, kinds)]


def _parametrised(model: nn.Module, x: Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    for module in _with_weights(changed):
        parametrizations.weight_norm(module)
    return changed.eval()


@_quietly
def _normed_by_hooks(model: nn.Module, x: Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    for module in _with_weights(changed):
        nn.utils.weight_norm(module)
    return changed


def _pruned(model: nn.Module, x: Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    for module in _with_weights(changed):
        prune.identity(module, "weight")
    return changed


@_quietly
def _quantised(model: nn.Module, x: Tensor) -> nn.Module:
    changed = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    return changed.eval()


class LowRank(nn.Module):
    """A layer with an update beside it, as PEFT has it; an untrained one, which changes nothing."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        like = {"dtype": base_layer.weight.dtype}
        self.lora_A = nn.ModuleDict(
            {"default": nn.Linear(base_layer.in_features, 2, bias=False, **like)}
        )
        self.lora_B = nn.ModuleDict(
            {"default": nn.Linear(2, base_layer.out_features, bias=False, **like)}
        )
        nn.init.zeros_(self.lora_B["default"].weight)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Wrapped(nn.Module):
    """Hands every attribute and every call on, as PEFT's models do."""

    def __init__(self, base_model: nn.Module) -> None:
        super().__init__()
        self.base_model = base_model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.base_model(*args, **keywords)


def _low_rank(model: nn.Module, x: Tensor) -> nn.Module:
    changed = Wrapped(copy.deepcopy(model).requires_grad_(False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module in list(changed.named_modules()):
            if isinstance(module, nn.Linear):
                changed.set_submodule(name, LowRank(module))
    return changed.eval()


class Twice(nn.Module):
    """The same model registered at two places, one of which is called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.spare = model
        self.model = model

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        return self.model(x, **keywords)


def _shared(model: nn.Module, x: Tensor) -> nn.Module:
    return Twice(copy.deepcopy(model)).eval()


def _hooked(model: nn.Module, x: Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    changed.register_forward_pre_hook(lambda module, args: (args[0] + 0,))
    for module in changed.modules():
        module.register_forward_hook(lambda module, args, output: output + 0)
    return changed


def _patched(model: nn.Module, x: Tensor) -> nn.Module:
    """Exchange ``forward`` on the instances, as accelerate's hooks do."""
    changed = copy.deepcopy(model)

    def called(module: nn.Module, *args: Any, **keywords: Any) -> Any:
        return type(module).forward(module, *args, **keywords)

    for number, module in enumerate(changed.modules()):
        bound = number % 2
        module.forward = (
            types.MethodType(called, module) if bound else functools.partial(called, module)
        )
    return changed


def _without_gradients(model: nn.Module, x: Tensor) -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(model).requires_grad_(False)


MODEL_FORMS: dict[str, Form] = {
    "plain": lambda model, x: model,
    "nested": lambda model, x: nn.Sequential(nn.Sequential(model)).eval(),
    "compiled": _compiled,
    "compiled in place": _compiled_in_place,
    "compiled part": _compiled_part,
    "scripted": _scripted,
    "scripted part": _scripted_part,
    "traced": _traced,
    "frozen": _frozen,
    "exported": _exported,
    "symbolically traced": _symbolically_traced,
    "data parallel": _data_parallel,
    "averaged": _averaged,
    "parametrised": _parametrised,
    "normed by hooks": _normed_by_hooks,
    "pruned": _pruned,
    "quantised": _quantised,
    "low rank": _low_rank,
    "shared": _shared,
    "hooked": _hooked,
    "patched": _patched,
    "inference tensors": _without_gradients,
}
"""By name; a form that a model does not take (a script of one with keywords, say) raises."""
