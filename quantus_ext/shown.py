"""How objects print: one line with the arguments that differ from their defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

_MISSING = object()
_ITEMS, _TEXT = 4, 60
"""How many items of a sequence are shown, and how many characters of anything else."""


class ShownByArguments:
    """Prints as a call of its class, without arguments that have their default value.

    Arguments are read from attributes of the same name; what has no such attribute is not shown.
    """

    _shown_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What arguments come to by default, where that is not the default of the signature; and those
    that only ``**keywords`` take."""

    def _shown_argument(self, name: str) -> Any:
        """Return the value of an argument, by its name; raise AttributeError for none."""
        return getattr(self, name)

    def __repr__(self) -> str:
        parts = []
        for name, default in _defaults(type(self)).items():
            try:
                value = self._shown_argument(name)
            except AttributeError:
                continue
            if not _same(value, default):
                parts.append(f"{name}={short(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def short(value: object) -> str:
    """Return a value in a few words: arrays by shape, functions and models by name.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from quantus_ext.shown import short
    >>> short(np.zeros((100, 3))), short([1, 2, 3, 4, 5, 6]), short(torch.nn.Linear(2, 3))
    ('<array (100, 3)>', '[1, 2, 3, 4, … 2 more]', 'Linear(…)')
    """
    if isinstance(value, ShownByArguments):
        return repr(value)
    if isinstance(value, np.ndarray):
        return f"<array {value.shape}>"
    if isinstance(value, Tensor):
        return f"<tensor {tuple(value.shape)}>"
    if isinstance(value, nn.Module):
        return f"{type(value).__name__}(…)"
    if isinstance(value, functools.partial):
        inner = [short(value.func), *(f"{name}={short(v)}" for name, v in value.keywords.items())]
        return f"partial({', '.join(inner)})"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    if isinstance(value, Mapping):
        return _some(
            (f"{short(name)}: {short(each)}" for name, each in value.items()), len(value), "{}"
        )
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        comma = "," if len(value) == 1 and isinstance(value, tuple) else ""
        brackets = "[]" if isinstance(value, list) else "()"
        return _some((short(each) + comma for each in value), len(value), brackets)
    if isinstance(value, Enum):
        return short(value.value)
    if isinstance(value, PurePath):
        return short(str(value))
    if type(value).__repr__ is object.__repr__:
        return f"{type(value).__name__}(…)"
    text = " ".join(repr(value).split())
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _some(items: Iterable[str], count: int, brackets: str) -> str:
    shown = [item for item, _ in zip(items, range(_ITEMS), strict=False)]
    more = f", … {count - _ITEMS} more" if count > _ITEMS else ""
    return f"{brackets[0]}{', '.join(shown)}{more}{brackets[1]}"


def _defaults(cls: type[ShownByArguments]) -> Mapping[str, Any]:
    """Return the arguments of a class and its bases with their defaults, in the order of calls."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if not issubclass(base, ShownByArguments) or "__init__" not in vars(base):
            continue
        parameters = [*inspect.signature(base.__init__).parameters.values()][1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    for base in reversed(cls.__mro__):
        found |= vars(base).get("_shown_defaults", {})
    return found


def _same(value: object, default: object) -> bool:
    if value is default:
        return True
    if isinstance(value, (np.ndarray, Tensor)) or isinstance(default, (np.ndarray, Tensor)):
        return False
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return [*value] == [*default]
    return type(value) is type(default) and bool(value == default)
