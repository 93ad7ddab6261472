"""What stands beside the model on a GPU, counted without one: operations, and bytes that they move.

Fake tensors know shapes and devices, so nothing is computed. An operation is about a launch of a
kernel; it reads its inputs and writes its output once, which a sort does several times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.speed.results import Entry
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.masked import MaskedModel
from quantus_ext.functional import infidelity
from quantus_ext.functional.infidelity_draws import Scheme

SHAPES = {"photos 3×224×224": ((3, 224, 224), 160), "784 features": ((784,), 16384)}
"""Of a sample, and rows a pass."""


class Counting(TorchDispatchMode):
    """Counts operations and the bytes of their tensors, while it is switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0
        self._on = False

    @contextmanager
    def switched(self, on: bool) -> Iterator[None]:
        """Count, or not."""
        before, self._on = self._on, on
        try:
            yield
        finally:
            self._on = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._on and not func.is_view:
            self.operations += 1
            tensors = (each for each in tree_leaves((args, kwargs, result)))
            self.bytes += sum(_bytes(each) for each in tensors if isinstance(each, Tensor))
        return result


def _bytes(tensor: Tensor) -> int:
    # Of an expanded tensor no more than there is.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def count(shape: tuple[int, ...], rows: int, scheme: Scheme) -> tuple[int, float]:
    """Return the operations of a pass of Infidelity's draws, and the bytes a row, models apart."""
    device = torch.device("cuda")
    with FakeTensorMode(), Counting() as counting:
        with device:
            model = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 10))
        x = torch.empty(1, *shape, device=device)
        forward = Forward.of_module(model.eval(), device, chunk_size=rows)
        drawing, asking = MaskedModel.sum_draws, Forward._checked

        def sum_draws(*given: Any, **named: Any) -> Any:
            with counting.switched(True):
                return drawing(*given, **named)

        def ask(*given: Any) -> Any:
            with counting.switched(False):
                return asking(*given)

        with (
            mock.patch.object(MaskedModel, "sum_draws", sum_draws),
            mock.patch.object(Forward, "_checked", ask),
        ):
            y = torch.zeros(1, dtype=torch.long, device=device)
            infidelity(forward, x, x, y, scheme=scheme, n_draws=rows)
    return counting.operations, counting.bytes / rows


def entries() -> Iterator[Entry]:
    """Count for windows and subsets."""
    schemes: dict[str, Scheme] = {"windows": "patch", "subsets": "subset"}
    for name, (shape, rows) in SHAPES.items():
        for kind, scheme in schemes.items():
            operations, moved = count(shape, rows, scheme)
            yield Entry(
                f"Infidelity, {kind}: MB a row moved beside the model",
                name,
                moved / 1e6,
                notes={"operations a pass": operations, "rows a pass": rows},
            )
