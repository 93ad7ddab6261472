"""Models compiled with their weights frozen, found again by content."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantus_ext.engine.modules import is_closed
from quantus_ext.engine.outputs import ScoresOf
from quantus_ext.engine.plan import autocast_in_force
from quantus_ext.identity import content_key, content_of, probe_rows, same_answers
from quantus_ext.memory import Memory

SECONDS_OF_COMPILING = 30.0
"""About what a convolutional network takes on a processor; more than it saves in short runs."""

_compiled: Memory[Callable[[Tensor], Tensor]] = Memory(
    lambda _: 0, most_entries=4, most_bytes=2**62
)


def find(model: nn.Module, like: Tensor) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """Return the key of a model, for rows like these, and its compiled copy if there is one.

    A model with code of one's own, which may read what no content shows, must answer a few of the
    rows as the copy does.

    Raises
    ------
    ValueError
        If the model has hooks, which a compiled copy would keep as they are now, or is compiled
        in another way.
    """
    if any(map(is_closed, model.modules())):
        raise ValueError(
            "compile must be False for a model that is scripted, traced, frozen or exported: leave "
            "it out, or pass the model that it was made from"
        )
    # Parts have the names that they have in the caller's model.
    given = model.model if isinstance(model, ScoresOf) else model
    for name, module in given.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(
                f"compile must be False for a model with hooks, {name or 'the model'} has some"
            )
    autocast = autocast_in_force(like.device)
    channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    key = content_key(
        model, str(like.device), like.dtype, tuple(like.shape[1:]), channels_last, autocast
    )
    known = _compiled.get(key)
    if known is None or content_of(model).closed:
        return key, known
    some = like[probe_rows(len(like))]
    with torch.no_grad():
        # Copies, because a model may write to its inputs.
        now, then = model(some.clone()), known(some.clone())
    if autocast is not None:
        # In the precision of the passes, for the same rounding.
        now, then = now.to(autocast), then.to(autocast)
    return key, known if same_answers(now, then) else None


def compile_frozen(model: nn.Module, rows: Tensor, key: str) -> Callable[[Tensor], Tensor]:
    """Compile a copy of a model for any number of rows like these, and remember it.

    Parameters
    ----------
    model : nn.Module
        It is not changed, and changes of it do not reach the copy.
    rows : Tensor, shape (n, \\*sample)
        Laid out as those to come.
    key : str
        From :func:`find`.

    Raises
    ------
    ValueError
        If torch cannot take it as one graph.
    """
    try:
        frozen = copy.deepcopy(model).requires_grad_(False)
    except Exception as error:
        raise ValueError(
            f"compile must be False for a model that copy.deepcopy does not copy: {error}"
        ) from error

    def forward(inputs: Tensor) -> Tensor:
        outputs: Tensor = frozen(inputs)
        return outputs

    # Torch counts recompilations by code object and gives up after a few; so each model has one.
    own = types.FunctionType(
        forward.__code__.replace(), forward.__globals__, closure=forward.__closure__
    )
    fast = torch.compile(own, fullgraph=True, options={"freezing": True})

    def run(inputs: Tensor) -> Tensor:
        # The compiler specialises on a batch of one row.
        if len(inputs) == 1:
            return run(inputs.repeat_interleave(2, 0))[:1]
        outputs: Tensor = fast(inputs)
        return outputs

    first = torch.empty_like(rows).copy_(rows) if len(rows) > 1 else rows.repeat_interleave(2, 0)
    torch._dynamo.mark_dynamic(first, 0)
    try:
        with torch.no_grad():
            fast(first)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"compile must be False for a model that torch.compile does not take: {reason}"
        ) from error
    _compiled.put(key, run)
    return run
