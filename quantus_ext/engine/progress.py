"""Progress bars: tqdm's, and nothing where none is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

_counting: ContextVar[Callable[[int], None] | None] = ContextVar("counting", default=None)


@contextmanager
def counting_rows(told: Callable[[int], None]) -> Iterator[None]:
    """Tell ``told`` of the rows of each forward pass, of this thread."""
    token = _counting.set(told)
    try:
        yield
    finally:
        _counting.reset(token)


def rows_sent(rows: int) -> None:
    """Tell who counts, if anyone does, of the rows of a forward pass."""
    told = _counting.get()
    if told is not None:
        told(rows)


def progress_bar(steps: Iterable[Any] | None = None, *, shown: bool, **settings: Any) -> Any:
    """Return a bar of tqdm's, or something that does as if.

    One of tqdm's that is disabled takes a lock nevertheless, which another thread may hold while a
    child is forked; the child would wait for it for ever.
    """
    return tqdm(steps, **settings) if shown else _Hidden(() if steps is None else steps)


class _Hidden:
    def __init__(self, steps: Iterable[Any]) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[Any]:
        return iter(self._steps)

    def __enter__(self) -> _Hidden:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def update(self, n: int = 1) -> None:
        pass

    def set_postfix(self, **shown: Any) -> None:
        pass
