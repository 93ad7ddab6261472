"""Threads and forks: foreign code by itself, and nobody asks a model that it has."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from torch import nn


def after_fork(in_child: Callable[[], object]) -> None:
    """Have something done in every child that is forked, where processes fork at all."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)


Parts = frozenset[int]
"""The ids of a model's modules: models that share one are not asked while foreign code has it."""


class Turns:
    """Who may run.

    Code that may change what belongs to the process, or a model that it is given, runs in one
    thread at a time, and while no other thread asks that model. Any number of threads may ask a
    model at once. A thread that waits counts as one that asks nothing, so that no two wait for
    each other; both kinds of turn may be taken again within any other by the same thread.

    In a forked child only the forking thread is left: what another one had changed is undone
    there, and its turn ends.

    Examples
    --------
    >>> import threading, torch
    >>> from quantus_ext.engine.turns import Turns
    >>> turns, model, order = Turns(), torch.nn.Linear(2, 2), []
    >>> def ask():
    ...     with turns.asking(model):
    ...         order.append("asked")
    >>> with turns.alone(model):
    ...     other = threading.Thread(target=ask)
    ...     other.start()
    ...     order.append("left alone")
    >>> other.join()
    >>> order
    ['left alone', 'asked']
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: int | None = None
        self._had: list[Parts] = []
        """Of the models that the owner's foreign code is given."""
        self._asked: dict[int, list[Parts]] = {}
        """By thread, of the models that it asks."""
        self._undo: list[Callable[[], object]] = []
        after_fork(self._forked)

    @contextmanager
    def alone(self, model: nn.Module | None = None) -> Iterator[None]:
        """Take the one turn of the process, and a model that no other thread asks meanwhile."""
        me, parts = threading.get_ident(), _parts(model)
        with self._changed:
            asked = self._asked.pop(me, [])
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._owner in (None, me))
                self._owner = me
                # From here on, no thread starts to evaluate it.
                self._had.append(parts)
                try:
                    self._changed.wait_for(lambda: not _meet([parts], self._asked_by_others()))
                except BaseException:
                    self._give_up()
                    raise
            except BaseException:
                self._take_back(asked)
                raise
        try:
            yield
        finally:
            with self._changed:
                self._give_up()
                self._take_back(asked)

    @contextmanager
    def asking(self, model: nn.Module) -> Iterator[None]:
        """Ask a model while no other thread's foreign code has it."""
        me, parts = threading.get_ident(), _parts(model)
        with self._changed:
            asked = self._asked.pop(me, [])
            self._changed.notify_all()
            try:
                self._changed.wait_for(
                    lambda: self._owner in (None, me) or not _meet([*asked, parts], self._had)
                )
                asked.append(parts)
            finally:
                self._take_back(asked)
        try:
            yield
        finally:
            with self._changed:
                asked.pop()
                if not asked:
                    self._asked.pop(me, None)
                self._changed.notify_all()

    @contextmanager
    def undoing(self, undo: Callable[[], object]) -> Iterator[None]:
        """Undo on leaving what the turn changes; in a child that is forked meanwhile as well."""
        self._undo.append(undo)
        try:
            yield
        finally:
            # In this order, because a child may be forked in between; undoing twice is harmless.
            try:
                undo()
            finally:
                self._undo.remove(undo)

    def _asked_by_others(self) -> list[Parts]:
        me = threading.get_ident()
        return [each for thread, asked in self._asked.items() if thread != me for each in asked]

    def _give_up(self) -> None:
        self._had.pop()
        if not self._had:
            self._owner = None
        self._changed.notify_all()

    def _take_back(self, asked: list[Parts]) -> None:
        if asked:
            self._asked[threading.get_ident()] = asked

    def _forked(self) -> None:
        me = threading.get_ident()
        # Another thread may have held it.
        self._changed = threading.Condition()
        self._asked = {me: self._asked[me]} if me in self._asked else {}
        if self._owner == me:
            return
        self._owner, self._had = None, []
        while self._undo:
            # The child must start, even if it cannot undo everything.
            with suppress(Exception):
                self._undo.pop()()


turns = Turns()
"""Those of this process."""

Call = TypeVar("Call", bound=Callable[..., Any])


def asks_its_model(call: Call) -> Call:
    """Have a method whose first argument is a model ask it in turns; see :meth:`Turns.asking`."""

    @functools.wraps(call)
    def asking(self: Any, model: Any, *arguments: Any, **keywords: Any) -> Any:
        if not isinstance(model, nn.Module):
            return call(self, model, *arguments, **keywords)
        with turns.asking(model):
            return call(self, model, *arguments, **keywords)

    return cast(Call, asking)


def _parts(model: nn.Module | None) -> Parts:
    return frozenset() if model is None else frozenset(map(id, model.modules()))


def _meet(some: list[Parts], others: list[Parts]) -> bool:
    return any(not one.isdisjoint(other) for one in some for other in others)
