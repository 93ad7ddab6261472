"""Undoes the side effects of foreign code on models and the process."""

from __future__ import annotations

import operator
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from quantus_ext.engine.global_state import Settings
from quantus_ext.engine.turns import turns
from quantus_ext.identity import content_key

_COPIED_BYTES = 2**31
"""Of larger models no copy is kept: that values have changed is found, but not put back."""
_NAMED = 3
"""Places that a message names."""
_MISSING = object()

_HELD = {
    "_parameters": "parameters",
    "_buffers": "buffers",
    "_modules": "parts",
    "_forward_hooks": "forward hooks",
    "_forward_pre_hooks": "forward pre-hooks",
    "_backward_hooks": "backward hooks",
    "_backward_pre_hooks": "backward pre-hooks",
    "_forward_hooks_with_kwargs": "forward hooks",
    "_forward_hooks_always_called": "forward hooks",
    "_forward_pre_hooks_with_kwargs": "forward pre-hooks",
}
"""The dictionaries that a module has, and what messages call what is in them."""


class Fence:
    """Runs all calls of one piece of foreign code, and undoes their side effects.

    A call runs in one thread at a time, and while no other thread evaluates the model. Afterwards,
    modes, parameters, buffers, hooks, submodules, ``requires_grad`` flags and gradients of the
    model are restored, and so are the settings of torch and numpy for the process or thread.
    Differences are found by content; a warning names them once. Changes that the code itself
    reverts bit for bit are no difference. A model may be switched from training to evaluation mode.

    Parameters
    ----------
    who : str
        Its name in warnings and errors, such as "the explainer 'noise'".

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.fence import Fence, listening
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> with listening() as heard, Fence("the explainer 'careless'").around(model):
    ...     _ = model.train()
    >>> model.training, heard
    (False, ["the explainer 'careless' left training mode of the model; that was put back"])
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self._told: set[str] = set()

    @contextmanager
    def around(self, model: nn.Module) -> Iterator[None]:
        """Run the code within.

        Raises
        ------
        ValueError
            If parameters have other values afterwards, or something cannot be restored.
        """
        with turns.alone(model):
            kept = _Kept(model)
            try:
                with turns.undoing(kept.put_back):
                    yield
            except BaseException:
                self._tell(kept)
                raise
            self._tell(kept)
        if kept.weights:
            back = "they were put back" if kept.copies else "load them again, none was kept"
            raise ValueError(
                f"{self.who} must leave the model's weights as they are, changes "
                f"{_some(kept.weights)}: {back}"
            )

    def _tell(self, kept: _Kept) -> None:
        if not kept.left:
            return
        left = "; ".join(
            f"{what} of {_some(places)}" if places else what for what, places in kept.left.items()
        )
        message = f"{self.who} left {left}; that was put back"
        if message not in self._told:
            self._told.add(message)
            tell(message)


_listeners: ContextVar[list[str] | None] = ContextVar("who hears warnings", default=None)


def tell(message: str) -> None:
    """Warn of side effects of foreign code, or pass them to whoever listens."""
    heard = _listeners.get()
    if heard is None:
        warnings.warn(message, UserWarning, stacklevel=2)
    elif message not in heard:
        heard.append(message)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect side effects of foreign code instead of warning of them here."""
    heard: list[str] = []
    token = _listeners.set(heard)
    try:
        yield heard
    finally:
        _listeners.reset(token)


class _Kept:
    """A model and the process's settings, as they are when this is made.

    Attributes
    ----------
    left : dict of str to list of str
        What was put back, and where in the model; nowhere for settings of the process.
    weights : list of str
        Names of the parameters whose values have changed.
    copies : bool
        Whether values can be put back.
    """

    def __init__(self, model: nn.Module) -> None:
        self.left: dict[str, list[str]] = {}
        self.weights: list[str] = []
        self._settings = Settings()
        self._parts = [_Part(name, module) for name, module in model.named_modules()]
        tensors: dict[int, tuple[_Part, str, str]] = {}
        for part in self._parts:
            for field in ("_parameters", "_buffers"):
                for key, tensor in getattr(part.module, field, {}).items():
                    if tensor is not None:
                        tensors.setdefault(id(tensor), (part, field, key))
        places = [_Place(*place) for place in tensors.values()]
        size = sum(place.tensor.numel() * place.tensor.element_size() for place in places)
        self.copies = size <= _COPIED_BYTES
        with torch.no_grad():
            self._tensors = [_Values(place, copy=self.copies) for place in places]

    def put_back(self) -> None:
        """Put back what differs, and note it."""
        for name in self._settings.put_back():
            self.left[name] = []
        # Before modules are restored: what matters is what the model would compute with.
        for values in self._tensors:
            if not values.are_as_before():
                for what in values.put_back():
                    if what == "weights":
                        self.weights.append(values.place.name)
                    else:
                        self._note(what, values.place.name)
        for part in self._parts:
            if not part.is_as_before():
                for what in part.put_back():
                    self._note(what, part.name)

    def _note(self, what: str, name: str) -> None:
        places = self.left.setdefault(what, [])
        if name not in places:
            places.append(name)


_Held = tuple[str, dict[str, Any], list[tuple[str, Any]]]
"""The name of one of a module's dictionaries, the dictionary, and what was in it."""


class _Part:
    """A module by itself: what it holds, its class and mode, the settings of torch's own layers."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.kind = type(module)
        self.own = dict(vars(module))
        self.held: list[_Held] = []
        # Most are empty.
        self.empty: list[dict[str, Any]] = []
        for field in _HELD:
            held: Any = self.own.get(field)
            if type(held) is dict or type(held) is OrderedDict:
                self.held.append((field, held, list(held.items()) if held else []))
                if not held:
                    self.empty.append(held)
        self.filled = [(held, kept) for _, held, kept in self.held if kept]
        self.is_layer = self.kind.__module__.startswith("torch.nn.modules")
        # Recurrent layers hold their weights a second time.
        self.lists = [
            (name, value, list(value))
            for name, value in self.own.items()
            if self.is_layer and type(value) is list
        ]
        # A scripted module stores its mode elsewhere; a frozen one has none.
        is_script = isinstance(module, torch.jit.ScriptModule)
        self.training = getattr(module, "training", None) if is_script else None

    def is_as_before(self) -> bool:
        """Whether every attribute is the very same, and what the dictionaries hold."""
        own = vars(self.module)
        return (
            type(self.module) is self.kind
            and len(own) == len(self.own)
            and all(map(operator.is_, own.values(), self.own.values()))
            and not any(self.empty)
            and all(_are_same(value, kept) for _, value, kept in self.lists)
            and all(_holds(held, kept) for held, kept in self.filled)
            and (self.training is None or self.module.training == self.training)
        )

    def put_back(self) -> Iterator[str]:
        """Put back what differs, and say what that was."""
        module, own, before = self.module, vars(self.module), self.own
        if type(module) is not self.kind:
            module.__class__ = self.kind
            yield "another class"
        # A model may be put into evaluation mode.
        if self.training is False and module.training:
            module.training = False
            yield "training mode"
        elif before.get("training") is False and own["training"]:
            own["training"] = False
            yield "training mode"
        if own.get("forward") is not before.get("forward"):
            self._restore("forward")
            yield "another forward function"
        for field, held, kept in self.held:
            if own.get(field) is held and _holds(held, kept):
                continue
            is_recording = field == "_forward_hooks" and _records_outputs(held, kept)
            is_filled_alike = own.get(field) is held and list(held) == [key for key, _ in kept]
            own[field] = held
            held.clear()
            held.update(kept)
            # The same tensor objects: compare values.
            if not (is_filled_alike and field in ("_parameters", "_buffers")) and not is_recording:
                yield _HELD[field]
        hidden = [
            key
            for field, _, kept in self.held
            if field in ("_parameters", "_buffers", "_modules")
            for key, _ in kept
            if key in own and key not in before
        ]
        for key in hidden:
            # An instance attribute would hide the registered one of the same name.
            del own[key]
            yield f"an attribute {key}"
        # Set by a backward hook, which is reported already.
        self._restore("_is_full_backward_hook")
        # Says that the hooks are there by which transformers records attentions.
        self._restore("_output_capturing_hooks_installed")
        if own.get("_compiled_call_impl") is not before.get("_compiled_call_impl"):
            self._restore("_compiled_call_impl")
            yield "another compilation"
        for name, value, kept in self.lists:
            own[name] = value
            value[:] = kept
        if not self.is_layer:
            # Attributes of other modules may change with each pass.
            return
        changed = [
            name
            for name in own.keys() | before.keys()
            if name != "training"
            and isinstance(own.get(name), _PLAIN)
            and isinstance(before.get(name), _PLAIN)
            and own.get(name) != before.get(name)
        ]
        for name in changed:
            self._restore(name)
        if changed:
            yield "settings"

    def _restore(self, name: str) -> None:
        if name in self.own:
            vars(self.module)[name] = self.own[name]
        else:
            vars(self.module).pop(name, None)


def _are_same(values: list[Any], kept: list[Any]) -> bool:
    return len(values) == len(kept) and all(map(operator.is_, values, kept))


def _holds(held: dict[str, Any], kept: list[tuple[str, Any]]) -> bool:
    if len(held) != len(kept):
        return False
    return all(
        key == other and value is same
        for (key, value), (other, same) in zip(held.items(), kept, strict=True)
    )


def _records_outputs(held: dict[str, Any], kept: list[tuple[str, Any]]) -> bool:
    """Whether what was added to hooks is what transformers adds on its own, to record outputs."""
    before = dict(kept)
    added = [hook for key, hook in held.items() if before.pop(key, None) is not hook]
    own = [getattr(hook, "__module__", "") for hook in added]
    return not before and set(own) == {"transformers.utils.output_capturing"}


_PLAIN = (bool, int, float, str, tuple, type(None))


class _Place:
    """Where a module has a tensor."""

    def __init__(self, part: _Part, field: str, key: str) -> None:
        self.part = part
        self.field = field
        self.key = key
        self.tensor: Tensor = getattr(part.module, field)[key]

    @property
    def name(self) -> str:
        """What the tensor is called in the model."""
        return f"{self.part.name}.{self.key}" if self.part.name else self.key

    @property
    def now(self) -> Any:
        """What is there now."""
        held = getattr(self.part.module, self.field)
        return held[self.key] if self.key in held else None  # noqa: SIM401 - a script's has no get


class _Values:
    """A parameter or buffer: what it holds, its flag, gradient and hooks."""

    def __init__(self, place: _Place, *, copy: bool) -> None:
        self.place = place
        self.tensor = tensor = place.tensor
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.hooks = [_hooks_of(tensor, name) for name in _TENSOR_HOOKS]
        # It keeps the current memory alive, whatever the tensor is assigned later.
        self.alias = tensor.detach()
        self.form = _form(tensor)
        # The content of tensors of other libraries is unknown.
        is_known = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta
        self.known = _known(self.alias, copy=copy) if is_known else None
        self.known_grad = None if self.grad is None else _known(self.grad, copy=True)

    def are_as_before(self) -> bool:
        """Whether nothing differs."""
        tensor = self.tensor
        return (
            self.place.now is tensor
            and _form(tensor) == self.form
            and tensor.requires_grad == self.requires_grad
            and (not tensor.is_leaf or tensor.grad is self.grad)
            and all(map(_hooks_are, (tensor, tensor), _TENSOR_HOOKS, self.hooks))
            and (self.known is None or _same(tensor, self.known))
            and (self.known_grad is None or _same(tensor.grad, self.known_grad))
        )

    def put_back(self) -> Iterator[str]:
        """Put back what differs, and say what that was; gradients without a word."""
        tensor = self.tensor
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            if self._has_changed():
                lost = not isinstance(self.known, Tensor)
                is_weight = isinstance(tensor, nn.Parameter)
                yield "weights" if is_weight or lost else "other values"
            if _form(tensor) != self.form:
                tensor.data = self.alias
            if isinstance(self.known, Tensor) and not _same(tensor, self.known):
                tensor.copy_(self.known)
            if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
                yield "requires_grad flags"
            if tensor.is_leaf and tensor.grad is not self.grad:
                tensor.grad = self.grad
            if self.grad is not None and not _same(self.grad, self.known_grad):
                assert isinstance(self.known_grad, Tensor)
                self.grad.copy_(self.known_grad)
        for name, kept in zip(_TENSOR_HOOKS, self.hooks, strict=True):
            if not _hooks_are(tensor, name, kept):
                hooks = getattr(tensor, name)
                hooks.clear()
                hooks.update(kept or {})
                yield "hooks of gradients"

    def _has_changed(self) -> bool:
        if self.known is None:
            return False
        now = self.place.now
        return any(
            each is None or _form(each)[:3] != self.form[:3] or not _same(each, self.known)
            for each in {id(each): each for each in (now, self.tensor)}.values()
        )


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _hooks_of(tensor: Tensor, name: str) -> dict[Any, Any] | None:
    hooks = getattr(tensor, name, None)
    return None if hooks is None else dict(hooks)


def _hooks_are(tensor: Tensor, name: str, kept: dict[Any, Any] | None) -> bool:
    hooks = getattr(tensor, name, None)
    return hooks is kept or list((hooks or {}).items()) == list((kept or {}).items())


def _form(tensor: Tensor) -> tuple[Any, ...]:
    form = tensor.device, tensor.dtype, tensor.shape
    return form if tensor.layout != torch.strided else (*form, tensor.stride(), tensor.data_ptr())


def _known(tensor: Tensor, *, copy: bool) -> Tensor | str | list[int]:
    """Return what tells whether a tensor has changed, a copy if it shall be one."""
    if copy:
        return tensor.detach().clone()
    bits = _bits(tensor)
    return content_key(tensor) if bits is None else _checksum(bits)


def _same(tensor: Tensor, known: Any) -> bool:
    bits = _bits(tensor)
    if not isinstance(known, Tensor):
        return bool(known == (content_key(tensor) if bits is None else _checksum(bits)))
    if bits is None:
        return content_key(tensor) == content_key(known)
    others = _bits(known)
    assert others is not None
    return torch.equal(bits, others)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor | None:
    """Return values as integers, so that NaN equals itself; None where there is no such view."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.detach().view(_INTEGERS[tensor.itemsize])


def _checksum(bits: Tensor) -> list[int]:
    """Return a number for each million of values, which any change of one of them changes."""
    flat = bits.reshape(-1)
    # Odd factors lose no bit; different factors detect exchanged values.
    places = torch.arange(min(len(flat), _CHUNK), device=flat.device) * _FACTOR + 1
    sums = [
        (part.long() * (places[: len(part)] | 1)).sum() for part in flat.split(_CHUNK) if len(part)
    ]
    return torch.stack(sums).tolist() if sums else []


_CHUNK = 2**20
_FACTOR = 0x2545F4914F6CDD1E


def _some(places: list[str]) -> str:
    named = [name or "the model" for name in places]
    rest = len(named) - _NAMED
    return ", ".join(named[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
