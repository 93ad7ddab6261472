"""Mask robustness: exact masks, a model whose answers are known, and the tuned one beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import MaskSampler
from quantus_ext.protocols import mask_robustness


class CountsOnes(nn.Module):
    """Answers 1 while at least ``least`` of its inputs are 1, and notes how many are."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ones = (x.flatten(1) == 1).sum(1)
        self.seen += ones.tolist()
        score = ones - self.least + 0.5
        return torch.stack([-score, score], 1)


def test_by_hand_with_exact_counts():
    x, y = torch.ones(6, 100), torch.tensor([1, 1, 1, 1, 0, 0])
    model, tuned = CountsOnes(80).eval(), CountsOnes(60).eval()
    result = mask_robustness(model, x, y, [0, 0.1, 0.29, 0.55], tuned=tuned)
    assert sorted(set(model.seen)) == [45, 71, 90, 100]
    np.testing.assert_allclose(
        result.accuracy, [[4 / 6, 4 / 6, 2 / 6, 2 / 6], [4 / 6, 4 / 6, 4 / 6, 2 / 6]], atol=1e-6
    )
    np.testing.assert_array_equal(result.agreement, [[1, 1, 0, 0], [1, 1, 1, 0]])
    assert not result.plain_would_do()
    assert mask_robustness(model, x, y, [0, 0.1]).plain_would_do()
    assert "| tuned, agreement | 1.000 | 1.000 | 1.000 | 0.000 |" in result.to_markdown()


def test_equals_one_sample_at_a_time():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, 6, 5, generator=generator)
    y = torch.randint(3, (300,), generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).eval()
    result = mask_robustness(model, x, y, [0.0, 0.3], perturbation=replace_by(0.5), seed=3)
    masks = MaskSampler(perturbation=replace_by(0.5), beta=1.0, seed=3)
    right = 0
    for i in range(300):
        masked = masks.at(x[i : i + 1], 0.3, index=torch.tensor([i]))
        assert ((masked == 0.5).sum((2, 3)) == 9).all()
        right += int(model(masked).argmax(1) == y[i])
    assert result.accuracy[0, 1] == pytest.approx(right / 300)


def test_float64_arrays_and_integers():
    x, y = np.ones((6, 100)), np.array([1, 1, 1, 1, 0, 0])
    model = nn.Linear(100, 2).eval()
    expected = mask_robustness(model, torch.ones(6, 100), y)
    for given in (x, x.astype(int), x.astype(np.float32)):
        np.testing.assert_array_equal(mask_robustness(model, given, y).accuracy, expected.accuracy)


def test_a_loss_of_exactly_the_tolerance_is_none():
    x, y = torch.ones(100, 10), torch.ones(100, dtype=torch.int64)
    x[:5] = 2

    class LosesFive(CountsOnes):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lost = (x == 2).any(1) & (x == 0).any(1)
            return torch.stack([lost.double(), (~lost).double()], 1)

    result = mask_robustness(LosesFive(0).eval(), x, y, [0, 0.5])
    assert result.accuracy.tolist() == [[1, 0.95]]
    assert result.plain_would_do()
    assert not result.plain_would_do(0.0499)


def test_bad_input():
    x, y = torch.ones(4, 5), torch.ones(4, dtype=torch.int64)
    model = nn.Linear(5, 2).eval()
    with pytest.raises(ValueError, match="fractions must hold"):
        mask_robustness(model, x, y, [0.0, 1.5])
    with pytest.raises(ValueError, match="fractions must hold"):
        mask_robustness(model, x, y, [])
    with pytest.raises(ValueError, match="y_batch must have shape"):
        mask_robustness(model, x, y[:2])
    with pytest.raises(ValueError, match="tuned must be in evaluation mode"):
        mask_robustness(model, x, y, tuned=nn.Linear(5, 2).train())
    with pytest.raises(ValueError, match="labels in y_batch must be below 2"):
        mask_robustness(model, x, y + 1)
    with pytest.raises(ValueError, match="x_batch must be finite"):
        mask_robustness(model, x * torch.nan, y)
