"""PScore: which models count, what is explained once, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext import QGE, PScore
from quantus_ext.batch import Explainer
from quantus_ext.functional import p_score
from quantus_ext.metrics import p_score as p_score_module
from tests.harness import MODALITIES, Inputs, gradients, make_inputs


def ensemble(n: int, modality: str = "image") -> list[nn.Module]:
    models = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(n):
            torch.manual_seed(100 + seed)
            models.append(MODALITIES[modality][0]().double().eval())
    return models


def scaled(model, inputs, targets, scale=1.0):
    return scale * gradients(model, inputs, targets)


def test_the_scored_model_is_left_out_by_its_weights():
    inputs = make_inputs("image")
    others = ensemble(2)
    expected = inputs.call(PScore(others))
    twin = copy.deepcopy(inputs.model)
    np.testing.assert_array_equal(inputs.call(PScore([*others, twin])), expected)
    with pytest.raises(ValueError, match="models must hold another model than the scored one"):
        inputs.call(PScore([twin]))


def test_the_scale_of_a_models_gradients_does_not_count():
    inputs, (one, two) = make_inputs("image"), ensemble(2)
    expected = inputs.call(PScore([one, two]))
    with torch.no_grad():
        two[-1].weight.mul_(1000.0)
    np.testing.assert_allclose(inputs.call(PScore([one, two])), expected, rtol=1e-9)


def test_the_explainers_own_map_of_an_equal_model_agrees_wholly():
    inputs, (other,) = make_inputs("image"), ensemble(1)
    a = gradients(other, inputs.x, inputs.y)
    np.testing.assert_allclose(inputs.call(PScore([other]), a_batch=a), 1.0)
    np.testing.assert_allclose(inputs.call(PScore([other]), a_batch=-a), -1.0)
    np.testing.assert_allclose(
        inputs.call(PScore([other], abs=True), a_batch=-a), 1.0, err_msg="both maps are prepared"
    )
    metric = PScore([other, *ensemble(3)[1:]])
    inputs.call(metric, a_batch=1000 * a)
    assert metric.details["similarity"].shape == (5, 3)
    np.testing.assert_allclose(metric.details["similarity"][:, 0], 1.0)
    assert (np.abs(metric.details["similarity"][:, 1:]) < 1).all()


def test_the_ensembles_maps_are_made_once_for_model_explainer_and_data(monkeypatch):
    inputs, models = make_inputs("image"), ensemble(3)
    # A counter in the function itself would be part of what it is known by.
    calls, explain = [], Explainer.__call__
    monkeypatch.setattr(
        Explainer, "__call__", lambda *args: calls.append(args[1]) or explain(*args)
    )

    def explained(inputs: Inputs = inputs, **keywords: object) -> int:
        calls.clear()
        inputs.call(PScore(models), explain_func=scaled, **keywords)
        return len(calls)

    assert explained() == 3
    assert explained() == 0, "another metric, the same maps"
    assert explained(a_batch=2 * inputs.a) == 0, "the scored map does not count"
    assert explained(explain_func_kwargs={"scale": 2.0}) == 3
    assert explained(inputs.rows(slice(0, 3))) == 3
    assert explained(y_batch=(inputs.y + 1) % 4) == 3
    with torch.no_grad():
        models[0][0].weight.add_(0.1)
    assert explained() == 1
    assert explained(a_batch=None, y_batch=inputs.y) == 1, "the scored model's own"


def test_maps_with_one_channel_are_compared_with_sums():
    inputs, models = make_inputs("image"), ensemble(2)
    summed = inputs.a.sum(1, keepdims=True)
    expected = inputs.call(
        PScore(models),
        a_batch=summed,
        explain_func=lambda **k: gradients(**k).sum(1, keepdims=True),
    )
    np.testing.assert_allclose(inputs.call(PScore(models), a_batch=summed), expected)


def test_any_map_with_one_channel_makes_all_be_summed():
    a = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    summed = a.sum(1, keepdim=True)
    mixed = p_score(a, [a.flip(1), summed]).score
    torch.testing.assert_close(mixed, p_score(summed, [summed, summed]).score)


def test_tiny_maps_count_as_large_ones():
    a = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    for scale in (1e-13, 1e-30, 1e-200, 1e200):
        assert float(p_score(scale * a, [scale * a]).score) == pytest.approx(1.0)
        mixed = p_score(a, [scale * a, torch.tensor([[4.0, -3.0]])])
        assert float(mixed.score) == pytest.approx(0.5**0.5)


def test_a_buffer_that_the_explainer_uses_again_spoils_nothing():
    inputs, models = make_inputs("image"), ensemble(3)
    expected = inputs.call(PScore(models))
    buffer = np.empty_like(inputs.x)

    def into_buffer(model, inputs, targets, **_):
        buffer[:] = gradients(model, inputs, targets)
        return buffer

    np.testing.assert_array_equal(inputs.call(PScore(models), explain_func=into_buffer), expected)
    buffer[:] = 0
    np.testing.assert_array_equal(inputs.call(PScore(models), explain_func=into_buffer), expected)


def test_a_normalisation_in_place_spoils_nothing():
    inputs, models = make_inputs("image"), ensemble(2)
    expected, a = inputs.call(PScore(models)), inputs.a.copy()

    def in_place(maps, **_):
        maps -= 5.0
        return maps

    inputs.call(PScore(models, normalise=True, normalise_func=in_place))
    np.testing.assert_array_equal(inputs.a, a)
    np.testing.assert_array_equal(inputs.call(PScore(models)), expected)


def test_each_model_is_known_once_a_call(monkeypatch):
    inputs, keys = make_inputs("image"), []
    known = p_score_module.content_of
    monkeypatch.setattr(
        p_score_module, "content_of", lambda *what: keys.append(what) or known(*what)
    )
    inputs.call(PScore(ensemble(2)), batch_size=1)
    assert sum(isinstance(what[0], nn.Module) for what in keys) == 3


def test_a_map_of_zeros_points_nowhere():
    a = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    others = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])]
    assert p_score(a, others).score.tolist() == pytest.approx([0.0, 0.6])


def test_within_qge():
    inputs, models = make_inputs("image"), ensemble(2)
    metric = QGE(PScore(models))
    inputs.call(metric)
    np.testing.assert_allclose(metric.details["score"], inputs.call(PScore(models)))


def test_bad_models():
    with pytest.raises(ValueError, match="models must hold at least one model, is empty"):
        PScore([])
    with pytest.raises(TypeError, match=r"models\[1\] must be a torch.nn.Module, is str"):
        PScore([nn.Linear(1, 1), "resnet"])
    inputs = make_inputs("image")
    with pytest.raises(ValueError, match=r"models\[0\] must be in evaluation mode"):
        inputs.call(PScore([ensemble(1)[0].train()]))
    with pytest.raises(TypeError, match="explain_func must be callable, is None"):
        inputs.call(PScore(ensemble(1)), explain_func=None)
