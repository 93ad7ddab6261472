"""After any error whatever is the caller's is as before: models, data, random states, files."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from joblib import parallel_config
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import quantus_ext
from quantus_ext import plotting
from quantus_ext.adapters import BlackBox, MultiOutput, TokenIds
from quantus_ext.files import Folder
from quantus_ext.finetune import cache
from quantus_ext.protocols import explanation_size, mask_robustness, plant_shortcut
from tests import state
from tests.forms import MODEL_FORMS


class Boom(Exception):  # noqa: N818
    """What is provoked; no code of the package knows it."""


@dataclass
class Fuse:
    """Goes off at a call, and at every later one; copies of it are itself."""

    error: type[BaseException] = Boom
    at: int = 0
    """Number of the call, 0 for never."""
    calls: int = field(default=0, compare=False)

    def __call__(self) -> None:
        self.calls += 1
        if self.at and self.calls >= self.at:
            raise self.error("provoked")

    def __deepcopy__(self, memo: dict[int, Any]) -> Fuse:
        return self


class Fragile(nn.Module):
    """A layer that burns a fuse."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def forward(self, rows: Tensor) -> Tensor:
        self.fuse()
        return rows


class Problem:
    """A model and data with everything that could be changed about them."""

    def __init__(self) -> None:
        self.fuse = Fuse()
        self.hook_fuse = Fuse()
        self.model = self.network()
        generator = np.random.default_rng(1)
        self.x = generator.normal(size=(6, 1, 4, 4)).astype(np.float32)
        self.a = generator.normal(size=(6, 1, 4, 4)).astype(np.float32)
        self.s = (self.x > 0)[:, 0]
        self.y = generator.integers(0, 3, 6)
        self.explain_keywords: dict[str, Any] = {"method": "Saliency"}
        self.perturb_keywords: dict[str, Any] = {"level": [0.5]}
        self.predict_keywords: dict[str, Any] = {}
        self.call_keywords: dict[str, Any] = {"plain": {}, "logits": {"softmax": False}}

    def network(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._network()

    def _network(self) -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)),
            Fragile(self.fuse),
            nn.Softmax(-1),
        ).eval()
        model[0].weight.requires_grad_(False)
        model[2][2].weight.grad = torch.ones_like(model[2][2].weight)
        model.to(memory_format=torch.channels_last)
        model.register_forward_pre_hook(lambda module, args: self.hook_fuse())
        model[2].register_forward_hook(lambda module, args, outputs: self.hook_fuse())
        return model

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "x_batch": self.x,
            "y_batch": self.y,
            "a_batch": self.a,
            "s_batch": self.s,
            "explain_func": maps,
            "explain_func_kwargs": self.explain_keywords,
            "model_predict_kwargs": self.predict_keywords,
            "batch_size": 3,
        }

    def call(self, metric: Any, **changes: Any) -> Any:
        return metric(**{**self.arguments, **changes})

    def evaluate(self, **changes: Any) -> Any:
        given = {
            "metrics": {
                "Deletion": quantus_ext.Deletion(2),
                "Correlation": quantus.FaithfulnessCorrelation(
                    nr_runs=2, subset_size=3, disable_warnings=True
                ),
            },
            "xai_methods": {"a": self.a, "maps": maps},
            "model": self.model,
            "x_batch": self.x,
            "y_batch": self.y,
            "call_kwargs": self.call_keywords,
            "batch_size": 3,
            "shard_size": 3,
        }
        return quantus_ext.evaluate(**{**given, **changes})

    def tuner(self, **settings: Any) -> quantus_ext.FineTuner:
        cache.clear_memory()
        given = {"epochs": 1, "batch_size": 4, "display_progressbar": False}
        return quantus_ext.FineTuner(self.x, self.y, **{**given, **settings})

    def state(self) -> dict[str, Any]:
        data = (
            *(self.x, self.a, self.s, self.y, self.explain_keywords, self.perturb_keywords),
            *(self.predict_keywords, self.call_keywords),
        )
        return {
            **{f"model {key}": value for key, value in state.of_model(self.model).items()},
            "data": [state.of_data(each) for each in data],
            **state.of_process(),
            "figures": (plt.get_fignums(), dict(plt.rcParams)),
        }


def maps(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    return inputs * 2


def after(fuse: Fuse) -> Callable[..., Any]:
    """Make an explainer that spoils what it may, and burns a fuse."""

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **keywords: Any) -> Any:
        keywords.clear()
        fuse()
        made = inputs * 2
        inputs[:], targets[:] = 0, 0
        return made

    return explain


def spoiling(fuse: Fuse) -> Callable[..., Any]:
    """Make an explainer that draws from global states and leaves the model in training mode."""

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        model.train()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        fuse()
        return inputs * 2

    return explain


Run = Callable[[Problem, Path], object]


@dataclass(frozen=True)
class Provoked:
    """A call that fails, and what it raises; None where the failure is told in the result."""

    run: Run
    raises: type[BaseException] | None = Boom


def failing(problem: Problem, at: int, error: type[BaseException] = Boom) -> None:
    problem.fuse.error, problem.fuse.at, problem.fuse.calls = error, at, 0


METRICS: dict[str, Callable[[Problem], Any]] = {
    "Deletion": lambda p: quantus_ext.Deletion(2),
    "Infidelity": lambda p: quantus_ext.Infidelity(n_perturb_samples=4, perturb_patch_sizes=[2]),
    "R-Fidelity": lambda p: quantus_ext.RFidelity([0.5], n_samples=4),
    "F-Fidelity": lambda p: quantus_ext.FFidelity([0.5], n_samples=4, fine_tune=p.tuner()),
    "ROAR": lambda p: quantus_ext.ROAR(p.tuner(), p.a, [0.5], build_model=p.network),
    "QGE": lambda p: quantus_ext.QGE(quantus_ext.MoRF(2)),
    "QGE of Quantus's": lambda p: quantus_ext.QGE(
        quantus.PixelFlipping(features_in_step=8, disable_warnings=True)
    ),
}

ERRORS: tuple[type[BaseException], ...] = (Boom, KeyboardInterrupt, torch.OutOfMemoryError)

PROVOKED: dict[str, Provoked] = {}


def provoked(name: str, raises: type[BaseException] | None = Boom) -> Callable[[Run], Run]:
    def add(run: Run) -> Run:
        PROVOKED[name] = Provoked(run, raises)
        return run

    return add


def _in_forward(at: int, error: type[BaseException], metric: str) -> Run:
    def run(problem: Problem, folder: Path) -> object:
        ready = METRICS[metric](problem)
        failing(problem, at, error)
        return problem.call(ready)

    return run


for _name in METRICS:
    for _error, _at in ((Boom, 1), (Boom, 4), (KeyboardInterrupt, 5)):
        # What fails while the model is tuned is told by the tuner, if at all.
        provoked(f"{_error.__name__} in forward {_at}: {_name}", _error)(
            _in_forward(_at, _error, _name)
        )


@provoked("memory runs out even for one row", torch.OutOfMemoryError)
def _(problem: Problem, folder: Path) -> object:
    failing(problem, 2, torch.OutOfMemoryError)
    with pytest.warns(ResourceWarning, match="memory ran out"):
        return problem.call(quantus_ext.Deletion(2))


for _name in ("Deletion", "Infidelity", "QGE of Quantus's", "F-Fidelity"):
    for _error in (Boom, KeyboardInterrupt):

        @provoked(f"{_error.__name__} in a hook: {_name}", _error)
        def _(
            problem: Problem,
            folder: Path,
            name: str = _name,
            error: type[BaseException] = _error,
        ) -> object:
            ready = METRICS[name](problem)
            problem.hook_fuse.error, problem.hook_fuse.at = error, problem.hook_fuse.calls + 4
            return problem.call(ready)


for _name in ("Deletion", "Infidelity", "F-Fidelity", "QGE of Quantus's"):
    for _at in (1, 2):

        @provoked(f"an explainer, batch {_at}: {_name}")
        def _(problem: Problem, folder: Path, name: str = _name, at: int = _at) -> object:
            explain = after(Fuse(at=at))
            return problem.call(METRICS[name](problem), a_batch=None, explain_func=explain)


@provoked("an explainer of other models")
def _(problem: Problem, folder: Path) -> object:
    metric = quantus_ext.PScore([problem.network(1), problem.network(2)])
    return problem.call(metric, explain_func=after(Fuse(at=2)))


@provoked("an explainer of Quantus's metric within QGE")
def _(problem: Problem, folder: Path) -> object:
    inner = quantus.MaxSensitivity(nr_samples=2, disable_warnings=True)
    return problem.call(quantus_ext.QGE(inner), explain_func=after(Fuse(at=2)))


@provoked("an explainer that is interrupted", KeyboardInterrupt)
def _(problem: Problem, folder: Path) -> object:
    explain = after(Fuse(KeyboardInterrupt, at=1))
    return problem.call(quantus_ext.Deletion(2), a_batch=None, explain_func=explain)


@provoked("maps that are not finite", ValueError)
def _(problem: Problem, folder: Path) -> object:
    metric = quantus_ext.Deletion(2)
    return problem.call(metric, a_batch=None, explain_func=lambda **_: problem.a * np.nan)


def _spoilt(fuse: Fuse, arr: np.ndarray) -> np.ndarray:
    np.random.rand()  # noqa: NPY002
    torch.rand(1)
    arr[...] = 0
    fuse()
    return arr


def _whole(fuse: Fuse, arr: np.ndarray, **_: Any) -> np.ndarray:
    return _spoilt(fuse, arr)


def _flat(fuse: Fuse, arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
    return _spoilt(fuse, arr)


def _sample(
    fuse: Fuse, arr: np.ndarray, indices: np.ndarray, indexed_axes: Any, **_: Any
) -> np.ndarray:
    return _spoilt(fuse, arr)


def _mask(fuse: Fuse, arr: np.ndarray, mask: np.ndarray, **_: Any) -> np.ndarray:
    return _spoilt(fuse, arr)


for _function in (_whole, _flat, _sample, _mask):
    for _error in (Boom, KeyboardInterrupt):

        @provoked(
            f"{_error.__name__} in a perturbation by {_function.__name__[1:]}",
            ValueError if _error is Boom else _error,
        )
        def _(
            problem: Problem,
            folder: Path,
            function: Callable[..., Any] = _function,
            error: type[BaseException] = _error,
        ) -> object:
            metric = quantus_ext.Infidelity(
                n_perturb_samples=4,
                perturb_patch_sizes=[2],
                perturb_func=partial(function, Fuse(error, at=3)),
                perturb_func_kwargs=problem.perturb_keywords,
            )
            return problem.call(metric)


for _error in (Boom, KeyboardInterrupt):

    @provoked(f"{_error.__name__} in normalise_func", _error)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        function = partial(_zeros, Fuse(error, at=2))
        return problem.call(quantus_ext.Deletion(2, normalise=True, normalise_func=function))


@provoked("normalise_func within QGE of Quantus's")
def _(problem: Problem, folder: Path) -> object:
    inner = quantus.PixelFlipping(
        features_in_step=8,
        disable_warnings=True,
        normalise=True,
        normalise_func=partial(_zeros, Fuse(at=1)),
    )
    return problem.call(quantus_ext.QGE(inner))


def _zeros(fuse: Fuse, a: np.ndarray, **_: Any) -> np.ndarray:
    a[...] = 0
    fuse()
    return a


@provoked("aggregate_func")
def _(problem: Problem, folder: Path) -> object:
    function = partial(_burnt, Fuse(at=1))
    return problem.call(quantus_ext.Deletion(2, return_aggregate=True, aggregate_func=function))


@provoked("reduce of QGE")
def _(problem: Problem, folder: Path) -> object:
    inner = quantus.PixelFlipping(features_in_step=8, disable_warnings=True)
    return problem.call(quantus_ext.QGE(inner, reduce=partial(_burnt, Fuse(at=2))))


def _burnt(fuse: Fuse, values: Any, **_: Any) -> Any:
    fuse()
    return np.mean(values, axis=-1)


class Rows(Dataset):
    def __init__(self, problem: Problem, fuse: Fuse) -> None:
        self.problem, self.fuse = problem, fuse

    def __len__(self) -> int:
        return len(self.problem.x)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        self.fuse()
        return self.problem.x[row], int(self.problem.y[row])


@provoked("a data set to train on")
def _(problem: Problem, folder: Path) -> object:
    return quantus_ext.FineTuner(Rows(problem, Fuse(at=3)))


@provoked("a loader of data to train on, interrupted", KeyboardInterrupt)
def _(problem: Problem, folder: Path) -> object:
    rows = Rows(problem, Fuse(KeyboardInterrupt, at=5))
    return quantus_ext.FineTuner(DataLoader(rows, batch_size=2, shuffle=True))


class Optimiser(torch.optim.SGD):
    def __init__(self, parameters: Any, lr: float, fuse: Fuse) -> None:
        super().__init__(parameters, lr=lr)
        self.fuse = fuse

    def step(self, closure: Any = None) -> Any:
        torch.rand(1)
        self.fuse()
        return super().step(closure)


class Diverging(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.fill_(np.nan)


for _error in (Boom, KeyboardInterrupt):

    @provoked(f"{_error.__name__} in a step of training", _error)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        optimiser = partial(Optimiser, fuse=Fuse(error, at=2))
        tuner = problem.tuner(optimiser=optimiser, epochs=3, cache_dir=folder)
        return problem.call(quantus_ext.FFidelity([0.5], n_samples=4, fine_tune=tuner))


@provoked("an optimiser that cannot be made", TypeError)
def _(problem: Problem, folder: Path) -> object:
    tuner = problem.tuner(optimiser=lambda parameters: None)
    return problem.call(quantus_ext.FFidelity([0.5], n_samples=4, fine_tune=tuner))


@provoked("training that diverges", RuntimeError)
def _(problem: Problem, folder: Path) -> object:
    tuner = problem.tuner(optimiser=Diverging)
    return problem.call(quantus_ext.FFidelity([0.5], n_samples=4, fine_tune=tuner))


@provoked("a function that tunes", RuntimeError)
def _(problem: Problem, folder: Path) -> object:
    def tune(model: nn.Module, masks: object) -> nn.Module:
        nn.init.zeros_(model[0].weight)
        model.train()
        np.random.rand()  # noqa: NPY002
        raise Boom("provoked")

    return problem.call(quantus_ext.FFidelity([0.5], n_samples=4, fine_tune=tune))


@provoked("a function that builds a model")
def _(problem: Problem, folder: Path) -> object:
    def build() -> nn.Module:
        torch.rand(1)
        raise Boom("provoked")

    return problem.call(quantus_ext.ROAR(problem.tuner(), problem.a, [0.5], build_model=build))


@provoked("a metric that cannot train", None)
def _(problem: Problem, folder: Path) -> object:
    metric = quantus_ext.FFidelity([0.5], n_samples=4, fine_tune=problem.tuner())
    failing(problem, 3)
    return problem.evaluate(metrics={"F-Fidelity": metric}).failures


for _error in (Boom, KeyboardInterrupt):

    @provoked(f"{_error.__name__} in a plot function", _error)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        metric = quantus_ext.Deletion(2, default_plot_func=partial(_burnt, Fuse(error, at=1)))
        return metric.plot(None, False, folder / "plot.png", values=[1])


@provoked("a figure that cannot be written", OSError)
def _(problem: Problem, folder: Path) -> object:
    metric = quantus_ext.Deletion(2, default_plot_func=plotting.plot_means)
    return metric.plot(None, False, folder / "missing" / "a.png", scores={"A": [1]}, label="a")


@provoked("a format that figures don't have", ValueError)
def _(problem: Problem, folder: Path) -> object:
    metric = quantus_ext.Deletion(2, default_plot_func=plotting.plot_means)
    return metric.plot(None, False, folder / "a.nothing", scores={"A": [1]}, label="a")


for _error, _raised in ((Boom, None), (KeyboardInterrupt, KeyboardInterrupt)):

    @provoked(f"{_error.__name__} in forward: evaluate", _raised)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        failing(problem, 7, error)
        return problem.evaluate(store=folder / "store").failures

    @provoked(f"{_error.__name__} in an explainer: evaluate", _raised)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        explain = spoiling(Fuse(error, at=2))
        return problem.evaluate(xai_methods={"maps": explain}).failures

    @provoked(f"{_error.__name__} in an estimate", _raised)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        explain = spoiling(Fuse(error, at=2))
        return problem.evaluate(xai_methods={"maps": explain}, dry_run=True).failures

    @provoked(f"{_error.__name__} in a metric of Quantus: evaluate", _raised)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        similarity = partial(_burnt, Fuse(error, at=2))
        metric = quantus.FaithfulnessCorrelation(
            nr_runs=2,
            subset_size=3,
            disable_warnings=True,
            similarity_func=lambda a, b, **_: similarity(a),
        )
        return problem.evaluate(metrics={"Correlation": metric}).failures


for _error, _raised in ((Boom, None), (KeyboardInterrupt, KeyboardInterrupt)):

    @provoked(f"{_error.__name__} on a device that is shared out", _raised)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        failing(problem, 9, error)
        return problem.evaluate(devices=["cpu"]).failures


@provoked("threads", None)
def _(problem: Problem, folder: Path) -> object:
    # At once, because each thread has a copy of its own.
    explain = spoiling(Fuse(at=1))
    with parallel_config(backend="threading"):
        return problem.evaluate(xai_methods={"a": problem.a, "maps": explain}, n_jobs=2).failures


@provoked("an explainer that changes weights: evaluate", None)
def _(problem: Problem, folder: Path) -> object:
    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        # In a copy, for what it does to the model itself is its own.
        copy.deepcopy(model)[0].weight.data.zero_()
        model.eval()
        raise Boom("provoked")

    return problem.evaluate(xai_methods={"maps": explain}).failures


for _error in (OSError, KeyboardInterrupt):

    @provoked(f"{_error.__name__} while a shard is written", _error)
    def _(problem: Problem, folder: Path, error: type[BaseException] = _error) -> object:
        written = Fuse(error, at=3)
        write = Folder.write

        def fails(self: Folder, *arguments: Any, **keywords: Any) -> None:
            written()
            write(self, *arguments, **keywords)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Folder, "write", fails)
            return problem.evaluate(store=folder / "store")


@provoked("a store that is a file", OSError)
def _(problem: Problem, folder: Path) -> object:
    (folder / "file").write_text("")
    return problem.evaluate(store=folder / "file")


for _writer in ("to_html", "to_json", "to_markdown"):

    @provoked(f"{_writer} of an evaluation", OSError)
    def _(problem: Problem, folder: Path, writer: str = _writer) -> object:
        return getattr(problem.evaluate(), writer)(folder / "missing" / "file")


@provoked("agg_func of an evaluation")
def _(problem: Problem, folder: Path) -> object:
    aggregate = partial(_burnt, Fuse(at=2))
    return problem.evaluate(agg_func=aggregate, call_kwargs=None, return_as_df=True)


@provoked("a metric within quantus.evaluate", None)
def _(problem: Problem, folder: Path) -> object:
    failing(problem, 3)
    # It prints what was raised.
    return "provoked", quantus.evaluate(
        metrics={"ours": quantus_ext.Deletion(2)},
        xai_methods={"maps": problem.a},
        model=problem.model,
        x_batch=problem.x,
        y_batch=problem.y,
        explain_func_kwargs=problem.explain_keywords,
        call_kwargs=problem.call_keywords,
    )


@provoked("outputs that are shared")
def _(problem: Problem, folder: Path) -> object:
    with quantus_ext.clean_outputs_shared():
        problem.call(quantus_ext.Deletion(2))
        failing(problem, 1)
        return problem.call(quantus_ext.Insertion(2))


@provoked("a prediction function", RuntimeError)
def _(problem: Problem, folder: Path) -> object:
    predict = partial(_burnt, Fuse(at=3))
    return problem.call(
        quantus_ext.Deletion(2), model=BlackBox(lambda x: np.eye(3)[[predict(x) > 0] * len(x)], 3)
    )


class Text(nn.Module):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)
        self.fragile = Fragile(fuse)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.fragile(self.embedding(ids)).mean(1))


for _removal in ("mask", "zero"):

    @provoked(f"a text model, removal by {_removal}")
    def _(problem: Problem, folder: Path, removal: Any = _removal) -> object:
        problem.model = TokenIds(Text(problem.fuse).eval(), 1, 0, removal=removal)
        before = state.of_model(problem.model)
        failing(problem, 4)
        ids = np.arange(12).reshape(6, 2) % 7 + 2
        try:
            return problem.call(
                quantus_ext.Deletion(2), x_batch=ids, a_batch=problem.a[:, 0, 0, :2], s_batch=None
            )
        finally:
            assert state.differences(before, state.of_model(problem.model)) == []
            problem.model = problem.kept


@provoked("outputs of another shape", ValueError)
def _(problem: Problem, folder: Path) -> object:
    return problem.call(quantus_ext.Deletion(2), model=MultiOutput(problem.model, (2, 2)))


@provoked("a model that torch.compile does not take", ValueError)
def _(problem: Problem, folder: Path) -> object:
    return problem.call(quantus_ext.Deletion(2, compile=True))


@provoked("a compiled model")
def _(problem: Problem, folder: Path) -> object:
    compiled = MODEL_FORMS["compiled part"](problem.model, torch.from_numpy(problem.x))
    failing(problem, 3)
    return problem.call(quantus_ext.Infidelity(n_perturb_samples=4), model=compiled)


@provoked("robustness to masks")
def _(problem: Problem, folder: Path) -> object:
    failing(problem, 2)
    return mask_robustness(problem.model, problem.x, problem.y, [0.0, 0.5])


@provoked("the size of an explanation")
def _(problem: Problem, folder: Path) -> object:
    failing(problem, 3)
    return explanation_size(
        problem.model, problem.x, problem.y, problem.a, fine_tune=problem.model, n_samples=2
    )


@provoked("a shortcut that is planted")
def _(problem: Problem, folder: Path) -> object:
    failing(problem, 3)
    return plant_shortcut(
        problem.model, problem.x.repeat(4, 0), problem.y.repeat(4), kind="patch", size=2
    )


@pytest.fixture
def problem(tmp_path, monkeypatch) -> Problem:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made = Problem()
    made.kept = made.model
    return made


def test_there_are_enough():
    assert len(PROVOKED) >= 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROVOKED)
def test_nothing_is_changed_by_errors(name: str, problem: Problem, tmp_path: Path):
    case = PROVOKED[name]
    quantus_ext.Deletion(2)(problem.model, problem.x, problem.y, problem.a)  # what is made once
    before = problem.state()
    if case.raises is None:
        assert "provoked" in str(case.run(problem, tmp_path))
    else:
        with pytest.raises(case.raises):
            case.run(problem, tmp_path)
    assert state.differences(before, problem.state()) == []
    # Nothing is left half-written where the caller wanted something, either.
    assert not [
        path for path in tmp_path.rglob("*") if "partial" in path.name or ".tmp" in path.name
    ]
    problem.fuse.at = problem.hook_fuse.at = 0
    assert np.isfinite(problem.call(quantus_ext.Deletion(2))).all()
