"""The one place through which every metric asks the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantus_ext.memory import Memory

Predict = Callable[[Tensor], Tensor]

_FIRST_CHUNK = 64
"""Rows of the very first pass, before anything is known about the model."""

_MAX_CHUNK = {"cpu": 4096, "cuda": 16384}
_WORKING_SET = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Bytes that a chunk's widest activation should fit: on a processor about its caches, narrower
chunks paying more for each pass and wider ones for fresh memory, plenty for a GPU to be busy."""


@dataclass(frozen=True)
class Plan:
    """How rows are sent through the model; it never affects which draws are made.

    Attributes
    ----------
    chunk_size : int
        Rows a forward pass, at most.
    memory_format : torch.memory_format
        Layout of the rows: ``torch.channels_last`` where the model has 2-D convolutions, runs on
        a processor and accepts it, else ``torch.contiguous_format``.
    """

    chunk_size: int
    memory_format: torch.memory_format


class Remembered(NamedTuple):
    """Clean outputs, with what asking for them found out."""

    outputs: Tensor
    plan: Plan
    writes_to_input: bool
    model: nn.Module
    """Kept alive, because the key has its identity."""


def clean_memory() -> Memory[Remembered]:
    """Return a memory for :func:`clean_outputs_shared`."""
    return Memory(
        lambda kept: kept.outputs.numel() * kept.outputs.element_size(),
        most_entries=256,
        most_bytes=64 * 2**20,
    )


_shared: ContextVar[Memory[Remembered] | None] = ContextVar("shared", default=None)


@contextmanager
def clean_outputs_shared(memory: Memory[Remembered]) -> Iterator[None]:
    """Have metrics that ask the same model for the same unperturbed rows ask it once.

    Their counts of evaluations stay what they would be without it.
    """
    token = _shared.set(memory)
    try:
        yield
    finally:
        _shared.reset(token)


class _WidestTensor(TorchFunctionMode):
    """Notes the largest tensor, in bytes, that torch's functions return while the mode is on.

    A mode for dispatch would see inside functions too, and import the compiler, which takes
    seconds.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


class Forward:
    """A model as the metrics see it: rows in, ``(rows, classes)`` out, in bounded chunks.

    Gradients are off by ``torch.no_grad``: inference mode would leave tensors that autograd
    refuses in models which cache some (rotary embeddings, say), so the caller's model would change.

    Parameters
    ----------
    predict : callable
        From a tensor of rows to a tensor of shape (rows, classes).
    chunk_size : int, optional
        Rows a forward pass. By default chosen on the first pass so that the widest activation
        of a chunk stays within the cache.
    channels_last : bool, default False
        Try rows in channels-last layout, and go back to the plain one if the model refuses
        (``view`` on activations does).

    Attributes
    ----------
    n_evaluations : int
        Rows sent through the model so far.
    plan : Plan or None
        Known after the first pass.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        chunk_size: int | None = None,
        channels_last: bool = False,
    ) -> None:
        self.predict = predict
        self.n_evaluations = 0
        self.plan: Plan | None = None
        self._chunk_size = chunk_size
        self._channels_last = channels_last
        self._writes_to_input = False
        self._asked: tuple[nn.Module, bool | None] | None = None

    @classmethod
    def of_module(
        cls,
        model: nn.Module,
        device: torch.device,
        *,
        softmax: bool | None = False,
        predict_kwargs: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> Forward:
        """Make the forward pass of a torch module, its softmax resolved once.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode, on ``device``. It is not changed.
        device : torch.device
            Where rows will be.
        softmax : bool, optional
            True for probabilities, False for logits, None for the output as it is; see
            :func:`resolve_softmax`.
        predict_kwargs : mapping, optional
            Keywords of the model's own call.
        chunk_size : int, optional
            See the class.
        """
        model = with_keywords(model, predict_kwargs)
        resolved = model if softmax is None else None

        def predict(rows: Tensor) -> Any:
            nonlocal resolved
            if resolved is None:
                resolved = resolve_softmax(model, bool(softmax), rows)
            return resolved(rows)

        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        forward = cls(
            predict,
            chunk_size=chunk_size,
            channels_last=convolves and device.type == "cpu",
        )
        forward._asked = (model, softmax)
        return forward

    def clean(self, x: Tensor) -> Tensor:
        """Return the outputs of unperturbed inputs and settle the plan on the first call.

        Parameters
        ----------
        x : Tensor, shape (n, \\*sample)

        Returns
        -------
        Tensor, shape (n, classes)

        Raises
        ------
        ValueError
            If the model's output is not a tensor of shape (rows, classes).
        """
        memory = _shared.get()
        if memory is None or self._asked is None:
            return self._clean(x)
        # Here, because what tunes models asks them through this module.
        from quantus_ext.finetune.identity import content_key

        model, softmax = self._asked
        key = f"{id(model)} {softmax} {self._chunk_size} {content_key(x)}"
        known = memory.get(key)
        if known is None:
            outputs = self._clean(x)
            memory.put(key, Remembered(outputs, self._require_plan(), self._writes_to_input, model))
        else:
            outputs = known.outputs
            self.n_evaluations += len(x)
            self.plan = self.plan or known.plan
            self._writes_to_input |= known.writes_to_input
        return outputs.clone()

    def _clean(self, x: Tensor) -> Tensor:
        if self.plan is not None:
            return self._in_chunks(x)
        first = x[: min(_FIRST_CHUNK, self._chunk_size or _FIRST_CHUNK)]
        outputs, self.plan = self._settle(first)
        rest = x[len(first) :]
        return torch.cat([outputs, self._in_chunks(rest)]) if len(rest) else outputs

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the outputs, shape (rows, classes), of one chunk of rows.

        When memory runs out the chunk is halved, for this call and the following ones.
        """
        if self.plan is not None and len(rows) > self.plan.chunk_size:
            return torch.cat([self(part) for part in rows.split(self.plan.chunk_size)])
        try:
            outputs = self._checked(rows)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error) or len(rows) == 1:
                raise
        else:
            self.n_evaluations += len(rows)
            return outputs
        # Outside the handler, so that the failed pass's traceback no longer holds its tensors.
        half = (len(rows) + 1) // 2
        if self.plan is not None:
            self.plan = replace(self.plan, chunk_size=min(self.plan.chunk_size, half))
        warnings.warn(
            f"memory ran out at {len(rows)} rows a forward pass; going on with {half}",
            ResourceWarning,
            stacklevel=2,
        )
        return torch.cat([self(part) for part in rows.split(half)])

    @property
    def chunk_size(self) -> int:
        """Rows a forward pass, as planned on the first one."""
        return self._require_plan().chunk_size

    def buffer(self, like: Tensor, rows: int) -> Tensor:
        """Return an uninitialised tensor of ``rows`` samples shaped like ``like``'s, laid out
        as the plan says.
        """  # noqa: D205 - one sentence
        layout = self._require_plan().memory_format
        return torch.empty(
            (rows, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=layout
        )

    def _require_plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("call clean() first: it settles the chunk plan")
        return self.plan

    def _in_chunks(self, x: Tensor) -> Tensor:
        outputs = []
        for part in x.split(self.chunk_size):
            rows = self.buffer(x, len(part))
            rows.copy_(part)
            outputs.append(self(rows))
        return torch.cat(outputs)

    def _settle(self, x: Tensor) -> tuple[Tensor, Plan]:
        if self._channels_last and x.ndim == 4:
            rows = torch.empty(
                x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
            )
            rows.copy_(x)
            # Code that views its activations needs the plain layout. A model that fails for
            # another reason fails again below, and that error reaches the caller.
            with suppress(RuntimeError):
                return self._observe(rows, torch.channels_last)
        return self._observe(
            x.clone(memory_format=torch.contiguous_format), torch.contiguous_format
        )

    def _observe(self, rows: Tensor, layout: torch.memory_format) -> tuple[Tensor, Plan]:
        with _WidestTensor() as widest:
            outputs = self(rows)
        bytes_a_row = max(widest.bytes, rows.numel() * rows.element_size()) / len(rows)
        device = "cpu" if rows.device.type == "cpu" else "cuda"
        fits = int(_WORKING_SET[device] / bytes_a_row)
        chunk = self._chunk_size or min(max(fits, 16), _MAX_CHUNK[device])
        return outputs, Plan(chunk, layout)

    def _checked(self, rows: Tensor) -> Tensor:
        version = rows._version
        with torch.no_grad():
            outputs = self.predict(rows.clone() if self._writes_to_input else rows)
        # The rows are compared with the inputs afterwards, so a model that works in place (a
        # first ReLU, a normalisation) gets copies. The first pass, on a copy anyway, finds it out.
        self._writes_to_input |= rows._version != version
        if not isinstance(outputs, Tensor):
            raise TypeError(f"model must return a tensor, returned {type(outputs).__name__}")
        if outputs.ndim != 2 or len(outputs) != len(rows):
            raise ValueError(
                f"model's output must have shape (rows, classes), here ({len(rows)}, classes), "
                f"has {tuple(outputs.shape)}"
            )
        return outputs


def _out_of_memory(error: Exception) -> bool:
    # The processor's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def resolve_softmax(model: nn.Module, softmax: bool, rows: Tensor | None = None) -> nn.Module:
    """Return a view of ``model`` that gives probabilities or logits; ``model`` stays as it is.

    A model counts as ending in a softmax when the last of its ``modules()`` is an ``nn.Softmax``,
    nested or not, as Quantus takes it. One that is used elsewhere (in attention), though it is
    registered last, is found out with the help of a few ``rows``: without it the outputs are not
    the logarithms of what they were. With ``softmax=True`` one is added unless it is there; with
    ``softmax=False`` it is left out. Weights and hooks are shared with ``model``, nothing is
    copied.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.engine.forward import resolve_softmax
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Softmax(dim=-1)))
    >>> logits = resolve_softmax(model, softmax=False)(torch.ones(1, 2))
    >>> torch.equal(logits, model[0](torch.ones(1, 2)))
    True
    """
    name, last = list(model.named_modules())[-1]
    if isinstance(last, nn.Softmax):
        logits = with_submodule(model, name.split("."), nn.Identity()) if name else nn.Identity()
        if rows is None or _are_logits(logits, model, rows[:2]):
            return model if softmax else logits
    return _Probabilities(model) if softmax else model


def _are_logits(logits: nn.Module, model: nn.Module, rows: Tensor) -> bool:
    with torch.no_grad():
        # Copies, for a model may write to its inputs.
        expected, outputs = model(rows.clone()), logits(rows.clone())
    if not isinstance(expected, Tensor):
        return True  # an error soon, where outputs are checked
    rounding = torch.finfo(expected.dtype).eps ** 0.5
    return torch.allclose(outputs.softmax(-1), expected, atol=rounding, equal_nan=True)


def with_keywords(model: nn.Module, keywords: Mapping[str, Any] | None) -> nn.Module:
    """Return the model with keywords of its own call filled in; without any, the model itself."""
    return WithKeywords(model, dict(keywords)) if keywords else model


def without_keywords(model: nn.Module) -> nn.Module:
    """Return the model that keywords are filled in for, or the model itself."""
    return model.model if isinstance(model, WithKeywords) else model


def called_alike(other: nn.Module, model: nn.Module) -> nn.Module:
    """Return ``other`` with the keywords that are filled in in ``model``, if any are."""
    return with_keywords(other, model.keywords if isinstance(model, WithKeywords) else None)


class WithKeywords(nn.Module):
    """A model whose call needs nothing but rows; in the mode that the model is in."""

    def __init__(self, model: nn.Module, keywords: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords
        self.training = model.training

    def forward(self, rows: Tensor) -> Any:
        """Call the model."""
        return self.model(rows, **self.keywords)


class _Probabilities(nn.Module):
    """A model with a softmax after it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Any:
        outputs = self.model(rows)
        # What is no tensor becomes an error that says so, where outputs are checked.
        return outputs.softmax(-1) if isinstance(outputs, Tensor) else outputs


def with_submodule(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """Return a shallow copy of ``module`` with another submodule at ``path``; weights are shared.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.engine.forward import with_submodule
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> with_submodule(model, ["1"], nn.Identity())[0] is model[0]
    True
    """
    child, rest = path[0], path[1:]
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    inner = module._modules[child]
    twin._modules[child] = with_submodule(inner, rest, part) if rest and inner is not None else part
    return twin
