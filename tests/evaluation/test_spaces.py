"""The space that maps explain, in an evaluation: kept, shown, and warned of once."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import quantus_ext
from quantus_ext import Deletion, Evaluation, Fidelity, Infidelity
from quantus_ext.engine.spaces import SPACES
from quantus_ext.evaluation import collected


def problem() -> tuple[nn.Module, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(2)
    model = nn.Linear(6, 3, bias=False, dtype=torch.float64).eval()
    model.weight.data = torch.from_numpy(2 * generator.normal(size=(3, 6)))
    x = generator.normal(size=(12, 6))
    y = (x @ model.weight.data.numpy().T).argmax(1)
    right = model.weight.data.numpy()[y] * x
    return model, x, y, {"right": right, "noise": generator.normal(size=x.shape)}


same = partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-20)
METRICS = {"Deletion": Deletion(6), "Fidelity": Fidelity([0.5]), "Infidelity": Infidelity()}


def evaluated(**given: Any) -> tuple[Evaluation, list[str]]:
    model, x, y, maps = problem()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = quantus_ext.evaluate(
            METRICS,
            maps,
            model,
            x,
            y,
            multiply_by_inputs={"right": True},
            **{"batch_size": 3, "shard_size": 6, **given},
        )
    return found, [str(each.message) for each in caught if "scored" in str(each.message)]


def test_each_explainer_has_the_space_that_its_maps_explain(tmp_path):
    evaluation, (said,) = evaluated()
    model, x, y, maps = problem()
    for e, name in enumerate(maps):
        for m, metric in enumerate(METRICS.values()):
            carries = [True if name == "right" else None]
            alone = metric.score_maps(model, x, y, [maps[name]], carry_inputs=carries)
            np.testing.assert_allclose(
                evaluation.space[e, m], alone.details["space"][0], rtol=1e-9, atol=1e-20
            )
    table = evaluation.spaces().set_index(["explainer", "metric"])
    right = table.loc["right"]
    assert right.space.tolist() == ["logit"] * 3
    assert right.scored.tolist() == ["probability", None, "logit"]
    assert right.warning.tolist() == [True, False, False]
    assert not table.loc["noise"].warning.any()
    shares = right.loc["Deletion"]
    assert said.startswith(
        "maps fit another output better than what is scored: right by Deletion ("
    )
    assert f"{shares.logit:.2g} of the change of the logit" in said
    assert f"{shares.probability:.2g} of that of the probability" in said
    assert said.count(" by ") == 1
    again = Evaluation.from_json(evaluation.to_json())
    np.testing.assert_array_equal(again.space, evaluation.space)
    assert again.scored == evaluation.scored
    evaluation.to_html(tmp_path / "page.html")
    for page in (evaluation.to_markdown(), (tmp_path / "page.html").read_text("utf-8")):
        assert "Deletion: logit" in page
        assert "while the probability is scored" in page


def test_results_of_a_store_are_the_same(tmp_path):
    fresh, _ = evaluated()
    stored, said = evaluated(store=tmp_path / "store")
    again, said_again = evaluated(store=tmp_path / "store")
    for each in (stored, again):
        np.testing.assert_array_equal(each.space, fresh.space)
    assert said == said_again


@pytest.mark.parametrize("output", SPACES)
def test_output_is_that_of_all_calls(output):
    evaluation, said = evaluated(output=output)
    model, x, y, maps = problem()
    for m, (name, metric) in enumerate(METRICS.items()):
        expected = metric.score_maps(
            model, x, y, [maps["right"]], output=output, carry_inputs=[True]
        )
        np.testing.assert_allclose(
            evaluation.scores[0, m], expected.scores[0], rtol=1e-7, atol=1e-20
        )
        assert evaluation.scored.get(name) == (None if name == "Fidelity" else output)
    assert bool(said) == (output != "logit")
    by_call, _ = evaluated(call_kwargs={"own": {"output": output}})
    same(by_call.scores, evaluation.scores)


@pytest.mark.parametrize("given", [np.asarray, list, torch.from_numpy, pd.Series, np.vstack])
@pytest.mark.parametrize("run", [{"shard_size": 3}, {"shard_size": 99}, {"until": "ranked"}])
def test_other_classes_go_with_their_samples(given, run):
    model, x, y, maps = problem()
    other = (y + 1 + np.arange(len(y)) % 2) % 3
    call = {"output": "contrast", "other_class": given(other)}
    evaluation, _ = evaluated(call_kwargs={"own": call}, **run)
    assert not evaluation.failures
    expected = Deletion(6).score_maps(model, x, y, [maps["right"]], **call)
    same(evaluation.scores[0, 0], expected.scores[0])


def test_one_other_class_is_that_of_all_samples():
    model, x, y, maps = problem()
    y = y % 2
    expected = Deletion(6).score_maps(
        model, x, y, [maps["right"]], output="contrast", other_class=2
    )
    for given in (2, np.array(2), torch.tensor(2)):
        call = {"output": "contrast", "other_class": given}
        found = quantus_ext.evaluate(
            METRICS, {"right": maps["right"]}, model, x, y, call_kwargs={"own": call}, shard_size=3
        )
        same(found.scores[0, 0], expected.scores[0])


@pytest.mark.parametrize("n", [3, 6, 99])
def test_other_classes_of_other_samples_are_refused(n):
    call = {"output": "contrast", "other_class": np.zeros(n, dtype=int)}
    with pytest.raises(ValueError, match=f"other_class must have shape .* has .{n},"):
        evaluated(call_kwargs={"own": call}, shard_size=3)


def test_only_the_first_samples_are_kept(monkeypatch):
    whole, _ = evaluated(shard_size=3)
    monkeypatch.setattr(collected, "MOST_COMPARED", 7)
    found, _ = evaluated(shard_size=3)
    np.testing.assert_array_equal(found.space, whole.space[:, :, :7])


def test_output_is_given_once():
    with pytest.raises(ValueError, match="output=logit is that of all calls"):
        evaluated(output="logit", call_kwargs={"own": {"output": "logit"}})
    with pytest.raises(ValueError, match="output must be one of"):
        evaluated(output="odds")
