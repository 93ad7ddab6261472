"""What calls share: clean outputs, and outputs for perturbed inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from quantus_ext.engine.answers import Answers
from quantus_ext.engine.plan import Plan
from quantus_ext.engine.resolved import Answered
from quantus_ext.memory import Memory


class Remembered(NamedTuple):
    """Clean outputs, and what was found out when they were computed."""

    answered: Answered
    plan: Plan
    writes_to_input: bool
    held: list[Any]
    """Kept alive, where the key has their identity."""
    token: str
    """What goes with these outputs is known by."""


class SharedAnswers:
    """A bounded memory of models' outputs.

    Parameters
    ----------
    most_bytes : int, default 256 MiB
        For outputs of perturbed inputs; the most recently used stay. Clean outputs have another 64
        MiB.
    by_identity : bool, default False
        Whether models are known not to change, so that their content need not be read in every
        call.
    """

    def __init__(self, *, most_bytes: int = 256 * 2**20, by_identity: bool = False) -> None:
        self.by_identity = by_identity
        self.clean: Memory[Remembered] = Memory(
            lambda kept: sum(part.nbytes for part in kept.answered if part is not None),
            most_entries=256,
            most_bytes=64 * 2**20,
        )
        self.answers: Memory[Answers] = Memory(
            lambda kept: kept.n_bytes, most_entries=1024, most_bytes=most_bytes
        )


_current: ContextVar[SharedAnswers | None] = ContextVar("shared answers", default=None)


def current() -> SharedAnswers | None:
    """Return the memory that calls share here, None if there is none."""
    return _current.get()


@contextmanager
def answers_shared(shared: SharedAnswers | None = None) -> Iterator[None]:
    """Let metrics in this context share the evaluations of the same model on the same rows.

    Infidelity uses the same draws for every map; metrics that remove elements of a ranking have
    many states in common. Models and rows are identified by content, so a model may change in
    between. A model with custom code, which may depend on something that its content does not show,
    is evaluated on 8 rows of a batch each time, and on all rows if its outputs differ from the
    stored ones. All rows are always evaluated if something in the model cannot be read, or a
    function of yours is in a :class:`~quantus_ext.adapters.BlackBox` without a key. A metric's
    ``n_evaluations`` still counts all rows that its scores are based on.

    Parameters
    ----------
    shared : SharedAnswers, optional
        Where outputs are stored; by default a new one, of at most 320 MiB.

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
