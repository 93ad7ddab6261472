"""What a model is known by: its content, and what it answers where content does not tell all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantus_ext.engine.modules import may_draw
from quantus_ext.engine.outputs import ScoresOf
from quantus_ext.engine.rows import belonging_to
from quantus_ext.engine.turns import turns
from quantus_ext.finetune.training import as_input, first_outputs, isolated_training
from quantus_ext.identity import (
    PROBES,
    Content,
    content_of,
    copied,
    is_doubtful,
    own_attributes,
    same_answers,
    telling,
)


@dataclass(frozen=True)
class Known:
    """What a model is known by.

    Attributes
    ----------
    content : Content
        Without what its last inputs left in it, and with hooks that change its answers.
    answers : Tensor, shape (n, classes)
        For a few rows, with seeded global random states.
    ask_again : callable
        Asks for the answers once more.
    doubtful : bool
        See :func:`quantus_ext.identity.is_doubtful`.
    named : bool
        Whether a key of the caller's stands for what cannot be read.
    bent : bool
        Whether hooks change its gradients and not its answers, as those of some explainers do.
    """

    content: Content
    answers: Tensor
    ask_again: Callable[[], Tensor]
    doubtful: bool
    named: bool
    bent: bool = False

    @property
    def findable(self) -> bool:
        """Whether another model would be known from it: by content, or else by the answers."""
        return not self.doubtful or telling(self.answers)

    def gave(self, answers: Tensor) -> bool:
        """Whether answers of old, of a model of the same content, were this one's."""
        return same_answers(answers, self.answers, exact=self.doubtful)


def identify(
    model: nn.Module,
    x: Tensor,
    device: torch.device,
    numbers: Tensor | None = None,
    *,
    is_trained: bool = False,
) -> Known:
    """Return what a model is known by; its copy is asked for the first few rows of ``x``.

    ``numbers`` says which samples of a call these are, where they are some. Of a model that a copy
    ``is_trained`` of, hooks that change its gradients are content, too.

    Attributes that a forward pass changes (activations that are kept, counters) are no content. A
    model that is not copied, as one that keeps outputs with their gradients, is asked itself.
    """
    with turns.asking(model):
        return _identify(model, x, device, numbers, is_trained=is_trained)


def _identify(
    model: nn.Module,
    x: Tensor,
    device: torch.device,
    numbers: Tensor | None,
    *,
    is_trained: bool,
) -> Known:
    try:
        used = copied(model)
    except Exception:
        # Side effects of the call occur in every call of a metric anyway.
        used = model

    def answers() -> Tensor:
        with isolated_training(device, 0, draws=may_draw(used)), belonging_to(numbers):
            return first_outputs(used, x, device).detach().cpu()

    before = _attributes(used)
    known = answers()
    after = _attributes(used)
    aside = {
        id(module): frozenset(
            name
            for name in before[place].keys() | after[place].keys()
            if before[place].get(name) != after[place].get(name)
        )
        for place, module in model.named_modules()
    }
    hooks = [
        (name, list(each.values()))
        for name, module in model.named_modules()
        for each in _hooks(module)
        if each
    ]
    bent = False
    if hooks and used is not model:
        with _without_hooks(used):
            unchanged = _are(answers, known)
        if unchanged and is_trained:
            with isolated_training(device, 0, draws=may_draw(used)), belonging_to(numbers):
                followed = _gradients(used, x, device)
                with _without_hooks(used):
                    bent = not _alike(followed, _gradients(used, x, device))
        if unchanged and not bent:
            hooks = []
    content = content_of(model, hooks, aside=aside)
    outside = (m for m in model.modules() if getattr(m, "asks_outside", False))
    return Known(
        content=content,
        answers=known,
        ask_again=answers,
        doubtful=is_doubtful(model, content),
        named=any(getattr(module, "key", None) is not None for module in outside),
        bent=bent,
    )


def refuse_bent(
    model: nn.Module, x: Tensor, device: torch.device, known: Known | None = None
) -> None:
    """Raise ValueError for hooks that change what a copy learns and not what the model answers.

    Parameters
    ----------
    model : torch.nn.Module
    x : Tensor
        Inputs of it.
    device : torch.device
    known : Known, optional
        What it is known by, if that has been found out.
    """
    if not any(hooks for module in model.modules() for hooks in _hooks(module)):
        return
    if known is None:
        few = x[:PROBES]
        known = identify(model, few, device, torch.arange(len(few), device=device), is_trained=True)
    if known.bent:
        raise ValueError(
            "model must have no hooks that change its gradients and not its outputs, as within a "
            "zennit context or while captum explains: a copy would be trained with these "
            "gradients. Call the metric outside of the context, or pass a tuned model as fine_tune"
        )


def _attributes(model: nn.Module) -> dict[str, dict[str, str]]:
    return {
        place: {name: content_of(value).key for name, value in own_attributes(module).items()}
        for place, module in model.named_modules()
    }


def _hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """Return a module's hooks, those of its gradients last."""
    return (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )


@contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    kept = [(hooks, dict(hooks)) for module in model.modules() for hooks in _hooks(module)]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, held in kept:
            hooks.update(held)


def _are(answers: Callable[[], Tensor], known: Tensor) -> bool:
    with suppress(Exception):  # it may not even run without its hooks
        return torch.equal(answers(), known)
    return False


def _gradients(model: nn.Module, x: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Return the gradients of a mixture of the outputs, for the weights that have one."""
    weights = {
        name: weight.requires_grad_()
        for name, weight in model.named_parameters()
        if weight.is_floating_point()
    }
    with suppress(Exception), torch.enable_grad():
        outputs = ScoresOf(model)(as_input(x[:PROBES], model, device)).double()
        mixed = (outputs * torch.arange(1, outputs.shape[1] + 1, device=device).cos()).sum()
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            mixed, [*weights.values()], allow_unused=True
        )
        return {n: g for n, g in zip(weights, found, strict=True) if g is not None}
    return {}


def _alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether the gradients of the weights that both know are equal but for rounding.

    Weights that a hook computes from others, as that of ``weight_norm`` does, have none without it.
    """
    return all(
        bool((first[name] - second[name]).norm() <= 1e-4 * second[name].norm())
        for name in first.keys() & second.keys()
    )
