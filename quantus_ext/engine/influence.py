"""Whether a row's outputs depend on the rows beside it, on chance or on gradients being recorded.

Asked once of each model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantus_ext.engine.global_state import isolated_where_drawn
from quantus_ext.engine.plan import autocast_in_force

_FEW = 4
"""Rows that are asked together; of them, two by themselves, for one may set what all share."""
_DOUBTS = 2
"""How often it is asked again whether what looks like company is chance."""
_TENSOR_FLOAT = 2.0**-10
"""Rounding of the type in which GPUs may compute single-precision layers."""


Ask = Callable[[Tensor, Tensor], Tensor]


class Influence(NamedTuple):
    """How far outputs change, relative to the largest, that should not.

    Attributes
    ----------
    chance : float
        When the same rows are asked again.
    company : float
        When a row is asked apart from the others.
    gradients : float
        When the same rows are asked while gradients are recorded.
    rounding : float
        Up to which all are taken for rounding.
    """

    chance: float
    company: float
    gradients: float
    rounding: float

    @property
    def is_random(self) -> bool:
        """Whether the model answers by chance."""
        return self.chance > self.rounding

    @property
    def is_shared(self) -> bool:
        """Whether rows influence each other; not known of a model that answers by chance."""
        return self.company > self.rounding and not self.is_random

    @property
    def is_other_with_gradients(self) -> bool:
        """Whether a model is another function while gradients are recorded; as with rows."""
        return self.gradients > self.rounding and not self.is_random

    @property
    def is_harmless(self) -> bool:
        """Whether nothing must be said of the model."""
        return max(self.chance, self.company, self.gradients) <= self.rounding

    def warnings(self, model: nn.Module) -> Iterator[str]:
        """Yield what must be said of the model."""
        if self.is_random:
            yield (
                "model is random: for the same rows its outputs change by "
                f"{self.chance:.1%} of the largest, so scores differ from call to call and "
                "standard errors are unknown (NaN)"
                + _named(model, _may_draw)
                + ". Switch its randomness off in evaluation mode (dropout only if self.training), "
                "or explain a module that averages its outputs"
            )
        if self.is_shared:
            yield (
                "rows influence each other in model: evaluated on their own, their outputs change "
                f"by {self.company:.1%} of the largest, so scores depend on batch_size and "
                "chunk_size" + _named(model, _shares) + ". Pass chunk_size=1 to evaluate each row "
                "on its own, or give the module fixed statistics (BatchNorm with "
                "track_running_stats=True, static instead of dynamic quantisation)"
            )
        if self.is_other_with_gradients:
            yield (
                "model is another function while gradients are recorded: its outputs change by "
                f"{self.gradients:.1%} of the largest, so explainers that use gradients explain "
                "another function than is scored"
                + _named(model, _has_fast_path)
                + ". If torch's attention is in it, whose faster path makes zeros of padded "
                "positions, call torch.backends.mha.set_fastpath_enabled(False) before explaining "
                "and scoring, or average over what is not padded"
            )


def measure(
    ask: Ask,
    x: Tensor,
    together: int,
    gone: Tensor | None = None,
    ask_recorded: Ask | None = None,
) -> Tensor:
    """Ask a few rows again, apart and with gradients, and measure how far outputs change.

    At most 16 rows go through the model, and nothing comes back from its device.

    Parameters
    ----------
    ask : callable
        One forward pass: rows, and which samples they are, in, (rows, classes) out.
    x : Tensor, shape (n, \\*sample)
        Inputs, of which up to four are asked.
    together : int
        Rows that go through the model at once at most; 1: company is no question.
    gone : Tensor, shape (1, \\*sample), optional
        What a single sample is with everything removed, by default 0: its company.
    ask_recorded : callable, optional
        As ``ask``, while gradients are recorded. A model that raises an error then takes none, and
        is explained in other ways.

    Returns
    -------
    Tensor, shape (3,)
        Changes by chance, by company and by gradients, relative to the largest output; see
        :class:`Influence`.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.influence import measure
    >>> x = torch.eye(4)
    >>> measure(lambda rows, _: rows * 2, x, together=64)
    tensor([0., 0., 0.])
    >>> measure(lambda rows, _: rows - rows.mean(0), x, together=64)
    tensor([0., 1., 0.])
    """
    some = slice(0, _FEW * max(len(x) // _FEW, 1), max(len(x) // _FEW, 1))
    rows, numbers = x[some], torch.arange(len(x), device=x.device)[some]
    if len(x) == 1 and x.is_floating_point():
        # A single sample is paired with its empty version.
        rows = torch.cat([x, torch.zeros_like(x) if gone is None else gone])
        numbers = numbers.repeat(2)
    parts = list(zip(rows.split(together), numbers.split(together), strict=True))
    outputs, again = (torch.cat([ask(*part) for part in parts]) for _ in range(2))
    chance = _change(again, outputs)
    gradients = torch.zeros_like(chance)
    if ask_recorded is not None:
        with suppress(Exception):
            recorded = torch.cat([ask_recorded(*part) for part in parts])
            gradients = _change(recorded, outputs)
    if together == 1 or len(rows) == 1:
        return torch.stack([chance, torch.zeros_like(chance), gradients])
    # Twice, because batch statistics of one row are an error.
    alone = [
        ask(row.expand_as(rows[:2]), own.repeat(2))[:1]
        for row, own in zip(rows[:2].split(1), numbers[:2].split(1), strict=True)
    ]
    return torch.stack([chance, _change(torch.cat(alone), outputs), gradients])


def examine(
    model: nn.Module,
    ask: Ask,
    x: Tensor,
    *,
    together: int,
    precision: torch.dtype | None,
    gone: Tensor | None = None,
    ask_recorded: Ask | None = None,
) -> Influence:
    """Return what a model's outputs depend on; one of which nothing is to say is not asked again.

    It is asked again once its modules, or their attributes that are plain values, have changed.
    Global random states stay as they are.

    Parameters
    ----------
    model : nn.Module
        As the caller knows it; what ``ask`` asks may be another view of it.
    ask, x, together, gone, ask_recorded
        See :func:`measure`.
    precision : torch.dtype, optional
        Of the layers, where that is not the weights' own.
    """
    state = (
        _plain_state(model),
        *(tuple(x.shape[1:]), together == 1, len(x) == 1, precision),
        *(ask_recorded is None, torch.backends.mha.get_fastpath_enabled()),
    )
    if _harmless.get(model) == state:
        return Influence(0.0, 0.0, 0.0, 0.0)
    rounding = _rounding(model, x.device, precision)
    with isolated_where_drawn(model, x.device):
        chance, company, gradients = measure(ask, x, together, gone, ask_recorded).tolist()
        found = Influence(chance, company, gradients, rounding)
        for _ in range(_DOUBTS):
            if found.is_shared or found.is_other_with_gradients:
                # Two random answers may be equal.
                chance = float(measure(ask, x, together, gone)[0])
                found = found._replace(chance=max(found.chance, chance))
    # A model may be fixed in place, so harmful ones are always checked again.
    if found.is_harmless:
        _harmless[model] = state
    return found


_harmless: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


def _plain_state(model: nn.Module) -> list[Any]:
    return [
        (
            type(module),
            {
                name: value
                for name, value in vars(module).items()
                if isinstance(value, (bool, int, float, str, type(None)))
            },
            [name for name, buffer in module._buffers.items() if buffer is None],
        )
        for module in model.modules()
    ]


def _change(changed: Tensor, outputs: Tensor) -> Tensor:
    """Return the largest change of the first outputs, relative to the largest of all."""
    least = torch.promote_types(outputs.dtype, torch.float32)
    changed, outputs = changed.to(least), outputs.to(least)
    before = outputs[: len(changed)]
    same = (changed == before) | (changed.isnan() & before.isnan())
    # NaN in only one of them is not rounding.
    change = (changed - before).abs().masked_fill(same, 0).nan_to_num(nan=torch.inf)
    largest = outputs.nan_to_num(0, 0, 0).abs().amax()
    return change.amax() / largest.clamp_min(torch.finfo(least).tiny)


def _rounding(model: nn.Module, device: torch.device, precision: torch.dtype | None) -> float:
    """Return what kernels for other numbers of rows may change, far above what they do.

    Single precision on a processor: 2e-6 was seen, 2e-5 is allowed, and dynamic quantisation
    changes outputs by 3e-4 at least. Never less, for a model may compute in it behind doubles.
    """
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    types |= {precision or autocast_in_force(device) or torch.float32, torch.float32}
    rounding = max(torch.finfo(dtype).eps for dtype in types)
    if device.type != "cpu":
        rounding = max(rounding, _TENSOR_FLOAT)
    # In low precision sums are kept in single, so that less is lost than the type's rounding says.
    return float(rounding ** (2 / 3))


def _named(model: nn.Module, suspected: Callable[[nn.Module], str | None]) -> str:
    found = [
        f"{name or 'the model'} ({type(module).__name__}) {reason}"
        for name, module in model.named_modules()
        if (reason := suspected(module)) is not None
    ]
    if len(found) > 3:
        found = [*found[:2], f"{len(found) - 2} more are like them"]
    return ": " + "; ".join(found) if found else ""


def _shares(module: nn.Module) -> str | None:
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        return "has no running statistics and takes those of the rows"
    if "quantized.dynamic" in type(module).__module__:
        return "is quantised to the range of the rows"
    return None


def _has_fast_path(module: nn.Module) -> str | None:
    if isinstance(module, (nn.TransformerEncoder, nn.MultiheadAttention)):
        return "takes a faster path without gradients"
    return None


def _may_draw(module: nn.Module) -> str | None:
    kind = type(module)
    is_own = not kind.__module__.startswith("torch.nn.")
    if "dropout" in kind.__name__.lower() and (module.training or is_own):
        return "drops at random"
    return None
