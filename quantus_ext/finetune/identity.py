"""What something is, by its content: equal for copies and in other processes."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import itertools
import types
from collections.abc import Iterator, Mapping, Sequence, Set
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

    Tensors and arrays count by type, shape and bytes; functions and classes by their code, by
    what they close over and by the numbers and functions that they read from their own file (not
    by what other files define); modules by architecture and weights, whatever their mode and
    hooks; other objects by class and attributes.

    Examples
    --------
    >>> import copy, torch
    >>> from quantus_ext.finetune.identity import content_key
    >>> model = torch.nn.Linear(2, 2)
    >>> content_key(model, 0.1) == content_key(copy.deepcopy(model), 0.1)
    True
    >>> content_key(model, 0.1) == content_key(model, 0.2)
    False
    """
    return _Digester().of(values).hex()


class _Digester:
    def __init__(self) -> None:
        self._open: set[int] = set()
        self._code: dict[int, bytes] = {}

    def of(self, value: object) -> bytes:
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
        if isinstance(value, Mapping):
            yield "mapping"
            yield from sorted(self.of(item) for item in value.items())
        elif isinstance(value, Set):
            yield "set"
            yield from sorted(map(self.of, value))
        elif isinstance(value, (Sequence, np.ndarray)):
            yield type(value).__qualname__
            yield from map(self.of, value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, functools.partial):
            yield from map(self.of, ("partial", value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            yield from map(self.of, ("method", value.__func__, value.__self__))
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif dataclasses.is_dataclass(value):
            yield self.of(type(value))
            yield from (self.of(getattr(value, f.name)) for f in dataclasses.fields(value))
        elif isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
            yield f"{getattr(value, '__module__', '')}.{value.__name__}"
        else:
            yield self.of(type(value))
            yield self.of(getattr(value, "__dict__", None))

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        yield f"{function.__module__}.{function.__qualname__}"
        yield self.of([function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            yield self.of(_contents(cell))
        codes = list(_codes(function.__code__))
        for code in codes:
            yield code.co_code
            constants = (c for c in code.co_consts if not isinstance(c, types.CodeType))
            yield self.of([*constants, code.co_names])
        for name in sorted({name for code in codes for name in code.co_names}):
            found = function.__globals__.get(name)
            same_file = getattr(found, "__module__", None) == function.__module__
            if isinstance(found, (types.FunctionType, type)):
                yield self.of(found) if same_file else f"{found.__module__}.{found.__qualname__}"
            elif isinstance(found, (*_PLAIN, tuple, Tensor, np.ndarray)):
                yield self.of(found)

    def _class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            yield f"{base.__module__}.{base.__qualname__}"
            if base.__module__.split(".")[0] in ("torch", "builtins"):
                continue
            for name, attribute in sorted(vars(base).items()):
                function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
                constant = isinstance(function, _PLAIN) and not name.startswith("__")
                if constant or isinstance(function, types.FunctionType):
                    yield name
                    yield self.of(function)

    def _module(self, model: nn.Module) -> Iterator[Any]:
        for name, module in model.named_modules():
            yield name
            yield self.of(type(module))
            own = {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}
            yield self.of(own)
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            yield name
            yield self.of(tensor)


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
