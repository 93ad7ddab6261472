"""A model as a function of changed samples, evaluated once per distinct row.

It contains no explanation: one set of outputs serves every map that is scored on them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext.engine import sampling
from quantus_ext.engine.answers import OUTPUT, Answers, Asked, answers_of
from quantus_ext.engine.elements import Elements, Rows, inverse
from quantus_ext.engine.forward import Forward, Predict
from quantus_ext.engine.perturb import Perturbation, changeable, differing_bits
from quantus_ext.engine.regions import Region
from quantus_ext.engine.replacements import replace_by
from quantus_ext.engine.resolved import Answered
from quantus_ext.engine.sampling import Purpose
from quantus_ext.engine.spaces import Spaces
from quantus_ext.engine.tables import table
from quantus_ext.identity import content_key

Sampler = Callable[[Rows, slice, Tensor], Tensor]
"""(samples, draws, keys (b, d)) -> mask (b, d, \\*mask) of the elements that a draw perturbs."""


@dataclass(frozen=True)
class Block:
    r"""Some draws of some samples, evaluated.

    Attributes
    ----------
    samples : slice or Tensor of int64
        Which samples, b of them.
    draws : slice
        Which draws, d of them.
    mask : Tensor, bool, shape (b, d, \*mask)
        Which elements were perturbed.
    perturbed : Tensor, shape (b, d, \*sample), or None
        Valid only until the next block: the buffer is reused. None if not requested.
    answers : Tensor, float64, shape (b, d, 2) or (b, d, k, 2)
        See :func:`quantus_ext.engine.answers.answers_of`.
    interpretation : Tensor, shape of ``perturbed``, optional
        Infidelity's ``I``, if the perturbation defines it.
    changes : Tensor, float64, shape (b, d', 4) or (b, d', k, 4), or None
        By how much the outputs of the first d' of these draws are below the clean ones, in each of
        the ``quantus_ext.engine.spaces.SPACES``; None where no maps are compared in them.
    """

    samples: Rows
    draws: slice
    mask: Tensor
    perturbed: Tensor | None
    answers: Tensor
    interpretation: Tensor | None = None
    changes: Tensor | None = None


Statistic = Callable[[Block], Tensor]
"""A block -> float64 sums over its draws, shape (b, \\*numbers)."""


_BLOCK_BYTES = 2**21
"""Perturbed rows that are made at once, where that is more than a chunk: what a block costs
beside the model is shared by them, and they are still in the cache when the model reads them."""


class SampleArguments(TypedDict, total=False):
    """Further arguments about samples.

    Attributes
    ----------
    seed : int, default 0
        With ``index``, determines every draw.
    index : Tensor, int64, shape (n,), optional
        Global sample indices, by default 0, …, n - 1.
    clean : Tensor, shape (n, classes), optional
        The model's outputs for the samples, if known.
    numbers : Tensor, int64, shape (n,), optional
        Sample numbers within a call, for models with per-sample data; see
        :func:`quantus_ext.adapters.samples_of_rows`. By default 0, …, n - 1.
    spaces : Spaces, optional
        How outputs are read, and with which maps they are compared; by default as they are.
    """

    seed: int
    index: Tensor | None
    clean: Tensor | None
    numbers: Tensor | None
    spaces: Spaces | None


def known_of(
    forward: Forward, x: Tensor, samples: SampleArguments
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the keys of samples, their numbers, and the model's outputs for them."""
    order = torch.arange(len(x), device=x.device)
    index, numbers, clean = samples.get("index"), samples.get("numbers"), samples.get("clean")
    keys = sampling.sample_keys(samples.get("seed", 0), order if index is None else index)
    numbers = order if numbers is None else numbers
    return keys, numbers, forward.clean(x, numbers) if clean is None else clean


class MaskedModel:
    r"""A model, samples, and the replacements of their elements, prepared once.

    On a CPU, rows equal to the sample itself (black pixels made black) and states evaluated before
    are not sent through the model: equal rows are assumed to have equal outputs. On a GPU, all are
    sent, because the loop would have to wait to find out.

    Parameters
    ----------
    forward : Forward or callable
        Its plan gives the chunk size.
    x : Tensor, shape (n, \*sample)
    y : Tensor, int64, shape (n,) or (n, k)
        Explained classes; of several, draws are answered for each.
    perturbation : Perturbation, optional
        The replacement of elements, by default 0.
    **samples
        See :class:`SampleArguments`.

    Attributes
    ----------
    keys : Tensor, int64, shape (n,)
        Of the samples, from :func:`quantus_ext.engine.sampling.sample_keys`.
    original : Tensor, float64, shape (n, 2) or (n, k, 2)
        The answers to the samples as they are.
    spaces : Spaces or None
    fixed : Tensor or None
        What elements become when they are chosen, where that is known.
    """

    def __init__(
        self,
        forward: Forward | Predict,
        x: Tensor,
        y: Tensor,
        perturbation: Perturbation | None = None,
        **samples: Unpack[SampleArguments],
    ) -> None:
        self.forward = forward if isinstance(forward, Forward) else Forward(forward)
        # Detached: otherwise autograd would keep the graph for as long as the sums of draws live.
        self.x = x = x.detach()
        self.y = y
        self.perturbation = replace_by(0.0) if perturbation is None else perturbation
        self.keys, self.numbers, clean = known_of(self.forward, x, samples)
        self.spaces = samples.get("spaces")
        self.original = answers_of(clean, y)
        if self.spaces is not None:
            self.original = self._read(self.original, self.spaces.original)
        self._apply, self.fixed, self._interpretation = self.perturbation.prepare(x)
        self._looks = x.device.type == "cpu"
        self._differs = changeable(self.fixed, x) if self._looks else None
        self.forward.settle(x, self.numbers)
        # The plan as it is now: when memory runs out on the way, `forward` splits by itself.
        row_bytes = x[0].numel() * x.element_size()
        chunk = self.forward.chunk_size
        self._at_once = chunk * max(_BLOCK_BYTES // (chunk * row_bytes), 1)
        self._buffer = x[:0]
        shared = self.forward.answers(x, y, self.fixed, self.numbers, spaces=self.spaces)
        self._answers = shared or Answers(keeps_draws=False)

    def name_of(self, *content: object) -> str | None:
        """Return the key of some draws for other calls, besides samples and their keys.

        None if they are not stored: nothing is shared, or values would have to be inspected.
        """
        looked_at = not self._looks and any(isinstance(part, Tensor) for part in content)
        if not self._answers.keeps_draws or looked_at or content[0] is None:
            return None
        return content_key(self.keys, *content)

    def sum_draws(
        self,
        rows: Rows,
        keys: Tensor,
        sampler: Sampler,
        statistic: Statistic,
        start: int,
        stop: int,
        *,
        name: Hashable = None,
        needs_perturbed: bool = False,
        n_compared: int = 1,
    ) -> tuple[Tensor, Tensor]:
        r"""Evaluate draws ``start`` to ``stop - 1`` of some samples and sum a statistic over them.

        Memory is that of one block, a few chunks, for any number of draws.

        Parameters
        ----------
        rows : slice or Tensor of int64
            Which samples, b of them.
        keys : Tensor, int64, shape (n,)
            Of every sample's draws.
        sampler, statistic
            Which elements are chosen, and what is summed.
        start, stop : int
            Range of draws.
        name : hashable, optional
            The key of the draws, besides samples and replacements, under which their outputs are
            stored; by default they are not.
        needs_perturbed : bool, default False
            Whether the statistic uses the perturbed samples.
        n_compared : int, default 1
            Of how many draws, the first ones, blocks have the changes in all spaces.

        Returns
        -------
        sums : Tensor, float64, shape (b, \*numbers)
        asked : Tensor, float64, shape (b,)
            Draws that have to be evaluated.
        """
        known = self._answers.of_draws(name, stop, self.original)
        known_spaces = None
        if self.spaces is None or not self.spaces.compares:
            n_compared = 0
        elif n_compared:
            of_spaces = None if name is None else (name, "spaces")
            known_spaces = self._answers.of_draws(of_spaces, n_compared, self.spaces.original)
        numbers = torch.arange(len(self.x), device=self.x.device)[rows]
        sums, asked = [], []
        for first_row, last_row, draw_ranges in _blocks(len(numbers), stop - start, self._at_once):
            # Slices if possible, which copy nothing.
            part = slice(first_row, last_row)
            samples = part if isinstance(rows, slice) and rows == slice(None) else numbers[part]
            total: Tensor | None = None
            count = torch.zeros(last_row - first_row, dtype=torch.float64, device=self.x.device)
            for first, last in draw_ranges:
                draws = slice(start + first, start + last)
                block_keys = sampling.draw_keys(keys[samples], draws.start, draws.stop)
                mask = sampler(samples, draws, block_keys)
                changed = self._changed(mask, samples)
                answers = None if known is None else known.get(samples, draws)
                # The rest of the previous block goes first.
                made = perturbed = own = None
                compared = slice(draws.start, max(min(draws.stop, n_compared), draws.start))
                spaces = None if known_spaces is None else known_spaces.get(samples, compared)
                if answers is None or needs_perturbed:
                    made = self._perturbed(samples, mask, block_keys)
                    perturbed = made.unflatten(0, tuple(block_keys.shape))
                    own = None if self._interpretation is None else self._interpretation()
                    if answers is None:
                        n_first = compared.stop - compared.start
                        answers, spaces = self._ask(samples, made, changed, n_first)
                        if known is not None:
                            known.put(samples, draws, answers)
                        if known_spaces is not None and spaces is not None:
                            known_spaces.put(samples, compared, spaces)
                changes = None
                if self.spaces is not None and spaces is not None and spaces.shape[1]:
                    changes = self.spaces.changes(samples, spaces)
                values = statistic(Block(samples, draws, mask, perturbed, answers, own, changes))
                total = values if total is None else total + values
                count += block_keys.shape[1] if changed is None else changed.sum(1)
            if total is not None:
                sums.append(total)
                asked.append(count)
        return torch.cat(sums), torch.cat(asked)

    def compares(self, number: int) -> bool:
        """Return whether one map, by its number, is compared with what changes in all spaces."""
        return self.spaces is not None and self.spaces.compares_map(number)

    def compare_block(self, number: int, block: Block) -> None:
        """Compare one map, by its number, with what the draws of a block change."""
        if self.spaces is not None and block.changes is not None:
            mask = block.mask[:, : block.changes.shape[1]]
            self.spaces.compare_masks(number, block.samples, mask, block.changes, self._difference)

    def _difference(self) -> Tensor | None:
        """Return by how much removal lowers the inputs, None where that is not known."""
        return None if self.fixed is None else self.x.double() - self.fixed.double()

    def without(
        self, ranks: Tensor, regions: Sequence[Region], elements: Elements, *, first: int = 0
    ) -> tuple[Tensor, list[Asked]]:
        """Evaluate states of the samples in which a complete region of a ranking is removed.

        Parameters
        ----------
        ranks : Tensor, int64, shape (m, n, T)
            m rankings of each sample's elements.
        regions : sequence of Region
            Removed completely.
        elements : Elements
            What is ranked.
        first : int, default 0
            The number of the first of these maps, among those that are compared in all spaces.

        Returns
        -------
        answers : Tensor, float64, shape (m, n, regions, 2)
        asked : list of Asked
            The states that have to be evaluated for each ranking.
        """
        states = _States(ranks, regions, elements)
        answers, asked = self._by_content(states) if self._looks else self._by_bounds(states)
        if self.spaces is not None and self.spaces.compares:
            self._compare_deepest(states, answers[..., self.original.shape[1] :], first)
        return answers[..., : self.original.shape[1]], asked

    def _compare_deepest(self, states: _States, spaces: Tensor, first: int) -> None:
        """Compare maps with what changes where most of their rankings is removed."""
        assert self.spaces is not None
        m, n, count = states.shape
        deepest = max(range(count), key=lambda place: sum(states.regions[place].removed))
        if not any(states.regions[deepest].removed):
            return
        samples = torch.arange(n, device=self.x.device)
        for number in range(m):
            _, mask = states.mask((number * n + samples) * count + deepest)
            changes = self.spaces.changes(slice(None), spaces[number, :, deepest].unsqueeze(1))
            self.spaces.compare_masks(first + number, slice(None), mask, changes, self._difference)

    def weighted(self, shares: Tensor, elements: Elements) -> tuple[Tensor, Asked]:
        """Evaluate the samples with a share of each element kept and the rest replaced.

        Parameters
        ----------
        shares : Tensor, float64, shape (n, T)
            From 0, replaced, to 1, as it is.
        elements : Elements
            Values outside every element stay.

        Returns
        -------
        answers : Tensor, float64, shape (n, 2)
        asked : Asked
            The rows that have to be evaluated.
        """
        name = self.name_of("weighted", shares, elements.group)
        known = self._answers.of_draws(name, 1, self.original)
        first, found, asked = slice(0, 1), [], []
        for samples in torch.arange(len(self.x), device=self.x.device).split(self._at_once):
            answers = None if known is None else known.get(samples, first)
            own = shares[samples].unsqueeze(1)
            mask = elements.expand(torch.ones_like(own, dtype=torch.bool), samples)
            keys = self.keys[samples].unsqueeze(1)
            original = self.x[samples]
            rows = self._perturbed(samples, mask, keys)
            rows.lerp_(original, elements.expand(own, samples).squeeze(1).to(rows.dtype))
            changed = None
            if self._looks:
                changed = differing_bits(rows, original).flatten(1).any(1, keepdim=True)
            if answers is None:
                answers, _ = self._ask(samples, rows, changed, n_compared=0)
                if known is not None:
                    known.put(samples, first, answers)
            found.append(answers.squeeze(1))
            asked.append(keys.new_ones(len(keys)) if changed is None else changed.squeeze(1))
        count = torch.cat(asked).double()
        return torch.cat(found), Asked({object() if name is None else name: count})

    def _by_content(self, states: _States) -> tuple[Tensor, list[Asked]]:
        """Answer each different row once, known by which of its values change."""
        names, unchanged = states.names(self._codes(states.elements))
        distinct, example, place = np.unique(names, return_index=True, return_inverse=True)
        sample = states.sample(example)
        apart = ~np.isin(distinct, unchanged)
        original = self._with_spaces(self.original)
        answers, known = self._answers.of_states(distinct, original.shape[1])
        answers[~apart] = original[torch.from_numpy(sample[~apart])]
        missing = np.flatnonzero(apart & ~known)
        missing = missing[np.argsort(example[missing])]
        if len(missing):
            found = self._of_states(states, torch.from_numpy(example[missing]))
            answers[torch.from_numpy(missing)] = found
            self._answers.put_states(distinct[missing], found)
        asked = [Asked({}, [(each, unchanged)]) for each in names]
        return answers[torch.from_numpy(place.reshape(names.shape))], asked

    def _by_bounds(self, states: _States) -> tuple[Tensor, list[Asked]]:
        """Answer what is not known without looking at values: the sample with and without all."""
        m, n, count = states.shape
        answers = self._with_spaces(self.original).unsqueeze(1).repeat(m, 1, count, 1)
        first = torch.arange(m * n, device=self.x.device) * count
        unknown = [place for place, each in enumerate(states.regions) if any(each.removed)]
        whole = [place for place in unknown if states.is_whole(place)]
        parts = [place for place in unknown if place not in whole]
        if whole:
            if self._answers.whole is None:
                self._answers.whole = self._of_states(states, first[:n] + whole[0])
            answers[:, :, table(whole, first.device)] = self._answers.whole.unsqueeze(1)
        if parts:
            which = table(parts, first.device)
            found = self._of_states(states, (first[:, None] + which).flatten())
            answers[:, :, which] = found.unflatten(0, (m, n, -1))
        rows = answers.new_full((n,), float(len(parts)))
        alike = torch.full_like(rows, float(bool(whole)))
        return answers, [Asked({object(): rows, "whole": alike}) for _ in range(m)]

    def _of_states(self, states: _States, places: Tensor) -> Tensor:
        """Ask the model about some states, by their numbers, shape (k, columns)."""
        found = []
        for some in places.split(self._at_once):
            samples, mask = states.mask(some)
            perturbed = self._perturbed(samples, mask, self.keys[samples].unsqueeze(1))
            answers, spaces = self._ask(samples, perturbed, None, 1)
            every = answers if spaces is None else torch.cat([answers, spaces], 2)
            found.append(every.squeeze(1))
        return torch.cat(found)

    def _with_spaces(self, answers: Tensor) -> Tensor:
        """Return the answers to the samples as they are, beside those in all spaces."""
        if self.spaces is None:
            return answers
        return torch.cat([answers, self.spaces.original], 1)

    def _codes(self, elements: Elements) -> Tensor:
        """Return a random number of each element, shape (n, T), 0 where removal changes nothing.

        A set of elements is known by the sum of theirs (Zobrist hashing), which wraps around.
        """
        shape = elements.mask_shape
        key = sampling.sample_keys(0, torch.zeros(1, dtype=torch.long))
        numbers: Tensor = sampling.bits(key, prod(shape), Purpose.STATE).expand(len(self.x), -1)
        if self._differs is not None:
            differs = self._differs
            if differs.shape[1:] != shape:
                differs = differs.any(1, keepdim=True)
            numbers = numbers * differs.flatten(1)
        if elements.group is None:
            return numbers
        group = elements.group.expand(len(self.x), -1)
        sums: Tensor = numbers.new_zeros(len(self.x), elements.largest + 1)
        sums.scatter_add_(1, group, numbers)
        return sums[:, :-1]

    def _perturbed(self, samples: Rows, mask: Tensor, keys: Tensor) -> Tensor:
        """Return the samples perturbed by draws (b, d), shape (b · d, \\*sample), in one buffer."""
        count = keys.numel()
        if len(self._buffer) < count:
            self._buffer = self.forward.buffer(self.x, count)
        # Not flattened afterwards: single-channel images would lose their memory layout.
        rows = self._buffer[:count]
        self._apply(samples, mask, keys, rows.unflatten(0, tuple(keys.shape)))
        return rows

    def _changed(self, mask: Tensor, samples: Rows) -> Tensor | None:
        """Return which draws (b, d) change anything, None where all do or that is not known."""
        if self._differs is None:
            return None
        differs = self._differs[samples]
        if differs.ndim > 2 and mask.shape[2] == 1:
            differs = differs.any(1, keepdim=True)
        # The maximum of bytes is many times as fast as `any` of booleans.
        return (mask & differs.unsqueeze(1)).flatten(2).view(torch.int8).amax(2).bool()

    def _ask(
        self, samples: Rows, rows: Tensor, changed: Tensor | None, n_compared: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the answers to perturbed samples (b · d, \\*sample), (b, d, 2) or (b, d, k, 2).

        And what the first of the d draws give in all spaces, (b, n_compared, 4) or with k.
        """
        numbers = self.numbers[samples]
        d = len(rows) // len(numbers)
        numbers = numbers.repeat_interleave(d)
        labels = self.y[samples].repeat_interleave(d, 0)
        answered, which = None, None
        if changed is None or bool(changed.all()):
            answered = self.forward.answered(rows, numbers)
            answers = answers_of(answered.outputs, labels)
        else:
            which = changed.flatten().nonzero().squeeze(1)
            answers = self.original[samples].repeat_interleave(d, 0)
            if len(which):
                answered = self.forward.answered(rows[which], numbers[which])
                answers[which] = answers_of(answered.outputs, labels[which])
        answers = answers.reshape(-1, d, *self.original.shape[1:])
        if self.spaces is None or not (n_compared or self.spaces.column is not None):
            return answers, None
        count = n_compared if self.spaces.column is None else d
        spaces = self._in_spaces(samples, answered, which, d, count)
        return self._read(answers, spaces), spaces[:, :n_compared]

    def _in_spaces(
        self, samples: Rows, answered: Answered | None, which: Tensor | None, d: int, count: int
    ) -> Tensor:
        """Return answers to the first draws of each of some samples in all spaces.

        ``which`` of all d draws of the samples were answered, by default all.
        """
        assert self.spaces is not None
        clean = self.spaces.original[samples]
        shape = len(clean), count, *clean.shape[1:]
        if answered is None or not count:
            return clean.repeat_interleave(count, 0).reshape(shape)
        labels, others = (
            each[samples].repeat_interleave(count, 0) for each in (self.y, self.spaces.others)
        )
        if which is None:
            first = (
                None if part is None else part.unflatten(0, (-1, d))[:, :count].flatten(0, 1)
                for part in answered
            )
            return self.spaces.of(Answered(*first), labels, others).reshape(shape)
        found: Tensor = clean.repeat_interleave(count, 0)
        places = torch.arange(len(clean) * d, device=found.device)
        places = places.reshape(-1, d)[:, :count].flatten()
        order = torch.full((len(clean) * d,), -1)
        order[which] = torch.arange(len(which))
        there = order[places] >= 0
        asked = (None if part is None else part[order[places][there]] for part in answered)
        found[there] = self.spaces.of(Answered(*asked), labels[there], others[there])
        return found.reshape(shape)

    def _read(self, answers: Tensor, spaces: Tensor) -> Tensor:
        """Return answers as scores read them, by what they are in all spaces."""
        assert self.spaces is not None
        if self.spaces.column is not None:
            answers = answers.clone()
            answers[..., OUTPUT] = spaces[..., self.spaces.column]
        return answers


class _States:
    """Samples without regions of rankings, numbered map by map and sample by sample."""

    def __init__(self, ranks: Tensor, regions: Sequence[Region], elements: Elements) -> None:
        self.shape = *ranks.shape[:2], len(regions)
        self.regions = regions
        self.elements = elements
        self._ranks = ranks
        first, past = [r.first for r in regions], [r.past for r in regions]
        self._first, self._past = (table(b, ranks.device).T for b in (first, past))
        # Narrow integers: comparing ranks can cost as much as a small network.
        self._narrow = torch.int16 if elements.largest < 2**15 else torch.int32
        self._short = ranks.flatten(0, 1).to(self._narrow)
        self._from_the_top = not any(map(any, first))

    def is_whole(self, place: int) -> bool:
        """Whether nothing of any sample stays."""
        region = self.regions[place]
        return not any(region.first) and list(region.past) == self.elements.totals()

    def sample(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sample of each state."""
        _, n, count = self.shape
        found: NDArray[np.int64] = numbers // count % n
        return found

    def mask(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples of some states, and what is gone, shape (k, 1, \\*mask)."""
        _, n, count = self.shape
        ranking, region = places // count, places % count
        samples, rank = ranking % n, self._short[ranking]
        lower, upper = (
            bound[samples, region, None].to(self._narrow) for bound in (self._first, self._past)
        )
        chosen = rank < upper
        if not self._from_the_top:
            chosen &= rank >= lower
        return samples, self.elements.expand(chosen.unsqueeze(1), samples)

    def names(self, codes: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what each state is known by, (m, n, regions), and each sample as it is, (n,)."""
        order = inverse(self._ranks.flatten(0, 1)).unflatten(0, self.shape[:2])
        ordered = codes.expand_as(order).gather(2, order)
        ends = F.pad(ordered.cumsum(2), (1, 0))
        first, past = (bound.expand(self.shape) for bound in (self._first, self._past))
        gone = ends.gather(2, past) - ends.gather(2, first)
        keys = sampling.sample_keys(1, torch.arange(len(codes)))
        return (gone + keys[:, None]).numpy(), keys.numpy()


def _blocks(n: int, n_draws: int, most: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Cut samples × draws into rectangles of at most so many rows, draws first, near-equal."""
    draw_ranges = _even_parts(n_draws, most)
    widest = max(last - first for first, last in draw_ranges)
    samples_a_block = max(most // widest, 1)
    return [(first, last, draw_ranges) for first, last in _even_parts(n, samples_a_block)]


def _even_parts(total: int, largest: int) -> list[tuple[int, int]]:
    """Cut range(total) into the fewest parts of at most ``largest``, equal to within one."""
    parts = -(-total // largest)
    edges = [total * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))
