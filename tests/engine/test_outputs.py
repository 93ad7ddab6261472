"""What models return besides a tensor: which tensor is taken, what is said, what is refused."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict, namedtuple
from typing import Any, NamedTuple

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

import quantus_ext
from quantus_ext import ROAR, Deletion, FFidelity, FineTuner, Infidelity
from quantus_ext.adapters import BinaryLogit, MultiOutput
from quantus_ext.engine.outputs import ScoresOf
from tests.harness import make_inputs


class Returning(nn.Module):
    """A model that returns its scores in some form."""

    def __init__(self, model: nn.Module, form: str) -> None:
        super().__init__()
        self.model, self.form = model, form

    def forward(self, x: Tensor) -> Any:
        return FORMS[self.form](self.model(x))


Named = namedtuple("Named", ["features", "logits"])


class Typed(NamedTuple):
    scores: Tensor
    features: list[Tensor]


def _hidden(scores: Tensor) -> Tensor:
    return torch.zeros(len(scores), 7, 5)


FORMS = {
    "tensor": lambda scores: scores,
    "model output": lambda scores: ImageClassifierOutput(
        logits=scores, hidden_states=(_hidden(scores),)
    ),
    "model output with a loss": lambda scores: ImageClassifierOutput(
        loss=scores.sum(), logits=scores
    ),
    "named tuple with logits": lambda scores: Named(-scores, scores),
    "tuple": lambda scores: (scores, _hidden(scores)),
    "tuple with None first": lambda scores: (None, scores, [_hidden(scores)]),
    "list": lambda scores: [scores],
    "typed tuple": lambda scores: Typed(scores, [_hidden(scores)]),
    "dict of one": lambda scores: {"out": scores},
    "dict": lambda scores: OrderedDict(aux=_hidden(scores), out=scores, loss=scores.sum()),
    "dict with logits": lambda scores: {"aux": -scores, "logits": scores},
}
SAID = {
    "dict": "returns OrderedDict of 'aux': .*: its entry 'out' is taken",
    "dict with logits": "its entry 'logits' is taken",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "make",
    [
        lambda x: Infidelity(n_perturb_samples=5),
        lambda x: Deletion(3),
        lambda x: FFidelity(
            [0.5],
            n_samples=3,
            output="probability",
            fine_tune=FineTuner(x, np.arange(5) % 4, epochs=1, display_progressbar=False),
        ),
    ],
    ids=["Infidelity", "Deletion", "FFidelity"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_scores_are_those_of_the_tensor(make, form):
    inputs = make_inputs("image")
    expected = inputs.call(make(inputs.x), model=Returning(inputs.model, "tensor").eval())
    found = inputs.call(make(inputs.x), model=Returning(inputs.model, form).eval())
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_choice_is_said_once(form):
    inputs = make_inputs("table")
    model = Returning(inputs.model, form).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inputs.call(Deletion(3), model=model)
        inputs.call(Deletion(3), model=model)
    said = [str(each.message) for each in caught]
    assert len(said) == (form in SAID)
    assert all(re.search(SAID[form], message) for message in said)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda scores: scores.numpy(), "returned ndarray"),
        (lambda scores: {"a": scores, "b": -scores}, r"returned dict of 'a': \(5, 4\), 'b': \(5"),
        (lambda scores: {"a": scores.sum()}, r"returned dict of 'a': \(\)"),
        (lambda scores: {"a": scores.argmax(1, keepdim=True)}, "returned dict"),
        (lambda scores: {}, "returned dict of nothing"),
        (lambda scores: [[scores]], "returned list of list"),
        (lambda scores: None, "returned NoneType"),
        (
            lambda scores: BaseModelOutputWithPooling(last_hidden_state=_hidden(scores)),
            r"returned BaseModelOutputWithPooling of 'last_hidden_state': \(5, 7, 5\)",
        ),
    ],
)
def test_what_has_no_scores_is_refused_with_a_wrapper_that_runs(form, message, monkeypatch):
    inputs = make_inputs("table")
    monkeypatch.setitem(FORMS, "own", form)
    model = Returning(inputs.model, "own").eval()
    with pytest.raises(TypeError, match=message) as raised:
        inputs.call(Deletion(), model=model)
    wrapper = str(raised.value).partition("\n")[2]
    monkeypatch.setitem(FORMS, "own", lambda scores: {"a": scores, "b": -scores})
    names = {"torch": torch, "model": model}
    exec(wrapper.replace("...", "'b'"), names)
    expected = inputs.call(Deletion(), model=nn.Sequential(inputs.model, Negative()).eval())
    np.testing.assert_allclose(inputs.call(Deletion(), model=names["model"]), expected)


class Negative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def test_keywords_of_single_samples_are_told_apart():
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor]:
            # It fails for no number of rows, so that only its answers tell.
            own = scale if len(scale) == len(x) else scale[:1]
            return (x * own,)

    x = np.ones((3, 2), dtype=np.float32)
    scale = torch.tensor([[1.0], [2.0], [3.0]])
    scores = Deletion(1, chunk_size=2)(
        Scaled().eval(),
        x,
        np.zeros(3, int),
        x,
        model_predict_kwargs={"scale": scale},
        softmax=False,
    )
    assert scores == [0.5, 1.0, 1.5]


def test_a_softmax_at_the_end_is_found_behind_it():
    inputs = make_inputs("table")
    ending = nn.Sequential(inputs.model, nn.Softmax(-1))
    for softmax in (True, False):
        found = inputs.call(
            Deletion(4), model=Returning(ending, "model output").eval(), softmax=softmax
        )
        np.testing.assert_allclose(found, inputs.call(Deletion(4), softmax=softmax))


def test_training_anew_reads_outputs_too():
    inputs = make_inputs("table", n=12)
    scores = []
    for form in ("tensor", "model output"):
        tuner = FineTuner(inputs.x, inputs.y, epochs=1, display_progressbar=False)
        model = Returning(inputs.model, form).eval()
        scores.append(inputs.call(ROAR(tuner, inputs.a, [0.5]), model=model))
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("adapter", [BinaryLogit, lambda model: MultiOutput(model, (2, 2))])
def test_adapters_read_outputs_too(adapter):
    shape = (2, 2) if adapter is not BinaryLogit else (1,)
    plain = nn.Sequential(nn.Linear(3, int(np.prod(shape))), nn.Unflatten(1, shape)).eval()
    x = torch.randn(2, 3)
    wrapped = Returning(plain, "model output").eval()
    torch.testing.assert_close(adapter(wrapped)(x), adapter(plain)(x))


@pytest.mark.parametrize("form", ["model output", "tuple", "dict"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_evaluate_explains_and_scores_it(form):
    inputs = make_inputs("image", dtype=torch.float32)

    def evaluated(kind: str) -> np.ndarray:
        evaluation = quantus_ext.evaluate(
            {
                "Deletion": Deletion(3),
                "Quantus's": quantus.FaithfulnessCorrelation(
                    nr_runs=5, subset_size=9, return_aggregate=False, disable_warnings=True
                ),
            },
            {"Saliency": {}, "own": lambda model, inputs, targets, **_: np.abs(inputs)},
            Returning(inputs.model, kind).eval(),
            inputs.x,
            inputs.y,
        )
        assert not evaluation.failures, evaluation.failures
        return np.array(
            [
                evaluation.scores_of(explainer, metric)
                for explainer in ("Saliency", "own")
                for metric in ("Deletion", "Quantus's")
            ]
        )

    np.testing.assert_array_equal(evaluated(form), evaluated("tensor"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_outputs_are_read(monkeypatch):
    # The compiler itself is not asked: what counts is that it gets a function to tensors.
    inputs = make_inputs("table")
    model = ScoresOf(Returning(inputs.model, "dict").eval())
    x = torch.from_numpy(inputs.x)
    first = model(x)
    assert model._reading is not None
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), first)
