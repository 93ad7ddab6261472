"""Forms of models × of inputs × of attributions × metrics: the right number or a named refusal.

The model is linear, so that every score follows from the contributions of the elements, in a few
lines of numpy below that know nothing of the package. A cell is right, and then without a warning,
or refused as :data:`REFUSED` says; there is no third thing.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    Fidelity,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    RFidelity,
    SynScore,
)
from quantus_ext.adapters import BlackBox
from quantus_ext.base import TorchMetric
from tests.forms import MODEL_FORMS

pytestmark = pytest.mark.slow

N = 3
Y = np.array([0, 1, 2])
KINDS = {
    "table": (4,),
    "series": (2, 6),
    "grey": (1, 3, 3),
    "colour": (3, 5, 5),
    # Which axis has the channels these shapes don't tell.
    "wide series": (4, 6),
    "narrow images": (5, 6, 2),
}
TOLD = ("table", "series", "grey", "colour")

# The problem: logits that depend on one weighted sum, so that labels turn as elements go.

SLOPE = np.array([0.08, -0.08, 0.02])
Outputs = Callable[[np.ndarray], np.ndarray]
"""Rows (m, values) in, (m, classes) out, all float64."""


def weights(kind: str) -> np.ndarray:
    # Powers of two, which no precision rounds.
    return np.resize([0.5, 1.0, 2.0, 1.0, 0.25], np.prod(KINDS[kind]))


def offset(kind: str) -> np.ndarray:
    # The label turns where a tenth of a sample is gone, or a few tenths.
    middle = 3.3 * float(weights(kind).sum())
    return np.array([0.0, 2 * 0.08 * middle + 0.003, 0.06 * middle + 0.05])


def logits(kind: str) -> Outputs:
    return lambda rows: (rows @ weights(kind))[:, None] * SLOPE + offset(kind)


def softmax_of(outputs: Outputs) -> Outputs:
    def probabilities(rows: np.ndarray) -> np.ndarray:
        exponentials = np.exp(outputs(rows))
        return exponentials / exponentials.sum(1, keepdims=True)

    return probabilities


class Linear(nn.Module):
    """The problem as a module, with something after it."""

    def __init__(self, kind: str, *last: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        layer = nn.Linear(int(np.prod(KINDS[kind])), 3, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(SLOPE[:, None] * weights(kind)))
            layer.bias.copy_(torch.from_numpy(offset(kind)))
        self.layers = nn.Sequential(nn.Flatten(), layer, *last)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


class FunctionalSoftmax(Linear):
    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows).softmax(1)


class Data(NamedTuple):
    """Samples, and the maps that explain them."""

    x: np.ndarray
    a: np.ndarray
    s: np.ndarray


@cache
def data(kind: str, *, tied: bool) -> Data:
    """Return samples and maps of whole numbers, so that every type holds them.

    Where elements are tied all add as much, so that no order of them is better than another.
    """
    shape = (N, *KINDS[kind])
    generator = np.random.default_rng(1)
    x = generator.integers(1, 8, size=shape)
    if tied:
        x = np.broadcast_to((4 / weights(kind)).reshape(KINDS[kind]), shape)
    spatial = shape if len(shape) == 2 else (N, *shape[2:])
    while True:
        a = generator.integers(-9, 100, size=shape).astype(float)
        scores = elements(a).sum(2)
        if all(len(set(each)) == len(each) for each in scores.tolist()):
            break
    s = generator.permuted(np.resize([1, 0, 0], scores.shape), axis=1)
    return Data(x.astype(np.float32), a, s.reshape(spatial).astype(bool))


def elements(a: np.ndarray) -> np.ndarray:
    """Return the values of each element, (n, t, channels)."""
    return a[..., None] if a.ndim == 2 else np.moveaxis(a.reshape(len(a), a.shape[1], -1), 1, 2)


# The right scores, one sample at a time: f, x (t, C), φ (t, C), label, planted (*spatial).


def without(f: Outputs, x: np.ndarray, gone: list[list[int]]) -> np.ndarray:
    rows = np.repeat(x[None], len(gone), 0)
    for row, each in zip(rows, gone, strict=True):
        row[each] = 0
    return f(np.moveaxis(rows, 2, 1).reshape(len(rows), -1))


def ranked(phi: np.ndarray) -> list[int]:
    """Return the elements, the most relevant first."""
    return np.argsort(-phi.sum(1), kind="stable").tolist()


def curve(f: Outputs, x: np.ndarray, y: int, order: list[int]) -> np.ndarray:
    return without(f, x, [order[:k] for k in range(len(order) + 1)])[:, y]


def area(points: np.ndarray) -> float:
    return float((points[1:] + points[:-1]).mean() / 2)


def morf(f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, *_: Any) -> float:
    points = curve(f, x, y, ranked(phi))
    return float(points[0] - points.mean())


def lerf(f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, *_: Any) -> float:
    points = curve(f, x, y, ranked(phi)[::-1])
    return float(points[0] - points.mean())


def abpc(*sample: Any) -> float:
    return morf(*sample) - lerf(*sample)


def deletion(f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, *_: Any) -> float:
    return area(curve(f, x, y, ranked(phi)))


def insertion(f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, *_: Any) -> float:
    # The most relevant are the last to go.
    return area(curve(f, x, y, ranked(phi)[::-1])[::-1])


SIZES = (0.25, 0.5)


def r_fidelity(
    f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, *_: Any, alpha: tuple[float, float]
) -> float:
    order, t = ranked(phi), len(x)
    gaps = []
    for size in SIZES:
        s = int(size * t)
        plus = itertools.combinations(order[:s], int(alpha[0] * s))
        minus = itertools.combinations(order[s:], int(np.ceil(alpha[1] * (t - s))))
        stays = [
            (without(f, x, [list(each) for each in gone]).argmax(1) == y).mean()
            for gone in (plus, minus)
        ]
        gaps.append(stays[1] - stays[0])
    return float(np.mean(gaps))


def windows(spatial: tuple[int, ...]) -> list[list[int]]:
    """Return which elements are perturbed at once: pairs of a table, else windows of side 2."""
    places = np.arange(np.prod(spatial)).reshape(spatial)
    if spatial == KINDS["table"]:
        return [list(pair) for pair in itertools.combinations(places, 2)]
    view = np.lib.stride_tricks.sliding_window_view(places, (2,) * len(spatial))
    return view.reshape(-1, 2 ** len(spatial)).tolist()


def infidelity(f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, planted: np.ndarray) -> float:
    masks = windows(planted.shape)
    predicted = np.array([(phi[mask] * x[mask]).sum() for mask in masks])
    changed = (without(f, x, [[]]) - without(f, x, masks))[:, y]
    return float(((predicted - changed) ** 2).mean())


def gap(score: Callable[..., float], sign: int, f: Outputs, x: Any, phi: Any, *rest: Any) -> float:
    opposite = np.empty_like(phi)
    order = ranked(phi)
    opposite[order] = phi[order[::-1]]
    return sign * (score(f, x, phi, *rest) - score(f, x, opposite, *rest))


def auroc(f: Outputs, x: np.ndarray, phi: np.ndarray, y: int, planted: np.ndarray) -> float:
    scores, planted = phi.sum(1), planted.ravel()
    pairs = scores[planted][:, None] - scores[~planted]
    return float((np.sign(pairs) / 2 + 0.5).mean())


class Measure(NamedTuple):
    make: Callable[..., TorchMetric]
    right: Callable[..., float]


ALPHA = (0.5, 0.1)
STEPS = 25
"""As many as the elements of the largest kind, so that every state is on the curve."""
_windows = partial(Infidelity, perturb_patch_sizes=2, perturb_baseline=0.0)
METRICS: dict[str, Measure] = {
    "Infidelity": Measure(_windows, infidelity),
    "MoRF": Measure(partial(MoRF, STEPS), morf),
    "LeRF": Measure(partial(LeRF, STEPS), lerf),
    "ABPC": Measure(partial(ABPC, STEPS), abpc),
    "Deletion": Measure(partial(Deletion, STEPS), deletion),
    "Insertion": Measure(partial(Insertion, STEPS), insertion),
    "Fidelity": Measure(
        partial(Fidelity, SIZES, score="gap"), partial(r_fidelity, alpha=(1.0, 1.0))
    ),
    "RFidelity": Measure(
        partial(RFidelity, SIZES, score="gap", alpha=ALPHA, n_samples=1024),
        partial(r_fidelity, alpha=ALPHA),
    ),
    "QGE(Infidelity)": Measure(lambda **k: QGE(_windows(**k)), partial(gap, infidelity, -1)),
    "QGE(ABPC)": Measure(lambda **k: QGE(ABPC(STEPS, **k)), partial(gap, abpc, 1)),
    "SynScore": Measure(SynScore, auroc),
}


LABELS = ("Fidelity", "RFidelity")


def right_scores(
    metric: str, f: Outputs, x: np.ndarray, a: np.ndarray, s: np.ndarray
) -> list[float]:
    """Return the scores of samples (n, *shape) with maps of their shape."""
    samples = zip(elements(x), elements(a), Y[: len(x)].tolist(), s, strict=True)
    return [
        METRICS[metric].right(f, columns, phi, y, planted) for columns, phi, y, planted in samples
    ]


# Forms of models: what is called, with which softmax, and what it then answers.


class Asked(NamedTuple):
    model: nn.Module
    softmax: bool
    answers: Outputs
    rounding: float = 1e-5


def _in_form(form: str, kind: str) -> Asked:
    x = torch.from_numpy(data(kind, tied=False).x)
    model = MODEL_FORMS[form](Linear(kind).eval(), x)
    if form == "quantised":
        return Asked(model, False, _row_by_row(model, kind))
    return Asked(model, False, logits(kind))


def _row_by_row(model: nn.Module, kind: str) -> Outputs:
    """Return what a model answers, each row alone."""

    def answers(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            given = torch.from_numpy(rows.astype(np.float32)).reshape(-1, *KINDS[kind])
            return torch.cat([model(row) for row in given.split(1)]).double().numpy()

    return answers


def _ending_in_softmax(form: str, softmax: bool, kind: str) -> Asked:
    x = torch.from_numpy(data(kind, tied=False).x)
    model = MODEL_FORMS[form](Linear(kind, nn.Softmax(1)).eval(), x)
    answers = softmax_of(logits(kind)) if softmax else logits(kind)
    if form == "quantised":
        answers = _row_by_row(model if softmax else nn.Sequential(*model.layers[:2]), kind)
    return Asked(model, softmax, answers)


def _box(kind: str, softmax: bool) -> Asked:
    answers = softmax_of(logits(kind)) if softmax else logits(kind)
    box = BlackBox(lambda rows: answers(rows.reshape(len(rows), -1).astype(float)), classes=3)
    return Asked(box, False, answers)


def _in_precision(dtype: torch.dtype, rounding: float, kind: str) -> Asked:
    return Asked(Linear(kind, dtype=dtype).eval(), False, logits(kind), rounding)


MODELS: dict[str, Callable[[str], Asked]] = {
    **{form: partial(_in_form, form) for form in MODEL_FORMS},
    "double": partial(_in_precision, torch.float64, 1e-12),
    "bfloat16": partial(_in_precision, torch.bfloat16, 3e-2),
    "float16": partial(_in_precision, torch.float16, 4e-3),
    "black box": partial(_box, softmax=False),
    "black box of probabilities": partial(_box, softmax=True),
    "softmax asked for": lambda kind: Asked(Linear(kind).eval(), True, softmax_of(logits(kind))),
    "functional softmax": lambda kind: Asked(
        FunctionalSoftmax(kind).eval(), False, softmax_of(logits(kind))
    ),
    **{
        f"{form}, ends in softmax, {'probabilities' if softmax else 'logits'}": partial(
            _ending_in_softmax, form, softmax
        )
        for form in MODEL_FORMS
        for softmax in (True, False)
    },
}


SLOW = [model for model in MODELS if re.match("compiled|exported", model)]
"""They need a second for each kind, so they have one each."""

# Forms of inputs: an array of integers in, what is passed and how out.


class Passed(NamedTuple):
    x: Any
    keywords: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it
    last: bool = False
    """Whether channels come last, in maps as well."""


def _reversed_in_memory(x: np.ndarray) -> np.ndarray:
    return x[::-1, ..., ::-1].copy()[::-1, ..., ::-1]


def _every_second(x: np.ndarray) -> np.ndarray:
    wide = np.full((2 * len(x), *x.shape[1:]), 99, dtype=x.dtype)
    wide[::2] = x
    return wide[::2]


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _masked(x: np.ndarray) -> np.ndarray:
    return np.ma.masked_equal(x, x.flat[0])


def _with(value: Any, dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    def changed(x: np.ndarray) -> np.ndarray:
        x = x.astype(dtype)
        x[-1, 0] = value
        return x

    return changed


def _frame(x: np.ndarray, dtype: str = "float32") -> pd.DataFrame:
    # An index that is no place.
    columns = [f"column {place}" for place in range(x.shape[1])]
    return pd.DataFrame(x, columns=columns, index=[7, 3, 5][: len(x)]).astype(dtype)


def _last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "single": lambda x: x.astype(np.float32),
    "double": lambda x: x.astype(np.float64),
    "half": lambda x: x.astype(np.float16),
    "long double": lambda x: x.astype(np.longdouble),
    "int64": lambda x: x.astype(np.int64),
    "bytes": lambda x: x.astype(np.uint8),
    "uint64": lambda x: x.astype(np.uint64),
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "objects": lambda x: x.astype(object),
    "list": lambda x: x.tolist(),
    "tuple of arrays": tuple,
    "tensor": lambda x: torch.from_numpy(x.astype(np.float32)),
    "double tensor": lambda x: torch.from_numpy(x).double(),
    "bfloat16 tensor": lambda x: torch.from_numpy(x).bfloat16(),
    "integer tensor": lambda x: torch.from_numpy(x).long(),
    "tensor with gradients": lambda x: torch.from_numpy(x + 0.0).requires_grad_(),
    "list of tensors": lambda x: list(torch.from_numpy(x)),
    "Fortran order": np.asfortranarray,
    "read-only": _read_only,
    "reversed": _reversed_in_memory,
    "every second": _every_second,
    "masked nowhere": lambda x: np.ma.masked_equal(x, 1000),
}
"""What anyone may have numbers in; samples and maps alike."""

FRAMES: dict[str, Callable[[np.ndarray], Any]] = {
    "data frame": _frame,
    "nullable data frame": partial(_frame, dtype="Int64"),
    "data frame of objects": partial(_frame, dtype="object"),
}

NO_NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {
    "text": lambda x: x.astype(str),
    "None": _with(None, object),
    "NaN": _with(np.nan, np.float32),
    "infinity": _with(np.inf, np.float32),
    "masked": _masked,
    "complex": lambda x: x + 1j,
    "sparse tensor": lambda x: torch.from_numpy(x).to_sparse(),
}


def _as(form: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Passed]:
    return lambda x: Passed(form(x))


def _channels_last(form: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Passed]:
    return lambda x: Passed(form(_last(x)), {"channel_first": False}, last=True)


INPUTS: dict[str, Callable[[np.ndarray], Passed]] = {
    **{name: _as(form) for name, form in {**ARRAYS, **FRAMES, **NO_NUMBERS}.items()},
    "one sample": lambda x: Passed(x[:1]),
    "a sample a batch": lambda x: Passed(x, {"batch_size": 1}),
    "no samples": lambda x: Passed(x[:0]),
    "channels first, said": lambda x: Passed(x, {"channel_first": True}),
    "channels last, said": _channels_last(np.ascontiguousarray),
    "channels last, a view, said": _channels_last(lambda x: x),
    "channels last, a tensor, said": _channels_last(torch.from_numpy),
    "channels last, not said": lambda x: Passed(_last(x), last=True),
    "channels last in memory": lambda x: Passed(
        torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
    ),
    "without a channel axis": lambda x: Passed(x[:, 0]),
}


# Forms of attributions: maps (n, *shape) in, what is passed and what it means out.


class Explained(NamedTuple):
    given: np.ndarray
    meant: np.ndarray
    form: Callable[[np.ndarray], Any] = np.asarray


def _itself(a: np.ndarray) -> Explained:
    return Explained(a, a)


def _spread(a: np.ndarray) -> np.ndarray:
    """Return the map that the sums over channels stand for."""
    return np.broadcast_to(a.mean(1, keepdims=True), a.shape)


def _of_numbers(form: str, a: np.ndarray) -> Explained:
    # Some types have no negative numbers.
    a = a + 9 if form in ("bytes", "uint64") else a
    return Explained(a, a, {**ARRAYS, **FRAMES, **NO_NUMBERS}[form])


MAPS: dict[str, Callable[[np.ndarray], Explained]] = {
    **{form: partial(_of_numbers, form) for form in (*ARRAYS, *FRAMES, *NO_NUMBERS)},
    "one channel": lambda a: Explained(a.sum(1, keepdims=True), _spread(a)),
    "no channel axis": lambda a: Explained(a.sum(1), _spread(a)),
    "constant": lambda a: _itself(np.full_like(a, 3)),
    "zeros": lambda a: _itself(np.zeros_like(a)),
    "tiny": lambda a: _itself(a * 1e-46),
    "huge": lambda a: _itself(a * 1e40),
    "far from 0": lambda a: _itself(a * 1e-6 + 1000),
    "axis of classes": lambda a: Explained(np.stack([a, -a, a, a], -1), a),
    "axis of classes, second": lambda a: Explained(np.stack([a, -a], 1), a),
    "a list by class": lambda a: Explained(np.stack([a, -a]), a, list),
    "a sample less": lambda a: Explained(a[:-1], a),
    "an element less": lambda a: Explained(a[..., :-1], a),
    "flat": lambda a: Explained(a.reshape(len(a), a[0].size if len(a) else 0), a),
}
"""Values are float64, but in a form of :data:`ARRAYS` or :data:`FRAMES`."""

TIED = ("constant", "zeros")

# Which combinations there are, and which of them are refused.


class Cell(NamedTuple):
    model: str
    kind: str
    input: str
    attribution: str
    metric: str


REFUSED: dict[tuple[str, str], str] = {
    ("input", "text"): "x_batch must be an array or tensor of numbers",
    ("input", "None"): "x_batch must be an array or tensor of numbers, holds a missing value",
    ("input", "NaN"): "x_batch must be finite, holds NaN or infinity first in sample",
    ("input", "infinity"): "x_batch must be finite, holds NaN or infinity first in sample",
    ("input", "masked"): "x_batch must have no masked values",
    ("input", "complex"): "x_batch must hold real numbers",
    ("input", "sparse tensor"): "x_batch must be dense",
    ("input", "no samples"): "x_batch must hold at least one sample",
    ("input", "channels last, not said"): "x_batch of shape .* channel_first=False for the second",
    ("input", "without a channel axis"): r"x_batch of shape .* axis of one channel, x_batch\[:, N",
    ("kind", "wide series"): "x_batch of shape .* channel_first=False for the second",
    ("kind", "narrow images"): "x_batch of shape .* channel_first=False for the second",
    ("attribution", "text"): "a_batch must be an array or tensor of numbers",
    ("attribution", "None"): "a_batch must be an array or tensor of numbers, holds a missing value",
    ("attribution", "NaN"): "a_batch must be finite, holds NaN or infinity first in sample",
    ("attribution", "infinity"): "a_batch must be finite, holds NaN or infinity first in sample",
    ("attribution", "masked"): "a_batch must have no masked values",
    ("attribution", "complex"): "a_batch must hold real numbers",
    ("attribution", "sparse tensor"): "a_batch must be dense",
    ("attribution", "axis of classes"): "a_batch must have shape .* pick the explained class",
    ("attribution", "axis of classes, second"): "a_batch must have shape .* pick the explained cla",
    ("attribution", "a list by class"): "a_batch must have shape .* pick the explained class",
    ("attribution", "a sample less"): "a_batch must have shape",
    ("attribution", "an element less"): "a_batch must have shape",
    ("attribution", "flat"): "a_batch must have shape",
    **{
        ("model", f"{form}, ends in softmax, logits"): "softmax must be True for a model with a s"
        for form in ("scripted", "scripted part", "traced", "frozen", "exported")
    },
}
"""What a cell is refused for: the first of its forms that is, in the order of :func:`refusal`."""


def refusal(cell: Cell) -> str | None:
    given = {
        "input": cell.input,
        "kind": cell.kind,
        "attribution": cell.attribution,
        "model": cell.model,
    }
    if cell.input.endswith(", said"):
        del given["kind"]
    if cell.metric == "SynScore":
        # It does not ask the model.
        del given["model"]
    found = (REFUSED.get(pair) for pair in given.items())
    return next((message for message in found if message is not None), None)


def exists(cell: Cell) -> bool:
    """Say whether a cell's forms go together."""
    shape = KINDS[cell.kind]
    table, images = len(shape) == 1, len(shape) == 3
    forms = (cell.input, cell.attribution)
    if any(form in FRAMES for form in forms) and not table:
        return False
    if table and any("channel" in form or form == "flat" for form in forms):
        return False
    if cell.input == "channels last in memory" and not images:
        return False
    if cell.input == "without a channel axis" and cell.kind != "grey":
        return False
    if cell.model == "bfloat16" and cell.metric in LABELS:
        return False  # labels that nearly tie turn with its rounding
    # Where the shape is one of images or series, channels first, nobody can tell.
    return cell.input != "channels last, not said" or cell.kind in ("series", "colour")


def cells() -> Iterator[Cell]:
    """Yield every form with every metric, and pairs and triples of forms; kinds take turns."""
    for kind, metric in itertools.product(KINDS, METRICS):
        for given in ("single", "channels first, said", "channels last, said"):
            yield Cell("plain", kind, given, "single", metric)
    turn = itertools.count()
    own_turn = {model: place for place, model in enumerate(SLOW)}

    def in_turn(model: str, given: str, form: str, metric: str) -> Iterator[Cell]:
        start = own_turn.get(model, next(turn) + list(METRICS).index(metric))
        every = (Cell(model, TOLD[(start + k) % 4], given, form, metric) for k in range(4))
        return itertools.islice(filter(exists, every), 1)

    for metric in METRICS:
        for model in MODELS:
            yield from in_turn(model, "single", "single", metric)
        for given in INPUTS:
            yield from in_turn("plain", given, "single", metric)
        for form in MAPS:
            yield from in_turn("plain", "single", form, metric)
    metrics = itertools.cycle(METRICS)
    inputs = [given for given in INPUTS if given not in NO_NUMBERS]
    maps = [form for form in MAPS if form not in NO_NUMBERS]
    pairs = list(itertools.product(inputs, maps))
    for given, form in pairs[::2]:
        yield from in_turn("plain", given, form, next(metrics))
    others = itertools.cycle(pairs[1::2])
    for model in MODELS:
        for given, form in itertools.islice(others, 7):
            yield from in_turn(model, given, form, next(metrics))


# By model, for torch forgets what it compiled when it compiles another.
CELLS = sorted(
    dict.fromkeys(cell for cell in cells() if exists(cell)),
    key=lambda cell: (list(MODELS).index(cell.model), cell.kind),
)


# The cells.


@cache
def asked(model: str, kind: str) -> Asked:
    return MODELS[model](kind)


def call(cell: Cell) -> tuple[list[float], list[float], float]:
    """Return the scores, the right ones, and how far they may differ."""
    problem = data(cell.kind, tied=cell.attribution in TIED)
    passed = INPUTS[cell.input](problem.x)
    n = {"one sample": 1, "no samples": 0}.get(cell.input, N)
    x, a, s = (values[:n] for values in problem)
    explained = MAPS[cell.attribution](a)
    given = explained.given
    if passed.last and given.ndim == x.ndim:
        given = np.moveaxis(given, 1, -1)
    model, softmax, answers, rounding = asked(cell.model, cell.kind)
    # Rows that are quantised together influence each other.
    chunk_size = 1 if "quantised" in cell.model else None
    metric = METRICS[cell.metric].make(chunk_size=chunk_size)
    scores = metric(
        model,
        passed.x,
        Y[:n],
        explained.form(given),
        s,
        softmax=softmax,
        **passed.keywords,
    )
    return scores, right_scores(cell.metric, answers, x.astype(float), explained.meant, s), rounding


@pytest.mark.parametrize("cell", CELLS, ids=" | ".join)
def test_every_cell_is_right_or_refused_by_name(cell):
    expected = refusal(cell)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if expected is not None:
            with pytest.raises((ValueError, TypeError), match=expected):
                call(cell)
            return
        scores, right, rounding = call(cell)
    np.testing.assert_allclose(scores, right, rtol=rounding, atol=rounding)


def test_how_many_cells_are_right_and_how_many_refused():
    outcomes = Counter("right" if refusal(cell) is None else "refused" for cell in CELLS)
    assert outcomes == {"right": 2439, "refused": 572}


def test_every_form_meets_every_metric_and_kind():
    for axis in range(5):
        forms = {cell[axis] for cell in CELLS}
        for form in forms:
            met = [cell for cell in CELLS if cell[axis] == form]
            metrics = {m for m in METRICS if any(exists(cell._replace(metric=m)) for cell in met)}
            kinds = {k for k in TOLD if any(exists(cell._replace(kind=k)) for cell in met)}
            if axis < 4:
                assert {cell.metric for cell in met} == metrics
            if axis != 1 and form not in SLOW:
                assert {cell.kind for cell in met} >= kinds


def test_every_refusal_has_a_cell():
    messages = {refusal(cell) for cell in CELLS}
    assert set(REFUSED.values()) <= messages
