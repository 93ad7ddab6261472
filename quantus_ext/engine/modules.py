"""A model in another form, its weights shared: without its softmax, with keywords, with a part
exchanged. The model itself stays as it is.
"""  # noqa: D205 - one sentence

from __future__ import annotations

import copy
import functools
import itertools
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantus_ext.engine.rows import (
    belonging_to,
    exchanged,
    is_marked,
    of_rows,
    only_first,
    samples_of_rows,
)

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_FEW = 2
"""Rows that show whether a softmax is at the end."""
_SOFTMAXES = ("aten::softmax", "aten::_softmax")


def resolve_softmax(model: nn.Module, softmax: bool, rows: Tensor | None = None) -> nn.Module:
    """Return a view of ``model`` that gives probabilities or logits; ``model`` stays as it is.

    A model counts as ending in a softmax when the last of its ``modules()`` is an ``nn.Softmax``,
    nested or not, as Quantus takes it; a frozen script or an exported program, which have no
    modules, when their last operation is one. A softmax that is used elsewhere (in attention),
    though it is registered last, is found out with the help of a few ``rows``: without it the
    outputs are not the logarithms of what they were. With ``softmax=True`` one is added unless it
    is there; with ``softmax=False`` it is left out. Weights and hooks are shared with ``model``,
    nothing is copied.

    Raises
    ------
    ValueError
        If the softmax cannot be left out, as in a script.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.engine.modules import resolve_softmax
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Softmax(dim=-1)))
    >>> logits = resolve_softmax(model, softmax=False)(torch.ones(1, 2))
    >>> torch.equal(logits, model[0](torch.ones(1, 2)))
    True
    """
    with only_first(_FEW):
        end = _ending(model, None if rows is None else rows[:_FEW])
    if not end.softmax:
        return Probabilities(model) if softmax else model
    if softmax:
        return model
    if end.without is None:
        raise inseparable()
    return end.without


def inseparable() -> ValueError:
    """Return the error for logits of a model that gives none."""
    return ValueError(
        "softmax must be True for a model with a softmax at its end that cannot be left out, as in "
        "one that is scripted, traced, frozen or exported: pass softmax=True, or the model that it "
        "was made from"
    )


class _Ending(NamedTuple):
    """Whether a model ends in a softmax, and the model without it, None if there is no way."""

    softmax: bool
    without: nn.Module | None = None


def has_hidden_softmax(model: nn.Module, rows: Tensor) -> bool:
    """Whether a model ends in a softmax within a script or an exported program."""
    return is_closed(_last(model)) and _ending(model, rows[:_FEW]).softmax


def _ending(model: nn.Module, rows: Tensor | None) -> _Ending:
    last = _last(model)
    if is_closed(last):
        there = _closed_ends_in_softmax(last)
        return _Ending(there and (rows is None or _gives_probabilities(model, rows)))
    if not isinstance(last, nn.Softmax):
        return _Ending(False)
    named = model.named_modules(remove_duplicate=False)
    names = [name for name, part in named if part is last]
    logits = _exchanged(model, names, nn.Identity())
    if rows is None:
        return _Ending(True, logits)
    with torch.no_grad():
        # Copies, because a model may write to its inputs.
        expected, outputs = model(rows.clone()), logits(rows.clone())
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return _Ending(False)
    rounding = torch.finfo(expected.dtype).eps ** 0.5
    if torch.allclose(outputs.softmax(-1), expected, atol=rounding, equal_nan=True):
        return _Ending(True, logits)
    if not bool(are_probabilities(expected)):
        return _Ending(False)
    if torch.equal(outputs, expected):
        # The replacement has no effect: something else holds the module itself.
        return _Ending(True)
    recorded = _BeforeSoftmax(model, names, last)
    return _Ending(True, recorded) if recorded.ends(rows.clone()) else _Ending(False)


def _last(model: nn.Module) -> nn.Module:
    """Return the part that is registered last, or that a traced graph calls last.

    Nothing inside a script or an exported program, which is a part as a whole.
    """
    while not is_closed(model):
        parts = [part for part in model._modules.values() if part is not None]
        if isinstance(model, torch.fx.GraphModule):
            called = [node.target for node in _returned(model) if node.op == "call_module"]
            parts = [model.get_submodule(str(name)) for name in called]
        if not parts:
            break
        model = parts[-1]
    return model


def _returned(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return list(output.all_input_nodes)


def is_closed(module: nn.Module) -> bool:
    """Whether a module is a script or an exported program, whose parts cannot be exchanged."""
    return isinstance(module, torch.jit.ScriptModule) or is_exported(module)


def _closed_ends_in_softmax(closed: nn.Module) -> bool:
    if isinstance(closed, torch.fx.GraphModule):
        kinds = [getattr(node.target, "_schema", None) for node in _returned(closed)]
        return [getattr(kind, "name", None) in _SOFTMAXES for kind in kinds] == [True]
    if _is_frozen(closed):
        script: Any = closed
        return [made.node().kind() in _SOFTMAXES for made in script.graph.outputs()] == [True]
    return getattr(list(closed.modules())[-1], "original_name", None) == "Softmax"


def _gives_probabilities(model: nn.Module, rows: Tensor) -> bool:
    with torch.no_grad():
        outputs = model(rows.clone())
    return isinstance(outputs, Tensor) and bool(are_probabilities(outputs))


def are_probabilities(outputs: Tensor) -> Tensor:
    """Return whether each row holds two numbers or more, none negative, that sum to 1.

    Returns
    -------
    Tensor of bool, shape ()
        On the outputs' device.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.modules import are_probabilities
    >>> logits = torch.tensor([[1.0, 2.0], [0.5, 0.5]])
    >>> are_probabilities(logits).item(), are_probabilities(logits.softmax(1)).item()
    (False, True)
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return torch.zeros((), dtype=torch.bool, device=outputs.device)
    rounding = max(1e-4, torch.finfo(outputs.dtype).eps)
    sums = outputs.sum(1, dtype=torch.promote_types(outputs.dtype, torch.float32))
    return ((sums - 1).abs() <= rounding).all() & (outputs >= 0).all()


class Probabilities(nn.Module):
    """A model with a softmax after it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Any:
        """Return the probabilities."""
        return self.of(self.model(rows))

    @staticmethod
    def of(outputs: Any) -> Any:
        """Take the softmax.

        What is no tensor of floating-point numbers becomes an error that says so, where outputs
        are checked.
        """
        plain = isinstance(outputs, Tensor) and outputs.is_floating_point()
        return outputs.softmax(-1) if plain else outputs


class _BeforeSoftmax(nn.Module):
    """A model whose outputs are what a softmax makes that it uses elsewhere too: before that."""

    def __init__(self, model: nn.Module, names: list[str], softmax: nn.Module) -> None:
        super().__init__()
        self.recorder = _Recorder(softmax)
        self.model = _exchanged(model, names, self.recorder)
        self.training = in_training(model)

    def ends(self, rows: Tensor) -> bool:
        """Whether that is so."""
        with torch.no_grad():
            outputs = self.model(rows)
        last, self.recorder.last = self.recorder.last, None
        return last is not None and torch.equal(last[1], outputs)

    def forward(self, rows: Tensor) -> Any:
        self.model(rows)
        last, self.recorder.last = self.recorder.last, None
        return None if last is None else last[0]


class _Recorder(nn.Module):
    """A module that keeps what it was last given and made of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        made: Tensor = self.module(inputs)
        self.last = inputs, made
        return made


def with_keywords(model: nn.Module, keywords: Mapping[str, Any] | None) -> nn.Module:
    """Return the model with keywords of its own call filled in; without any, the model itself."""
    return WithKeywords(model, dict(keywords)) if keywords else model


def without_keywords(model: nn.Module) -> nn.Module:
    """Return the model that keywords are filled in for, or the model itself."""
    return model.model if isinstance(model, WithKeywords) else model


def keywords_of(model: nn.Module) -> Mapping[str, Any] | None:
    """Return the keywords that are filled in in a model, None without any."""
    return model.keywords if isinstance(model, WithKeywords) else None


def called_alike(other: nn.Module, model: nn.Module) -> nn.Module:
    """Return ``other`` with the keywords that are filled in in ``model``, if any are."""
    return with_keywords(other, keywords_of(model))


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class NoModel(nn.Module):
    """What stands where a call has no model: any question is an error that says who asked.

    Parameters
    ----------
    asking : str
        The metric's name.
    """

    def __init__(self, asking: str) -> None:
        super().__init__()
        self.asking = asking
        self.eval()

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Raise TypeError."""
        raise TypeError(f"model must be a torch.nn.Module for {self.asking}, is None")


class WithKeywords(nn.Module):
    """A model whose call needs nothing but rows; in the mode that the model is in.

    What keywords have for single samples goes along with their rows; see
    :func:`quantus_ext.adapters.samples_of_rows`.
    """

    def __init__(self, model: nn.Module, keywords: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords
        self.training = in_training(model)
        self._marked = [name for name, value in keywords.items() if is_marked(value)]

    def forward(self, rows: Tensor) -> Any:
        """Call the model."""
        own = {
            name: exchanged(self.keywords[name], lambda marked: of_rows(marked, len(rows)))
            for name in self._marked
        }
        return self.model(rows, **{**self.keywords, **own})

    def __deepcopy__(self, memo: dict[int, Any]) -> WithKeywords:
        for value in self.keywords.values():
            if isinstance(value, Tensor) and value.layout in _COMPRESSED:
                # torch copies none of these in depth.
                memo[id(value)] = value.clone()
        return WithKeywords(copy.deepcopy(self.model, memo), copy.deepcopy(self.keywords, memo))


def with_any_rows(model: nn.Module) -> nn.Module:
    """Return a model that takes any number of rows, where a part was exported for one number."""
    numbers = {number for part in model.modules() if (number := _exported_rows(part))}
    return _InParts(model, numbers.pop()) if len(numbers) == 1 else model


def _exported_rows(module: nn.Module) -> int | None:
    if not isinstance(module, torch.fx.GraphModule) or not is_exported(module):
        return None
    inputs = (node for node in module.graph.nodes if node.op == "placeholder")
    first = next(inputs).meta.get("val")
    rows = first.shape[0] if isinstance(first, Tensor) and first.ndim else None
    return rows if isinstance(rows, int) else None


class _InParts(nn.Module):
    """A model of so many rows, asked part by part, the last one filled up with its last row."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model = model
        self.rows = rows
        self.training = in_training(model)

    def forward(self, rows: Tensor) -> Any:
        parts = []
        for part, own in zip(self._filled(rows), self._filled(samples_of_rows()), strict=False):
            with belonging_to(own):
                parts.append(self.model(part))
        return torch.cat(parts)[: len(rows)] if isinstance(parts[0], Tensor) else parts[0]

    def _filled(self, values: Tensor | None) -> Iterator[Tensor | None]:
        if values is None:
            return itertools.repeat(None)
        missing = -len(values) % self.rows
        last = values[-1:].expand(missing, *values.shape[1:])
        return iter((torch.cat([values, last]) if missing else values).split(self.rows))


def is_exported(module: nn.Module) -> bool:
    """Whether a module is a program of ``torch.export``: operations, with no modules to call."""
    return isinstance(module, torch.fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    )


def exported_in_training(module: nn.Module) -> bool:
    """Whether operations of an exported program are told that they are trained."""
    if not isinstance(module, torch.fx.GraphModule):
        return False
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for place, argument in enumerate(getattr(schema, "arguments", ())):
            if argument.name in ("train", "training"):
                given = node.args[place] if place < len(node.args) else None
                if node.kwargs.get(argument.name, given) is True:
                    return True
    return False


def _is_frozen(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) and not hasattr(module, "training")


def in_training(model: nn.Module) -> bool:
    """Whether a model is in training mode; a frozen or an exported one was made in its mode."""
    return not _is_frozen(model) and not is_exported(model) and model.training


def parts_with_mode(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts, by name, whose mode counts: not those that were made in one."""
    made: list[str] = []
    for name, part in model.named_modules():
        if any(name.startswith(f"{each}." if each else "") for each in made):
            continue
        if _is_frozen(part) or is_exported(part):
            made.append(name)
        else:
            yield name, part


def may_draw(model: nn.Module, *, trained: bool = False) -> bool:
    """Whether a model may draw random numbers: not so if all of it is torch's own layers.

    Parameters
    ----------
    model : nn.Module
    trained : bool, default False
        Whether it is in training mode then, in which dropout draws.

    Examples
    --------
    >>> from torch import nn
    >>> from quantus_ext.engine.modules import may_draw
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> may_draw(model), may_draw(model, trained=True)
    (False, True)
    """
    return any(
        not type(part).__module__.startswith("torch.nn.modules.")
        or bool(part._forward_hooks or part._forward_pre_hooks)
        or "forward" in vars(part)
        or isinstance(part, _DRAWING)
        or (trained and (isinstance(part, _DRAWING_IN_TRAINING) or getattr(part, "dropout", 0)))
        for part in model.modules()
    )


_DRAWING = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_DRAWING_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.RReLU)


def weight_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the floating-point type that a model computes in, None where nothing tells.

    That of its parameters, or else of its buffers, or of the constants that freezing made of them;
    quantised layers compute in single precision.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.modules import weight_dtype
    >>> weight_dtype(torch.nn.Linear(2, 2).double()), weight_dtype(torch.nn.Tanh())
    (torch.float64, None)
    """
    for tensors in (model.parameters(), model.buffers(), _frozen_constants(model)):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.dtype
    quantised = any(".quantized." in type(part).__module__ for part in model.modules())
    return torch.float32 if quantised else None


def _frozen_constants(model: nn.Module) -> Iterator[Tensor]:
    for part in model.modules():
        if _is_frozen(part):
            script: Any = part
            for node in script.graph.findAllNodes("prim::Constant"):
                value = node.output().toIValue()
                if isinstance(value, Tensor):
                    yield value


def with_submodule(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """Return a shallow copy of ``module`` with another submodule at ``path``; weights are shared.

    What is compiled on the way is asked as it was before that.

    Raises
    ------
    ValueError
        If that place is inside a script, whose parts cannot be exchanged.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.engine.modules import with_submodule
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> with_submodule(model, ["1"], nn.Identity())[0] is model[0]
    True
    """
    child, rest = path[0], path[1:]
    twin = _twin(module)
    inner = module._modules[child]
    twin._modules[child] = with_submodule(inner, rest, part) if rest and inner is not None else part
    return twin


def _exchanged(model: nn.Module, names: list[str], part: nn.Module) -> nn.Module:
    """Return a shallow copy of ``model`` with another part at each of these places."""
    for name in names:
        model = with_submodule(model, name.split("."), part) if name else part
    return model


def _twin(module: nn.Module) -> nn.Module:
    """Return a shallow copy with a dict of submodules of its own.

    Not by ``copy.copy``: what modules say of how they are copied and pickled is not for this. A
    compiled one hands every attribute on, so that its copy would write to the model itself.
    """
    if is_closed(module):
        raise ValueError(
            "model must be one whose parts can be exchanged, which scripts and exported programs "
            "don't allow: pass the model that it was made from"
        )
    state = dict(vars(module))
    # For a model compiled in place; it calls that model.
    state.pop("_compiled_call_impl", None)
    kind = type(module)
    if _is_compiled(module):
        kind = _Uncompiled
        state = {name: value for name, value in state.items() if name in _OF_EVERY_MODULE}
        state["training"] = module.training
    twin = object.__new__(kind)
    vars(twin).update({name: _bound(value, module, twin) for name, value in state.items()})
    vars(twin)["_modules"] = dict(module._modules)
    return twin


def _bound(value: Any, module: nn.Module, twin: nn.Module) -> Any:
    """Return methods and partial functions of ``module`` as those of its twin.

    So a ``forward`` that was exchanged on the instance, as accelerate's hooks do, asks the twin.
    """
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, twin)
    if isinstance(value, functools.partial):
        args = [twin if each is module else each for each in value.args]
        bound = functools.partial(_bound(value.func, module, twin), *args, **value.keywords)
        vars(bound).update(vars(value))
        return bound
    return value


def _is_compiled(module: nn.Module) -> bool:
    # Known by its name: to import the class takes seconds.
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


class _Uncompiled(nn.Module):
    """What ``torch.compile`` returns, its hooks included, asking the model as it was before."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["_orig_mod"], name)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self._orig_mod(*args, **keywords)
