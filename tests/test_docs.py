"""Every Python block of the README and the docs runs, page by page, on a small trained problem."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext import FineTuner, Infidelity, metrics
from quantus_ext.base import TorchMetric
from tests.harness import gradients

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3)
    )


@pytest.fixture
def names() -> dict[str, object]:
    """Return what the pages take for granted."""
    x = np.random.default_rng(0).normal(size=(120, 1, 8, 8)).astype(np.float32)
    y = x[:, 0, :2, :3].mean(1).argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [network().eval() for _ in range(3)]
    batch = {"x_batch": x[:6], "y_batch": y[:6]}
    return {
        "model": models[0],
        "models": models,
        "x_train": x,
        "y_train": y,
        **batch,
        "a_batch": gradients(models[0], *batch.values()),
        "s_batch": np.pad(np.ones((6, 1, 2, 3), dtype=bool), [(0, 0), (0, 0), (0, 6), (0, 5)]),
        "explain_func": gradients,
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.stem
)
def test_blocks_run(page, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in python_blocks(page):
        exec(compile(block, f"{page.name}: {block.splitlines()[0]}", "exec"), names)


def defaults(shape: tuple[int, ...]) -> dict[str, TorchMetric]:
    """Make every metric with all defaults; ROAR needs training data, PScore another model."""
    x = np.random.default_rng(1).normal(size=(8, *shape)).astype(np.float32)
    tuner = FineTuner(x, np.arange(8) % 3, epochs=1, display_progressbar=False)
    given = {
        "FFidelity": {"fine_tune": lambda model, mask_sampler: model},
        "PScore": {"models": [flat(shape, seed=1)]},
        "QGE": {"metric": Infidelity()},
        "ROAR": {"trainer": tuner, "a_train": x},
    }
    return {name: getattr(metrics, name)(**given.get(name, {})) for name in metrics.__all__}


def flat(shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3)).eval()


@pytest.fixture(scope="module")
def called() -> dict[str, TorchMetric]:
    """Call every metric on two samples of 28×28 positions."""
    shape = (1, 28, 28)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    batch = {"x_batch": x, "y_batch": np.array([0, 2]), "a_batch": x, "s_batch": x[:, 0] > 0}
    made = defaults(shape)
    for metric in made.values():
        metric(model=flat(shape), **batch, explain_func=gradients)
    return made


def cost(metric: TorchMetric) -> str:
    """Return rows a sample."""
    return f"{metric.n_evaluations / len(metric.standard_errors):g}"


@pytest.mark.filterwarnings("ignore")
def test_costs_are_those_of_the_defaults(called):
    page = (ROOT / "docs" / "costs.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)[^|]*\| (\d+) \|", page, re.MULTILINE)
    assert dict(rows) == {name: cost(metric) for name, metric in called.items()}


MODALITIES = {"IMAGE": "image", "TIMESERIES": "series", "TABULAR": "table", "TEXT": "text"}


@pytest.mark.filterwarnings("ignore")
def test_the_readme_says_of_every_metric_what_it_says_of_itself(called):
    page = (ROOT / "README.md").read_text("utf-8")
    row = r"^\| \[`(\w+)[^|]*\| (\w+) \| [^|]* \| ([\w, ]+) \| (\d+)[^|]*\|"
    said = {name: values for name, *values in re.findall(row, page, re.MULTILINE)}
    expected = {}
    for name, metric in called.items():
        taken = [MODALITIES[m.name] for m in metric.data_applicability]
        inputs = ", ".join(m for m in MODALITIES.values() if m in taken)
        expected[name] = [metric.score_direction.value, inputs, cost(metric)]
    assert said == expected


@pytest.mark.filterwarnings("ignore")
def test_details_are_those_of_a_call(called):
    page = (ROOT / "docs" / "details.md").read_text("utf-8")
    said = {
        name: set(re.findall(r"`(\w+)`", details))
        for names, details in re.findall(r"^\| (`.*?) \| (`.*) \|$", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
        if name != "details"
    }
    inner = called["Infidelity"].details
    said["QGE"] -= {"score_", "reference_"}
    said["QGE"] |= {f"{whose}_{name}" for whose in ("score", "reference") for name in inner}
    assert said == {name: set(metric.details) for name, metric in called.items()}


def test_there_are_blocks():
    assert sum(len(python_blocks(page)) for page in PAGES) >= 7
