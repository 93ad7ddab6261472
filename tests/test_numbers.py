"""Numbers of less than double precision, and in arrays, are what they print, in every argument."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from quantus_ext import (
    ROAR,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    MoRF,
    Plan,
    RFidelity,
    checks,
    evaluation,
)
from quantus_ext.engine.replacements import replace_by
from quantus_ext.finetune import MaskSampler
from quantus_ext.functional import fidelity, infidelity, removal_curves
from quantus_ext.protocols import degrade, mask_robustness, rank_agreement
from quantus_ext.protocols.explanation_size import size_from_curves
from tests.harness import make_inputs

FORMS: dict[str, Callable[[float], object]] = {
    "float32": np.float32,
    "float64": np.float64,
    "array": np.array,
    "array of float32": lambda value: np.array(value, np.float32),
    "tensor": torch.tensor,
    "tensor of double": lambda value: torch.tensor(value, dtype=torch.float64),
    "tensor that learns": lambda value: torch.tensor(value, requires_grad=True),
    "longdouble": np.longdouble,
}
HALF: dict[str, Callable[[float], object]] = {
    "float16": np.float16,
    "bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
}
form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.mark.parametrize("form", (FORMS | HALF).values(), ids=FORMS | HALF)
@pytest.mark.parametrize("value", [0.29, 0.7, 0.05, 0.55, 1.0, 1e-4, 12345.0, -0.1])
def test_a_number_is_what_it_prints(form, value):
    if value == 12345.0 and form in HALF.values():
        pytest.skip("not a number of 16 bits")
    number = checks.finite_number("it", form(value))
    assert type(number) is float
    assert number == value
    assert checks.listed([form(value), 2]) == [value, 2]


@form
def test_every_value_of_single_precision_comes_back(form):
    for value in np.random.default_rng(0).normal(size=200).astype(np.float32):
        assert np.float32(checks.finite_number("it", value)) == value


@pytest.mark.parametrize(
    "bad", [True, np.True_, torch.tensor(True), "1", None, [1.0], np.ones(1), 1j]
)
def test_what_is_no_number_stays_none(bad):
    with pytest.raises(TypeError, match="it must be a number"):
        checks.finite_number("it", bad)
    if not isinstance(bad, (list, np.ndarray)):
        with pytest.raises(TypeError, match="it must be an integer"):
            checks.positive_integer("it", bad)


@pytest.mark.parametrize("bad", [np.float32("nan"), np.array(np.inf), torch.tensor(torch.nan)])
def test_what_is_not_finite_is_named(bad):
    with pytest.raises(ValueError, match="it must be finite, is"):
        checks.finite_number("it", bad)


@pytest.mark.parametrize("five", [5, np.int8(5), np.array(5), torch.tensor(5), np.uint64(5)])
def test_integers_in_any_form(five):
    number = checks.positive_integer("it", five)
    assert type(number) is int
    assert number == 5
    assert checks.seed(five) == 5
    assert checks.positive_integers("it", [five, 2]) == [5, 2]
    assert checks.grid("steps", five) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    metric = Infidelity(perturb_patch_sizes=[five], n_perturb_samples=five, chunk_size=five)
    assert (metric.perturb_patch_sizes, metric.n_perturb_samples) == ([5], 5)
    assert type(Plan(five).chunk_size) is int
    assert RFidelity(n_samples=five).n_samples == 5
    assert Deletion(features_in_step=five, n_samples=five).features_in_step == 5


ARGUMENTS: dict[str, tuple[Callable[[object], object], object]] = {
    "sparsity": (lambda v: Fidelity(v).sparsity, [0.29]),
    "sparsities": (lambda v: Fidelity([v, 0.5]).sparsity, [0.29, 0.5]),
    "alpha": (lambda v: RFidelity(alpha=v).alpha, (0.29, 0.29)),
    "alphas": (lambda v: RFidelity(alpha=(v, 0.5)).alpha, (0.29, 0.5)),
    "tolerance": (lambda v: RFidelity(tolerance=v).tolerance, 0.29),
    "beta": (lambda v: FFidelity(beta=v).beta, 0.29),
    "steps": (lambda v: MoRF([v]).fractions, [0, 0.29, 1]),
    "subset_fraction": (
        lambda v: Infidelity(scheme="subset", subset_fraction=v).subset_fraction,
        0.29,
    ),
    "inputs_baseline": (lambda v: Infidelity(inputs_baseline=v).inputs_baseline, 0.29),
    "Infidelity's tolerance": (lambda v: Infidelity(tolerance=v).tolerance, 0.29),
    "beta of masks": (
        lambda v: MaskSampler(perturbation=replace_by(0.0), beta=v).beta,
        0.29,
    ),
    "lr": (lambda v: _tuner(lr=v).settings.lr, 0.29),
    "validation_fraction": (
        lambda v: _tuner(validation_fraction=v).settings.validation_fraction,
        0.29,
    ),
    "sparsity of ROAR": (lambda v: ROAR(_tuner(), np.ones((9, 2)), v).sparsity, [0.29]),
    "alpha of a drift": (lambda v: evaluation.drift.check_settings(alpha=v)[0], 0.29),
}


def _tuner(**settings: object) -> FineTuner:
    x = np.random.default_rng(0).normal(size=(9, 2))
    return FineTuner(x, np.arange(9) % 2, display_progressbar=False, **settings)


@form
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_metrics_and_tuners(name, form):
    read, expected = ARGUMENTS[name]
    found = read(form(0.29))
    assert found == expected
    assert type(found) is type(expected)


@form
def test_so_many_elements_as_the_decimal_says(form):
    x = torch.ones(1, 100, dtype=torch.float64)
    y, share = torch.tensor([0]), form(0.29)
    model = lambda rows: rows[:, :2]  # noqa: E731
    assert fidelity(model, x, x, y, sparsity=[share]).details["size"].tolist() == [[29]]
    result = removal_curves(model, x, x, y, fractions=[0, share, 1], scores=["morf"])
    assert result["morf"].details["fractions"].tolist() == [[0, 0.29, 1]]
    subset = {"scheme": "subset", "n_draws": 3}
    ours = infidelity(model, x, x, y, subset_fraction=share, **subset)
    assert torch.equal(ours.score, infidelity(model, x, x, y, subset_fraction=0.29, **subset).score)
    masks = MaskSampler(perturbation=replace_by(0.0), beta=1.0)
    assert masks.count(x, share) == int((masks.at(x, share) == 0).sum()) == 29


@form
def test_arguments_of_protocols(form):
    inputs = make_inputs("table", n=40)
    for many in (lambda v: [form(v)], lambda v: np.array([v], np.float32)):
        assert np.array_equal(degrade(inputs.a, many(0.7)), degrade(inputs.a, [0.7]))
    assert np.array_equal(degrade(inputs.a, form(0.7)), degrade(inputs.a, 0.7))
    found, expected = (
        mask_robustness(inputs.model, inputs.x, inputs.y, [0.0, share])
        for share in (form(0.29), 0.29)
    )
    assert found.fractions.tolist() == [0, 0.29]
    assert np.array_equal(found.accuracy, expected.accuracy)
    assert expected.plain_would_do(form(0.9)) == expected.plain_would_do(0.9)
    noise = 0.01 * np.random.default_rng(0).normal(size=(50, 5))
    sizes = [form(place) for place in (0.1, 0.2, 0.3, 0.4, 0.5)]
    curves = {(0.9, 0.1): np.array([0.3, 0.5, 0.5, 0.4, 0.3]) + noise}
    assert size_from_curves(curves, sizes).sparsity == 0.3
    scores = {"a": ([[0.1, 0.2], [0.3, 0.1]], [[0.3, 0.4], [0.1, 0.1]])}
    assert rank_agreement(scores, [0, 1], sparsity=sizes[:2]).macro.shape == (1, 3)


def test_fractions_of_pythons_own():
    assert Fidelity(Fraction(29, 100)).sparsity == [0.29]
    assert MoRF(range(2)).fractions == [0, 1]
