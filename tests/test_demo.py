"""The demonstration, on a network trained for seconds: what it scores, says and draws."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from quantus import explain

from quantus_ext import QGE, Infidelity, demo
from quantus_ext.__main__ import main
from quantus_ext.evaluation import Evaluation
from quantus_ext.evaluation.explainers import carries_input

pytestmark = pytest.mark.slow

N = 6


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    smaller = {"N_TRAIN": 1000, "EPOCHS": 4, "TUNING_EPOCHS": 1, "DRAWS": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in smaller.items():
            patch.setattr(demo, name, value)
        yield


@pytest.fixture(scope="module")
def problem(quick) -> demo.Problem:
    return demo.prepare(0)


@pytest.fixture(scope="module")
def evaluation(problem) -> Evaluation:
    return demo.score(problem, N)


def test_each_map_is_read_as_its_explainer_makes_it(problem, evaluation):
    assert evaluation.failures == ()
    for name, a in demo.explain(problem, N).items():
        own = Infidelity(perturb_baseline=0.0, multiply_by_inputs=demo.CARRY_INPUT[name])
        gap = QGE(own)
        given = {
            "model": problem.model,
            "x_batch": problem.x_test[:N].numpy(),
            "y_batch": problem.y_test[:N].numpy(),
            "a_batch": a,
        }
        expected = {"Infidelity": own(**given), "Faithfulness": own.details["faithfulness"]}
        expected["QGE of Infidelity"] = gap(**given)
        for metric, scores in expected.items():
            np.testing.assert_allclose(evaluation.scores_of(name, metric), scores, rtol=1e-5)


def test_who_carries_the_input_is_what_is_known_of_them():
    known = {"Input×Gradient": "InputXGradient", "Integrated Gradients": "IntegratedGradients"}
    for name in ("Saliency", *known):
        method = known.get(name, name)
        assert demo.CARRY_INPUT[name] is carries_input(explain, {"method": method})


def test_the_control_has_the_values_of_a_map_in_other_places(problem):
    maps = demo.explain(problem, N)
    signed, control = maps["Input×Gradient"], maps["Random control"]
    np.testing.assert_array_equal(
        np.sort(control.reshape(N, -1)), np.sort(signed.reshape(N, -1)), strict=True
    )
    assert (control != signed).any()


def test_the_table_has_the_best_of_each_metric_first(evaluation):
    lines = demo.table(evaluation).splitlines()
    for metric in evaluation.metrics:
        (start,) = (row for row, line in enumerate(lines) if line.startswith(f"{metric} ("))
        means = []
        for line in lines[start : start + len(demo.CARRY_INPUT)]:
            (name,) = (name for name in demo.CARRY_INPUT if re.search(rf"{name}\s+\d", line))
            shown = re.search(rf"{name}\s+\d\s+(\S+)", line)
            mean = evaluation.scores_of(name, metric).mean()
            assert float(shown[1]) == pytest.approx(mean, abs=6e-4)
            means.append(mean)
        sign = -1 if evaluation.directions[metric].value == "higher" else 1
        assert means == sorted(means, key=lambda mean: sign * mean)
        assert demo.label(evaluation, metric) in lines[start]


def test_the_picture_shows_means_errors_and_maps(problem, evaluation):
    figure = demo.draw(evaluation)
    by_label = {axes.get_xlabel(): axes for axes in figure.axes}
    for metric in evaluation.metrics:
        axes = by_label[demo.label(evaluation, metric)]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == list(demo.CARRY_INPUT)
        for name, bar in zip(demo.CARRY_INPUT, axes.containers, strict=True):
            scores = evaluation.scores_of(name, metric)
            ends = bar.lines[2][0].get_segments()[0][:, 0]
            error = scores.std(ddof=1) / np.sqrt(N)
            np.testing.assert_allclose(ends, [scores.mean() - error, scores.mean() + error])
    titles = {axes.get_title() for axes in figure.axes}
    assert {"input", *demo.CARRY_INPUT} <= {title.replace("\n", " ") for title in titles}
    labels = {f"digit {problem.y_test[case.index]}" for case in evaluation.cases}
    assert labels <= {axes.get_ylabel() for axes in figure.axes}


def test_the_command_prints_and_writes(problem, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "prepare", lambda seed: problem)
    picture = tmp_path / "picture.png"
    main(["demo", "--n", "2", "--out", str(picture)])
    said = capsys.readouterr().out
    assert f"reads {problem.accuracy:.1%} of" in said
    for metric in demo.metrics(problem):
        assert f"{metric} (" in said
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
def test_one_digit_has_no_error_and_no_warning(problem):
    evaluation = demo.score(problem, 1)
    assert "NaN" in demo.table(evaluation)
    demo.draw(evaluation)
