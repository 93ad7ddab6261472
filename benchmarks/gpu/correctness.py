"""Draws, and what calls give, on the device against the processor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.boxes import Report
from benchmarks.gpu.device import tf32
from benchmarks.speed.results import Entry
from quantus_ext.base import TorchMetric
from quantus_ext.engine import sampling
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.sampling import Purpose
from tests import modalities
from tests.cases import CASES
from tests.harness import Inputs, make_inputs

SCORES = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest difference of scores, relative to the largest of them."""
BESIDES = 100
"""So many times as much is allowed of standard errors and details: sums' differences."""
COUNTS = (1, 2, 7, 784, 4097, 60_000)


def section(report: Report, device: torch.device, quick: bool) -> None:
    """Compare all draws, modalities and cases, which a quick run has some of."""
    with tf32(False):
        _compare(report, device, quick)


def _compare(report: Report, device: torch.device, quick: bool) -> None:
    for name, draw in draws().items():
        with report.part(f"draws: {name}"):
            report.require(_same(name, draw, device))
    metrics = [*modalities.METRICS]
    for place, (name, make) in enumerate(modalities.MODALITIES.items()):
        for metric in [metrics[place % len(metrics)]] if quick else metrics:
            with report.part(f"{metric}, {name}"):
                entry = _of_modality(name, make(), metric, device, quick)
                if entry is not None:
                    report.require(entry)
    for name, case in CASES.items():
        for modality in case.modalities[:1] if quick else case.modalities:
            with report.part(f"{name}, {modality}"):
                report.require(_of_case(name, modality, case.metric, device))


def draws() -> dict[str, Callable[[torch.device], Tensor]]:
    """Return what is drawn, by its name; on any device the same."""

    def keys(device: torch.device) -> Tensor:
        index = torch.tensor([0, 3, 1000, 2**40], device=device)
        return sampling.draw_keys(sampling.sample_keys(2**62 - 1, index), 5, 8)

    made: dict[str, Callable[[torch.device], Tensor]] = {"keys": keys}

    def subsets(count: int, kind: str, device: torch.device) -> Tensor:
        drawn = keys(device)
        half = max(count // 2, 1)
        if kind == "one size":
            return sampling.subsets(drawn, count, half)
        if kind == "sizes of draws":
            return sampling.subsets(drawn, count, (drawn % (count + 1)).unsqueeze(2))
        among = torch.arange(count, device=device) % 2 == 0
        if kind == "among some":
            return sampling.subsets(drawn, count, half // 2, among.expand(len(drawn), -1))
        return sampling.subsets(
            drawn, count, half // 2, torch.arange(0, count, 2, device=device).expand(len(drawn), -1)
        )

    for count in COUNTS:
        for kind in ("one size", "sizes of draws", "among some", "among listed"):
            made[f"subsets of {count:,}, {kind}"] = partial(subsets, count, kind)
    for shape in ((9,), (7, 12), (4, 5, 6)):
        for sides in ([3], [1, 2, 4]):
            made[f"windows of {sides} in {shape}"] = lambda device, shape=shape, sides=sides: (
                sampling.windows(keys(device), shape, sides)
            )
    for dtype in (torch.float64, torch.float32):
        made[f"uniform numbers, {dtype}"] = lambda device, dtype=dtype: sampling.uniform(
            keys(device), 1000, Purpose.VALUE, dtype
        )
    made["ranks with ties"] = _ranks
    return made


def _ranks(device: torch.device) -> Tensor:
    a = torch.arange(2 * 300, device=device).reshape(2, 300) % 7
    keys = sampling.sample_keys(1, torch.arange(2, device=device))
    return elements_of(a.double()).ranks(a, keys)


def _same(name: str, draw: Callable[[torch.device], Tensor], device: torch.device) -> Entry:
    expected, found = draw(torch.device("cpu")), draw(device).cpu()
    different = int((expected != found).sum())
    return Entry(
        "numbers drawn otherwise",
        f"{name}",
        different,
        0,
        at_most=True,
        notes={"numbers": expected.numel()},
        headline=False,
    )


class Difference(NamedTuple):
    """The largest ones, each relative to the largest number of its array."""

    scores: float
    besides: float
    where: str

    @classmethod
    def of(cls, expected: TorchMetric, found: TorchMetric) -> Difference:
        """Compare what two calls left on their metrics; NaN must be in the same places."""
        besides = {name: _relative(one, other) for name, one, other in _results(expected, found)}
        where = max(besides, key=lambda name: besides[name])
        scores = _relative(*(np.array(m.evaluation_scores) for m in (expected, found)))
        return cls(scores, besides[where], where)


def _results(
    expected: TorchMetric, found: TorchMetric
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    yield "standard errors", expected.standard_errors, found.standard_errors
    if expected.details.keys() != found.details.keys():
        raise AssertionError(f"details are {[*found.details]}, not {[*expected.details]}")
    for name, values in expected.details.items():
        yield name, values, found.details[name]


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    expected, found = (np.asarray(values, dtype=np.float64) for values in (expected, found))
    if expected.shape != found.shape or not np.array_equal(np.isnan(expected), np.isnan(found)):
        return np.inf
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.where(expected == found, 0.0, expected - found))
    known = difference[~np.isnan(expected)]
    if not known.size:
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    scale = finite.max() if finite.size and finite.max() > 0 else 1.0
    return float(known.max() / scale)


def _entry(what: str, case: str, found: Difference, limit: float, notes: dict[str, float]) -> Entry:
    # One number is judged, the larger one.
    worst = max(found.scores, found.besides / BESIDES)
    return Entry(
        what,
        case,
        worst,
        limit,
        at_most=True,
        notes={"scores": found.scores, f"besides, most in {found.where}": found.besides, **notes},
        headline=False,
    )


def _on(inputs: Inputs, device: torch.device) -> Inputs:
    return replace(inputs, model=copy.deepcopy(inputs.model).to(device))


def _gradients(model: torch.nn.Module, inputs: object, targets: object, **_: object) -> np.ndarray:
    """Explain by the gradient of the explained output, wherever the model is."""
    like = next(model.parameters())
    with torch.enable_grad():
        x = torch.as_tensor(np.array(inputs)).to(like).requires_grad_()
        labels = torch.as_tensor(np.array(targets), device=like.device)
        outputs = model(x).gather(1, labels[:, None])
        return torch.autograd.grad(outputs.sum(), x)[0].cpu().numpy()


def _of_case(
    name: str, modality: str, make: Callable[[], TorchMetric], device: torch.device
) -> Entry:
    differences = {}
    for dtype in SCORES:
        inputs = make_inputs(modality, dtype=dtype)
        metrics = make(), make()
        for metric, place in zip(metrics, (torch.device("cpu"), device), strict=True):
            own = _on(inputs, place)
            if hasattr(metric, "models"):
                metric.models = [
                    copy.deepcopy(model).to(place, dtype).eval() for model in metric.models
                ]
            own.call(metric, explain_func=_gradients)
        differences[dtype] = Difference.of(*metrics)
    double = differences[torch.float64]
    if double.scores > SCORES[torch.float64]:
        raise AssertionError(f"in float64 scores differ by {double.scores:.3g}")
    return _entry(
        name,
        modality,
        differences[torch.float32],
        SCORES[torch.float32],
        {"in float64": double.scores},
    )


def _of_modality(
    name: str, made: modalities.Modality, metric: str, device: torch.device, quick: bool
) -> Entry | None:
    """Compare all ways with one removal, and all removals in one way; None if none runs."""
    weights = next(made.model.parameters(), None)
    if weights is None:
        # The processor answers, whatever the device.
        return None
    there = replace(made, model=copy.deepcopy(made.model).to(device))
    ways, removals = [*modalities.METRICS[metric][1]], [*modalities.removals(made)]
    combined = {(ways[0], removal) for removal in removals} | {(way, "default") for way in ways}
    worst, compared = Difference(0.0, 0.0, "none"), 0
    for way, removal in sorted(combined)[: 1 if quick else None]:
        here, beyond = (modalities.scored(each, metric, way, removal) for each in (made, there))
        if (here is None) != (beyond is None):
            raise AssertionError(f"{way}, {removal}: is refused on one of the two only")
        if here is not None and beyond is not None:
            compared += 1
            found = Difference.of(here, beyond)
            worst = max(worst, found, key=lambda each: max(each.scores, each.besides / BESIDES))
    limit = SCORES[weights.dtype]
    return _entry(metric, name, worst, limit, {"combinations": compared}) if compared else None
