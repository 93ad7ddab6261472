"""What was computed last, kept within bounds and found again by key."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, TypeVar

from quantus_ext.engine.turns import after_fork

Value = TypeVar("Value")

_MEASURED = 16
"""Entries that may still grow; measuring all of them each time would take longer than a call."""

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
        (value) -> its bytes. A value may grow while it is in use: those used last are measured
        again each time.
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
        self._sizes: dict[str, int] = {}
        self._held = 0
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
            self._measure()
            while len(self._entries) > 1 and self._full():
                oldest, _ = self._entries.popitem(last=False)
                self._held -= self._sizes.pop(oldest)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self._sizes.clear()
            self._held = 0

    def _measure(self) -> None:
        """Bring the sizes of the entries used last up to date."""
        for key in islice(reversed(self._entries), _MEASURED):
            size = self._size(self._entries[key])
            self._held += size - self._sizes.get(key, 0)
            self._sizes[key] = size

    def _full(self) -> bool:
        return len(self._entries) > self.most_entries or self._held > self.most_bytes
