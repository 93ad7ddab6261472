"""M4's three questions: ranks by hand, scipy, directions, and what NaN does."""

from __future__ import annotations

import numpy as np
import pytest
from quantus.helpers.enums import ScoreDirection
from scipy.stats import rankdata

from quantus_ext.protocols import (
    M4_METRICS,
    best_method,
    method_sensitivity,
    metric_agreement,
    overall_score,
)


def table(models: int = 4, explainers: int = 5, names: str = "abc") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    # One decimal, so that there are ties.
    return {name: generator.random((models, explainers)).round(1) for name in names}


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def test_pooled_and_within_models():
    scores = table()
    result = metric_agreement(scores)
    assert result.names == ("a", "b", "c")
    for i, first in enumerate(scores.values()):
        for j, second in enumerate(scores.values()):
            pooled = spearman(first.ravel(), second.ravel())
            within = np.mean([spearman(x, y) for x, y in zip(first, second, strict=True)])
            np.testing.assert_allclose(result.correlation[i, j], pooled)
            np.testing.assert_allclose(result.within[i, j], within)
    assert (result.pairs == 20).all()
    assert (result.undefined == 0).all()


def test_models_that_differ_do_not_count_within():
    # Within each model the metrics disagree, but the second model has more of both.
    result = metric_agreement({"a": [[1, 2], [11, 12]], "b": [[2, 1], [12, 11]]})
    assert result.correlation[0, 1] == pytest.approx(0.6)
    assert result.within[0, 1] == pytest.approx(-1)


@pytest.mark.parametrize("lower", ["lower", ScoreDirection.LOWER])
def test_directions_turn_scores(lower):
    scores = table()
    plain = metric_agreement(scores, directions={"a": "higher", "b": ScoreDirection.HIGHER})
    turned = metric_agreement(scores, directions={"b": lower})
    signs = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    np.testing.assert_allclose(turned.correlation, plain.correlation * signs)
    np.testing.assert_allclose(turned.within, plain.within * signs)


def test_nan_is_an_error_or_left_out_pair_by_pair():
    scores = table()
    scores["b"][1, 3] = np.nan
    scores["c"][2, 0] = np.nan
    with pytest.raises(ValueError, match=r"'b' must be finite.*model 1 and explainer 3 is nan"):
        metric_agreement(scores)
    result = metric_agreement(scores, nan_policy="omit")
    np.testing.assert_array_equal(result.pairs, [[20, 19, 19], [19, 19, 18], [19, 18, 19]])
    known = ~np.isnan(scores["b"] + scores["c"])
    expected = spearman(scores["b"][known], scores["c"][known])
    np.testing.assert_allclose(result.correlation[1, 2], expected)
    within = [spearman(b[k], c[k]) for b, c, k in zip(scores["b"], scores["c"], known, strict=True)]
    np.testing.assert_allclose(result.within[1, 2], np.mean(within))


def test_undefined_is_nan_counted_and_shown():
    scores = {"a": [[1, 2, 3], [1, 2, 3]], "b": [[5, 5, 5], [3, 2, 1]], "flat": [[1] * 3] * 2}
    result = metric_agreement(scores)
    assert result.within[0, 1] == pytest.approx(-1)
    assert result.undefined[0].tolist() == [0, 1, 2]
    assert np.isnan(result.correlation[2]).all()
    assert np.isnan(result.within[2]).all()
    lines = result.to_markdown().splitlines()
    assert lines[4] == "| flat | – | – |  |"
    assert lines[3].startswith("| b | -1.00 |  | –")


def test_plot_has_the_numbers():
    result = metric_agreement(table())
    axes = result.plot()
    np.testing.assert_array_equal(axes.images[0].get_array(), result.correlation)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("scores", "keywords", "message"),
    [
        ({}, {}, "scores must hold at least one"),
        (
            {"a": [1.0, 2.0]},
            {},
            r"scores of 'a' must have shape \(models, explainers\), has \(2,\)",
        ),
        ({"a": [[1.0, 2.0]], "b": [[1.0]]}, {}, "one shape"),
        ({"a": [[1.0, np.inf]]}, {"nan_policy": "omit"}, "explainer 1 is inf"),
        ({"a": [[1.0]]}, {"nan_policy": "drop"}, "nan_policy must be one of"),
        ({"a": [[1.0]]}, {"directions": {"b": "lower"}}, "directions must be one of 'a', is 'b'"),
        ({"a": [[1.0]]}, {"directions": {"a": "down"}}, r"directions\['a'\] must be one of"),
    ],
)
def test_bad_input(scores, keywords, message):
    with pytest.raises(ValueError, match=message):
        metric_agreement(scores, **keywords)


def test_overall_score_is_the_sum_with_infidelity_subtracted():
    scores = {name: np.full((2, 3), 10.0**k) for k, name in enumerate(M4_METRICS)}
    scores["LeRF"] = np.full((2, 3), 7.0)
    scores["ABPC"][1, 2] = np.nan
    before = scores["MoRF"].copy()
    expected = np.full((2, 3), 1 + 10 + 100 - 1000 + 10000.0)
    expected[1, 2] = np.nan
    np.testing.assert_array_equal(overall_score(scores), expected)
    np.testing.assert_array_equal(scores["MoRF"], before)


def test_overall_score_names_what_is_missing():
    with pytest.raises(ValueError, match="PScore, INFD missing: holds MoRF, ABPC, SynScore"):
        overall_score({name: [[1.0]] for name in ("MoRF", "ABPC", "SynScore")})


def test_best_method_shares_ties_and_leaves_out_nan():
    overall = [[3.0, 3.0, 1.0, np.nan], [0.0, 1.0, 2.5, 9.0], [np.nan] * 4]
    best = best_method(overall[:2], ["a", "b", "c", "d"])
    assert best.by_model == (("a", "b"), ("d",))
    # d has the highest score of all, but none for the first model.
    assert best.overall == ("b",)
    assert best_method(overall, ["a", "b", "c", "d"]).by_model[2] == ()
    assert best_method(overall, ["a", "b", "c", "d"]).overall == ()


def test_sensitivity_is_the_standard_deviation_over_explainers():
    overall = np.array([[1.0, 3.0, 8.0], [2.0, 2.0, 2.0], [0.0, np.nan, 1.0]])
    expected = [np.sqrt(((overall[0] - 4) ** 2).sum() / 3), 0, np.nan]
    np.testing.assert_allclose(method_sensitivity(overall), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_method([[1.0, 2.0]], ["a"]), "one name for each of 2 columns"),
        (lambda: best_method([[np.inf]], ["a"]), "infinite"),
        (lambda: best_method([1.0], ["a"]), "overall must have shape"),
        (lambda: method_sensitivity([[1.0]]), "two or more explainers"),
        (lambda: method_sensitivity([[1.0, -np.inf]]), "infinite"),
    ],
)
def test_bad_overall(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e300])
def test_scale_does_not_count_and_rounding_does_not_rank(scale):
    first, second = np.array([[0.3, 0.1, 0.2]]), np.array([[0.1 + 0.2, 0.3, 0.0]])
    found = metric_agreement({"a": first * scale, "b": second * scale})
    # Two of b's are tied: ranks 3, 1, 2 and 2.5, 2.5, 1.
    assert found.correlation[0, 1] == pytest.approx(0.0, abs=1e-12)
    near = np.array([[0.3, 0.1 + 0.2, 0.3]])
    assert np.isnan(metric_agreement({"a": first, "b": near * scale}).correlation[0, 1])
    assert best_method(second * scale, ["x", "y", "z"]).overall == ("x", "y")
