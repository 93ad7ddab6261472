"""ROAR: what is removed, what is trained, and that its scores are the trained model's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from quantus_ext import ROAR, Fidelity
from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import FineTuner, clear_memory, training, tuner
from quantus_ext.metrics.roar import RemoveTop
from tests.finetune.problem import data, make_tuner, network, weights

SIZES = [0.2, 0.5]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The weights that each training began with."""
    clear_memory()
    begun: list[np.ndarray] = []

    def counted(model, *arguments, **keywords):
        begun.append(weights(model))
        return training.train(model, *arguments, **keywords)

    monkeypatch.setattr(tuner, "train", counted)
    return begun


def maps(n: int = 160, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 10)).astype(np.float32)


def trainer(**settings) -> FineTuner:
    return make_tuner(**settings)


def call(metric: ROAR | Fidelity, model: nn.Module | None = None, seed: int = 2) -> np.ndarray:
    x, y = data(8)
    return np.array(metric(model or network(), x, y, maps(8, seed)))


def remover(a: np.ndarray, **settings) -> RemoveTop:
    return RemoveTop(torch.as_tensor(a), perturbation=replace_by(0.0), **settings)


# What is removed


@pytest.mark.parametrize("share", [0.29, 0.3, 0.55, 1.0])
def test_exactly_the_top_goes(share):
    a = np.random.default_rng(0).permuted(np.tile(np.arange(100.0), (30, 1)), axis=1)
    index = torch.tensor([3, 29, 4])
    removed = remover(a, share=share)(torch.ones(3, 100), 5, index) == 0
    expected = a[index] >= 100 - round(100 * share)
    assert np.array_equal(removed.numpy(), expected)


def test_shares_are_uniform_and_new_in_every_epoch():
    a = np.random.default_rng(0).permuted(np.tile(np.arange(10.0), (5000, 1)), axis=1)
    remove, index = remover(a), torch.arange(5000)
    removed = remove(torch.ones(5000, 10), 1, index) == 0
    counts = removed.sum(1).numpy()
    assert np.array_equal(removed.numpy(), a >= 10 - counts[:, None])
    frequencies = np.bincount(counts)
    assert len(frequencies) == 10, "u lies inside (0, 1), so never all ten"
    assert stats.chisquare(frequencies).pvalue > 1e-6
    later = (remove(torch.ones(5000, 10), 2, index) == 0).sum(1).numpy()
    assert abs(np.corrcoef(counts, later)[0, 1]) < 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_all_channels_of_an_image_go(channels):
    a = np.random.default_rng(0).normal(size=(4, channels, 6, 6))
    settings = {"element": "patch", "patch_size": 2, "share": 0.5}
    removed = remover(a, **settings)(torch.ones(4, 3, 6, 6), 1, torch.arange(4)) == 0
    assert bool((removed == removed[:, :1]).all())
    patches = a.sum(1).reshape(4, 3, 2, 3, 2).sum((2, 4)).reshape(4, 9)
    top = patches.argsort(1)[:, ::-1][:, :4]
    found = removed[:, 0].reshape(4, 3, 2, 3, 2).all(4).all(2).reshape(4, 9)
    assert [set(row.nonzero().squeeze(1).tolist()) for row in found] == [set(row) for row in top]


# What is trained, and the scores


def test_scores_are_the_fidelity_of_the_trained_model():
    roar = ROAR(trainer(), maps(), SIZES)
    model = network()
    scores = call(roar, model)
    asked = roar.model_to_ask(model, torch.from_numpy(data(8)[0]), torch.zeros(8).long())
    fidelity = Fidelity(SIZES)
    assert np.array_equal(scores, call(fidelity, asked))
    for name in ("curve_plus", "curve_minus", "plus", "minus"):
        assert np.array_equal(roar.details[name], fidelity.details[name])
    assert not np.array_equal(scores, call(fidelity, model))


def test_training_begins_anew(trainings):
    model = network()
    kept = weights(model)
    call(ROAR(trainer(), maps(), SIZES), model)
    assert len(trainings) == 1
    assert len(trainings[0]) == len(kept)
    # The linear weights, before what batch norm starts with anyway.
    assert not np.isclose(trainings[0][:80], kept[:80]).any()
    assert np.array_equal(weights(model), kept)


def test_one_training_an_explainer(trainings):
    common = trainer()
    for _ in range(2):
        for seed in (1, 2, 3):
            roar = ROAR(common, maps(seed=seed), SIZES)
            call(roar)
    assert len(trainings) == 3
    assert all(np.array_equal(trainings[0], begun) for begun in trainings)
    assert [report.cache_hit for report in roar.reports] == [True]


def test_per_sparsity_trains_one_for_each_size(trainings):
    roar = ROAR(trainer(), maps(), SIZES, retrain="per_sparsity")
    with pytest.warns(UserWarning, match="trains 2 models from scratch for this explainer"):
        scores = call(roar)
    assert len(trainings) == len(roar.reports) == 2
    assert roar.details["curve_plus"].shape == (8, 2)
    assert np.array_equal(roar.details["sparsity"], [SIZES] * 8)
    assert np.allclose(scores, roar.details["curve_plus"].mean(1))
    assert np.allclose(scores, roar.details["plus"])
    assert roar.standard_errors.tolist() == [0] * 8
    alone = ROAR(trainer(), maps(), SIZES[1:], retrain="per_sparsity")
    with pytest.warns(UserWarning, match="trains 1 models"):
        call(alone)
    assert len(trainings) == 2, "the model of that size is there already"
    assert np.array_equal(alone.details["curve_plus"][:, 0], roar.details["curve_plus"][:, 1])
    assert roar.n_evaluations == 2 * alone.n_evaluations
    assert roar.all_evaluation_scores == scores.tolist()


def test_per_sparsity_a_size_that_comes_twice_counts_once():
    # Of ten features: 3, 3 and 6.
    roar = ROAR(trainer(), maps(), [0.3, 0.35, 0.6], retrain="per_sparsity")
    with pytest.warns(UserWarning, match="trains 3 models"):
        scores = call(roar)
    curve = roar.details["curve_plus"]
    assert np.array_equal(curve[:, 0], curve[:, 1])
    assert np.allclose(scores, curve[:, [0, 2]].mean(1))
    assert np.allclose(roar.details["minus"], roar.details["curve_minus"][:, [0, 2]].mean(1))


def test_an_aggregate_of_sizes():
    settings = {"retrain": "per_sparsity", "return_aggregate": True}
    roar = ROAR(trainer(), maps(), SIZES, **settings)
    with pytest.warns(UserWarning, match="trains 2 models"):
        scores = call(roar)
    assert scores.tolist() == [pytest.approx(roar.details["plus"].mean())]


def test_a_model_of_ones_own(trainings):
    def build() -> nn.Module:
        return nn.Linear(10, 4)

    state = torch.get_rng_state()
    call(ROAR(trainer(), maps(), SIZES, build_model=build))
    call(ROAR(trainer(), maps(), SIZES, build_model=build))
    assert len(trainings) == 1, "built from the same seed"
    assert len(trainings[0]) == 44
    assert torch.equal(torch.get_rng_state(), state)


def test_without_labels_it_learns_the_explained_models_answers(monkeypatch, trainings):
    x, _ = data()
    labels: list[np.ndarray] = []

    def noted(model, x, y, *arguments, **keywords):
        labels.append(y.numpy())
        return training.train(model, x, y, *arguments, **keywords)

    monkeypatch.setattr(tuner, "train", noted)
    model = trainer(epochs=5)(network(), lambda rows, draw, index: rows)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).argmax(1).numpy()
    assert len(set(expected.tolist())) > 1
    common, labels[:] = trainer(x=x), []
    call(ROAR(common, maps(), SIZES), model)
    assert len(labels) == 1
    assert np.array_equal(labels[0], expected)
    call(ROAR(common, maps(), SIZES), network())
    assert len(labels) == 2, "another model has other answers"


def test_another_seed_does_not_train_again(trainings):
    for seed in (0, 1):
        call(ROAR(trainer(), maps(), SIZES, seed=seed))
    call(ROAR(trainer(), maps(), SIZES, perturb_baseline=0))
    assert len(trainings) == 1


def test_all_the_sizes_of_the_paper_are_remembered(trainings):
    for _ in range(2):
        roar = ROAR(trainer(), maps(), retrain="per_sparsity")
        with pytest.warns(UserWarning, match="trains 19 models"):
            call(roar)
    assert len(trainings) == 19 == len(roar.reports)
    assert all(report.cache_hit for report in roar.reports)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        return self.body(x) * scale


@pytest.mark.parametrize("build_model", [None, lambda: Scaled().eval()])
def test_keywords_of_the_model_reach_the_trained_one(build_model):
    x, y = data(8)
    roar = ROAR(trainer(x=data()[0]), maps(), SIZES, build_model=build_model)
    keywords = {"scale": 0.5}
    scores = roar(Scaled().eval(), x, y, maps(8), model_predict_kwargs=keywords)
    assert np.isfinite(scores).all()


def test_labels_are_checked_before_anything_is_trained(trainings):
    x, y = data(8)
    with pytest.raises(ValueError, match="labels in y_batch must be below 4"):
        ROAR(trainer(), maps(), SIZES)(network(), x, y + 4, maps(8))
    assert trainings == []


def test_maps_are_prepared_as_those_scored(trainings):
    call(ROAR(trainer(), maps(), SIZES, abs=True))
    call(ROAR(trainer(), np.abs(maps()), SIZES))
    assert len(trainings) == 1
    call(ROAR(trainer(), maps(), SIZES))
    assert len(trainings) == 2


# What it refuses


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_errors():
    with pytest.raises(TypeError, match="trainer must be a FineTuner, is 3"):
        ROAR(3, maps())
    with pytest.raises(ValueError, match=r"a_train must have shape \(160, 10\).*has \(9, 10\)"):
        ROAR(trainer(), maps(9))
    with pytest.raises(ValueError, match="a_train must be finite"):
        ROAR(trainer(), maps() * np.inf)
    with pytest.raises(ValueError, match="retrain must be one of"):
        ROAR(trainer(), maps(), retrain="twice")
    with pytest.raises(TypeError, match="build_model must be callable, is 3"):
        ROAR(trainer(), maps(), build_model=3)
    with pytest.raises(ValueError, match="element='segment' needs segment maps"):
        ROAR(trainer(), maps(), element="segment")
    with pytest.raises(TypeError, match=r"build_model must return a torch.nn.Module, returned 3"):
        call(ROAR(trainer(), maps(), build_model=lambda: 3))
    with pytest.raises(ValueError, match=r"part '5' \(Scale\) has weights and no reset_parameters"):
        call(ROAR(trainer(), maps()), network(Scale()))
