"""Metrics as one would write them after their papers: one image at a time, draw by draw.

What :mod:`quantus_ext` is timed against and checked by; see :mod:`benchmarks.speed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from quantus_ext.functional.fidelity_sizes import removal_counts


class Estimate(NamedTuple):
    """Means over independent draws, and their standard errors."""

    mean: Tensor
    error: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> Estimate:
        """Reduce the last axis."""
        return cls(draws.mean(-1), draws.std(-1) / draws.shape[-1] ** 0.5)


class Fidelities(NamedTuple):
    """Fid⁺ and Fid⁻, each of shape (n, sizes)."""

    plus: Estimate
    minus: Estimate


@torch.inference_mode()
def fidelity(
    model: nn.Module,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    sparsity: Sequence[float],
    alpha: float = 0.5,
    beta: float = 1.0,
    n_draws: int = 50,
    generator: Generator,
) -> Fidelities:
    """Compute R-Fidelity, or with β below 1 the evaluation of F-Fidelity, by removal to 0.

    ``model`` is the one that answers: in F-Fidelity the tuned copy. Inputs are (n, F), (n, C, T)
    or (n, C, H, W); a position, over all channels, is removed at once.
    """
    signs: tuple[list[Tensor], list[Tensor]] = ([], [])
    for image, attribution, label in zip(x, a, y, strict=True):
        channels = image.shape[0] if image.ndim > 1 else 1
        order = attribution.reshape(channels, -1).sum(0).argsort(descending=True)
        clean = _right(model, image[None], label)
        for share in sparsity:
            size, k_plus, k_minus = removal_counts(len(order), share, (alpha, alpha), beta)
            for changes, region, count in zip(
                signs, (order[:size], order[size:]), (k_plus, k_minus), strict=True
            ):
                rows = image.repeat(n_draws, *(1,) * image.ndim)
                for row in rows.reshape(n_draws, channels, -1):
                    chosen = _some(len(region), count, generator)
                    row[:, region[chosen]] = 0
                changes.append(clean - _right(model, rows, label))
    shape = (len(x), len(sparsity), n_draws)
    return Fidelities(*(Estimate.of(torch.stack(changes).reshape(shape)) for changes in signs))


@torch.inference_mode()
def infidelity(
    model: nn.Module,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    side: int = 4,
    n_draws: int = 200,
    generator: Generator,
) -> Estimate:
    """Compute infidelity with a random window of the input, or so many features, at its minimum.

    Inputs are (n, F), (n, C, T) or (n, C, H, W).
    """
    losses = []
    for image, attribution, label in zip(x, a, y, strict=True):
        rows = image.repeat(n_draws, *(1,) * image.ndim)
        for row in rows:
            row[_window(image.shape, side, generator)] = image.min()
        predicted = ((image - rows) * attribution).flatten(1).sum(1)
        changed = model(image[None])[0, label] - model(rows)[:, label]
        losses.append((predicted - changed) ** 2)
    return Estimate.of(torch.stack(losses))


def _right(model: nn.Module, rows: Tensor, label: Tensor) -> Tensor:
    return (model(rows).softmax(1).argmax(1) == label).float()


def _some(of: int, count: int, generator: Generator) -> Tensor:
    """Return so many different numbers below ``of``."""
    return torch.randperm(of, generator=generator, device=generator.device)[:count]


def _window(shape: Sequence[int], side: int, generator: Generator) -> tuple[slice | Tensor, ...]:
    if len(shape) == 1:
        return (_some(shape[0], side, generator),)
    starts = [
        int(torch.randint(length - side + 1, (), generator=generator, device=generator.device))
        for length in shape[1:]
    ]
    return (slice(None), *(slice(start, start + side) for start in starts))
