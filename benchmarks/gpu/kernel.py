"""A candidate for a GPU: random subsets by one kernel, in place of sorting all random numbers.

:func:`quantus_ext.engine.sampling.subsets` writes 64-bit numbers for all elements of all draws to
memory, sorts them and compares. Here a draw is one program: its numbers stay in registers, and the
largest that is chosen is found bit by bit, with a count of smaller ones for each of the 64 bits.
What comes out is the same to the bit. The package does not use it, for it has not been timed on a
GPU; ``python -m benchmarks.gpu`` does that where there is one. By the bytes that the plain way
moves, it should pay for small networks only.

``python -m benchmarks.gpu.kernel`` checks it for 1 to 60,000 elements, subsets and the scores of
metrics that draw them: without a GPU in Triton's interpreter, which takes some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

if not torch.cuda.is_available():
    # Read when a kernel is defined.
    os.environ["TRITON_INTERPRET"] = "1"

import triton
import triton.language as tl
from quantus.functions import perturb_func as quantus_functions
from torch import Tensor, nn

from benchmarks.gpu.boxes import Report
from benchmarks.gpu.device import wait
from benchmarks.speed.results import Entry
from benchmarks.timing import alternate, ratio
from quantus_ext import Infidelity, RFidelity, perturbation
from quantus_ext.engine import sampling
from quantus_ext.engine.sampling import Purpose


@triton.jit
def _shifted(z, bits: tl.constexpr):  # type: ignore[no-untyped-def]
    """Shift right filling with zeros; numbers are signed."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


@triton.jit
def _mixed(z):  # type: ignore[no-untyped-def]
    """Return SplitMix64's output for each state."""
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return z ^ _shifted(z, 31)


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
    keys,
    sizes,
    elements,
    members,
    chosen,
    draws,
    count,
    listed,
    lowest,
    tail,
    purpose: tl.constexpr,
    has_elements: tl.constexpr,
    has_members: tl.constexpr,
    block: tl.constexpr,
):
    """Choose the elements of one draw; a row of ``chosen`` is 0 before."""
    draw = tl.program_id(0).to(tl.int64)
    sample = draw // draws
    place = tl.arange(0, block).to(tl.int64)
    inside = place < listed
    element = place
    if has_elements:
        element = tl.load(elements + sample * listed + place, mask=inside, other=0)
    if has_members:
        inside = tl.load(members + sample * listed + place, mask=inside, other=0) != 0
    stream = _mixed(tl.load(keys + draw) ^ purpose)
    number = _mixed(stream + (element + 1) * -0x61C8864680B583EB)
    number = (number & ~tail) | element
    size = tl.load(sizes + draw)
    # The largest number of which fewer than ``size`` are smaller: the last that is chosen. Bits
    # are of unsigned numbers, whose order that of signed ones is with the first bit turned.
    last = lowest * 0
    for step in range(64):
        bit = tl.full((), 1, tl.int64) << (63 - step)
        higher = last | bit
        smaller = tl.sum((inside & (number < (higher ^ lowest))).to(tl.int64), 0)
        last = tl.where(smaller < size, higher, last)
    taken = inside & (number <= (last ^ lowest)) & (size > 0)
    tl.store(chosen + draw * count + element, taken.to(tl.int8), mask=inside)


def subsets(keys: Tensor, count: int, size: int | Tensor, among: Tensor | None = None) -> Tensor:
    """Return what :func:`quantus_ext.engine.sampling.subsets` does, to the bit."""
    chosen = torch.zeros(*keys.shape, count, dtype=torch.int8, device=keys.device)
    if keys.numel() == 0:
        return chosen.bool()
    as_tensor = torch.as_tensor(size, dtype=torch.int64, device=keys.device)
    sizes = as_tensor.reshape(-1, *as_tensor.shape[1:2]).expand(keys.shape).contiguous()
    lists = among is not None and among.dtype != torch.bool
    rows = chosen if among is None else among.expand(len(keys), -1).contiguous()
    listed = count if among is None else among.shape[-1]
    block = triton.next_power_of_2(listed)
    tail = (1 << max(count - 1, 1).bit_length()) - 1
    _choose[(keys.numel(),)](
        keys.contiguous(),
        sizes,
        rows,
        rows.view(torch.int8) if among is not None and not lists else rows,
        chosen,
        keys.shape[1],
        count,
        listed,
        torch.iinfo(torch.int64).min,
        tail,
        purpose=int(Purpose.SUBSET),
        has_elements=lists,
        has_members=among is not None and not lists,
        block=block,
        num_warps=min(max(block // 1024, 1), 32),
    )
    return chosen.view(torch.bool)


def differing_draws(counts: Iterable[int], device: torch.device) -> Iterator[str]:
    """Yield the draws that are not the plain ones."""
    generator = torch.Generator().manual_seed(0)
    for count, (n, d) in itertools.product(counts, ((1, 1), (3, 2))):
        index = torch.arange(n, device=device)
        keys = sampling.draw_keys(sampling.sample_keys(count, index), 0, d)
        some = max(count // 2, 1)
        listed = torch.stack([torch.randperm(count, generator=generator) for _ in range(n)])
        listed = listed[:, :some].contiguous()
        mask = torch.zeros(n, count, dtype=torch.bool).scatter_(1, listed, True)
        each = torch.randint(some + 1, (n, 1, 1), generator=generator)
        for name, size, among in (
            ("none", 0, None),
            ("one", 1, None),
            ("some", some, None),
            ("all", count, None),
            ("each as many as its own number", each, None),
            ("of a mask", each, mask),
            ("of a list", each, listed),
            ("all of a list", some, listed),
        ):
            given = [
                value.to(device) if isinstance(value, Tensor) else value for value in (size, among)
            ]
            if not torch.equal(subsets(keys, count, *given), sampling.subsets(keys, count, *given)):
                yield f"{name} of {count} elements, {n} × {d} draws"


def _perturbations(shape: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the settings of every native perturbation, for samples of a shape."""
    background = np.random.default_rng(1).normal(size=(4, *shape))
    keywords: dict[str, Any] = {
        "perturb_baseline": "uniform",
        "input_shift": 0.3,
        "background": background,
        "blur_kernel_size": 3,
    }
    functions = [
        *(getattr(quantus_functions, entry.name) for entry in perturbation.TABLE if entry.native),
        perturbation.background_replacement_by_indices,
        perturbation.blur_replacement_by_indices,
        perturbation.gaussian_blur_replacement_by_indices,
    ]
    for function in functions:
        yield function.__name__, {"perturb_func": function, "perturb_func_kwargs": keywords}


def differing_scores(
    shapes: Iterable[tuple[int, ...]], device: torch.device, every: int = 1
) -> Iterator[str]:
    """Yield the metrics and perturbations whose scores are not those of plain draws.

    Of all native perturbations, every so many.
    """
    rng = np.random.default_rng(0)
    for shape in shapes:
        size = int(np.prod(shape))
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 3)).eval().to(device)
        x, y = rng.normal(size=(3, *shape)).astype(np.float32), np.array([0, 2, 1])
        a = rng.normal(size=x.shape)
        common = {"seed": 1, "disable_warnings": True}
        for name, settings in [*_perturbations(shape)][::every]:
            for metric in (
                Infidelity(scheme="subset", n_perturb_samples=4, **common, **settings),
                RFidelity([0.1, 0.5], n_samples=2, output="probability", **common, **settings),
            ):
                plain = metric(model, x, y, a)
                with mock.patch.object(sampling, "subsets", subsets):
                    found = metric(model, x, y, a)
                if found != plain or not np.isfinite(plain).all():
                    yield f"{metric.name} of inputs {shape}, {name}"


def section(report: Report, device: torch.device, quick: bool) -> None:
    """Require the same draws and scores, and time the kernel beside the plain way."""
    counts = (1, 65, 60_000) if quick else (1, 2, 3, 5, 8, 13, 33, 64, 65, 784, 4097, 60_000)
    shapes = ((3,),) if quick else ((1, 7, 5), (2, 11), (13,))
    with report.part("draws"):
        report.require(_entry("draws", differing_draws(counts, device)))
    with report.part("scores"):
        report.require(_entry("scores", differing_scores(shapes, device, every=5 if quick else 1)))
    if device.type != "cuda":
        return
    for count in (784, 50_176, 150_528):
        with report.part(f"time of {count} elements"):
            report.add(_times(count, device))


def _entry(what: str, wrong: Iterable[str]) -> Entry:
    found = [*wrong]
    return Entry(
        f"{what} by the kernel that differ",
        "",
        len(found),
        0,
        at_most=True,
        notes={"which": "; ".join(found[:5])},
        headline=False,
    )


def _times(count: int, device: torch.device) -> Entry:
    """Return how long 50 draws of half of the elements take, over the kernel's time."""
    keys = sampling.draw_keys(sampling.sample_keys(0, torch.arange(16, device=device)), 0, 50)

    def call(choose: Callable[..., Tensor]) -> Callable[[], None]:
        def choosing() -> None:
            choose(keys, count, count // 2)
            wait(device)

        return choosing

    calls = {"plain": call(sampling.subsets), "kernel": call(subsets)}
    for each in calls.values():
        each()
    seconds = alternate(calls, 9)
    return Entry(
        "subsets, plain / kernel",
        f"{count} elements",
        ratio(seconds, "plain", "kernel"),
        seconds=seconds,
        headline=False,
    )


def main() -> int:
    """Check the kernel, on a processor in Triton's interpreter."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kernel", description=main.__doc__)
    made.add_argument("--quick", action="store_true", help="few sizes and shapes")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(sys.stdout)
    section(report, device, made.parse_args().quick)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
