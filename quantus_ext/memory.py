"""What was computed last, kept within bounds and found again by key."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from quantus_ext.engine.turns import after_fork

Value = TypeVar("Value")

_memories: weakref.WeakSet[Memory[Any]] = weakref.WeakSet()


def _unlock() -> None:
    """Free in a forked child what another thread of the parent held."""
    for memory in _memories:
        memory._lock = threading.Lock()


after_fork(_unlock)


class Memory(Generic[Value]):
    """A cache of the entries used last; safe for threads.

    Parameters
    ----------
    size : callable
        (value) -> its bytes.
    most_entries, most_bytes : int
        What it holds at most; the newest entry stays whatever its size.

    Examples
    --------
    >>> from quantus_ext.memory import Memory
    >>> memory = Memory(len, most_entries=2, most_bytes=100)
    >>> for key in ("a", "b", "c"):
    ...     memory.put(key, "value")
    >>> memory.get("a"), memory.get("c")
    (None, 'value')
    """

    def __init__(self, size: Callable[[Value], int], *, most_entries: int, most_bytes: int) -> None:
        self._size = size
        self.most_entries = most_entries
        self.most_bytes = most_bytes
        self._entries: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()
        _memories.add(self)

    def get(self, key: str) -> Value | None:
        """Return the value of a key, or None."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, value: Value) -> None:
        """Keep a value, and drop those not used for longest where there are too many."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > 1 and self._full():
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()

    def _full(self) -> bool:
        held = sum(map(self._size, self._entries.values()))
        return len(self._entries) > self.most_entries or held > self.most_bytes
