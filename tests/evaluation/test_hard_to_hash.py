"""Models that content does not tell apart: never another's result, and what finding out costs."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantus_ext
from quantus_ext import FFidelity, MoRF, PScore, clean_outputs_shared, evaluate
from quantus_ext.adapters import BlackBox, refit
from quantus_ext.engine import compiled
from quantus_ext.engine.replacements import replace_by
from quantus_ext.files import sealed_json
from quantus_ext.finetune import FineTuner, MaskSampler, clear_memory, known, training, tuner
from quantus_ext.identity import probe_rows
from quantus_ext.metrics import p_score
from tests.hard_to_hash import CLASSES, KINDS, OUTSIDE, Added, Session, data, weights


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    clear_memory()
    p_score._maps.clear()
    yield
    clear_memory()
    p_score._maps.clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of a black box. A counter in a function would be part of its content."""
    rows: list[int] = []
    scores = BlackBox._scores

    def counted(self: BlackBox, part: np.ndarray) -> np.ndarray:
        rows.append(len(part))
        return scores(self, part)

    monkeypatch.setattr(BlackBox, "_scores", counted)
    return rows


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], BlackBox]:
    """Make a model of a kind by the name of its weights."""

    def made(name: str) -> BlackBox:
        return BlackBox(KINDS[request.param](weights(name), tmp_path), CLASSES)

    return made


def scored(model: nn.Module, **settings: object) -> np.ndarray:
    x, y = data()
    given = {"metrics": {"MoRF": MoRF(3)}, "xai_methods": {"maps": np.abs(x)}}
    given |= {"batch_size": 4, "shard_size": 8, "x_batch": x, "y_batch": y, **settings}
    evaluation = evaluate(model=model, **given)
    assert not evaluation.failures
    return evaluation.scores


def morf(model: nn.Module) -> list[float]:
    x, y = data()
    return MoRF(3)(model, x, y, np.abs(x))


# The store


def test_a_store_never_gives_the_scores_of_another(make, tmp_path, asked):
    store = tmp_path / "store"
    expected = {}
    for name in "AB":
        expected[name] = scored(make(name))
        alone = sum(asked)
        asked.clear()
    first = scored(make("A"), store=store)
    assert sum(asked) == alone - 2 + 16, "8 samples asked twice when a store is made"
    np.testing.assert_array_equal(first, expected["A"])
    assert (expected["A"] != expected["B"]).all()
    files = {path: path.stat().st_mtime_ns for path in (store / "shards").iterdir()}
    with pytest.raises(
        ValueError, match=r"store .* was made with .* model (was|answers otherwise)"
    ):
        scored(make("B"), store=store)
    asked.clear()
    np.testing.assert_array_equal(scored(make("A"), store=store), expected["A"])
    assert asked == [8], "and once on every use"
    assert {path: path.stat().st_mtime_ns for path in (store / "shards").iterdir()} == files


def test_a_key_of_the_callers_stands_for_what_cannot_be_read(tmp_path):
    def box(name: str, key: str) -> BlackBox:
        return BlackBox(Session(weights(name)).run, CLASSES, key=key)

    first = scored(box("A", "one"), store=tmp_path)
    np.testing.assert_array_equal(scored(box("A", "one"), store=tmp_path), first)
    with pytest.raises(ValueError, match="other settings or data, use another: model was"):
        scored(box("A", "two"), store=tmp_path)
    with pytest.raises(ValueError, match=r"another model.* model answers otherwise, for sample"):
        scored(box("B", "one"), store=tmp_path)


@pytest.mark.parametrize("key", ["", 3])
def test_keys_that_are_no_names(key):
    with pytest.raises(TypeError, match="key must be a text that is not empty, is"):
        BlackBox(lambda rows: rows, CLASSES, key=key)


def labels(name: str) -> Callable[[np.ndarray], np.ndarray]:
    ready = Session(weights(name))
    return lambda rows: np.eye(CLASSES)[ready.run(rows).argmax(1)]


def constant(name: str) -> Callable[[np.ndarray], np.ndarray]:
    ready = Session(weights(name))
    return lambda rows: np.full((len(rows), CLASSES), 0.5) + 0 * ready.run(rows)


@pytest.mark.parametrize("predict", [labels, constant])
def test_answers_that_tell_nothing_are_refused(predict, tmp_path):
    with pytest.raises(ValueError, match=r"model is not: it holds .* \(.*Session\).* key='model-"):
        scored(BlackBox(predict("A"), CLASSES), store=tmp_path)
    assert not list(tmp_path.glob("*.json"))
    scored(BlackBox(predict("A"), CLASSES))
    named = scored(BlackBox(predict("A"), CLASSES, key="one"), store=tmp_path)
    again = scored(BlackBox(predict("A"), CLASSES, key="one"), store=tmp_path)
    np.testing.assert_array_equal(again, named)


def test_labels_of_a_function_that_may_read_anything_are_refused(tmp_path):
    file = tmp_path / "weights.npy"
    np.save(file, weights("A"))
    box = BlackBox(lambda rows: np.eye(CLASSES)[(rows @ np.load(file)).argmax(1)], CLASSES)
    with pytest.raises(ValueError, match="calls a function of one's own, which may read anything"):
        scored(box, store=tmp_path / "store")


def test_a_model_whose_content_tells_all_may_answer_by_labels(tmp_path):
    from sklearn.tree import DecisionTreeClassifier

    x, y = data()
    trees = [DecisionTreeClassifier(random_state=0).fit(x, (y + k) % 3) for k in (0, 1)]
    first = scored(BlackBox(trees[0].predict_proba, CLASSES), store=tmp_path)
    again = scored(BlackBox(trees[0].predict_proba, CLASSES), store=tmp_path)
    np.testing.assert_array_equal(again, first)
    with pytest.raises(ValueError, match="model was"):
        scored(BlackBox(trees[1].predict_proba, CLASSES), store=tmp_path)


def test_answers_that_change_each_time_are_refused(tmp_path):
    random = np.random.default_rng(0)
    box = BlackBox(lambda rows: rows @ weights("A") + random.normal(size=(len(rows), 3)), CLASSES)
    with pytest.raises(
        ValueError, match=r"model that answers otherwise each time.*model does.*key="
    ):
        scored(box, store=tmp_path)
    named = BlackBox(box.predict, CLASSES, key="noisy")
    first = scored(named, store=tmp_path)
    np.testing.assert_array_equal(scored(named, store=tmp_path), first)


class Dropping(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x[:, :CLASSES], self.share, training=True)


def test_draws_from_the_global_states_are_the_same_each_time(tmp_path):
    first = scored(Dropping(0.3).eval(), store=tmp_path)
    np.testing.assert_array_equal(scored(Dropping(0.3).eval(), store=tmp_path), first)
    with pytest.raises(ValueError, match="model was"):
        scored(Dropping(0.4).eval(), store=tmp_path)


@pytest.mark.parametrize(("change", "is_found"), [(1e-6, True), (1e-2, False)])
def test_rounding_of_another_machine_is_no_other_model(change, is_found, tmp_path):
    model = Added(lambda rows: rows @ weights("A")).eval()
    first = scored(model, store=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["rows"] == [0, 3, 7, 10, 13, 16, 20, 23]
    answers = np.array(manifest["answers"]["model"]["values"])
    answers[5] *= 1 + change
    manifest["answers"]["model"]["values"] = answers.tolist()
    (tmp_path / "manifest.json").write_text(sealed_json(manifest))
    if is_found:
        np.testing.assert_array_equal(scored(model, store=tmp_path), first)
    else:
        with pytest.raises(ValueError, match="model answers otherwise, for sample 16 by up to"):
            scored(model, store=tmp_path)


def test_where_answers_are_all_that_is_known_rounding_asks_for_a_key(tmp_path):
    def box(factor: float, **settings: str) -> BlackBox:
        return BlackBox(Session(weights("A") * factor).run, CLASSES, **settings)

    scored(box(1.0), store=tmp_path / "one")
    with pytest.raises(ValueError, match=r"a rounding counts too .* give it a key"):
        scored(box(1.0 + 1e-6), store=tmp_path / "one")
    first = scored(box(1.0, key="one"), store=tmp_path / "two")
    again = scored(box(1.0 + 1e-6, key="one"), store=tmp_path / "two")
    np.testing.assert_array_equal(again, first)


def test_an_explainer_that_cannot_be_read_has_no_store(tmp_path):
    running = (value for value in itertools.count(1))

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.abs(inputs) * next(running)

    model = nn.Linear(6, 3).eval()
    with pytest.raises(ValueError, match=r"xai_methods.mine holds what cannot be read \(generator"):
        scored(model, xai_methods={"mine": explain}, store=tmp_path)
    assert np.isfinite(scored(model, xai_methods={"mine": explain})).all()


def occlusion(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    """Explain by predictions alone."""

    def outputs(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(rows)).numpy()[range(len(rows)), targets]

    maps = np.empty_like(inputs)
    for feature in range(inputs.shape[1]):
        without = inputs.copy()
        without[:, feature] = 0
        maps[:, feature] = outputs(inputs) - outputs(without)
    return maps


def test_the_models_that_a_metric_holds_are_told_apart_too(make, tmp_path):
    def pscore(name: str) -> dict[str, object]:
        return {"metrics": {"P": PScore([make(name)])}, "xai_methods": {"occlusion": occlusion}}

    model = nn.Linear(6, 3).eval()
    first = scored(model, **pscore("A"), store=tmp_path / "store")
    with pytest.raises(ValueError, match=r"metrics.P.models(\[0\] answers otherwise| was)"):
        scored(model, **pscore("B"), store=tmp_path / "store")
    again = scored(model, **pscore("A"), store=tmp_path / "store")
    np.testing.assert_array_equal(again, first)


# In this process


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (kind, backend)
        for kind in KINDS
        for backend in ("sequential", "threading")
        # A generator runs in one thread at a time.
        if (kind, backend) != ("generator", "threading")
    ],
    indirect=["make"],
)
def test_what_is_not_copied_is_evaluated_in_this_process(make, backend):
    model, twin = make("A"), make("A")
    given = {
        "metrics": {"MoRF": MoRF(3), "P": PScore([twin, nn.Linear(6, 3).eval()])},
        "xai_methods": {"occlusion": occlusion},
    }
    expected = scored(model, **given)
    with joblib.parallel_config(backend=backend, n_jobs=2 if backend == "threading" else 1):
        np.testing.assert_allclose(scored(model, **given), expected, rtol=1e-6)


def test_what_does_not_pickle_does_not_travel():
    model = BlackBox(KINDS["lock"](weights("A"), Path()), CLASSES)
    with pytest.raises(TypeError, match="must be ones that pickle to go to other workers"):
        scored(model, n_jobs=2)


def test_trees_behind_a_lock_are_trained_again():
    from sklearn.tree import DecisionTreeClassifier

    x, y = data()
    tree = DecisionTreeClassifier(random_state=0, max_depth=2).fit(x, y)
    lock = threading.Lock()

    class Guarded:
        def __init__(self) -> None:
            self.lock = lock

        def predict(self, rows: np.ndarray) -> np.ndarray:
            with self.lock:
                return tree.predict_proba(rows)

    retrain = refit(lambda: DecisionTreeClassifier(random_state=0, max_depth=2), x, y)
    scores = [
        FFidelity(0.2, beta=0.4, fine_tune=retrain)(BlackBox(predict, CLASSES), x, y, np.abs(x))
        for predict in (Guarded().predict, tree.predict_proba)
    ]
    assert scores[0] == scores[1]


# Tuned copies


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    begun: list[str] = []

    def counted(*arguments: object, **keywords: object) -> object:
        begun.append(keywords["description"])
        return training.train(*arguments, **keywords)

    monkeypatch.setattr(tuner, "train", counted)
    return begun


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_tuned_copy_is_never_of_another(make, on_disk, trainings, tmp_path, monkeypatch):
    x, y = data()
    rows: list[int] = []
    outputs = known.first_outputs
    monkeypatch.setattr(
        known, "first_outputs", lambda model, x, d: rows.append(len(x[:8])) or outputs(model, x, d)
    )

    def tuned(name: str) -> np.ndarray:
        if on_disk:
            clear_memory()
        tune = FineTuner(
            x,
            y,
            epochs=1,
            lr=0.1,
            display_progressbar=False,
            cache_dir=tmp_path / "tuned" if on_disk else None,
        )
        model = Added(make(name).predict).eval()
        return tune(model, MaskSampler(perturbation=replace_by(0.0), beta=0.3))

    def of(model: nn.Module) -> np.ndarray:
        return model.linear.weight.detach().numpy()

    first, again = of(tuned("A")), of(tuned("A"))
    assert len(trainings) == 1, "found again"
    assert rows == [8, 8]
    np.testing.assert_array_equal(again, first)
    other = of(tuned("B"))
    assert len(trainings) == 2
    assert (other != first).any()
    np.testing.assert_array_equal(of(tuned("A")), first)


def test_what_masks_read_at_call_time_counts(trainings, tmp_path):
    x, y = data()
    file = tmp_path / "value.npy"

    def masked(rows: Tensor, draw: int, index: Tensor) -> Tensor:
        return torch.where(rows > 1, float(np.load(file)), rows)

    model = nn.Linear(6, 3).eval()
    for value in (0.0, 1.0, 1.0):
        np.save(file, value)
        tune = FineTuner(x, y, epochs=1, display_progressbar=False)
        tune(model, masked)
    assert len(trainings) == 2
    assert tune.report.cache_hit


def test_models_that_nothing_tells_apart_are_tuned_each_time(trainings):
    x, y = data()
    for name in "ABA":
        model = Added(labels(name)).eval()
        with torch.no_grad():
            model.linear.weight.zero_()
        tune = FineTuner(x, y, epochs=1, display_progressbar=False)
        tune(model, MaskSampler(perturbation=replace_by(0.0), beta=0.3))
        assert not tune.report.cache_hit
    assert len(trainings) == 3


# Clean outputs


@pytest.mark.parametrize("is_network", [False, True])
def test_clean_outputs_are_never_of_another(make, is_network):
    def model(name: str) -> nn.Module:
        return Added(make(name).predict).eval() if is_network else make(name)

    expected = {name: morf(model(name)) for name in "AB"}
    with clean_outputs_shared():
        for name in "AABA":
            assert morf(model(name)) == expected[name]


def test_a_network_of_ones_own_is_asked_for_a_few_rows(monkeypatch):
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] * Session.scale

    monkeypatch.setattr(Session, "scale", 1.0, raising=False)
    forward, rows = quantus_ext.engine.forward.Forward, []
    checked = forward._checked
    monkeypatch.setattr(
        forward, "_checked", lambda self, x: rows.append(len(x)) or checked(self, x)
    )
    x = torch.from_numpy(data()[0])
    cpu = torch.device("cpu")
    with clean_outputs_shared():
        for model in (Scaled().eval(), nn.Sequential(nn.Linear(6, 3)).eval()):
            for sent in (24, 0):
                asked = forward.of_module(model, cpu)
                asked.clean(x)
                # The few rows of the check aside.
                assert asked.n_evaluations == sent
    assert rows == [24, 8, 24], "of torch's own modules content tells all"


def test_a_compiled_copy_is_never_of_another(monkeypatch):
    rows = torch.from_numpy(data()[0])
    model = Added(KINDS["modules_global"](weights("A"), Path())).eval()
    key, none = compiled.find(model, rows)
    assert none is None
    answers = model(rows[probe_rows(len(rows))]).detach()
    for change, is_found in ((0.0, True), (1e-6, True), (0.1, False)):

        def copy(some: Tensor, change: float = change) -> Tensor:
            return model(some) * (1 + change)

        monkeypatch.setattr(compiled, "_compiled", {key: copy})
        assert compiled.find(model, rows) == (key, copy if is_found else None)
    KINDS["modules_global"](weights("B"), Path())
    monkeypatch.setattr(compiled, "_compiled", {key: lambda _: answers})
    assert compiled.find(model, rows) == (key, None)


# PScore


def pscores(ensemble: list[nn.Module], model: nn.Module) -> list[float]:
    x, y = data()
    a = np.abs(x)
    return PScore(ensemble)(model, x, y, a, explain_func=occlusion)


def test_maps_of_the_ensemble_are_never_of_another(make, asked):
    model = nn.Linear(6, 3).eval()
    expected = {}
    for name in "AB":
        p_score._maps.clear()
        expected[name] = pscores([make(name)], model)
    assert expected["A"] != expected["B"]
    for name in "ABA":
        assert pscores([make(name)], model) == expected[name]
    asked.clear()
    assert pscores([make("A")], model) == expected["A"]
    assert asked == [8], "found again"


@pytest.mark.parametrize("make", sorted(KINDS.keys() - OUTSIDE), indirect=True)
def test_the_scored_model_is_left_out_where_answers_say_that_it_is_it(make):
    first, twin, other = make("A"), make("A"), make("B")
    p_score._maps.clear()
    expected = pscores([other], first)
    assert pscores([other, twin], first) == expected
    assert pscores([other, first], first) == expected
    with pytest.raises(ValueError, match="models must hold another model than the scored one"):
        pscores([twin], first)
