"""The health report: exact counts, accuracies known by hand, a plain sentence."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import MaskSampler, health_report
from tests.finetune.problem import data, make_tuner, masks, network
from tests.harness import rows_seen


class Counts(nn.Module):
    """Answers 1 while no more than ``limit`` features are 0, then 0; ``always`` whatever comes."""

    def __init__(self, limit: int, always: int | None = None) -> None:
        super().__init__()
        self.limit, self.always = limit, always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = ((x == 0).flatten(1).sum(1) <= self.limit).long()
        if self.always is not None:
            right = torch.full_like(right, self.always)
        return nn.functional.one_hot(right, 2).float()


class Even(nn.Module):
    """Tells two classes apart by the sign of whole inputs; ``limit`` as of :class:`Counts`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = (x.sum(1) > 0) & ((x == 0).sum(1) <= self.limit)
        return nn.functional.one_hot(right.long(), 2).float()


X, Y = np.ones((30, 20)), np.ones(30, int)
BOTH = np.concatenate([X, -X])
LABELS = np.repeat([1, 0], 30)


def report(original: Counts, tuned: Counts, beta: float = 0.2, fractions=(0.15,)):
    return health_report(original.eval(), tuned.eval(), X, Y, masks(beta), fractions)


def test_accuracies_at_exact_counts():
    health = report(Counts(1), Counts(3))
    assert health.fraction == [0, 0.1, 0.15, 0.2]
    assert health.count == [0, 2, 3, 4]
    assert health.original_accuracy == [1, 0, 0, 0]
    assert health.tuned_accuracy == [1, 1, 1, 0]
    assert health.agreement == [1, 1, 1, 0]


def test_agreement_is_with_the_original_on_whole_inputs():
    health = report(Counts(0, always=0), Counts(2))
    assert health.tuned_accuracy == [1, 1, 0, 0]
    assert health.agreement == [0, 0, 1, 1]


ROBUST = "The {} is robust: its accuracy is 1.000, and 1.000 at worst with up to 20.0% masked"
PLAIN = "For such removals the plain metric would do"
NOT = "The {} is not robust: its accuracy is 0.500 with {} masked, where 1.000 is reached on whole"
ADVICE = "may help"
UNKNOWN = "Whether the {} is robust is not known: its accuracy is 0.500, and .* label has 0.500"
HEALED = r"The tuning healed the model: on whole inputs its accuracy rose from 0.500 to 1.000"
TUNED, ORIGINAL = "tuned model", "original"


@pytest.mark.parametrize(
    ("original", "tuned", "said"),
    [
        (Even(20), Even(20), [ROBUST.format(TUNED), ROBUST.format(ORIGINAL), PLAIN]),
        (Even(1), Even(20), [ROBUST.format(TUNED), NOT.format(ORIGINAL, "10.0%")]),
        (Even(1), Even(3), [NOT.format(TUNED, "20.0%"), ADVICE, NOT.format(ORIGINAL, "10.0%")]),
        # Training harmed what was robust, under masks or on whole inputs already.
        (Even(20), Even(2), [NOT.format(TUNED, "15.0%"), ADVICE, ROBUST.format(ORIGINAL), PLAIN]),
        (
            Even(20),
            Counts(0, always=0),
            [NOT.format(TUNED, "0.0%"), ADVICE, ROBUST.format(ORIGINAL), PLAIN, "only 50.0% of"],
        ),
        # What always gives one answer loses nothing.
        (
            Counts(0, always=0),
            Even(20),
            [ROBUST.format(TUNED), UNKNOWN.format(ORIGINAL), HEALED, "only 50.0% of"],
        ),
        (
            Counts(0, always=0),
            Counts(0, always=0),
            [UNKNOWN.format(TUNED), UNKNOWN.format(ORIGINAL)],
        ),
    ],
)
def test_verdicts(original, tuned, said):
    health = health_report(original.eval(), tuned.eval(), BOTH, LABELS, masks(0.2), [0.15])
    assert health.is_healed == (HEALED in said)
    sentences = health.verdict.split(". ")
    assert len(sentences) == len(said), "and nothing else is said"
    for sentence, expected in zip(sentences, said, strict=True):
        assert re.search(expected, sentence)


def test_a_loss_of_exactly_what_is_tolerated():
    """1 - .95 is a little more than .05."""
    x, y = np.ones((100, 20)), np.repeat([1, 0], [95, 5])
    x[:5], x[95:] = 2, -1

    class SomeOfThem(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lost = (x == 2).any(1) & (x == 0).any(1)
            return nn.functional.one_hot((~lost & (x >= 0).all(1)).long(), 2).float()

    model = SomeOfThem().eval()
    health = health_report(model, model, x, y, masks(0.2))
    assert (health.original_accuracy[0], min(health.original_accuracy)) == (1, 0.95)
    assert "not robust" not in health.verdict


def test_masks_and_only_masks_of_the_stated_sizes_are_seen():
    model = Counts(20).eval()
    with rows_seen(model) as seen:
        health_report(model, network(features=20).double(), X, Y, masks(0.2), [0.15])
    zeros = (torch.cat(seen) == 0).sum(1)
    draws = 16
    sizes, counts = zeros.unique(return_counts=True)
    assert sizes.tolist() == [0, 2, 3, 4]
    assert counts.tolist() == [30, 30 * draws, 30 * draws, 30 * draws]


def test_small_shares_are_left_out():
    health = report(Counts(1), Counts(1), beta=0.05, fractions=())
    assert health.fraction == [0, 0.05]
    assert health.count == [0, 1]


def test_segments_cannot_be_masked_at_random():
    sampler = MaskSampler(perturbation=replace_by(0.0), beta=0.2, element="segment")
    health = health_report(Counts(1).eval(), Counts(1).eval(), X, Y, sampler, [0.15])
    assert health.fraction == [0]
    assert "not known" in health.verdict


def test_the_training_is_reported_and_all_of_it_is_plain():
    x, y = data()
    model, tuner = network(), make_tuner(x, y)
    tuned = tuner(model, masks())
    health = health_report(model, tuned, x, y, masks(), (), tuner.report)
    plain = json.loads(json.dumps(health.to_dict()))
    assert plain["report"]["epochs"] == 2
    assert plain["report"]["cache_hit"] is False
    assert health.tuned_accuracy[0] > health.original_accuracy[0]
