"""Memory is that of a block, whatever the number of draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantus_ext import Fidelity, Infidelity, MoRF, RFidelity
from quantus_ext.base import TorchMetric
from quantus_ext.engine import masked, replacements
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.plan import keep_freed_memory
from quantus_ext.functional import infidelity
from tests.engine.peak import PeakBytes


def peak(n_draws: int, **keywords: Any) -> int:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    x = torch.linspace(-1, 1, 192).sin().reshape(1, 3, 8, 8)
    forward = Forward.of_module(model, x.device, chunk_size=4)
    # Once a process it takes a large block, and frees it.
    keep_freed_memory()
    with PeakBytes() as bytes_:
        infidelity(forward, x, x, torch.zeros(1, dtype=torch.long), n_draws=n_draws, **keywords)
    return bytes_.peak


NOISE = replacements.gaussian_noise(std=5.0)


@pytest.mark.parametrize(
    ("few", "keywords"),
    [
        (4, {"scheme": "patch", "perturbation": replacements.replace_by(0.0)}),
        (4, {"scheme": "subset", "perturbation": replacements.replace_by("uniform")}),
        (4, {"scheme": "all", "perturbation": NOISE}),
        # No sample is ever known as well as that, so all draws are made, in two rounds and more.
        (12, {"scheme": "all", "perturbation": NOISE, "tolerance": 1e-9}),
    ],
)
def test_a_hundred_times_the_draws_take_the_same_memory(few, keywords, monkeypatch):
    # 4 draws fill a chunk, and a chunk a block.
    monkeypatch.setattr(masked, "_BLOCK_BYTES", 1)
    assert peak(100 * few, **keywords) <= 1.1 * peak(few, **keywords)


def test_memory_is_seen_where_it_grows():
    def hoard(n: int) -> int:
        with PeakBytes() as bytes_:
            kept = [torch.zeros(1000).add(1) for _ in range(n)]
        assert len(kept) == n
        return bytes_.peak

    assert hoard(100) >= 100 * 4000


def test_memory_that_is_freed_does_not_count():
    with PeakBytes() as bytes_:
        for _ in range(100):
            torch.zeros(1000).add(1)
    assert bytes_.peak <= 3 * 4000


def peak_of_maps(metric: TorchMetric, m: int, held: int) -> int:
    """Return the peak of a call that scores m maps, without so many bytes a value of theirs."""
    model = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 4)).eval()
    x = torch.linspace(-1, 1, 32 * 784).sin().reshape(32, 1, 28, 28)
    maps = [(k + 2) * x.flip(2).roll(k) for k in range(m)]
    keep_freed_memory()
    with PeakBytes() as bytes_:
        metric.score_maps(model, x, torch.zeros(32, dtype=torch.long), maps)
    return bytes_.peak - held * x.numel() * m


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "held"),
    [
        # Maps as given and as doubles; Infidelity makes two more of them: times the change of each
        # value, and summed over channels.
        (Infidelity(n_perturb_samples=20), 28),
        (MoRF(), 12),
        (Fidelity(), 12),
        (RFidelity(n_samples=4), 12),
    ],
)
def test_four_times_the_maps_take_the_same_memory_but_for_the_maps(metric, held):
    # The states of five maps fill a block.
    assert peak_of_maps(metric, 20, held) <= 1.3 * peak_of_maps(metric, 5, held)
