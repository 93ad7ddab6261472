"""What something is, by its content, and where that does not tell all, by what it answers."""

from __future__ import annotations

import collections
import copy
import copyreg
import dis
import enum
import functools
import hashlib
import io
import itertools
import operator
import os
import pickletools
import re
import sys
import threading
import types
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), np.generic),
    *(enum.Enum, torch.dtype, torch.device, Path, slice),
)
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
"""Attributes of bare modules: weights are told apart by name, and mode and hooks don't count."""

_LOCKS = (type(threading.Lock()), type(threading.RLock()))
"""They can be neither copied nor pickled, and no answer depends on what they hold: nothing."""

_CONTAINERS = (*(torch.Size, collections.OrderedDict, collections.defaultdict, functools.partial),)
"""Objects of libraries that hold other values and do nothing else."""

PROBES = 8
"""Rows whose answers are compared, at most."""

_ROUNDING = 1e-4
"""Of the largest output of a row: more than two machines differ by in single precision."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Content:
    """What could be read of something.

    Attributes
    ----------
    key : str
        Hexadecimal SHA-256 of what could be read.
    unread : tuple of str
        Types of what could not: sessions, sockets, generators, objects of C extensions.
    own_code : bool
        Whether code was read that is of no installed library. It may look at what no content
        shows: files, the environment, another process.
    closed : bool
        Whether there is nothing but modules, arrays, plain values and code of libraries, so that
        the content tells all.
    """

    key: str
    unread: tuple[str, ...]
    own_code: bool
    closed: bool


def content_of(*values: object, aside: Mapping[int, frozenset[str]] | None = None) -> Content:
    """Read the values' content, and say what could not be read.

    Parameters
    ----------
    *values : object
        See :func:`content_key`.
    aside : mapping of int to frozenset of str, optional
        Attributes of modules, by the modules' ``id``, that do not count.

    Examples
    --------
    >>> from quantus_ext.identity import content_of
    >>> content_of(value for value in (1, 2)).unread
    ('generator',)
    """
    digester = _Digester(aside or {})
    key = digester.of(values).hex()
    unread = tuple(sorted({_named(value) for value in digester.unread.values()}))
    closed = not (unread or digester.own_code or digester.objects)
    return Content(key, unread, digester.own_code, closed)


def content_key(*values: object) -> str:
    """Return a hexadecimal SHA-256 of the values' content.

    Tensors and arrays count by type, shape and bytes; modules by architecture, weights and other
    attributes, whatever their mode and hooks; functions and classes by their code and by all that
    they close over, hold and read; other objects by what pickle would keep of them. The code of
    installed libraries counts by its name alone, and locks count for nothing. What cannot be read,
    as a generator, equals nothing, not even itself.

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
    content = content_of(*values)
    return content.key if not content.unread else _join(content.key, os.urandom(16)).hex()


def copied(value: Value, memo: dict[int, Any] | None = None) -> Value:
    """Return a deep copy that shares with the original what cannot be copied: locks, sessions.

    Examples
    --------
    >>> import threading
    >>> from quantus_ext.identity import copied
    >>> lock, rows = threading.Lock(), [1, 2]
    >>> twin = copied({"lock": lock, "rows": rows})
    >>> twin["lock"] is lock, twin["rows"] is rows
    (True, False)
    """
    try:
        return copy.deepcopy(value, dict(memo or {}))
    except Exception:
        digester = _Digester({})
        digester.of(value)
        return copy.deepcopy(value, {**(memo or {}), **digester.unread, **digester.locks})


def probe_rows(n: int) -> list[int]:
    """Return the rows, of n, whose answers are compared: the first, the last, and some between.

    Examples
    --------
    >>> from quantus_ext.identity import probe_rows
    >>> probe_rows(100), probe_rows(2)
    ([0, 14, 28, 42, 57, 71, 85, 99], [0, 1])
    """
    return [int(row) for row in np.linspace(0, n - 1, min(n, PROBES)).round()]


def same_answers(first: Tensor, second: Tensor, *, exact: bool = False) -> bool:
    """Whether two answers to the same rows are equal, within rounding or bit by bit.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.identity import same_answers
    >>> first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.00001]])
    >>> same_answers(first, second), same_answers(first, second, exact=True)
    (True, False)
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    rounding = 0.0
    if first.is_floating_point() and not exact:
        rounding = max(_ROUNDING, 16 * torch.finfo(first.dtype).eps)
    one, other = (answers.detach().cpu().double().flatten(1) for answers in (first, second))
    known = one.isfinite() & other.isfinite()
    alike = torch.equal(one.nan_to_num().where(~known, 0), other.nan_to_num().where(~known, 0))
    alike = alike and torch.equal(one.isnan(), other.isnan())
    largest = one.where(known, 0).abs().amax(1, keepdim=True) if one.numel() else one
    return alike and bool(((one - other).abs() <= rounding * largest)[known].all())


def telling(answers: Tensor) -> bool:
    """Whether answers tell a model from another: they are not the same, nor labels, in all rows.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.identity import telling
    >>> telling(torch.tensor([[0.2, 0.8], [0.7, 0.3]])), telling(torch.tensor([[0.0, 1.0]]))
    (True, False)
    """
    values = answers.detach().cpu().double().flatten(1)
    finite = values[values.isfinite()]
    varied = len(values) < 2 or bool((values[1:] != values[:1]).any())
    return varied and bool((finite != finite.round()).any())


def is_doubtful(model: nn.Module, content: Content) -> bool:
    """Whether a model may depend on what no content shows, so that only its answers tell it.

    It does if something in it cannot be read, or if it is a function of one's own that a
    :class:`~quantus_ext.adapters.BlackBox` without a key calls.
    """
    outside = [m for m in model.modules() if getattr(m, "asks_outside", False)]
    unnamed = any(getattr(module, "key", None) is None for module in outside)
    return bool(content.unread) or (content.own_code and unnamed)


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes that are no parameters, buffers, submodules, mode or hooks.

    Nor what its adapter says its answers do not depend on.
    """
    of_export = type(module).__module__ == "torch.export._unlift"
    if isinstance(module, torch.fx.GraphModule) or of_export:
        # The rest is in its code, made of it, or checks inputs.
        return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    if "_orig_mod" in module._modules:
        # What torch.compile makes stands for the module inside.
        return {}
    aside = _OF_EVERY_MODULE | getattr(module, "unread", frozenset())
    return {name: value for name, value in vars(module).items() if name not in aside}


class _Digester:
    """Reads values, and notes what it meets there."""

    def __init__(self, aside: Mapping[int, frozenset[str]]) -> None:
        self.unread: dict[int, Any] = {}
        self.locks: dict[int, Any] = {}
        self.own_code = False
        self.objects = False
        self._aside = aside
        self._open: set[int] = set()
        # Together with the object, so that its id is not reused.
        self._code: dict[int, tuple[object, bytes]] = {}

    def of(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN):
            return _join(type(value).__qualname__, repr(value))
        if isinstance(value, Tensor):
            return _join("tensor", str(value.dtype), repr(tuple(value.shape)), *_parts_of(value))
        if type(value) in (np.ndarray, np.memmap) and not value.dtype.hasobject:
            return _join("array", str(value.dtype), repr(value.shape), *_fields_of(value))
        if id(value) in self._code:
            return self._code[id(value)][1]
        if id(value) in self._open:
            return _join("seen")
        self._open.add(id(value))
        try:
            digest = _join(*self._parts(value))
        finally:
            self._open.remove(id(value))
        if isinstance(value, (types.FunctionType, type)):
            self._code[id(value)] = value, digest
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
        elif isinstance(value, types.MethodType):
            yield value.__func__.__qualname__
            yield self.of(value.__self__)
        elif isinstance(value, _LOCKS):
            self.locks[id(value)] = value
            yield type(value).__name__
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
        self.own_code = True
        for code in _codes(function.__code__):
            yield code.co_code
            constants = (c for c in code.co_consts if not isinstance(c, types.CodeType))
            yield self.of([*constants, code.co_names])
            held = {name: function.__globals__.get(name) for name in _named_by("LOAD_GLOBAL", code)}
            yield self.of(held)
            imported = map(sys.modules.get, _named_by("IMPORT_NAME", code))
            for module in (*held.values(), *imported):
                yield from self._read_of(module, code.co_names)

    def _read_of(self, module: object, names: tuple[str, ...]) -> Iterator[Any]:
        """Tell what is read of one's own files as ``file.name``."""
        if isinstance(module, types.ModuleType) and not _is_library(module.__name__):
            for name in names:
                value = vars(module).get(name)
                if value is not None and value is not module:
                    yield f"{module.__name__}.{name}"
                    yield self.of(value)
                    if isinstance(value, types.ModuleType):
                        yield from self._read_of(value, names[names.index(name) + 1 :])

    def _class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            yield f"{base.__module__}.{base.__qualname__}"
            if _of_a_library(base):
                continue
            self.own_code = True
            for name, attribute in sorted(vars(base).items()):
                # Other names with underscores are the interpreter's own.
                if isinstance(attribute, types.FunctionType) or not name.startswith(
                    ("__", "_abc_")
                ):
                    yield name
                    yield self.of(attribute)

    def _module(self, model: nn.Module) -> Iterator[Any]:
        first_names: dict[nn.Module, str] = {}
        scripts: list[str] = []
        for name, module in model.named_modules(remove_duplicate=False):
            yield name
            if first_names.setdefault(module, name) != name:
                # Seen before: its content is hashed, its position is not.
                yield first_names[module]
                continue
            # Outputs from elsewhere: the content of the module does not show them.
            self.objects |= bool(getattr(module, "asks_outside", False))
            if isinstance(module, torch.jit.ScriptModule):
                if not any(not script or name.startswith(f"{script}.") for script in scripts):
                    scripts.append(name)
                    yield from _archived(module)
                continue
            if isinstance(module, torch.fx.GraphModule):
                # It may look up functions by name.
                self.objects = True
                yield str(module.code)
            else:
                yield self.of(type(module))
            aside = self._aside.get(id(module), frozenset())
            attributes = own_attributes(module)
            yield self.of({key: attributes[key] for key in attributes.keys() - aside})
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            yield name
            yield self.of(tensor)

    def _object(self, value: Any) -> Iterator[Any]:
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced = reduce(value) if reduce else value.__reduce_ex__(2)
        except Exception:
            self.unread[id(value)] = value
            yield _named(value)
            return
        if isinstance(reduced, str):
            yield f"{getattr(value, '__module__', '')}.{reduced}"
        else:
            self.objects |= type(value) not in _CONTAINERS
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


def _named_by(operation: str, code: types.CodeType) -> list[str]:
    return sorted({i.argval for i in dis.get_instructions(code) if i.opname == operation})


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty cell"


def _named(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def _fields_of(array: np.ndarray) -> Iterator[Any]:
    """Yield the bytes of an array, without those between the fields of a record."""
    if array.dtype.names is None:
        # The buffer protocol has no format for times.
        plain = np.ascontiguousarray(array)
        yield plain.view(np.int64) if array.dtype.kind in "mM" else plain
    for name in array.dtype.names or ():
        yield from _fields_of(array[name])


def _parts_of(tensor: Tensor) -> Iterator[Any]:
    """Yield the bytes of a tensor, whatever its layout."""
    tensor = tensor.detach().cpu() if not tensor.is_meta else tensor.detach()
    if tensor.is_meta:
        return
    if tensor.is_quantized:
        # Quantised integers mean different numbers on another scale.
        yield str(tensor.qscheme())
        yield from _parts_of(tensor.int_repr())
        yield from _parts_of(tensor.dequantize())
    elif tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        yield "sparse"
        yield from itertools.chain(_parts_of(tensor.indices()), _parts_of(tensor.values()))
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield str(tensor.layout)
        for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()):
            yield from _parts_of(part)
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield str(tensor.layout)
        for part in (tensor.ccol_indices(), tensor.row_indices(), tensor.values()):
            yield from _parts_of(part)
    else:
        # As bytes, because numpy lacks some of torch's types.
        plain = tensor.resolve_conj().resolve_neg().contiguous()
        yield plain.reshape(-1).view(torch.uint8).numpy()


def _archived(script: torch.jit.ScriptModule) -> Iterator[Any]:
    """Yield what torch would write of a script, without what differs from one script to the next:
    the numbers in names, lines of source, ids.
    """  # noqa: D205 - one sentence
    with zipfile.ZipFile(io.BytesIO(script.save_to_buffer())) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    code = [text.decode() for name, text in members.items() if _CODE.fullmatch(name)]
    yield from sorted(_MANGLED.sub("", text) for text in code)
    for name in sorted(members):
        if name in ("data.pkl", "constants.pkl"):
            told = ((op.name, arg) for op, arg, _ in pickletools.genops(members[name]))
            yield _MANGLED.sub("", repr(list(told)))
        elif name.startswith(("data/", "constants/")):
            yield members[name]


_CODE = re.compile(r"code/.*\.py")
_MANGLED = re.compile(r"___torch_mangle_\d+[./]?")


def _join(*parts: Any) -> bytes:
    joined = hashlib.sha256()
    for part in parts:
        data = memoryview(part.encode() if isinstance(part, str) else part)
        joined.update(data.nbytes.to_bytes(8, "little"))
        joined.update(data)
    return joined.digest()
