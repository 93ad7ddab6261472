"""What a model has answered, kept so that no row is asked for twice."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantus_ext.engine.elements import Rows

OUTPUT, RIGHT = 0, 1
"""What an answer holds: the output for the explained class; 1 where it is the largest, else 0."""


def answers_of(outputs: Tensor, y: Tensor) -> Tensor:
    """Return what metrics want of outputs; an answer is NaN where it is not known.

    Parameters
    ----------
    outputs : Tensor, shape (\\*rows, classes)
    y : Tensor, int64, of one axis less than ``outputs``, or with axes of length 1
        Or of as many axes, with k classes in the last one.

    Returns
    -------
    Tensor, float64, shape (\\*rows, 2) or (\\*rows, k, 2)
        Columns :data:`OUTPUT` and :data:`RIGHT`.
    """
    several = y.ndim == outputs.ndim
    labels = y if several else y.expand(outputs.shape[:-1]).unsqueeze(-1)
    output = outputs.gather(-1, labels).double()
    right = (outputs.argmax(-1, keepdim=True) == labels).double()
    # The maximum is unknown if one of the numbers is.
    right = right.masked_fill(outputs.isnan().any(-1, True), torch.nan)
    return torch.stack([output, right], -1) if several else torch.cat([output, right], -1)


class Asked:
    """Rows that a model is asked about for one map of each sample, the clean ones left out.

    Parameters
    ----------
    draws : dict of hashable to Tensor of shape (n,)
        How many draws, by what they are known by.
    states : list of (numpy.ndarray (n, k), numpy.ndarray (n,))
        Names of states, and of the sample as it is.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.engine.answers import Asked
    >>> first, second = (Asked({"draws": torch.tensor([count])}) for count in (8.0, 16.0))
    >>> Asked.of_all([first, second]).count().tolist()
    [16.0]
    """

    def __init__(
        self,
        draws: Mapping[Hashable, Tensor],
        states: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]] = (),
    ) -> None:
        self._draws = dict(draws)
        self._states = list(states)

    @classmethod
    def of_all(cls, several: Iterable[Asked]) -> Asked:
        """Return what is asked for several maps: what they have in common once."""
        draws: dict[Hashable, Tensor] = {}
        states: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for asked in several:
            for name, count in asked._draws.items():
                draws[name] = torch.maximum(draws.get(name, count), count)
            states += asked._states
        return cls(draws, states)

    def count(self) -> Tensor:
        """Return how many rows, float64, shape (n,)."""
        total = sum(self._draws.values(), torch.zeros((), dtype=torch.float64))
        if self._states:
            names = np.concatenate([names for names, _ in self._states], 1)
            unchanged = self._states[0][1][:, None]
            ordered = np.sort(np.concatenate([names, unchanged], 1), axis=1)
            total = total + torch.from_numpy((np.diff(ordered, axis=1) != 0).sum(1))
        return total


class Draws:
    """Answers to numbered draws of each sample.

    Parameters
    ----------
    like : Tensor, float64, shape (n, columns) or (n, k, columns)
        Answers, whose device and width these have.
    """

    def __init__(self, like: Tensor) -> None:
        self.answers = like.new_empty(len(like), 0, *like.shape[1:])
        self._known = np.zeros((len(like), 0), dtype=bool)

    def reserve(self, count: int) -> None:
        """Make room for so many draws."""
        more = count - self._known.shape[1]
        if more > 0:
            shape = (len(self.answers), more, *self.answers.shape[2:])
            self.answers = torch.cat([self.answers, self.answers.new_empty(shape)], 1)
            self._known = np.pad(self._known, ((0, 0), (0, more)))

    def get(self, samples: Rows, draws: slice) -> Tensor | None:
        """Return the answers of a block, shape (b, d, 2), or None if one is missing."""
        if not self._known[_on_host(samples), draws].all():
            return None
        return self.answers[samples, draws]

    def put(self, samples: Rows, draws: slice, answers: Tensor) -> None:
        """Keep the answers of a block."""
        self.answers[samples, draws] = answers
        self._known[_on_host(samples), draws] = True


class Answers:
    """What one model has answered about some samples.

    Parameters
    ----------
    keeps_draws : bool
        Whether draws are kept, too: not where no one can ask for them again.
    """

    def __init__(self, *, keeps_draws: bool) -> None:
        self.keeps_draws = keeps_draws
        self._draws: dict[Hashable, Draws] = {}
        self._names: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._of_states: Tensor | None = None
        self._put: list[tuple[NDArray[np.int64], Tensor]] = []
        self.whole: Tensor | None = None
        """Answers to the samples without any element, shape (n, columns)."""

    def of_draws(self, name: Hashable, count: int, like: Tensor) -> Draws | None:
        """Return what is known of the draws of a name, with room for so many; None keeps none.

        Parameters
        ----------
        name : hashable
            None for draws that no one can ask for again.
        count : int
        like : Tensor, float64, shape (n, 2) or (n, k, 2)
            Answers.
        """
        if name is None or not self.keeps_draws:
            return None
        draws = self._draws.setdefault(name, Draws(like))
        draws.reserve(count)
        return draws

    def of_states(self, names: NDArray[np.int64], columns: int) -> tuple[Tensor, NDArray[np.bool_]]:
        """Return answers to states, shape (k, columns), and which of them are known."""
        self._sort()
        if self._of_states is None:
            unknown = torch.empty(len(names), columns, dtype=torch.float64)
            return unknown, np.zeros(len(names), bool)
        place = np.searchsorted(self._names, names)
        place[place == len(self._names)] = 0
        return self._of_states[torch.from_numpy(place)], self._names[place] == names

    def put_states(self, names: NDArray[np.int64], answers: Tensor) -> None:
        """Keep answers to states that are not known yet."""
        self._put.append((names, answers))

    def _sort(self) -> None:
        """Sort what was put since it was last looked for: most often nothing is any more."""
        if self._put:
            every = np.concatenate([self._names, *(names for names, _ in self._put)])
            order = np.argsort(every)
            known = [] if self._of_states is None else [self._of_states]
            answers = torch.cat([*known, *(answers for _, answers in self._put)])
            self._of_states = answers[torch.from_numpy(order)]
            self._names = every[order]
            self._put = []

    @property
    def n_bytes(self) -> int:
        """How much memory they take."""
        self._sort()
        tensors = [draws.answers for draws in self._draws.values()]
        if self._of_states is not None:
            tensors.append(self._of_states)
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return held + self._names.nbytes


def _on_host(samples: Rows) -> slice | NDArray[np.int64]:
    if isinstance(samples, slice):
        return samples
    found: NDArray[np.int64] = samples.cpu().numpy()
    return found
