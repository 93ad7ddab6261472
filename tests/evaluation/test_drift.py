"""What has changed since a baseline is found, and what has not is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from quantus_ext import Evaluation

EXPLAINERS, METRICS = ("A", "B"), ("MoRF", "LeRF", "ABPC")
DIRECTIONS = {"MoRF": "higher", "LeRF": "lower", "ABPC": "higher"}


def evaluation(generator: np.random.Generator, n: int = 60, **changes: float) -> Evaluation:
    """Make scores that samples share; a change, ``A_MoRF=0.5``, is added to a cell."""
    hard = generator.normal(size=n)
    return Evaluation.of_scores(
        {
            e: {m: hard + generator.normal(size=n) + changes.get(f"{e}_{m}", 0.0) for m in METRICS}
            for e in EXPLAINERS
        },
        DIRECTIONS,
    )


@pytest.mark.slow
def test_false_alarms_are_as_seldom_as_stated():
    """Each of 300 pairs of evaluations is of 6 cells and 12 tests."""
    generator = np.random.default_rng(0)
    found = [evaluation(generator).drift(evaluation(generator)) for _ in range(300)]
    lowest = np.array([min(min(row.p_level, row.p_shape) for row in each.rows) for each in found])
    for alpha in (0.05, 0.2):
        _, most = stats.binom.interval(0.999, 300, alpha)
        alarms = (lowest <= alpha).sum()
        assert alarms <= most
        # Far fewer would mean that nothing is ever found; the cells depend on each other.
        assert alarms >= 300 * alpha / 5
    assert [each.alarm for each in found] == (lowest <= 0.05).tolist()


def test_a_change_is_found_in_its_cell_and_has_a_direction():
    generator = np.random.default_rng(1)
    before = evaluation(generator, 200)
    found = evaluation(generator, 200, A_MoRF=1.5, B_LeRF=1.5).drift(before)
    verdicts = {(row.explainer, row.metric): row.verdict for row in found.rows}
    assert verdicts.pop(("A", "MoRF")) == "better"
    assert verdicts.pop(("B", "LeRF")) == "worse"
    assert set(verdicts.values()) == {"same"}
    assert found.verdict == "worse"
    assert found.alarm
    row = next(row for row in found.rows if row.verdict == "worse")
    assert row.effect < -0.5
    assert row.mean - row.mean_baseline == pytest.approx(1.5, abs=0.4)
    assert "**worse**" in found.to_markdown()
    assert len(found.to_frame()) == 6


def test_a_change_of_shape_alone():
    generator = np.random.default_rng(2)
    narrow, wide = generator.normal(size=300), 4 * generator.normal(size=300)
    before, now = (
        Evaluation.of_scores({"A": {"MoRF": scores}}, {"MoRF": "higher"})
        for scores in (narrow, wide)
    )
    assert now.drift(before).verdict == "changed"
    assert now.drift(before, smallest_effect=0.5).verdict == "same"


def test_changes_too_small_to_matter():
    generator = np.random.default_rng(3)
    before = evaluation(generator, 20_000)
    now = evaluation(generator, 20_000, A_MoRF=0.1)
    assert now.drift(before).verdict == "better"
    assert not now.drift(before, smallest_effect=0.2).alarm


def test_the_same_scores_have_not_changed():
    same = evaluation(np.random.default_rng(4))
    assert not same.drift(same).alarm


def test_scores_that_are_missing_now_are_an_alarm():
    generator = np.random.default_rng(5)
    before, now = evaluation(generator), evaluation(generator)
    now.scores[0, 0, :3] = np.nan
    assert now.drift(before).verdict == "unknown"
    assert not before.drift(now).alarm
    now.scores[0, 0] = np.nan
    found = now.drift(before)
    assert found.rows[0].verdict == "unknown"
    assert np.isnan(found.rows[0].p_level)


def test_what_only_one_has_is_named():
    both = {"MoRF": np.arange(9.0)}
    before = Evaluation.of_scores({"A": both, "B": both}, {"MoRF": "higher"})
    now = Evaluation.of_scores({"A": both}, {"MoRF": "higher"})
    found = now.drift(before)
    assert found.missing == ("B, MoRF",)
    assert found.alarm
    assert found.verdict == "same"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"alpha": 0}, "alpha must be above 0"),
        ({"smallest_effect": 1.0}, "smallest_effect must be at least 0 and below 1"),
    ],
)
def test_what_is_refused(keywords, message):
    same = evaluation(np.random.default_rng(6))
    with pytest.raises(ValueError, match=message):
        same.drift(same, **keywords)


def test_baselines_that_do_not_fit():
    first = Evaluation.of_scores({"A": {"MoRF": [1.0, 2.0]}}, {"MoRF": "higher"})
    other = Evaluation.of_scores({"C": {"MoRF": [1.0, 2.0]}}, {"MoRF": "higher"})
    turned = Evaluation.of_scores({"A": {"MoRF": [1.0, 2.0]}}, {"MoRF": "lower"})
    with pytest.raises(ValueError, match="baseline must have an explainer and a metric"):
        first.drift(other)
    with pytest.raises(ValueError, match="other direction"):
        first.drift(turned)


def test_infinite_scores_are_missing():
    generator = np.random.default_rng(7)
    before, now = evaluation(generator), evaluation(generator)
    now.scores[0, 0, :3] = np.inf
    assert now.drift(before).verdict == "unknown"


def test_a_missing_score_does_not_hide_that_the_others_are_worse():
    generator = np.random.default_rng(8)
    before, now = evaluation(generator), evaluation(generator, A_MoRF=-3.0)
    now.scores[0, 0, 0] = np.nan
    assert now.drift(before).rows[0].verdict == "worse"
