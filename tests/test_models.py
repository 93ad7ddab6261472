"""Scores of models that say little or what is strange: right, warned of or refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

from quantus_ext import (
    QGE,
    ROAR,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    SynScore,
    evaluate,
)
from quantus_ext.adapters import BlackBox, TokenIds
from quantus_ext.protocols import explanation_size
from tests import state
from tests.forms import MODEL_FORMS

_draw = np.random.default_rng(4)
X = _draw.normal(size=(5, 6)).astype(np.float32)
A = _draw.normal(size=(5, 6)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1])
PLANTED = np.arange(30).reshape(5, 6) % 2 == 0


def network(*last: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), *last).eval()


class BySoftmax(nn.Module):
    """Takes its softmax by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows).softmax(-1)


def predict_proba(rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return BySoftmax()(torch.from_numpy(rows).float()).numpy()


# Scripts and programs


@pytest.mark.parametrize("form", ["scripted", "scripted part", "traced", "frozen", "exported"])
def test_the_softmax_of_scripts_and_programs_is_not_taken_twice(form):
    plain = network(nn.Softmax(-1))
    model = MODEL_FORMS[form](plain, torch.from_numpy(X))
    inner = quantus.PixelFlipping(features_in_step=1, disable_warnings=True)
    for metric in (Deletion(4), QGE(Deletion(4)), QGE(inner)):
        scores, expected = (metric(m, X, Y, A, softmax=True) for m in (model, plain))
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)
    for metric in (Infidelity(n_perturb_samples=4), Deletion(4), QGE(inner)):
        with pytest.raises(ValueError, match="softmax must be True for a model with a softmax"):
            metric(model, X, Y, A, softmax=False)
    assert np.isfinite(
        Deletion(4)(MODEL_FORMS[form](network(), torch.from_numpy(X)), X, Y, A)
    ).all()


def test_a_program_is_taken_in_the_mode_and_for_the_rows_that_it_was_exported_for():
    model = network(nn.Dropout(), nn.Softmax(-1))
    program = torch.export.export(model, (torch.from_numpy(X),)).module()
    with pytest.raises(NotImplementedError):
        program.eval()
    for rows in (slice(0, 5), slice(0, 2)):
        np.testing.assert_allclose(
            Deletion(4)(program, X[rows], Y[rows], A[rows]),
            Deletion(4)(model, X[rows], Y[rows], A[rows]),
            rtol=1e-5,
        )
    trained = torch.export.export(model.train(), (torch.from_numpy(X),)).module()
    with pytest.raises(ValueError, match="model must be exported in evaluation mode"):
        Deletion(4)(trained, X, Y, A)


@pytest.mark.parametrize("form", ["scripted", "frozen", "exported"])
def test_what_cannot_be_tuned_or_compiled_is_named(form):
    model = MODEL_FORMS[form](network(), torch.from_numpy(X))
    tuner = FineTuner(X, Y, epochs=1, display_progressbar=False)
    with pytest.raises(TypeError, match=r"model must be .* pass what it was made from"):
        FFidelity(0.5, fine_tune=tuner)(model, X, Y, A)
    with pytest.raises(ValueError, match="compile must be False for a model that is scripted"):
        Deletion(4, compile=True)(model, X, Y, A)


@pytest.mark.parametrize("form", ["normed by hooks", "pruned", "parametrised", "scripted"])
def test_weights_that_are_computed_from_others_are_not_drawn_anew(form):
    model = MODEL_FORMS[form](network(), torch.from_numpy(X))
    with torch.no_grad():
        # The tensors that hooks leave must be ones that can be copied.
        model(torch.from_numpy(X))
        roar = ROAR(FineTuner(X, Y, epochs=1, display_progressbar=False), A, 0.5)
        with pytest.raises(ValueError, match="build_model must make an untrained model"):
            roar(model, X, Y, A)


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in MODEL_FORMS if form != "quantised"])
def test_evaluate_takes_every_form_and_leaves_it_alone(form):
    metrics = {
        "Deletion": Deletion(2),
        "Infidelity": Infidelity(n_perturb_samples=4),
        "Flipping": quantus.PixelFlipping(
            features_in_step=1, disable_warnings=True, return_auc_per_sample=True
        ),
    }

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return inputs * model(torch.from_numpy(inputs)).sum().numpy()

    def scores(model: nn.Module) -> np.ndarray:
        evaluation = evaluate(metrics, {"a": A, "own": explain}, model, X, Y, batch_size=5)
        assert evaluation.failures == ()
        return evaluation.scores

    plain = network()
    model = MODEL_FORMS[form](plain, torch.from_numpy(X))
    with torch.no_grad():
        model(torch.from_numpy(X))
        before = state.of_model(model)
        np.testing.assert_allclose(scores(model), scores(plain), rtol=1e-4, atol=1e-5)
    assert state.differences(before, state.of_model(model)) == []


# Softmax twice


@pytest.mark.parametrize("model", [BySoftmax().eval(), BlackBox(predict_proba, classes=3)])
def test_a_softmax_of_probabilities_is_warned_of_and_taken(model):
    with torch.no_grad():
        twice = network(nn.Softmax(-1), nn.Softmax(-1))
        unseen = nn.Sequential(twice, nn.Identity()).eval()
        expected = Deletion(4)(unseen, X, Y, A, softmax=False)
    for rows in (slice(0, 5), slice(0, 1)):
        with pytest.warns(UserWarning, match="probabilities already .* pass softmax=False") as told:
            scores = Deletion(4)(model, X[rows], Y[rows], A[rows], batch_size=2)
        assert len(told) == 1
        assert told[0].filename == __file__
        np.testing.assert_allclose(scores, expected[rows], rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = Deletion(4)(model, X, Y, A, softmax=False)
    np.testing.assert_allclose(scores, Deletion(4)(network(), X, Y, A), rtol=1e-5)


def test_where_a_second_softmax_is_warned_of():
    model = BySoftmax().eval()
    probability = Fidelity(0.5, output="probability")
    for metric in (probability, QGE(probability), QGE(Deletion(4))):
        with pytest.warns(UserWarning, match="probabilities already"):
            metric(model, X, Y, A)
    with pytest.warns(UserWarning, match="probabilities already"):
        explanation_size(model, X, Y, A, fine_tune=model, n_samples=2)
    quiet = [Fidelity(0.5), QGE(Fidelity(0.5)), SynScore(), Infidelity(n_perturb_samples=4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Where only the largest output counts, or none, and where no softmax is taken.
        for metric in quiet:
            metric(model, X, Y, A, s_batch=PLANTED)
        SynScore()(model, X, Y, A, s_batch=PLANTED, softmax=True)
        Deletion(4)(network(), X, Y, A)
        Deletion(4)(network(nn.Softmax(-1)), X, Y, A)


# Types


class Whole(nn.Module):
    """Has weights of 8 bits and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(18, dtype=torch.int8).reshape(6, 3) % 5)

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight.float()


class Buffered(nn.Module):
    """Has buffers in place of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", network()[0].weight.detach().clone())

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.weight)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.int64, np.float16])
@pytest.mark.parametrize(
    "model",
    [
        Buffered(),
        MODEL_FORMS["frozen"](network(), torch.from_numpy(X)),
        MODEL_FORMS["quantised"](network(), torch.from_numpy(X)),
    ],
    ids=["buffers", "frozen", "quantised"],
)
def test_inputs_become_what_the_model_computes_in(model, dtype):
    x = (10 * np.abs(X)).astype(dtype)
    scores = Deletion(4)(model.eval() if isinstance(model, Buffered) else model, x, Y, A)
    np.testing.assert_array_equal(scores, Deletion(4)(model, x.astype(np.float32), Y, A))


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_inputs_of_a_type_that_nothing_tells_are_named(dtype):
    x = (10 * np.abs(X)).astype(dtype)
    with pytest.raises(TypeError, match=r"x_batch must have the type .*astype"):
        Deletion(4)(Whole().eval(), x, Y, A)
    assert np.isfinite(Deletion(4)(Whole().eval(), x.astype(np.float32), Y, A)).all()

    def session(rows: np.ndarray) -> np.ndarray:
        if rows.dtype != np.float32:
            raise RuntimeError("Unexpected input data type. Actual: (tensor(double))")
        return rows[:, :3]

    with pytest.raises(TypeError, match="x_batch must have the type"):
        Deletion(4)(BlackBox(session, classes=3), x, Y, A)


def outputs_of(change: Callable[[Tensor], Tensor]) -> nn.Module:
    class Outputs(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return change(rows[:, :3])

    return Outputs().eval()


def test_outputs_that_are_whole_or_complex():
    whole = outputs_of(lambda rows: (100 * rows).long())
    with pytest.raises(TypeError, match="must hold floating-point numbers for a softmax"):
        Deletion(4)(whole, X, Y, A)
    as_doubles = outputs_of(lambda rows: (100 * rows).long().double())
    for metric in (Deletion(4, return_aggregate=True), Infidelity(n_perturb_samples=4)):
        np.testing.assert_array_equal(
            *(metric(model, X, Y, A, softmax=False) for model in (whole, as_doubles))
        )
    with pytest.raises(TypeError, match="model's output must hold real numbers"):
        Deletion(4)(outputs_of(lambda rows: torch.complex(rows, rows)), X, Y, A)


def test_weights_on_no_device_are_named():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(2, device="meta"))
            self.layers = network()

        def forward(self, rows: Tensor) -> Tensor:
            return self.layers(rows)

    with pytest.raises(ValueError, match="its 'unused' is on 'meta'"):
        Deletion(4)(Unused().eval(), X, Y, A)


# Mode


def images() -> tuple[nn.Module, np.ndarray]:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten(), nn.Linear(32, 3))
    return model.train(), _draw.normal(size=(5, 1, 6, 6)).astype(np.float32)


def test_the_mode_counts_when_the_first_maps_are_made():
    model, x = images()
    given = {"explain_func": quantus.explain, "explain_func_kwargs": {"method": "Saliency"}}
    scores = Deletion(4)(model, x, Y, batch_size=2, **given)
    # As the function leaves it, and every batch is explained once.
    assert not model.training
    asked = []

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        asked.append(len(inputs))
        model.eval()
        return quantus.explain(model, inputs, targets, method="Saliency")

    again = Deletion(4)(model.train(), x, Y, batch_size=2, explain_func=explain)
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_array_equal(Deletion(4)(model.eval(), x, Y, batch_size=2, **given), scores)
    assert asked == [2, 2, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"a_batch": np.ones((5, 1, 6, 6))},
        {"explain_func": lambda model, inputs, targets: inputs},
        {"y_batch": None},
    ],
    ids=["maps given", "left in training", "labels to predict"],
)
def test_a_model_that_stays_in_training_mode_is_refused(changes):
    model, x = images()
    given = {"y_batch": Y, "explain_func": quantus.explain, **changes}
    with pytest.raises(ValueError, match="model must be in evaluation mode"):
        Deletion(4)(model, x, **given)
    assert all(part.training for part in model.modules())


# Text


class Reader(nn.Module):
    """Reads what its attention mask lets it, and may end in a softmax."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.embedding, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(ids).tanh() * attention_mask.unsqueeze(2)
        return self.head(hidden.sum(1))


def _traced_with_mask(model: nn.Module, ids: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(copy.deepcopy(model), (ids, (ids != 0).long()))


def _exported_with_mask(model: nn.Module, ids: Tensor) -> nn.Module:
    rows = {0: torch.export.Dim("rows", min=1, max=2**16)}
    mask = {"attention_mask": (ids != 0).long()}
    shapes = {"ids": rows, "attention_mask": rows}
    return torch.export.export(model, (ids,), mask, dynamic_shapes=shapes, strict=False).module()


IDS = np.array([[2, 5, 4, 3, 8], [7, 6, 0, 0, 0], [3, 3, 8, 0, 0]])
WITH_MASK = {
    **MODEL_FORMS,
    "traced": _traced_with_mask,
    "exported": _exported_with_mask,
}
NO_KEYWORDS = {"nested", "compiled part", "scripted part", "quantised"}
"""Forms in ``nn.Sequential``, which hands no keywords on, and the one that answers otherwise."""


def test_a_program_of_one_number_of_texts_is_refused():
    ids = torch.from_numpy(IDS)
    mask = {"attention_mask": (ids != 0).long()}
    model = torch.export.export(Reader().eval(), (ids,), mask).module()
    with pytest.raises(ValueError, match="export it with dynamic_shapes"):
        TokenIds(model, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("removal", ["mask", "delete", "zero"])
@pytest.mark.parametrize("form", [form for form in WITH_MASK if form not in NO_KEYWORDS])
def test_text_in_every_form_is_asked_with_its_attention_mask(form, removal):
    closed = {"scripted", "traced", "frozen", "exported"}
    plain = Reader().eval()
    model = WITH_MASK[form](plain, torch.from_numpy(IDS))
    metric, a = Deletion(3), A[:3, :5]
    if form in closed and removal == "zero":
        with pytest.raises(ValueError, match="embedding must name the part of the model"):
            TokenIds(model, 1, 0, removal=removal)
        return
    scores = metric(TokenIds(model, 1, 0, removal=removal), IDS, Y[:3], a)
    expected = metric(TokenIds(plain, 1, 0, removal=removal), IDS, Y[:3], a)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
