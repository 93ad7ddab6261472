"""What the benchmarks compare with must itself be right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import naive
from benchmarks.speed.results import Entry, Section, summary
from benchmarks.timing import Ratio
from quantus_ext import FFidelity, Fidelity, Infidelity, RFidelity
from tests.harness import MODALITIES

DRAWS = 400
SPARSITY = (0.2, 0.5, 0.8)


class Spy(nn.Module):
    """Counts what each row of a forward pass has lost."""

    def __init__(self) -> None:
        super().__init__()
        self.removed: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.removed.append((x == 0).flatten(1).sum(1).tolist())
        return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], 1)


def problem(modality: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    build, shape = MODALITIES[modality]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        model = build().eval()
        x, a = torch.randn(2, 3, *shape).unbind()
    with torch.no_grad():
        return model.float(), x, a, model.float()(x).argmax(1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def assert_close(found: np.ndarray, errors: np.ndarray, expected: naive.Estimate) -> None:
    joint = np.hypot(errors, expected.error.numpy())
    assert np.all(np.abs(found - expected.mean.numpy()) <= 4 * joint + 1e-6)


@pytest.mark.parametrize("modality", MODALITIES)
def test_with_alpha_1_the_loop_is_fidelity_exactly(modality):
    model, x, a, y = problem(modality)
    metric = Fidelity(SPARSITY)
    metric(model, x, y.numpy(), a)
    found = naive.fidelity(
        model, x, a, y, sparsity=SPARSITY, alpha=1.0, n_draws=2, generator=generator()
    )
    for sign in ("plus", "minus"):
        assert np.array_equal(getattr(found, sign).mean.numpy(), metric.details[f"curve_{sign}"])
        assert not getattr(found, sign).error.any()


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_loop_agrees_with_the_metrics_within_chance(modality, beta):
    model, x, a, y = problem(modality)
    metric = (
        RFidelity(SPARSITY, n_samples=DRAWS)
        if beta == 1
        else FFidelity(SPARSITY, fine_tune=model, beta=beta, n_samples=DRAWS)
    )
    metric(model, x, y.numpy(), a)
    found = naive.fidelity(
        model, x, a, y, sparsity=SPARSITY, beta=beta, n_draws=DRAWS, generator=generator()
    )
    for sign in ("plus", "minus"):
        errors = metric.details[f"error_{sign}"]
        assert_close(metric.details[f"curve_{sign}"], errors, getattr(found, sign))


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_loop_agrees_with_infidelity_within_chance(modality):
    model, x, a, y = problem(modality)
    metric = Infidelity(n_perturb_samples=DRAWS, perturb_patch_sizes=2)
    metric(model, x, y.numpy(), a)
    found = naive.infidelity(model, x, a, y, side=2, n_draws=DRAWS, generator=generator())
    assert_close(metric.details["infidelity"], metric.standard_errors, found)


def test_every_draw_removes_the_exact_count_from_its_own_region():
    spy = Spy()
    x = torch.arange(1.0, 21.0)[None]
    found = naive.fidelity(
        spy,
        x,
        x,
        torch.tensor([0]),
        sparsity=[0.5],
        beta=0.2,
        n_draws=6,
        generator=generator(),
    )
    # The clean row, then 4 of the 10 highest, and 4 of the others.
    assert spy.removed == [[0], [4] * 6, [4] * 6]
    assert found.plus.mean.shape == (1, 1)


def test_no_global_state_moves_and_inputs_stay():
    model, x, a, y = problem("image")
    copies = [tensor.clone() for tensor in (x, a)]
    state = torch.get_rng_state()
    naive.fidelity(model, x, a, y, sparsity=SPARSITY, n_draws=3, generator=generator())
    naive.infidelity(model, x, a, y, side=2, n_draws=3, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip((x, a), copies, strict=True))


@pytest.mark.parametrize(
    ("at_most", "target", "reached"),
    [(True, 1.1, True), (True, 1.0, False), (False, 1.0, True), (False, 1.1, False)],
)
def test_the_median_is_judged(at_most, target, reached):
    entry = Entry("a / b", "net", Ratio(1.05, 0.5, 2.0), target, at_most=at_most)
    assert entry.reached is reached
    assert ("reached" if reached else "MISSED") in str(entry)


def test_without_a_target_nothing_is_judged():
    entry = Entry("R²", "", 0.5)
    assert (entry.reached, str(entry)) == (None, "0.5")


def test_the_summary_has_a_row_a_comparison_and_a_column_a_case():
    entries = [
        Entry("speed", "net", 2.0),
        Entry("speed", "tree", 3.0),
        Entry("detail", "net", 1.0, headline=False),
        Entry("import", "", 0.5, 1.0, at_most=True),
    ]
    assert summary([Section("A", "", entries)]).splitlines() == [
        "|  | net | tree |",
        "| --- | ---: | ---: |",
        "| speed | 2 | 3 |",
        "",
        "- import: **0.5**, ≤ 1: reached",
    ]
