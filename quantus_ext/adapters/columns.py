"""Models of tables in which several columns form one variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter


@dataclass(frozen=True)
class GroupedColumns:
    """The feature mask of a table: the variable of each column, -1 for one that stays."""

    variables: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the variables, shape (1, F)."""
        return torch.tensor(self.variables, device=x.device).unsqueeze(0)


class Columns(Adapter):
    """A model of a table with groups of columns, such as one-hot encodings.

    A variable is one element: its columns are removed together, and its score is the sum of theirs.

    Parameters
    ----------
    model : torch.nn.Module
        From rows (n, F) to scores (n, classes).
    groups : sequence of sequence of int
        Columns that form one variable; every other column is a variable.
    n_columns : int
        F.
    kept : sequence of int
        Columns that are never removed or counted.

    Raises
    ------
    ValueError, TypeError
        If a column is outside the table or in two groups.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from quantus_ext import Fidelity
    >>> from quantus_ext.adapters import Columns
    >>> model = Columns(torch.nn.Linear(4, 2).eval(), [[1, 2, 3]], n_columns=4)
    >>> x = np.array([[0.5, 0.0, 1.0, 0.0]])
    >>> metric = Fidelity([0.5])
    >>> _ = metric(model, x, np.array([0]), np.array([[1.0, 0.0, 3.0, 0.0]]))
    >>> metric.details["size"].tolist()  # of two variables
    [[1]]
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Sequence[int]],
        *,
        n_columns: int,
        kept: Sequence[int] = (),
    ) -> None:
        super().__init__(checks.module("model", model))
        self.n_columns = checks.positive_integer("n_columns", n_columns)
        self.groups = tuple(
            # A column by itself is a group of one.
            tuple(checks.naturals("groups", group if is_several(group) else [group]))
            for group in checks.items("groups", groups)
        )
        if not all(self.groups):
            raise ValueError("groups must hold at least one column each, one is empty")
        still = tuple(checks.naturals("kept", kept))
        named = [column for group in (*self.groups, still) for column in group]
        for column in named:
            if column >= self.n_columns:
                raise ValueError(
                    f"groups and kept must hold columns below {n_columns}, hold {column}"
                )
        if len(set(named)) < len(named):
            raise ValueError(f"groups and kept must hold each column once, hold {sorted(named)}")
        if len(still) == self.n_columns:
            raise ValueError(f"kept must leave a column to remove, holds all {n_columns}")
        variable = {column: group[0] for group in self.groups for column in group}
        variable |= dict.fromkeys(still, -1)
        self.kept = still
        self.feature_mask = GroupedColumns(tuple(variable.get(c, c) for c in range(n_columns)))

    def check_inputs(self, x: Tensor) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_inputs`."""
        if x.ndim != 2 or x.shape[1] != self.n_columns:
            raise ValueError(
                f"rows must have shape (n, {self.n_columns}), as n_columns says, have "
                f"{tuple(x.shape)}"
            )

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return the scores of rows (n, F), shape (n, classes)."""
        outputs: Tensor = self.model(x, **keywords)
        return outputs

    def baseline(self, background: ArrayLike) -> np.ndarray:
        """Return one value per column, shape (F,): the mean, or the most common level of a group.

        Use it as ``perturb_baseline`` to replace a variable by a typical value.

        Parameters
        ----------
        background : array, shape (n, F)
            Rows such as the training data.
        """
        rows = checks.float64("background", background)
        if rows.ndim != 2 or rows.shape[1] != self.n_columns or not len(rows):
            raise ValueError(f"background must have shape (n, {self.n_columns}), has {rows.shape}")
        checks.all_finite("background", torch.from_numpy(rows))
        values = rows.mean(0)
        for group in self.groups:
            levels, counts = np.unique(rows[:, group], axis=0, return_counts=True)
            values[list(group)] = levels[counts.argmax()]
        return np.asarray(values)


def is_several(group: object) -> bool:
    """Whether a group is given as a sequence, and not as a column."""
    return isinstance(checks.listed(group), list)
