"""The one loop: draws in blocks through sampler, perturbation, model and statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.perturb import Perturbation

Sampler = Callable[[slice, slice, Tensor], Tensor]
"""(samples, draws, keys (b, d)) -> mask (b, d, \\*mask) of the elements that a draw perturbs."""


@dataclass(frozen=True)
class Block:
    """Some draws of some samples, evaluated.

    Attributes
    ----------
    samples : slice
        Which samples, b of them.
    draws : slice
        Which draws, d of them.
    mask : Tensor, bool, shape (b, d, \\*mask)
        Which elements were perturbed.
    perturbed : Tensor, shape (b, d, \\*sample)
        Valid only until the next block: the buffer is reused.
    outputs : Tensor, shape (b, d, classes)
        The model's outputs for ``perturbed``.
    """

    samples: slice
    draws: slice
    mask: Tensor
    perturbed: Tensor
    outputs: Tensor


Statistic = Callable[[Block], Tensor]
"""A block -> float64 sums over its draws, shape (b, k)."""


def sum_draws(
    forward: Forward,
    x: Tensor,
    keys: Tensor,
    *,
    sampler: Sampler,
    perturbation: Perturbation,
    statistic: Statistic,
    start: int,
    stop: int,
) -> Tensor:
    """Evaluate draws ``start`` to ``stop - 1`` of every sample and sum a statistic over them.

    Memory is that of one chunk, whatever the number of draws.

    Parameters
    ----------
    forward : Forward
        Its plan gives the chunk size.
    x : Tensor, shape (n, \\*sample)
    keys : Tensor, int64, shape (n,)
        From :func:`quantus_ext.engine.sampling.sample_keys`.
    sampler, perturbation, statistic
        Which elements, what they become, what is summed.
    start, stop : int
        Range of draws.

    Returns
    -------
    Tensor, float64, shape (n, k)
    """
    apply = perturbation.prepare(x)
    buffer = forward.buffer(x, min(forward.chunk_size, len(x) * (stop - start)))
    # The plan as it is now: when memory runs out on the way, `forward` splits rows by itself.
    blocks = _blocks(len(x), stop - start, forward.chunk_size)
    sums: list[Tensor] = []
    for samples, draw_ranges in blocks:
        total: Tensor | None = None
        for first, last in draw_ranges:
            block_keys = sampling.draw_keys(keys[samples], start + first, start + last)
            draws = slice(start + first, start + last)
            mask = sampler(samples, draws, block_keys)
            b, d = block_keys.shape
            rows = buffer[: b * d]
            perturbed = apply(samples, mask, block_keys, rows.unflatten(0, (b, d)))
            outputs = forward(rows).unflatten(0, (b, d))
            part = statistic(Block(samples, draws, mask, perturbed, outputs))
            total = part if total is None else total + part
        if total is not None:
            sums.append(total)
    return torch.cat(sums)


def _blocks(n: int, n_draws: int, chunk_size: int) -> list[tuple[slice, list[tuple[int, int]]]]:
    """Cut samples × draws into rectangles of at most a chunk, draws first, of near-equal size."""
    draw_ranges = _even_parts(n_draws, chunk_size)
    widest = max(last - first for first, last in draw_ranges)
    samples_a_block = max(chunk_size // widest, 1)
    return [(slice(first, last), draw_ranges) for first, last in _even_parts(n, samples_a_block)]


def _even_parts(total: int, largest: int) -> list[tuple[int, int]]:
    """Cut range(total) into the fewest parts of at most ``largest``, equal to within one."""
    parts = -(-total // largest)
    edges = [total * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


SumRows = Callable[[Tensor | slice, int, int], Tensor]
"""(rows, start, stop) -> sums (rows, k) over those draws of those samples."""


def sum_until_known(
    sum_rows: SumRows,
    n: int,
    *,
    n_draws: int,
    tolerance: float | None,
    variance: Callable[[Tensor, Tensor], Tensor],
    spread: Tensor,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw until the standard error of each sample's score is at most ``tolerance``.

    Drawing stops, sample by sample, only at 8, 16, 32, … draws, whatever the chunks. A few equal
    answers are not certainty: the variance of N draws that decides is that of the draws with
    two imagined ones, ``spread`` apart around their mean, so its weight falls as 1 / N.

    Parameters
    ----------
    sum_rows : callable
        Sums a statistic, see :data:`SumRows`.
    n : int
        Samples.
    n_draws : int
        Draws a sample at most; all of them are made where ``tolerance`` is None.
    tolerance : float, optional
        Target standard error.
    variance : callable
        (sums, counts) -> variance of one draw's score, shape (rows,).
    spread : Tensor, shape (n,)
        How far apart two draws' scores can plausibly be.
    device : torch.device

    Returns
    -------
    sums : Tensor, float64, shape (n, k)
    counts : Tensor, float64, shape (n,)
        Draws made.
    """
    if tolerance is None:
        sums = sum_rows(slice(None), 0, n_draws)
        return sums, torch.full((n,), float(n_draws), dtype=torch.float64, device=device)
    rounds = stopping_rounds(n_draws)
    sums = sum_rows(slice(None), *rounds[0])
    counts = torch.full((n,), float(rounds[0][1]), dtype=torch.float64, device=device)
    for start, stop in rounds[1:]:
        smoothed = (counts * variance(sums, counts) + spread**2 / 2) / (counts + 2)
        # A score that is NaN stays NaN, so it needs no more draws: the comparison is false.
        open_rows = ((counts == start) & (smoothed / counts > tolerance**2)).nonzero().squeeze(1)
        if len(open_rows) == 0:
            break
        sums[open_rows] += sum_rows(open_rows, start, stop)
        counts[open_rows] = float(stop)
    return sums, counts


def stopping_rounds(n_draws: int) -> list[tuple[int, int]]:
    """Return the ranges of draws between which drawing may stop: 8, 16, 32, … ``n_draws``."""
    edges = [0]
    while edges[-1] < n_draws:
        edges.append(min(max(8, 2 * edges[-1]), n_draws))
    return list(pairwise(edges))
