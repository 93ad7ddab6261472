"""A small problem that workers in other processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import quantus
import torch
from torch import Tensor, nn

import quantus_ext
from quantus_ext import Evaluation, evaluate
from quantus_ext.batch import Batch
from quantus_ext.engine.forward import Forward
from quantus_ext.functional.scores import Scores
from tests.harness import gradients

N = 24
BATCH = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def network(counter: Path | None = None) -> Net:
    """Make the model; ``counter`` is a file for the rows that go through it, also in forks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Net().eval()

    def count(_: nn.Module, rows: tuple[Tensor]) -> None:
        # One write a call, which the system appends whole.
        with counter.open("ab", buffering=0) as file:
            file.write(b"%d\n" % len(rows[0]))

    if counter is not None:
        model.register_forward_pre_hook(count)
    return model


def rows_counted(counter: Path) -> int:
    return sum(map(int, counter.read_text().split())) if counter.exists() else 0


def data(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    return generator.normal(size=(n, 1, 4, 4)).astype(np.float32), generator.integers(0, 3, n)


def noise(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Draw from every global random state."""
    legacy = np.random.normal(size=inputs.shape)  # noqa: NPY002
    return (legacy + torch.randn(inputs.shape).numpy()).astype(np.float32)


def broken(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    raise RuntimeError("no such layer")


class Slow:
    """Explains by gradients, in its own time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        return gradients(model, inputs, targets)


class Killed:
    """Explains by gradients, and once, at one sample, kills its own process."""

    def __init__(self, mark: Path, value: float) -> None:
        self.mark = mark
        self.value = value

    def __call__(self, model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        if not self.mark.exists() and self.value in inputs[:, 0, 0, 0]:
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return gradients(model, inputs, targets)


class Fails(quantus_ext.MoRF):
    """Fails on the samples that its file names, as long as it is there."""

    name = "Fails"

    def __init__(self, mark: Path, sample: int) -> None:
        super().__init__(4)
        self.mark = mark
        self.sample = sample

    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        if self.mark.exists() and self.sample in batch.index:
            raise RuntimeError(f"cannot score sample {self.sample}")
        return super().evaluate_batch(forward, batch)


def metrics() -> dict[str, quantus.Metric]:
    return {
        "INFD": quantus_ext.Infidelity(
            n_perturb_samples=12, perturb_patch_sizes=[2], perturb_baseline=0.2
        ),
        "R-Fidelity": quantus_ext.RFidelity([0.5], n_samples=6, output="probability"),
        "QGE": quantus_ext.QGE(quantus_ext.Deletion(4), reference="random"),
        # It draws from numpy's global state.
        "Correlation": quantus.FaithfulnessCorrelation(
            nr_runs=5, subset_size=3, disable_warnings=True
        ),
    }


METHODS = {"gradients": gradients, "noise": noise}


def run(**settings: object) -> Evaluation:
    """Evaluate the problem, with another argument here and there."""
    x, y = data()
    given = {
        "metrics": metrics(),
        "xai_methods": METHODS,
        "model": network(),
        "x_batch": x,
        "y_batch": y,
        "batch_size": BATCH,
        "shard_size": 8,
    }
    return evaluate(**{**given, **settings})


def run_counted(counter: Path, **settings: object) -> Evaluation:
    """Evaluate it with a model whose rows are counted in a file."""
    return run(model=network(counter), **settings)


def assert_same(first: Evaluation, second: Evaluation) -> None:
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.standard_errors, second.standard_errors)
    np.testing.assert_array_equal(first.n_evaluations, second.n_evaluations)
