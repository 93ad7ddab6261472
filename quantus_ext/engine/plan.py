"""How rows are sent through a model: rows per pass, memory layout, precision, compilation."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from quantus_ext import checks

Layout = Literal["contiguous", "channels_last"]
Precision = Literal["float32", "bfloat16", "float16", "auto"]

LAYOUTS: dict[Layout, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
PRECISIONS = ("float32", "bfloat16", "float16", "auto")

_MAX_CHUNK = {"cpu": 4096, "cuda": 16384}
_ENOUGH_ROWS = {"cpu": 64, "cuda": 32}
"""Fewer leave units idle, however wide the activations are."""
WORKING_SET = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}
"""Bytes that a chunk's widest activation should fit: on a processor some of its caches, plenty for
a GPU to be busy."""
KEPT_BLOCK = 25 * 2**20
"""Bytes of blocks two of which glibc's allocator keeps when they are freed. Larger ones come from
the system and are cleared anew each time, which can take longer than the layer that fills them."""

_SECONDS = 3.0
"""About as long as a calibration may take, once the plain way and the rule's were measured."""
_ROUNDS = 5
_HOPELESS = 1.25
"""A candidate so many times as slow as the best in a round is not measured again."""


@dataclass(frozen=True)
class Plan:
    """The rows per forward pass and their memory layout.

    It never affects which draws are made. Store ``dataclasses.asdict(plan)`` and pass
    ``Plan(**stored)`` to reuse it.

    Parameters
    ----------
    chunk_size : int
        Largest number of rows per forward pass.
    memory_format : {"contiguous", "channels_last"}
        Memory layout of the rows; images may be in channels-last layout.

    Raises
    ------
    ValueError, TypeError
        If ``chunk_size`` is not a positive integer or ``memory_format`` is unknown.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> from quantus_ext import Infidelity, Plan
    >>> metric = Infidelity(plan=Plan(64, "channels_last"))
    >>> Plan(**asdict(Plan(64))) == Plan(64, "contiguous")
    True
    """

    chunk_size: int
    memory_format: Layout = "contiguous"

    def __post_init__(self) -> None:
        size = checks.positive_integer("chunk_size", self.chunk_size)
        object.__setattr__(self, "chunk_size", size)
        checks.one_of("memory_format", self.memory_format, tuple(LAYOUTS))

    def empty(self, like: Tensor, rows: int) -> Tensor:
        """Return an uninitialised tensor of ``rows`` samples shaped like ``like``'s, laid out."""
        return torch.empty(
            (rows, *like.shape[1:]),
            dtype=like.dtype,
            device=like.device,
            memory_format=LAYOUTS[self.memory_format],
        )

    def laid_out(self, rows: Tensor) -> Tensor:
        """Return a copy of the rows in the plan's layout."""
        return self.empty(rows, len(rows)).copy_(rows)


class ExecutionArguments(TypedDict, total=False):
    """Keyword arguments of :class:`Execution`."""

    chunk_size: int | None
    plan: Plan | Literal["calibrate"] | None
    precision: Precision
    compile: bool


@dataclass(frozen=True)
class Execution:
    """How a metric runs its model; the arguments of :class:`quantus_ext.base.TorchMetric`.

    Parameters
    ----------
    chunk_size : int, optional
        Largest number of rows per forward pass.
    plan : Plan or "calibrate", optional
        A known plan, or a measured one. The default rule depends on the widest activation and
        measures no time, so the same call gives the same bits.
    precision : {"float32", "bfloat16", "float16", "auto"}
        Of the forward passes, by autocast; ``"auto"`` is bfloat16 if the device computes in it.
    compile : bool
        Whether the model is compiled with frozen weights.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid, or both ``chunk_size`` and a plan are given.
    """

    chunk_size: int | None = None
    plan: Plan | Literal["calibrate"] | None = None
    precision: Precision = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.chunk_size is not None:
            size = checks.positive_integer("chunk_size", self.chunk_size)
            object.__setattr__(self, "chunk_size", size)
            if self.plan is not None:
                raise ValueError(
                    f"chunk_size and plan both set the rows per pass: leave one out of "
                    f"chunk_size={self.chunk_size} and plan={self.plan!r}"
                )
        named = isinstance(self.plan, str) and self.plan == "calibrate"
        if not (self.plan is None or named or isinstance(self.plan, Plan)):
            raise TypeError(
                f"plan must be a Plan, 'calibrate' or None, is {checks.shown(self.plan)}"
            )
        checks.one_of("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "compile", checks.flag("compile", self.compile))

    def arguments(self) -> ExecutionArguments:
        """Return the keyword arguments that make it again."""
        return ExecutionArguments(
            chunk_size=self.chunk_size,
            plan=self.plan,
            precision=self.precision,
            compile=self.compile,
        )

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """Return the type that layers compute in, None for that of the model."""
        if self.precision == "auto":
            return torch.bfloat16 if _computes_in_bfloat16(device) else None
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.precision)


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Elsewhere it is emulated, which is slower than single precision.
    # Older versions of torch do not tell.
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16") or known.get("bf16"))


def rule(widest: int, device: torch.device, layout: Layout, chunk_size: int | None) -> Plan:
    """Return the plan for a model whose widest activation takes this many bytes per row."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    least = _ENOUGH_ROWS[kind]
    if kind == "cpu":
        least = max(min(least, KEPT_BLOCK // max(widest, 1)), 1)
    rows = max(WORKING_SET[kind] // max(widest, 1), least)
    return Plan(chunk_size or min(rows, _MAX_CHUNK[kind]), layout)


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc keep freed blocks of up to 32 MiB for the next layer.

    It does so once a block that large was freed; before, it returns them to the system and requests
    them again, layer by layer. Other allocators are not affected.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


def calibrate(
    run: Callable[[Tensor], object], x: Tensor, start: Plan, layouts: Sequence[Layout]
) -> Plan:
    r"""Return the fastest plan among chunks of a quarter to four times that of ``start``.

    Candidates alternate and the shortest time of each counts, so that other load on the machine
    favours none. It takes about three seconds, or two passes in each layout for a slow model.

    Parameters
    ----------
    run : callable
        The forward pass of some rows.
    x : Tensor, shape (n, \*sample)
        Samples, repeated as needed.
    start : Plan
    layouts : sequence of {"contiguous", "channels_last"}
        Those that the model supports.
    """

    def seconds_a_row(plan: Plan) -> float:
        # Written before, so that the first access to memory is not measured.
        rows = plan.laid_out(x[torch.arange(plan.chunk_size, device=x.device) % len(x)])
        _wait(x.device)
        begin = time.perf_counter()
        try:
            run(rows)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return math.inf
        _wait(x.device)
        return (time.perf_counter() - begin) / plan.chunk_size

    begin = time.perf_counter()
    sizes = sorted(
        {max(int(start.chunk_size * 2.0**power), 1) for power in range(-2, 3)},
        # The rule's size first: there may be no time for the others.
        key=lambda size: abs(math.log2(size / start.chunk_size)),
    )
    known: dict[Plan, float] = {}
    for size in sizes:
        for layout in layouts:
            plan = Plan(size, layout)
            if size == start.chunk_size:
                seconds_a_row(plan)
            elif not size * min(known.values()) <= _SECONDS / 8:
                continue
            known[plan] = seconds_a_row(plan)
    for _ in range(_ROUNDS):
        limit = _HOPELESS * min(known.values())
        for plan, least in known.items():
            if time.perf_counter() - begin > _SECONDS:
                break
            if least <= limit:
                known[plan] = min(least, seconds_a_row(plan))
    best = min(known, key=lambda plan: known[plan])
    # If memory never sufficed, the engine halves chunks until it does.
    return best if known[best] < math.inf else start


def autocast_in_force(device: torch.device) -> torch.dtype | None:
    """Return the type in which layers compute under the current autocast."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


_NO_MEMORY = (
    # The processor's allocator: on Windows, and elsewhere.
    "not enough memory",
    "can't allocate memory",
    # What torch's allocator does not know of on a GPU: the driver, and the workspaces of libraries.
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: Exception) -> bool:
    """Whether smaller chunks may help."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(each in said for each in _NO_MEMORY)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
