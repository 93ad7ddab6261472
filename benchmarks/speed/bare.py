"""The model alone: what an evaluation can cost at best."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models import Case
from benchmarks.timing import alternate

CHUNKS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Bare(NamedTuple):
    """The forward pass of ``rows`` rows at its best chunk and layout."""

    call: Callable[[], None]
    rows: int
    description: str


def best_bare_forward(case: Case, rows: int) -> Bare:
    """Search all chunk sizes up to the number of rows and both layouts, the best three again."""
    x = torch.from_numpy(np.resize(case.x, (rows, *case.x.shape[1:])))
    calls: dict[str, Callable[[], None]] = {}
    for layout in (torch.contiguous_format, torch.channels_last)[: 2 if x.ndim == 4 else 1]:
        laid_out = torch.empty(x.shape, memory_format=layout).copy_(x)
        try:
            _forward(case.model, laid_out[:16], 16)
        except RuntimeError:
            # A model that views its activations takes the plain layout only.
            continue
        for chunk in CHUNKS:
            if chunk <= rows:
                name = f"{chunk} rows, {str(layout).removeprefix('torch.')}"
                calls[name] = partial(_forward, case.model, laid_out, chunk)
    for finalists in (3, 1):
        search = alternate(calls, 2)
        ranked = sorted(calls, key=lambda name: min(search[name]))
        calls = {name: calls[name] for name in ranked[:finalists]}
    ((best, call),) = calls.items()
    return Bare(call, rows, best)


def _forward(model: nn.Module, x: Tensor, chunk: int) -> None:
    with torch.inference_mode():
        for rows in x.split(chunk):
            model(rows)
