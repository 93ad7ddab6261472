"""A model in another form: right in every form that people bring, and left as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.modules import (
    are_probabilities,
    resolve_softmax,
    weight_dtype,
    with_submodule,
)
from tests import state
from tests.forms import MODEL_FORMS

CPU = torch.device("cpu")
X = torch.linspace(-2, 2, 30, dtype=torch.float64).sin().reshape(5, 6)


class Attention(nn.Module):
    """Has one softmax, registered last, which it uses inside, at its end, or both."""

    def __init__(self, *, inside: bool, at_end: bool) -> None:
        super().__init__()
        self.inside, self.at_end = inside, at_end
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)
        self.softmax = nn.Softmax(-1)

    def logits(self, rows: Tensor) -> Tensor:
        hidden = self.first(rows)
        return self.second(hidden.softmax(-1) if self.inside else hidden)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.first(rows)
        if self.inside:
            hidden = self.softmax(hidden)
        outputs = self.second(hidden)
        if self.at_end:
            outputs = self.softmax(outputs)
        return outputs


class Aliased(nn.Module):
    """Has one softmax under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax = nn.Softmax(-1)
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)
        self.last = self.softmax

    def logits(self, rows: Tensor) -> Tensor:
        return self.second(self.first(rows).softmax(-1))

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(self.second(self.softmax(self.first(rows))))


class Layers(nn.Sequential):
    """Ends in whatever comes last."""

    def __init__(self, *last: nn.Module) -> None:
        super().__init__(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), *last)

    def logits(self, rows: Tensor) -> Tensor:
        return self[2](self[1](self[0](rows)))


ENDINGS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "logits": (Layers, False),
    "softmax": (lambda: Layers(nn.Softmax(-1)), True),
    "nested softmax": (lambda: Layers(nn.Sequential(nn.Sequential(nn.Softmax(-1)))), True),
    "softmax inside": (lambda: Attention(inside=True, at_end=False), False),
    "softmax at the end": (lambda: Attention(inside=False, at_end=True), True),
    "one softmax for both": (lambda: Attention(inside=True, at_end=True), True),
    "two names of one": (Aliased, True),
}

CLOSED = {"scripted", "scripted part", "traced", "frozen", "exported"}
"""Forms whose softmax cannot be left out."""


@functools.cache
def made(ending: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return ENDINGS[ending][0]().double().eval()


def in_form(form: str, ending: str) -> nn.Module:
    return MODEL_FORMS[form](made(ending), X)


# Weights of 8 bits answer otherwise.
each_form = pytest.mark.parametrize("form", [form for form in MODEL_FORMS if form != "quantised"])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
@each_form
def test_softmax_in_every_form(form, ending):
    model, plain, has_softmax = in_form(form, ending), made(ending), ENDINGS[ending][1]
    with torch.no_grad():
        logits, outputs = plain.logits(X), model(X)
        before = state.of_model(model)
        given = Forward.of_module(model, CPU, softmax=True).clean(X)
        torch.testing.assert_close(given, logits.softmax(-1))
        if has_softmax and form in CLOSED:
            with pytest.raises(ValueError, match=r"softmax must be True .* that it was made from"):
                Forward.of_module(model, CPU, softmax=False).clean(X)
        else:
            given = Forward.of_module(model, CPU, softmax=False).clean(X)
            torch.testing.assert_close(given, logits)
        assert state.differences(before, state.of_model(model)) == []
        assert torch.equal(model(X), outputs)


@pytest.mark.parametrize("form", sorted(CLOSED))
def test_without_rows_a_softmax_is_known_by_its_place(form):
    model = in_form(form, "softmax")
    assert resolve_softmax(model, softmax=True) is model
    with pytest.raises(ValueError, match="softmax must be True"):
        resolve_softmax(model, softmax=False)


def test_a_quantised_softmax():
    model = MODEL_FORMS["quantised"](Layers(nn.Softmax(-1)).eval(), X.float())
    before = state.of_model(model)
    logits = resolve_softmax(model, False, X.float())
    torch.testing.assert_close(logits(X.float()).softmax(1), model(X.float()))
    assert resolve_softmax(model, True, X.float()) is model
    assert state.differences(before, state.of_model(model)) == []


@each_form
def test_twins_are_views(form):
    model, layers = in_form(form, "logits"), made("logits")
    if form in CLOSED:
        with pytest.raises(ValueError, match="model must be one whose parts can be exchanged"):
            with_submodule(model, ["0", "1"], nn.Identity())
        return
    named = model.named_modules(remove_duplicate=False)
    places = [name.split(".") for name, part in named if isinstance(part, nn.Tanh)]
    with torch.no_grad():
        outputs, before, twin = model(X), state.of_model(model), model
        for place in places:
            twin = with_submodule(twin, place, nn.Identity())
        torch.testing.assert_close(twin(X), layers[2](layers[0](X)))
        assert {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}
        assert state.differences(before, state.of_model(model)) == []
        assert torch.equal(model(X), outputs)


def test_hooks_of_what_was_compiled_are_kept():
    model = MODEL_FORMS["compiled"](made("softmax"), X)
    model.register_forward_hook(lambda module, args, outputs: 2 * outputs)
    logits = resolve_softmax(model, softmax=False)
    torch.testing.assert_close(logits(X), 2 * made("softmax").logits(X))
    # Attributes are handed on, as by what was compiled.
    torch.testing.assert_close(logits.logits(X), made("softmax").logits(X))


def test_a_forward_that_holds_on_to_its_module_is_refused():
    model = made("softmax")
    held = Layers(nn.Softmax(-1)).double().eval()
    held.load_state_dict(model.state_dict())
    held.forward = lambda rows: nn.Sequential.forward(held, rows)
    torch.testing.assert_close(resolve_softmax(held, True, X)(X), model(X))
    with pytest.raises(ValueError, match="softmax must be True"):
        resolve_softmax(held, False, X)


def test_programs_of_one_number_of_rows_take_any():
    model = torch.export.export(made("softmax"), (X[:3],)).module()
    for n in (1, 2, 3, 5):
        forward = Forward.of_module(model, CPU, softmax=True)
        with torch.no_grad():
            torch.testing.assert_close(forward.clean(X[:n]), made("softmax")(X[:n]))
        assert forward.n_evaluations == n


def test_what_was_made_in_a_mode_needs_none():
    model = nn.Sequential(nn.Linear(6, 3), nn.Dropout()).double()
    for mode, form in ((False, "frozen"), (False, "exported")):
        checks.evaluation_mode(MODEL_FORMS[form](model.train(mode), X))
    with pytest.raises(ValueError, match="must be exported in evaluation mode"):
        checks.evaluation_mode(MODEL_FORMS["exported"](model.train(), X))
    # What was scripted has a mode still.
    scripted = MODEL_FORMS["scripted"](model.train(), X)
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        checks.evaluation_mode(scripted)
    checks.evaluation_mode(scripted.eval())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", MODEL_FORMS)
def test_the_type_that_a_model_computes_in(form, dtype):
    if form == "quantised" and dtype == torch.float64:
        pytest.skip("has no double precision")
    model = Layers().to(dtype).eval()
    assert weight_dtype(MODEL_FORMS[form](model, X.to(dtype))) == dtype


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([[0.2, 0.8], [1.0, 0.0]], True),
        ([[0.2, 0.8], [1.5, -0.5]], False),
        ([[0.2, 0.8], [0.5, 0.501]], False),
        ([[1.0], [1.0]], False),
        ([[0, 1], [1, 0]], False),
        ([[0.2, np.nan], [1.0, 0.0]], False),
    ],
)
def test_probabilities_are_known(outputs, expected):
    assert bool(are_probabilities(torch.tensor(outputs))) is expected


def test_probabilities_in_low_precision():
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert bool(are_probabilities(logits.to(dtype).softmax(1)))
        assert not bool(are_probabilities(logits.to(dtype).sigmoid()))
