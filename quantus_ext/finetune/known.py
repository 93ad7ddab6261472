"""What a model is known by: its content, and what it answers where content does not tell all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantus_ext.engine.modules import may_draw
from quantus_ext.engine.rows import belonging_to
from quantus_ext.engine.turns import turns
from quantus_ext.finetune.training import first_outputs, isolated_training
from quantus_ext.identity import (
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
    """

    content: Content
    answers: Tensor
    ask_again: Callable[[], Tensor]
    doubtful: bool
    named: bool

    @property
    def findable(self) -> bool:
        """Whether another model would be known from it: by content, or else by the answers."""
        return not self.doubtful or telling(self.answers)

    def gave(self, answers: Tensor) -> bool:
        """Whether answers of old, of a model of the same content, were this one's."""
        return same_answers(answers, self.answers, exact=self.doubtful)


def identify(
    model: nn.Module, x: Tensor, device: torch.device, numbers: Tensor | None = None
) -> Known:
    """Return what a model is known by; its copy is asked for the first few rows of ``x``.

    ``numbers`` says which samples of a call these are, where they are some.

    Attributes that a forward pass changes (activations that are kept, counters) are no content. A
    model that is not copied, as one that keeps outputs with their gradients, is asked itself.
    """
    with turns.asking(model):
        return _identify(model, x, device, numbers)


def _identify(model: nn.Module, x: Tensor, device: torch.device, numbers: Tensor | None) -> Known:
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
        for each in (module._forward_pre_hooks, module._forward_hooks)
        if each
    ]
    if hooks and used is not model and _answers_without_hooks(used, answers, known):
        hooks = []
    content = content_of(model, hooks, aside=aside)
    outside = (m for m in model.modules() if getattr(m, "asks_outside", False))
    return Known(
        content=content,
        answers=known,
        ask_again=answers,
        doubtful=is_doubtful(model, content),
        named=any(getattr(module, "key", None) is not None for module in outside),
    )


def _attributes(model: nn.Module) -> dict[str, dict[str, str]]:
    return {
        place: {name: content_of(value).key for name, value in own_attributes(module).items()}
        for place, module in model.named_modules()
    }


def _answers_without_hooks(used: nn.Module, answers: Callable[[], Tensor], known: Tensor) -> bool:
    kept = [
        (hooks, dict(hooks))
        for module in used.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
    ]
    for hooks, _ in kept:
        hooks.clear()
    try:
        with suppress(Exception):  # it may not even run without them
            return torch.equal(answers(), known)
        return False
    finally:
        for hooks, held in kept:
            hooks.update(held)
