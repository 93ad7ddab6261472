"""Every Python block of the README and the docs runs, page by page, on a small trained problem."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.stem
)
def test_blocks_run(page, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if any("torch_geometric" in block for block in python_blocks(page)):
        pytest.importorskip("torch_geometric")
    for block in python_blocks(page):
        exec(compile(block, f"{page.name}: {block.splitlines()[0]}", "exec"), names)


def test_there_are_blocks():
    assert sum(len(python_blocks(page)) for page in PAGES) >= 7
