"""What calls share: clean outputs, and the answers to perturbed inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor

from quantus_ext.engine.answers import Answers
from quantus_ext.engine.plan import Plan
from quantus_ext.memory import Memory


class Remembered(NamedTuple):
    """Clean outputs, with what asking for them found out."""

    outputs: Tensor
    plan: Plan
    writes_to_input: bool
    held: list[Any]
    """Kept alive, where the key has their identity."""
    token: str
    """What goes with these outputs is known by."""


class SharedAnswers:
    """What metrics have asked models, within bounds.

    Parameters
    ----------
    most_bytes : int, default 256 MiB
        Of the answers to perturbed inputs; those used last stay. Clean outputs have 64 MiB more.
    by_identity : bool, default False
        Models are known not to change, so that their content need not be read at every call.
    """

    def __init__(self, *, most_bytes: int = 256 * 2**20, by_identity: bool = False) -> None:
        self.by_identity = by_identity
        self.clean: Memory[Remembered] = Memory(
            lambda kept: kept.outputs.numel() * kept.outputs.element_size(),
            most_entries=256,
            most_bytes=64 * 2**20,
        )
        self.answers: Memory[Answers] = Memory(
            lambda kept: kept.n_bytes, most_entries=1024, most_bytes=most_bytes
        )


_current: ContextVar[SharedAnswers | None] = ContextVar("shared answers", default=None)


def current() -> SharedAnswers | None:
    """Return what calls share here, None where nothing is shared."""
    return _current.get()


@contextmanager
def answers_shared(shared: SharedAnswers | None = None) -> Iterator[None]:
    """Have metrics that ask the same model about the same rows ask it once.

    Infidelity asks about the same draws for every map; all that removes the elements of a ranking
    asks about states, many of which rankings and metrics have in common. Models and rows are the
    same by their content, so that a model may be changed in between. A model with code of one's
    own, which may read what no content shows, is asked for 8 rows of a batch each time, and for all
    where the answers differ from those that are kept; so it is always where something in it cannot
    be read, or a function of one's own is in a :class:`~quantus_ext.adapters.BlackBox` without a
    key. A metric's ``n_evaluations`` stays what its scores rest on.

    Parameters
    ----------
    shared : SharedAnswers, optional
        Where answers are kept; by default a new one, of at most 320 MiB.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Deletion, MoRF, answers_shared
    >>> model, x, y = torch.nn.Linear(4, 2).eval(), torch.rand(3, 4), torch.tensor([0, 1, 0])
    >>> with answers_shared():
    ...     found = [metric.score_maps(model, x, y, [x]) for metric in (Deletion(4), MoRF(4))]
    >>> [each.n_rows for each in found], [int(each.n_evaluations[0]) for each in found]
    ([15, 0], [15, 15])
    """
    token = _current.set(SharedAnswers() if shared is None else shared)
    try:
        yield
    finally:
        _current.reset(token)


clean_outputs_shared = answers_shared
"""The former name of :func:`answers_shared`."""
