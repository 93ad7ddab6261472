"""What something is, by its content: equal for copies and in other processes."""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import itertools
import operator
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), np.generic),
    *(enum.Enum, torch.dtype, torch.device, Path, slice),
)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes of bare modules: weights are told apart by name, and mode and hooks don't count."""


def content_key(*values: object) -> str:
    """Return a hexadecimal SHA-256 of the values' content.

    Tensors and arrays count by type, shape and bytes; modules by architecture, weights and other
    attributes, whatever their mode and hooks; functions and classes by their code and by all that
    they close over, hold and read; other objects by what pickle would keep of them. The code of
    installed libraries counts by its name alone, and so does what is read as ``file.name``. What
    cannot be known, as a lock, equals nothing, not even itself.

    Examples
    --------
    >>> import copy, torch
    >>> from quantus_ext.identity import content_key
    >>> model = torch.nn.Linear(2, 2)
    >>> content_key(model, 0.1) == content_key(copy.deepcopy(model), 0.1)
    True
    >>> content_key(model, 0.1) == content_key(model, 0.2)
    False
    """
    return _Digester().of(values).hex()


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes that are no parameters, buffers, submodules, mode or hooks.

    Nor what its adapter says its answers do not depend on.
    """
    aside = _OF_EVERY_MODULE | getattr(module, "unread", frozenset())
    return {name: value for name, value in vars(module).items() if name not in aside}


class _Digester:
    def __init__(self) -> None:
        self._open: set[int] = set()
        self._code: dict[int, bytes] = {}

    def of(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN):
            return _join(type(value).__qualname__, repr(value))
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            return _join("tensor", str(value.dtype), repr(tuple(value.shape)), _bytes(value))
        if isinstance(value, np.ndarray) and value.dtype != object:
            return _join("array", value.dtype.str, repr(value.shape), np.ascontiguousarray(value))
        if id(value) in self._code:
            return self._code[id(value)]
        if id(value) in self._open:
            return _join("seen")
        self._open.add(id(value))
        try:
            digest = _join(*self._parts(value))
        finally:
            self._open.remove(id(value))
        if isinstance(value, (types.FunctionType, type)):
            self._code[id(value)] = digest
        return digest

    def _parts(self, value: Any) -> Iterator[Any]:
        if type(value) in (list, tuple):
            yield type(value).__name__
            yield from map(self.of, value)
        elif isinstance(value, (set, frozenset)):
            yield "set"
            yield from sorted(map(self.of, value))
        elif type(value) in (dict, types.MappingProxyType):
            yield "mapping"
            yield from sorted(self.of(item) for item in value.items())
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, types.ModuleType):
            yield value.__name__
        elif type(value) in _HOLDERS:
            yield type(value).__name__
            yield self.of(_HOLDERS[type(value)](value))
        else:
            yield from self._object(value)

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        yield f"{function.__module__}.{function.__qualname__}"
        yield self.of([function.__defaults__, function.__kwdefaults__])
        yield from (self.of(_contents(cell)) for cell in function.__closure__ or ())
        if _of_a_library(function):
            return
        for code in _codes(function.__code__):
            yield code.co_code
            constants = (c for c in code.co_consts if not isinstance(c, types.CodeType))
            yield self.of([*constants, code.co_names])
            read = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
            yield self.of({name: function.__globals__.get(name) for name in read})

    def _class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            yield f"{base.__module__}.{base.__qualname__}"
            if _of_a_library(base):
                continue
            for name, attribute in sorted(vars(base).items()):
                # Other names with underscores are the interpreter's own.
                if isinstance(attribute, types.FunctionType) or not name.startswith(
                    ("__", "_abc_")
                ):
                    yield name
                    yield self.of(attribute)

    def _module(self, model: nn.Module) -> Iterator[Any]:
        first_names: dict[nn.Module, str] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            yield name
            if first_names.setdefault(module, name) != name:
                # Used again: its content has been told, its place has not.
                yield first_names[module]
            elif isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
                yield str(module.code)
            else:
                yield self.of([type(module), own_attributes(module)])
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            yield name
            yield self.of(tensor)

    def _object(self, value: Any) -> Iterator[Any]:
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced = reduce(value) if reduce else value.__reduce_ex__(2)
        except Exception:
            yield os.urandom(16)
            return
        if isinstance(reduced, str):
            yield f"{getattr(value, '__module__', '')}.{reduced}"
        else:
            # The last two are iterators over what lists and dicts hold.
            yield from map(self.of, reduced[:3])
            yield from (self.of(list(items)) for items in reduced[3:5] if items is not None)


_HOLDERS: dict[type, Callable[[Any], Any]] = {
    classmethod: operator.attrgetter("__func__"),
    staticmethod: operator.attrgetter("__func__"),
    property: operator.attrgetter("fget"),
    functools.cached_property: operator.attrgetter("func"),
    type(functools.cache(len)): operator.attrgetter("__wrapped__"),
    weakref.ref: lambda reference: reference(),
}
"""What stands for something else, and how to get that."""


@functools.cache
def _is_library(module: str) -> bool:
    top = module.split(".")[0]
    if top == "__main__":
        return False
    if top == __name__.split(".")[0]:
        # Whether it is installed or run from a clone.
        return True
    file = getattr(sys.modules.get(module, sys.modules.get(top)), "__file__", None) or ""
    installed = any(folder in file for folder in ("site-packages", "dist-packages"))
    return installed or top in sys.stdlib_module_names


def _of_a_library(value: types.FunctionType | type) -> bool:
    return _is_library(value.__module__ or "")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty cell"


def _bytes(tensor: Tensor) -> Any:
    # A view as bytes, because numpy does not know every type of torch's.
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _join(*parts: Any) -> bytes:
    joined = hashlib.sha256()
    for part in parts:
        data = memoryview(part.encode() if isinstance(part, str) else part)
        joined.update(data.nbytes.to_bytes(8, "little"))
        joined.update(data)
    return joined.digest()
