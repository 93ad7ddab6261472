"""Foreign code does its work and leaves nothing: models and process are as before, by content."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from quantus_ext.engine.global_state import Settings
from quantus_ext.engine.modules import parts_with_mode
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
    """What all calls of one piece of foreign code go through.

    A call runs in one thread at a time, and while no other asks the model. Afterwards modes,
    parameters, buffers, hooks, parts, ``requires_grad`` flags and gradients of the model are as
    before, and so are the settings that torch and numpy keep for the process or thread: what
    differs by content is put back, and a warning says once what that was. What was changed and put
    back bit for bit does not differ. A model may be put from training into evaluation mode.

    Parameters
    ----------
    who : str
        What warnings and errors call it, as "the explainer 'noise'".

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
        """Run what is within.

        Raises
        ------
        ValueError
            If parameters have other values afterwards, or something cannot be put back.
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
    """Warn of what foreign code left, or let those know who listen."""
    heard = _listeners.get()
    if heard is None:
        warnings.warn(message, UserWarning, stacklevel=2)
    elif message not in heard:
        heard.append(message)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what foreign code leaves instead of warning of it here."""
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
        self._modes = [(name, part, part.training) for name, part in parts_with_mode(model)]
        self._parts = [_Part(name, part) for name, part in model.named_modules()]
        places: dict[int, _Place] = {}
        for part in self._parts:
            for place in part.places():
                places.setdefault(id(place.tensor), place)
        size = sum(place.tensor.nbytes for place in places.values() if place.is_known)
        self.copies = size <= _COPIED_BYTES
        self._tensors = [_Values(place, copy=self.copies) for place in places.values()]

    def put_back(self) -> None:
        """Put back what differs, and note it."""
        for name in self._settings.put_back():
            self.left[name] = []
        for name, module, training in self._modes:
            # A model may be put into evaluation mode.
            if module.training and not training:
                module.training = False
                self._note("training mode", name)
        # Before what modules hold is put back: what counts is what the model would compute with.
        for values in self._tensors:
            for what in values.put_back():
                if what == "weights":
                    self.weights.append(values.place.name)
                else:
                    self._note(what, values.place.name)
        for part in self._parts:
            for what in part.put_back():
                self._note(what, part.name)

    def _note(self, what: str, name: str) -> None:
        places = self.left.setdefault(what, [])
        if name not in places:
            places.append(name)


class _Place:
    """Where a module has a tensor."""

    def __init__(self, part: _Part, field: str, key: str, tensor: Tensor) -> None:
        self.part = part
        self.field = field
        self.key = key
        self.tensor = tensor

    @property
    def name(self) -> str:
        """What the tensor is called in the model."""
        return f"{self.part.name}.{self.key}" if self.part.name else self.key

    @property
    def now(self) -> Any:
        """What is there now."""
        held = getattr(self.part.module, self.field)
        return held[self.key] if self.key in held else None  # noqa: SIM401 - a script's has no get

    @property
    def is_known(self) -> bool:
        """Whether what the tensor holds can be read: it is none of another library's."""
        kinds = (Tensor, nn.Parameter)
        return type(self.tensor) in kinds and not self.tensor.is_meta


class _Part:
    """A module by itself: what it holds, its class, and the settings of torch's own layers."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.kind = type(module)
        own = vars(module)
        self.forward = own.get("forward", _MISSING)
        fields: list[tuple[str, Any]] = [(field, own.get(field)) for field in _HELD]
        self.held: list[tuple[str, dict[str, Any], list[tuple[str, Any]]]] = [
            (field, held, list(held.items()))
            for field, held in fields
            if type(held) in (dict, OrderedDict)
        ]
        self.settings = self._settings()

    def _settings(self) -> dict[str, Any]:
        own = vars(self.module)
        if not self.kind.__module__.startswith("torch.nn.modules"):
            # Attributes of other modules may change with each pass.
            return {"_is_full_backward_hook": own.get("_is_full_backward_hook")}
        return {name: own[name] for name in own if isinstance(own[name], _PLAIN)}

    def places(self) -> Iterator[_Place]:
        """Yield the parameters and buffers."""
        for field in ("_parameters", "_buffers"):
            for key, tensor in getattr(self.module, field, {}).items():
                if tensor is not None:
                    yield _Place(self, field, key, tensor)

    def put_back(self) -> Iterator[str]:
        """Put back what differs, and say what that was."""
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
            yield "another class"
        own = vars(self.module)
        if own.get("forward", _MISSING) is not self.forward:
            if self.forward is _MISSING:
                del own["forward"]
            else:
                own["forward"] = self.forward
            yield "another forward function"
        for field, held, kept in self.held:
            same = own.get(field) is held and list(held) == [key for key, _ in kept]
            if same and all(held[key] is value for key, value in kept):
                continue
            own[field] = held
            held.clear()
            held.update(kept)
            # Tensors in the same places are told by their values.
            if not same or field not in ("_parameters", "_buffers"):
                yield _HELD[field]
        now = self._settings()
        if now != self.settings:
            changed = {name for name in self.settings if now.get(name) != self.settings[name]}
            for name in now.keys() - self.settings.keys():
                del own[name]
            own.update({name: self.settings[name] for name in changed})
            if changed - {"training", "_is_full_backward_hook"}:
                yield "settings"


_PLAIN = (bool, int, float, str, tuple, type(None))


class _Values:
    """A parameter or buffer: what it holds, its flag, gradient and hooks."""

    def __init__(self, place: _Place, *, copy: bool) -> None:
        self.place = place
        self.tensor = tensor = place.tensor
        self.is_weight = isinstance(tensor, nn.Parameter)
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.hooks = [_hooks_of(tensor, name) for name in _TENSOR_HOOKS]
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            # It keeps the memory that the tensor has now, whatever that is told to use.
            self.alias = tensor.detach()
            self.known = _known(tensor, copy=copy) if place.is_known else None
            self.known_grad = None if self.grad is None else _known(self.grad, copy=True)

    def put_back(self) -> Iterator[str]:
        """Put back what differs, and say what that was; gradients without a word."""
        tensor = self.tensor
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            if self._has_changed():
                lost = not isinstance(self.known, Tensor)
                yield "weights" if self.is_weight or lost else "other values"
            moved = tensor.data_ptr() != self.alias.data_ptr() or _form(tensor) != _form(self.alias)
            if moved:
                tensor.data = self.alias
            if isinstance(self.known, Tensor) and not _same(self.alias, self.known):
                self.alias.copy_(self.known)
            if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
                yield "requires_grad flags"
            if tensor.is_leaf and tensor.grad is not self.grad:
                tensor.grad = self.grad
            if self.grad is not None and not _same(self.grad, self.known_grad):
                assert isinstance(self.known_grad, Tensor)
                self.grad.copy_(self.known_grad)
        for name, kept in zip(_TENSOR_HOOKS, self.hooks, strict=True):
            hooks = getattr(tensor, name, None)
            if hooks and (kept is None or list(hooks.items()) != list(kept.items())):
                hooks.clear()
                hooks.update(kept or {})
                yield "hooks of gradients"

    def _has_changed(self) -> bool:
        if self.known is None:
            return False
        now = self.place.now
        return any(
            each is None or _form(each)[:2] != _form(self.alias)[:2] or not _same(each, self.known)
            for each in {id(each): each for each in (now, self.tensor)}.values()
        )


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _hooks_of(tensor: Tensor, name: str) -> dict[Any, Any] | None:
    hooks = getattr(tensor, name, None)
    return None if hooks is None else dict(hooks)


def _form(tensor: Tensor) -> tuple[Any, ...]:
    strided = tensor.layout == torch.strided
    return tensor.dtype, tensor.shape, tensor.stride() if strided else None


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
    # Odd factors, so that none loses a bit, and different ones, so that no exchange goes unseen.
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
