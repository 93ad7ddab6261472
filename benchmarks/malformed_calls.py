"""Calls with one argument that breaks its rule: each must be refused by the argument's name.

The calls are made of the signatures of all metrics, of ``evaluate``, of tuners, adapters and
protocols: every parameter meets every value of a pool that its annotation does not allow, and
every other form of a value that it allows, as a number of NumPy's is one of Python's.

Run ``python -m benchmarks.malformed_calls`` in the repository's root; ``--only NAME`` takes one
callable. It exits with 1 if something is not as it should be.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import quantus_ext
from benchmarks.page import Page, options, parser
from quantus_ext import adapters, evaluate, metrics, protocols
from quantus_ext.evaluation.tables import markdown as table
from quantus_ext.finetune import FineTuner, MaskSampler

REFUSED, WORKS = "refused by name", "other form, same result"
FORM, TAKEN = "other form, refused", "taken, to be refused"
WRONG, NAMELESS = "wrong value", "error that names nothing"
OUTCOMES = (REFUSED, WORKS, FORM, TAKEN, WRONG, NAMELESS)
BAD = (FORM, TAKEN, WRONG, NAMELESS)
NOTE = """Each call has one argument that breaks its rule, or another form of a right one (a number
of NumPy's, a tensor with a gradient, a table). The last four columns should be 0: a form that means
the same and is refused; a value that should be refused and is taken; a result other than that of
the value that is meant; an error that does not name the argument."""

SECONDS = 20
"""After which a call counts as taken."""
GIBIBYTES = 24
"""Of addresses, so that a number which is too large fails here and not elsewhere."""

ARRAYS = frozenset({"array", "labels", "mask"})


class Net(nn.Module):
    """Two layers, for rows of six features."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


class Answers(Net):
    """The same with something else as its answer."""

    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(super().forward(x))


class Reads(nn.Module):
    """A text classifier."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(9, 4)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids).mean(1)[:, :3]


class Writes(nn.Module):
    """A causal language model."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = self.embedding(input_ids) * attention_mask.unsqueeze(2)
        return self.head(seen.cumsum(1).tanh())


def first_of(outputs: Any) -> Tensor:
    """Return the answers of a model that gives them, or that gives them with others."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def gradients(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    x = torch.as_tensor(np.array(inputs)).float().requires_grad_()
    with torch.enable_grad():
        chosen = first_of(model(x)).gather(1, torch.as_tensor(np.array(targets))[:, None])
        return torch.autograd.grad(chosen.sum(), x)[0].numpy()


MODEL = Net()
X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
Y = np.array([0, 2, 1, 0])
A = gradients(MODEL, X, Y)
S = X > 0
TRAIN = np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32)
TRAIN_Y = np.arange(24) % 3


@dataclass(frozen=True)
class Target:
    """Something to call.

    Attributes
    ----------
    name : str
    call : callable
        From keywords to something that can be compared.
    given : dict
        Arguments that it takes.
    kinds : dict of str to frozenset of str
        What each parameter may be.
    """

    name: str
    call: Callable[..., Any]
    given: dict[str, Any]
    kinds: dict[str, frozenset[str]]


@dataclass(frozen=True)
class Call:
    """A call that differs from a right one in a parameter.

    Attributes
    ----------
    parameter : str
        What an error has to name.
    what : str
    arguments : dict
    is_form : bool
        Whether it means the same as what it stands for.
    """

    parameter: str
    what: str
    arguments: dict[str, Any]
    is_form: bool = False


@dataclass(frozen=True)
class Value:
    """A value that is right for some kinds of parameters, and wrong for all others."""

    name: str
    value: Any
    fits: frozenset[str] = frozenset()


def _pool() -> list[Value]:
    def value(name: str, what: Any, *fits: str) -> Value:
        return Value(name, what, frozenset(fits))

    return [
        value("None", None, "none"),
        value("True", True, "flag"),
        value("1", 1, "count", "number", "numbers", "counts"),
        value("0", 0, "zero", "number above -1"),
        value("-1", -1, "negative", "negative count"),
        value("-0.5", -0.5, "negative"),
        value("2.5", 2.5, "number above 1"),
        value("0.5", 0.5, "number", "numbers"),
        value("NaN", float("nan")),
        value("infinity", float("inf")),
        value("10**25", 10**25, "number above 1"),
        value("10**400", 10**400),
        value("1j", 1j),
        value("'no'", "no", "text"),
        value("''", ""),
        value("'3'", "3", "text"),
        value("b'3'", b"3"),
        value("object", object()),
        value("function", lambda *_, **__: None, "function"),
        value("[]", [], "empty"),
        value("{}", {}, "mapping"),
        value("{1: 2}", {1: 2}, "any mapping"),
        value("pairs", [("a", 1)]),
        value("set", {1}),
        value("generator", (each for each in ())),
        value("[NaN]", [float("nan")]),
        value("['a']", ["a"], "texts"),
        value("[None]", [None]),
        value("[True]", [True], "array"),
        value("[1j]", [1j]),
        value("ragged", [[1, 2], [3]]),
        value("complex array", np.array([0.5 + 1j])),
        value("date", np.datetime64("2026-01-01")),
        value("Decimal NaN", Decimal("nan")),
        value("NA", pd.NA),
        value("masked", np.ma.masked),
        value("missing object", np.array(None, dtype=object)),
        value("complex tensor", torch.tensor(0.5 + 1j)),
        value("meta tensor", torch.empty((), device="meta")),
        value("sparse tensor", torch.ones(2).to_sparse()),
    ]


POOL = _pool()


def malformed_arrays(kinds: frozenset[str], a: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Yield arrays that are not what an array ``a`` is."""
    yield "complex", a + 1j
    yield "complex without imaginary part", a.astype(complex)
    yield "masked", np.ma.masked_equal(a, a.flat[0])
    yield "text", a.astype(str)
    yield "dates", a.astype("datetime64[s]")
    yield "with a None", np.array([None, *a.ravel()[1:]], dtype=object).reshape(a.shape)
    yield "one short", a[:-1]
    # One of three would be maps of each class.
    yield "an axis more", np.stack([a] * 5, -1)
    yield "a number", a.flat[0]
    yield "sparse", torch.as_tensor(a).to_sparse()
    yield "on meta", torch.as_tensor(a).to("meta")
    yield "structured", np.array([(1, 2.0)] * len(a), dtype=[("a", int), ("b", float)])
    yield "complex tensor", torch.as_tensor(a).to(torch.complex64)
    yield "tensors of two shapes", [torch.ones(3), torch.ones(4)]
    if "labels" in kinds:
        yield "negative", np.where(np.arange(len(a)) == 1, -1, a)
        yield "wrapping uint64", np.where(np.arange(len(a)) == 1, 2**64 - 1, a.astype("u8"))
        yield "halves", a + 0.5
        yield "NaN", np.where(np.arange(len(a)) == 1, np.nan, a)
        yield "floats too large", np.where(np.arange(len(a)) == 1, 1e30, a)
    elif "mask" in kinds:
        yield "halves", a * 0.5
        yield "NaN", np.where(a, np.nan, 0.0)
    else:
        flat = np.arange(a.size).reshape(a.shape)
        yield "NaN", np.where(flat == 1, np.nan, a)
        yield "infinite", np.where(flat == 1, np.inf, a)


def forms(kinds: frozenset[str], value: Any) -> Iterator[tuple[str, Any]]:
    """Yield other forms of a value; they mean the same."""
    if isinstance(value, bool):
        yield from (("np.bool_", np.bool_(value)), ("0-d truth", np.array(value)))
        yield "0-d tensor of truth", torch.tensor(value)
    elif isinstance(value, int):
        yield from (("np.int64", np.int64(value)), ("np.uint8", np.uint8(value)))
        yield from (("0-d array", np.array(value)), ("0-d tensor", torch.tensor(value)))
    elif isinstance(value, float):
        yield from (("np.float64", np.float64(value)), ("np.float32", np.float32(value)))
        yield from (("0-d array", np.array(value)), ("0-d tensor", torch.tensor(value)))
        yield "Fraction", Fraction(str(value))
        yield "Decimal", Decimal(str(value))
    elif isinstance(value, str):
        yield "np.str_", np.str_(value)
    elif isinstance(value, dict):
        yield from (("OrderedDict", OrderedDict(value)), ("view", MappingProxyType(value)))
    elif isinstance(value, list) and all(isinstance(each, (int, float)) for each in value):
        yield from (("tuple", tuple(value)), ("array", np.array(value)))
        yield "tensor", torch.tensor(value)
    elif value is MODEL:
        yield "a pair of answers", Answers(lambda out: (out, -out))
    elif isinstance(value, np.ndarray) and kinds & ARRAYS:
        tensor = torch.as_tensor(value)
        yield from (("tensor", tensor), ("list", value.tolist()))
        yield from (("list of rows", list(value)), ("list of tensors", list(tensor)))
        yield from (("objects", value.astype(object)), ("Fortran order", np.asfortranarray(value)))
        yield from (("unmasked", np.ma.MaskedArray(value)), ("reversed", value[::-1].copy()[::-1]))
        if value.dtype.kind in "iuf":
            yield "other bytes", value.astype(value.dtype.newbyteorder(">"))
        if value.dtype.kind == "f":
            wanted = tensor.clone().requires_grad_()
            yield from (("tensor with gradient", wanted), ("tensors with gradients", list(wanted)))
        if value.ndim <= 2:
            yield "table", pd.DataFrame(value)
        if "labels" in kinds:
            yield from (("uint64", value.astype("u8")), ("whole floats", value.astype(float)))


def malformed_models() -> Iterator[tuple[str, Any]]:
    """Yield models that no metric can ask."""
    yield "class", Net
    yield "in training", Net().train()
    yield "on meta", Net().to("meta")
    for name, made in {
        "complex": lambda out: out.to(torch.complex64),
        "complex, real part 0": lambda out: out * 1j,
        "array": lambda out: out.numpy(),
        "None": lambda out: None,
        "no classes": lambda out: out[:, :0],
        "no axis of classes": lambda out: out[:, 0],
        "an axis more": lambda out: out[..., None],
        "a row less": lambda out: out[:-1],
        "sparse": lambda out: out.to_sparse(),
    }.items():
        yield f"answers: {name}", Answers(made)


NEGATIVE = {"feature_value", "padding", "perturb_baseline", "inputs_baseline"}
NEGATIVE_COUNTS = {"n_jobs"}
ZERO = {
    *(*NEGATIVE, "seed", "cases", "mask_id", "pad_id", "special_ids", "kept", "fractions"),
    *("steps", "smallest_effect", "tolerance of plain_would_do"),
}
ABOVE_1 = {*NEGATIVE, "tolerance", "lr", "strength"}
TEXT = {"store", "cache_dir", "key", "lengths_argument"}
LABELS = {"y_batch", "y", "index_batch", "custom_batch"}
MASKS = {"s_batch", "among"}
EMPTY = {"special_ids", "kept", "groups", "steps", "samples"}
ONE_NUMBER = {"perturb_baseline", "inputs_baseline"}
"""Names of parameters whose rules are wider than others of their annotation."""

KINDS = {
    "None": ("none",),
    "bool": ("flag",),
    "int": ("count",),
    "float": ("count", "number"),
    "np.ndarray": ("array",),
    "Tensor": ("array",),
    "ArrayLike": ("array",),
    "Array": ("array",),
    "Maps": ("array",),
    "nn.Module": ("module",),
    "Reduce": ("function",),
    "Predict": ("function",),
    "FeatureMask": ("function",),
}
"""What the parts of an annotation allow; a choice of words allows none of the pool."""


def kinds_of(name: str, annotation: str) -> frozenset[str]:
    """Return what a parameter may be, as its annotation and its name say."""
    found: set[str] = set()
    for part in re.split(r" \| (?![^\[]*\])", annotation):
        found.update(KINDS.get(part, ()))
        for begins, kind in (
            ("Callable", "function"),
            ("Mapping", "mapping"),
            ("dict", "mapping"),
            ("Sequence[float]", "numbers"),
            ("Sequence[int]", "numbers"),
        ):
            if part.startswith(begins):
                found.add(kind)
    if "array" in found and name not in ONE_NUMBER:
        found -= {"count", "number"}
    for kind, names in (
        ("labels", LABELS),
        ("mask", MASKS),
        ("empty", EMPTY),
        ("negative", NEGATIVE),
        ("negative count", NEGATIVE_COUNTS),
        ("zero", ZERO),
        ("number above 1", ABOVE_1),
        ("text", TEXT),
    ):
        if name in names:
            found.add(kind)
    return frozenset(found)


def parameters_of(function: Callable[..., Any]) -> dict[str, frozenset[str]]:
    """Return what each parameter may be, those of keywords that are passed on included."""
    found = {}
    for name, annotation in function.__annotations__.items():
        if name == "return":
            continue
        if annotation.startswith("Unpack["):
            passed = getattr(sys.modules[function.__module__], annotation[7:-1])
            for own, reference in passed.__annotations__.items():
                found[own] = kinds_of(own, reference.__forward_arg__)
        else:
            found[name] = kinds_of(name, annotation)
    return found


TUNER = FineTuner(TRAIN, TRAIN_Y, epochs=1, display_progressbar=False)
OWN: dict[str, dict[str, Any]] = {
    "Infidelity": {"perturb_patch_sizes": [2], "n_perturb_samples": 5, "perturb_baseline": 0.25},
    "PScore": {"models": [Net(1), Net(2)]},
    "QGE": {"metric": quantus_ext.Deletion(3)},
    "ROAR": {"trainer": TUNER, "a_train": gradients(MODEL, TRAIN, TRAIN_Y), "sparsity": [0.5]},
    "FFidelity": {"fine_tune": Net(1), "sparsity": [0.5], "n_samples": 3, "alpha": 0.5},
    "RFidelity": {"sparsity": [0.25, 0.5], "n_samples": 3},
    "Fidelity": {"sparsity": [0.25, 0.5]},
}
"""Arguments without which a metric cannot be, or would take long."""

OTHERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Infidelity": [
        ("scheme='subset'", {"scheme": "subset", "subset_fraction": 0.5, "n_perturb_samples": 5}),
        ("tolerance", {"tolerance": 0.5, "n_perturb_samples": 9, "chunk_size": 7}),
    ],
    "RFidelity": [("alpha", {"alpha": [0.5, 0.75], "tolerance": 0.5, "sparsity": [0.5]})],
    "Deletion": [("element='patch'", {"element": "patch", "patch_size": 2, "features_in_step": 1})],
    "QGE": [
        ("random", {"metric": quantus_ext.Deletion(3), "reference": "random", "n_references": 2})
    ],
}
"""Further arguments, whose other forms are compared."""


def metric_targets() -> Iterator[Target]:
    for name in metrics.__all__:
        cls = getattr(metrics, name)
        of_class = {}
        for base in reversed(cls.__mro__):
            if "__init__" in vars(base) and issubclass(base, quantus_ext.base.TorchMetric):
                of_class = {**of_class, **parameters_of(base.__init__)}
        own = set(of_class)
        call: dict[str, Any] = {"model": MODEL, "x_batch": X, "y_batch": Y, "a_batch": A}
        call |= {"explain_func": gradients, "index_batch": np.arange(3, 7), "s_batch": S}
        call |= {"batch_size": 3, "softmax": False, "channel_first": True}
        of_call = parameters_of(cls.__call__)

        def scored(cls: Any = cls, own: Any = own, **keywords: Any) -> Any:
            made = cls(**{n: v for n, v in keywords.items() if n in own})
            return made(**{n: v for n, v in keywords.items() if n not in own})

        given = {**OWN.get(name, {}), **call}
        yield Target(name, scored, given, {**of_class, **of_call})
        for more, arguments in OTHERS.get(name, []):
            yield Target(
                f"{name}, {more}",
                scored,
                {**call, **arguments},
                {n: k for n, k in of_class.items() if n in arguments},
            )


def _evaluated(**keywords: Any) -> Any:
    found = evaluate(**keywords)
    if isinstance(found, quantus_ext.Evaluation):
        if found.failures:
            # A warning has said so.
            raise ValueError(f"a cell failed: {found.failures[0].error}")
        return found.scores, found.metrics, found.explainers
    return str(type(found))


def _tuned(**keywords: Any) -> Any:
    tuner = FineTuner(**keywords)
    return tuner.settings.seed, tuner(MODEL, lambda x, draw, index: x)(torch.as_tensor(X))


def _black_box(**keywords: Any) -> Any:
    return adapters.BlackBox(**keywords)(torch.as_tensor(X))


def _refitted(x: Any, y: Any, **keywords: Any) -> Any:
    class Counts:
        def fit(self, x: Any, y: Any) -> None:
            self.fitted = np.array([x.sum(), y.sum(), len(y)])

        def predict_proba(self, x: Any) -> Any:
            return np.tile(self.fitted, (len(x), 1))

    chosen = {"make_estimator": Counts, **keywords}
    return adapters.refit(x=x, y=y, **chosen)(MODEL, lambda x, *_: x)(torch.as_tensor(X))


def _adapted(adapter: Any, x: Any) -> Callable[..., Any]:
    def call(**keywords: Any) -> Any:
        model = adapter(**keywords)
        # As metrics do, which check what they get.
        return quantus_ext.Deletion(2)(model, x, np.zeros(len(x), int), np.abs(x), softmax=False)

    return call


class Linked(nn.Module):
    """A model of graphs that counts their edges, and those of each node."""

    def __init__(self, of_nodes: bool = False) -> None:
        super().__init__()
        self.of_nodes = of_nodes
        self.eval()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        ends = edge_index[0] if self.of_nodes else batch[edge_index[0]]
        count = len(x) if self.of_nodes else batch_size
        edges = torch.bincount(ends, minlength=count).float()
        return torch.stack([edges, -edges], 1)


def _graph_targets(target: Callable[..., Target]) -> Iterator[Target]:
    if importlib.util.find_spec("torch_geometric") is None:
        return
    from torch_geometric.data import Data

    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graphs = [Data(x=torch.ones(3, 2), edge_index=path) for _ in range(2)]

    def graph_scores(**keywords: Any) -> Any:
        model = adapters.Graphs(**keywords)
        x = model.rows()
        return quantus_ext.Deletion(2)(model, x, [0] * len(x), np.abs(x), softmax=False)

    yield target(
        "Graphs",
        adapters.Graphs,
        {
            "model": Linked(of_nodes=True),
            "graphs": graphs,
            "element": "edge",
            "nodes": [1, 2],
            "hops": 1,
            "undirected": True,
            "feature_value": 0.5,
        },
        graph_scores,
    )
    made = adapters.Graphs(Linked(), graphs)
    yield target("Graphs.rows", adapters.Graphs.rows, {"samples": [1, 0]}, made.rows)
    yield target(
        "Graphs.maps",
        adapters.Graphs.maps,
        {"explanations": [np.arange(4.0), np.ones(4)], "samples": [1, 0]},
        made.maps,
    )


def _prompt_targets(target: Callable[..., Target]) -> Iterator[Target]:
    prompts, said = [[3, 4, 5], [6, 7, 3]], [[8], [4]]

    def prompt_scores(**keywords: Any) -> Any:
        model = adapters.Generation(**keywords)
        x = model.encode(prompts, said)
        return quantus_ext.Deletion(2)(model, x, [0, 0], np.abs(x), softmax=False)

    yield target(
        "Generation",
        adapters.Generation,
        {"model": Writes(), "pad_id": 0, "mask_id": 1, "special_ids": [2], "removal": "mask"},
        prompt_scores,
    )
    plain = adapters.Generation(Writes(), pad_id=0)
    yield target(
        "Generation.encode",
        adapters.Generation.encode,
        {"prompts": prompts, "continuations": said},
        plain.encode,
    )


def other_targets() -> Iterator[Target]:
    def target(name: str, function: Any, given: dict[str, Any], call: Any = None) -> Target:
        signed = function.__init__ if isinstance(function, type) else function
        return Target(name, call or function, given, parameters_of(signed))

    data: dict[str, Any] = {"model": MODEL, "x_batch": X, "y_batch": Y}
    # The overloads name only what decides.
    yield target(
        "evaluate",
        evaluate,
        {
            **data,
            "metrics": {"m": quantus_ext.Deletion(2)},
            "xai_methods": {"a": A, "g": gradients},
            "s_batch": S,
            "multiply_by_inputs": {"a": True},
            "call_kwargs": {"c": {"softmax": True}},
            "explain_func_kwargs": {"unused": 1},
            "batch_size": 2,
            "shard_size": 4,
            "n_jobs": 1,
            "threads": 1,
            "cases": 2,
            "verbose": False,
            "confidence": 0.5,
        },
        _evaluated,
    )
    tuner = {"x": TRAIN, "y": TRAIN_Y, "epochs": 1, "batch_size": 8, "patience": 2, "lr": 0.01}
    tuner |= {"validation_fraction": 0.25, "display_progressbar": False}
    yield target("FineTuner", FineTuner, tuner, _tuned)
    yield target(
        "FineTuner.fine_tune",
        FineTuner.fine_tune,
        {"model": MODEL, "beta": 0.5, "element": "patch", "patch_size": 2},
        lambda **keywords: first_of(TUNER.fine_tune(**keywords)(torch.as_tensor(X))),
    )
    yield target(
        "MaskSampler",
        MaskSampler,
        {"perturbation": quantus_ext.engine.replacements.replace_by(0.0), "beta": 0.5, "seed": 3},
        lambda **keywords: MaskSampler(**keywords)(torch.as_tensor(X)),
    )
    yield target(
        "Plan", quantus_ext.Plan, {"chunk_size": 3}, lambda **k: str(quantus_ext.Plan(**k))
    )
    yield target(
        "BlackBox",
        adapters.BlackBox,
        {"predict": lambda rows: rows[:, :2], "classes": 2, "max_rows_per_call": 3},
        _black_box,
    )
    yield target(
        "refit", adapters.refit, {"x": TRAIN, "y": TRAIN_Y, "copies": 2, "classes": 3}, _refitted
    )
    yield target(
        "Columns",
        adapters.Columns,
        {"model": MODEL, "groups": [[0, 1]], "n_columns": 6, "kept": [2]},
        _adapted(adapters.Columns, X),
    )
    yield target(
        "Columns.baseline",
        adapters.Columns.baseline,
        {"background": TRAIN},
        lambda **keywords: adapters.Columns(MODEL, [[0, 1]], n_columns=6).baseline(**keywords),
    )
    one = Answers(lambda out: out[:, 0])
    for adapter in (adapters.BinaryLogit, adapters.Regression):
        yield Target(
            adapter.__name__, _adapted(adapter, X), {"model": one}, {"model": frozenset({"module"})}
        )
    yield target(
        "MultiOutput",
        adapters.MultiOutput,
        {"model": Answers(lambda out: out[:, :2].unflatten(1, (1, 2))), "shape": [1, 2]},
        _adapted(adapters.MultiOutput, X),
    )
    yield Target(
        "Targets",
        _adapted(adapters.Targets, X),
        {
            # What it answers is the affair of its score.
            "model": nn.Linear(6, 3).eval(),
            "score": lambda outputs, places: outputs[:, places].sigmoid(),
            "probabilities": True,
            "places": np.array([1, 0]),
        },
        {
            "model": frozenset({"module"}),
            "score": frozenset({"function"}),
            "probabilities": frozenset({"flag"}),
        },
    )
    yield target(
        "MultiOutput.target",
        adapters.MultiOutput.target,
        {"labels": np.array([[0, 1], [0, 0]])},
        lambda **keywords: adapters.MultiOutput(MODEL, (1, 3)).target(**keywords),
    )
    series = X[:, None]
    yield target(
        "Series",
        adapters.Series,
        {
            "model": MODEL,
            "time_first": False,
            "padding": -7.5,
        },
        _adapted(adapters.Series, series),
    )
    yield target(
        "TokenIds",
        adapters.TokenIds,
        {"model": Reads(), "mask_id": 1, "pad_id": 0, "special_ids": [2], "removal": "mask"},
        _adapted(adapters.TokenIds, np.array([[3, 4, 5, 2], [6, 7, 3, 0]])),
    )
    yield from _graph_targets(target)
    yield from _prompt_targets(target)
    yield target(
        "degrade",
        protocols.degrade,
        {
            "a_batch": A,
            "fractions": [0.25, 0.5],
            "seed": 3,
            "index_batch": np.arange(4),
            "among": np.arange(6) < np.full((4, 1), 5),
        },
    )
    yield target(
        "explanation_size",
        protocols.explanation_size,
        {
            **data,
            "a_batch": A,
            "fine_tune": MODEL,
            "alphas": [0.5, 0.75],
            "betas": [0.25],
            "sparsity": [0.2, 0.5, 0.8],
            "n_samples": 2,
            "seed": 3,
            "perturb_baseline": 0.25,
        },
    )
    yield target(
        "mask_robustness",
        protocols.mask_robustness,
        {**data, "fractions": [0.0, 0.5], "tuned": Net(1), "n_draws": 2, "seed": 3},
    )
    table = {"MoRF": [[0.1, 0.2, 0.3], [0.5, 0.7, 0.6]], "LeRF": [[0.6, 0.4, 0.5], [0.9, 0.8, 0.7]]}
    yield target(
        "metric_agreement",
        protocols.metric_agreement,
        {"scores": table, "directions": {"LeRF": "lower"}, "nan_policy": "raise"},
    )
    yield target(
        "overall_score",
        protocols.overall_score,
        {"scores": dict.fromkeys(protocols.M4_METRICS, table["MoRF"])},
    )
    overall = np.array(table["MoRF"])
    yield target(
        "best_method",
        protocols.best_method,
        {"overall": overall, "explainers": ["a", "b", "c"]},
    )
    yield target("method_sensitivity", protocols.method_sensitivity, {"overall": overall})
    yield target(
        "order_preservation",
        protocols.order_preservation,
        {"q": np.arange(8.0), "transformed": np.arange(8.0) ** 2 % 5, "n_strata": 2},
    )
    yield target(
        "rank_agreement",
        protocols.rank_agreement,
        {
            "metrics": {"right": ([[0.9, 0.8], [0.5, 0.6]], [[0.1, 0.1], [0.2, 0.2]])},
            "truth": np.array([0.25, 0.5]),
            "sparsity": [0.25, 0.5],
        },
    )
    yield target(
        "plant_shortcut",
        protocols.plant_shortcut,
        {
            "model": MODEL,
            "x": TRAIN,
            "y": TRAIN_Y,
            "kind": "pattern",
            "size": 4,
            "strength": 1.5,
            "epochs": 1,
            "lr": 0.25,
            "batch_size": 8,
            "holdout": 0.25,
        },
    )
    scores = {"a": {"m": [0.5, 0.25]}, "b": {"m": [0.75, 0.5]}}
    yield target(
        "Evaluation.of_scores",
        quantus_ext.Evaluation.of_scores,
        {"scores": scores, "directions": {"m": "lower"}, "confidence": 0.5},
        lambda **keywords: quantus_ext.Evaluation.of_scores(**keywords).scores,
    )
    evaluation = evaluate({"m": quantus_ext.Deletion(2)}, {"a": A, "b": -A}, MODEL, X, Y)
    for method in ("ranking", "compare", "drift"):
        chosen = {"compare": {"a": "a", "b": "b"}, "drift": {"baseline": evaluation}}.get(
            method, {}
        )
        numbers = {"drift": {"alpha": 0.5, "smallest_effect": 0.25}}
        chosen |= numbers.get(method, {"n_resamples": 20, "seed": 3})
        yield target(
            f"Evaluation.{method}",
            getattr(quantus_ext.Evaluation, method),
            chosen,
            getattr(evaluation, method),
        )


RIGHT = {
    ("BlackBox", "reference"): {"None"},
    ("degrade", "a_batch"): {"an axis more"},
    ("degrade", "among"): {"True", "1", "0", "a number"},
    ("refit", "x"): {"an axis more"},
    ("Columns.baseline", "background"): {"one short"},
    ("BinaryLogit", "model"): {"answers: no axis of classes"},
    ("Regression", "model"): {"answers: no axis of classes"},
    ("MultiOutput.target", "labels"): {"one short"},
    ("Generation", "tokenizer"): {"None"},
    ("Generation", "output"): {"0", "-1"},
    ("Generation.encode", "prompts"): {"ragged"},
    ("Generation.encode", "continuations"): {"ragged"},
    ("best_method", "overall"): {"one short", "NaN"},
    ("method_sensitivity", "overall"): {"one short", "NaN"},
}
"""What is malformed elsewhere and right here."""

UNUSED = {"an axis more", "halves"}
"""Segmentations that only metrics which use them can refuse."""

TOGETHER = {"one short", "an axis more"}
"""What fits no other argument: an error may name that one."""


COUNTED = {"prompts"}
"""Sequences of anything, which another argument has an entry for each of."""


def calls_of(target: Target) -> Iterator[Call]:
    """Yield the calls of a target."""
    asks = target.name != "SynScore"
    for name, kinds in target.kinds.items():
        given = target.given.get(name)
        values: list[tuple[str, Any]] = [
            (each.name, each.value) for each in POOL if not each.fits & kinds
        ]
        if "array" in kinds and isinstance(given, np.ndarray):
            values += malformed_arrays(kinds, given)
        if "module" in kinds and isinstance(given, Net):
            values += (each for each in malformed_models() if asks or "answers" not in each[0])
        right = RIGHT.get((target.name, name), set())
        if name == "s_batch" and asks:
            right = UNUSED
        for what, value in values:
            if what not in right:
                yield Call(name, what, {name: value})
        for what, value in forms(kinds, given):
            yield Call(name, what, {name: value}, is_form=True)
    for name, what, arguments in EXTRA.get(target.name, ()):
        yield Call(name, what, arguments)


METRIC = quantus_ext.Deletion(2)
EXTRA: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "evaluate": [
        ("metrics", "class", {"metrics": {"m": quantus_ext.Deletion}}),
        ("metrics", "None in it", {"metrics": {"m": None}}),
        ("metrics", "one name twice", {"metrics": {1: METRIC, "1": METRIC}}),
        ("metrics", "one name in a list", {"metrics": [METRIC, METRIC]}),
        (
            "metrics",
            "a column of the same name",
            {
                "metrics": {"A": METRIC, "A (x)": METRIC},
                "call_kwargs": {"x": {}, "x) (x": {}},
            },
        ),
        ("xai_methods", "None in it", {"xai_methods": {"a": None}}),
        ("xai_methods", "number in it", {"xai_methods": {"a": 3}}),
        ("xai_methods", "too few maps", {"xai_methods": {"a": A[:2]}}),
        ("xai_methods", "complex maps", {"xai_methods": {"a": A + 1j}}),
        ("xai_methods", "one name twice", {"xai_methods": {1: A, "1": A}}),
        ("xai_methods", "no function", {"xai_methods": {"a": {"explain_func": 3}}}),
        (
            "xai_methods",
            "unknown key",
            {"xai_methods": {"a": {"explain_func": gradients, "method": 3}}},
        ),
        (
            "xai_methods",
            "keywords that are none",
            {"xai_methods": {"a": {"explain_func": gradients, "explain_func_kwargs": 3}}},
        ),
        ("multiply_by_inputs", "number in it", {"multiply_by_inputs": {"a": 1}}),
        ("multiply_by_inputs", "unknown name", {"multiply_by_inputs": {"z": True}}),
        ("call_kwargs", "number in it", {"call_kwargs": {"c": 3}}),
        ("call_kwargs", "what evaluate gives", {"call_kwargs": {"c": {"model": MODEL}}}),
        ("softmax", "'no' in call_kwargs", {"call_kwargs": {"c": {"softmax": "no"}}}),
        ("device", "unknown", {"device": "nowhere"}),
        ("devices", "one twice", {"devices": ["cpu", "cpu"]}),
        ("devices", "text", {"devices": "cpu"}),
        ("threads", "absurd", {"threads": 10**6}),
        ("n_jobs", "absurd", {"n_jobs": 10**6}),
        ("shard_size", "no multiple", {"shard_size": 3}),
    ],
    "Infidelity": [
        ("subset_fraction", "other scheme", {"subset_fraction": 0.5}),
        ("perturb_patch_sizes", "subset", {"scheme": "subset"}),
        ("perturb_patch_sizes", "all", {"scheme": "all"}),
        ("tolerance", "quantus", {"scheme": "quantus", "tolerance": 0.5}),
        ("index_batch", "beside custom_batch", {"custom_batch": np.arange(4)}),
        ("chunk_size", "beside plan", {"chunk_size": 3, "plan": quantus_ext.Plan(3)}),
        ("loss_func", "other scheme", {"loss_func": abs}),
    ],
    "Deletion": [
        ("steps", "absurd", {"steps": 10**25}),
        ("steps", "beside features_in_step", {"steps": 20, "features_in_step": 2}),
        ("patch_size", "other element", {"patch_size": 2, "element": "position"}),
        ("perturb_func", "beside baseline", {"baseline": "mean", "perturb_func": abs}),
        ("return_auc_per_sample", "False", {"return_auc_per_sample": False}),
    ],
    "PScore": [
        ("models", "None in it", {"models": [None]}),
        ("models", "class in it", {"models": [Net]}),
        ("models", "in training", {"models": [Net(1).train()]}),
        ("models", "on meta", {"models": [Net(1).to("meta")]}),
        ("models", "a module", {"models": nn.ModuleDict({"a": Net(1)})}),
    ],
    "QGE": [
        ("metric", "class", {"metric": quantus_ext.Deletion}),
        ("n_references", "of the inverse", {"n_references": 2}),
        ("reduce", "unused", {"reduce": np.max}),
    ],
    "Targets": [
        ("places", "text", {"places": ["a"]}),
        ("places", "object", {"places": object()}),
        ("places", "a number", {"places": 3}),
        ("targets", "none", {"places": np.zeros(0, dtype=int)}),
        ("targets", "of two lengths", {"more": np.zeros(3)}),
        ("score", "of one target", {"score": lambda outputs, places: outputs[:, 0]}),
        ("score", "no tensor", {"score": lambda outputs, places: outputs.numpy()}),
        ("score", "no probabilities", {"score": lambda outputs, places: outputs[:, places] * 99}),
    ],
    "FFidelity": [
        ("fine_tune", "returns None", {"fine_tune": lambda model, masks: None}),
        ("fine_tune", "returns a class", {"fine_tune": lambda model, masks: Net}),
        ("fine_tune", "in training", {"fine_tune": lambda model, masks: model.train()}),
    ],
}
"""Further calls: what one argument makes of another, and what containers hold."""


class _Overdue(BaseException):
    pass


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def plain(value: Any) -> Any:
    """Return a result as numbers, for comparison."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if hasattr(value, "__dataclass_fields__"):
        return [plain(getattr(value, name)) for name in value.__dataclass_fields__]
    if isinstance(value, nn.Module):
        return [plain(each) for each in value.state_dict().values()]
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return [plain(list(value)), plain(list(value.values()))]
    return value


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (int, float, np.ndarray)):
        # Numbers of lists are of double precision.
        return np.shape(one) == np.shape(other) and np.allclose(one, other, 1e-5, 1e-7, True)
    return bool(one == other)


def outcome(target: Target, call: Call, expected: Any) -> tuple[str, str]:
    """Return what came of a call, and more of it."""
    try:
        with (
            _limited(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            found = plain(target.call(**{**target.given, **call.arguments}))
    except _Overdue:
        return TAKEN, f"goes on for more than {SECONDS} s"
    except Exception as error:
        if call.is_form and not isinstance(next(iter(call.arguments.values())), Decimal):
            return FORM, f"{type(error).__name__}: {error}"
        together = call.what in TOGETHER or call.parameter in COUNTED
        named = [call.parameter, *(target.given if together else ())]
        refused = isinstance(error, (TypeError, ValueError, FileNotFoundError, IsADirectoryError))
        if refused and re.search(rf"\b({'|'.join(named)})\b", str(error)):
            return REFUSED, ""
        return NAMELESS, f"{type(error).__name__}: {error}"
    if call.is_form:
        return (WORKS, "") if same(expected, found) else (WRONG, f"{found}")
    return TAKEN, ""


def run(target: Target, every: int = 1) -> Iterator[tuple[Call, str, str]]:
    """Yield each of a target's calls, or every so many, with its outcome and more of it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        expected = plain(target.call(**target.given))
    for number, call in enumerate(calls_of(target)):
        if number % every == 0:
            yield (call, *outcome(target, call, expected))


def targets() -> list[Target]:
    """Return all that is called."""
    return [*metric_targets(), *other_targets()]


def main() -> None:
    made = parser("malformed_calls", __doc__)
    made.add_argument("--only", help="the name of one callable, and no file")
    parsed = options(made)
    # What should be refused may write where it is.
    os.chdir(tempfile.mkdtemp())
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (GIBIBYTES * 2**30, most))
    page = Page("malformed_calls", ["pandas"], quick=parsed.quick or parsed.only is not None)
    rows, wrong = [], []
    total: Counter[str] = Counter()
    for target in targets():
        if parsed.only not in (None, target.name):
            continue
        count: Counter[str] = Counter()
        for call, found, more in run(target, every=10 if parsed.quick else 1):
            count[found] += 1
            if found in BAD:
                said = f"{target.name}({call.parameter}={call.what}): {found} {more}"
                wrong.append(said[:200])
                print(wrong[-1], flush=True)
        total += count
        rows.append([target.name, str(count.total()), *(str(count[each]) for each in OUTCOMES)])
    rows.append(["all", str(total.total()), *(str(total[each]) for each in OUTCOMES)])
    page.add("Outcomes", NOTE, table(["", "calls", *OUTCOMES], rows))
    page.add("Failures", "\n".join(f"- {line}" for line in wrong) or "Nothing.")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
