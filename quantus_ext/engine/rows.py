"""Which sample each row belongs to that a model is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_numbers: ContextVar[Tensor | None] = ContextVar("samples of rows", default=None)


def samples_of_rows() -> Tensor | None:
    """Return which sample of the metric's call each row belongs to that the model is asked about.

    For the ``forward`` of a model or adapter that holds something for each sample, such as a
    second input: many perturbed rows of one sample go through the model in one pass, beside those
    of others.

    Returns
    -------
    Tensor, int64, shape (rows,), or None
        Numbers in the order of ``x_batch``; None where the model is not asked by a metric of this
        package.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import samples_of_rows
    >>> class Scaled(torch.nn.Module):
    ...     scale = torch.tensor([1.0, 2.0])
    ...     check_rows = False  # not asked about rows of no sample
    ...
    ...     def forward(self, rows):
    ...         return rows * self.scale[samples_of_rows(), None]
    >>> maps = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> Deletion(1)(Scaled().eval(), torch.ones(2, 2), torch.tensor([0, 0]), maps, softmax=False)
    [0.5, 1.0]
    """
    return _numbers.get()


@contextmanager
def belonging_to(numbers: Tensor | None) -> Iterator[None]:
    """Say which samples the rows belong to that a model is asked about within."""
    token = _numbers.set(numbers)
    try:
        yield
    finally:
        _numbers.reset(token)
