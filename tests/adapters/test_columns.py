"""Tables: blocks of columns go together, and what a column becomes is its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quantus_ext import ABPC, QGE, Deletion, FFidelity, Fidelity, FineTuner, Infidelity, RFidelity
from quantus_ext.adapters import Columns
from quantus_ext.perturbation import background_replacement_by_indices
from tests.harness import make_inputs, rows_seen
from tests.reference import fidelity

GROUPS, KEPT = [[1, 3, 4]], [6]
VARIABLES = [[0], [1, 3, 4], [2], [5]]


def grouped() -> tuple[object, Columns]:
    inputs = make_inputs("table")
    return inputs, Columns(inputs.model, GROUPS, n_columns=7, kept=KEPT)


def test_variables_equal_the_slow_reference_over_them():
    inputs, model = grouped()
    settings = {"sparsity": (0.3, 0.5), "alpha": 0.5, "n_samples": 5, "output": "probability"}
    scores = inputs.call(RFidelity(**settings), model=model)
    expected = []
    for i, x in enumerate(inputs.x):

        def predict(rows: np.ndarray, x: np.ndarray = x) -> np.ndarray:
            # A variable that is there is 1, one that is gone 0.
            whole = np.tile(x, (len(rows), 1))
            for row, there in zip(whole, rows, strict=True):
                for columns, still in zip(VARIABLES, there, strict=True):
                    row[columns] *= still
            return inputs.predict(softmax=True)(whole)

        a = np.array([[inputs.a[i, columns].sum() for columns in VARIABLES]])
        expected += list(
            fidelity.fidelity(predict, np.ones((1, 4)), inputs.y[i : i + 1], a, [i], **settings)
        )
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        Deletion,
        lambda: QGE(ABPC(3)),
        lambda: Infidelity(perturb_patch_sizes=[2], perturb_baseline=0.0, n_perturb_samples=20),
        lambda: Infidelity(scheme="subset", perturb_baseline=0.0, n_perturb_samples=20),
        lambda: Infidelity(scheme="all", perturb_baseline=0.0),
        lambda: Fidelity([0.5], element="patch", patch_size=1),
    ],
    ids=["Deletion", "QGE", "windows", "subset", "all", "patch"],
)
def test_blocks_go_together_and_kept_columns_stay(make):
    inputs, model = grouped()
    with rows_seen(model) as seen:
        inputs.call(make(), model=model)
    rows = torch.cat(seen).numpy()
    assert (rows[:, 6] != 0).all()
    gone = rows == 0
    if getattr(make(), "element", "") != "patch":
        assert (gone[:, [1]] == gone[:, [1, 3, 4]]).all()
    assert gone.any()


def test_a_linear_model_explained_by_its_weights_is_perfect():
    inputs = make_inputs("table")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Linear(7, 4).double().eval()
    model = Columns(linear, GROUPS, n_columns=7)
    weights = linear.weight.detach().numpy()[inputs.y]
    background = np.random.default_rng(0).normal(size=(50, 7))
    for keywords in (
        {"perturb_baseline": 0.0},
        {"perturb_baseline": model.baseline(background)},
        {
            "perturb_func": background_replacement_by_indices,
            "perturb_func_kwargs": {"background": background},
        },
    ):
        metric = Infidelity(n_perturb_samples=30, perturb_patch_sizes=[2], **keywords)
        assert max(inputs.call(metric, model=model, a_batch=weights)) < 1e-20
        times_input = Infidelity(
            n_perturb_samples=30, perturb_patch_sizes=[2], multiply_by_inputs=True, **keywords
        )
        # The maps' own baseline is 0, whatever removed columns become.
        assert max(inputs.call(times_input, model=model, a_batch=weights * inputs.x)) < 1e-20


def test_baseline_is_the_mean_or_the_commonest_level():
    _, model = grouped()
    background = np.zeros((4, 7))
    background[:, 0] = [1, 2, 3, 6]
    background[[0, 1, 2], [1, 3, 3]] = 1
    background[3, 4] = 1
    np.testing.assert_array_equal(model.baseline(background), [3, 0, 0, 1, 0, 0, 0])
    with pytest.raises(ValueError, match=r"background must have shape \(n, 7\), has \(4, 6\)"):
        model.baseline(background[:, :6])


def test_background_rows_are_drawn_whole_uniformly_and_seeded():
    inputs = make_inputs("table")
    background = np.arange(3.0)[:, None] * np.ones(7) + 100
    metric = Fidelity(
        [0.5],
        perturb_func=background_replacement_by_indices,
        perturb_func_kwargs={"background": background},
    )
    draws = RFidelity(
        [0.9],
        n_samples=600,
        perturb_func=background_replacement_by_indices,
        perturb_func_kwargs={"background": background},
    )
    with rows_seen(inputs.model) as seen:
        first = inputs.call(draws)
    rows = torch.cat(seen).numpy()
    sources = [np.unique(row[row >= 100]) for row in rows if (row >= 100).any()]
    assert {len(source) for source in sources} == {1}
    counts = np.unique(np.concatenate(sources), return_counts=True)[1]
    # Chance of so uneven a count below 1e-6: five standard deviations.
    expected = counts.sum() / 3
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)
    np.testing.assert_array_equal(first, inputs.call(draws))
    inputs.call(metric)
    assert np.isnan(metric.standard_errors).all()


@pytest.mark.parametrize(
    ("background", "message"),
    [
        (np.ones((0, 7)), "background must hold at least one row of finite values"),
        (np.full((2, 7), np.nan), "background must hold at least one row of finite values"),
        (np.ones((2, 6)), r"background must have rows of shape \(7,\), has \(6,\)"),
    ],
)
def test_bad_backgrounds_are_named(background, message):
    with pytest.raises(ValueError, match=message):
        make_inputs("table").call(
            Deletion(
                perturb_func=background_replacement_by_indices,
                perturb_func_kwargs={"background": background},
            )
        )


def test_tuning_masks_whole_variables():
    inputs, _ = grouped()
    training = make_inputs("table", n=40)
    model = Columns(training.model, GROUPS, n_columns=7, kept=KEPT)
    tuner = FineTuner(training.x, training.y, epochs=1)
    metric = FFidelity([0.5], fine_tune=tuner, beta=0.5, n_samples=3)
    inputs.call(metric, model=model)
    assert metric.health.count == [0, 1, 2]
    tuned = tuner.fine_tune(model, beta=0.5)
    assert tuner.report.cache_hit
    assert isinstance(tuned, Columns)


@pytest.mark.parametrize(
    ("groups", "kept", "message"),
    [
        ([[0, 7]], [], "columns below 7, hold 7"),
        ([[0, 1], [1, 2]], [], "hold each column once"),
        ([[0, 1]], [1], "hold each column once"),
    ],
)
def test_bad_groups_are_named(groups, kept, message):
    with pytest.raises(ValueError, match=message):
        Columns(nn.Linear(7, 2).eval(), groups, n_columns=7, kept=kept)


def test_the_inverse_swaps_variables_not_columns():
    with torch.random.fork_rng(devices=[]):
        linear = nn.Linear(4, 2).double().eval()
    model = Columns(linear, [[1, 2, 3]], n_columns=4)
    x, y, a = np.ones((1, 4)), np.array([1]), np.array([[2.0, 1.0, 1.0, 1.0]])
    metric = QGE(Deletion(2))
    metric(model, x, y, a)
    # Element sums 2 and 3 change places.
    swapped = Deletion(2)(model, x, y, np.array([[3.0, 2 / 3, 2 / 3, 2 / 3]]))
    np.testing.assert_allclose(metric.details["reference"], swapped)
    assert metric.details["score"] != swapped


@pytest.mark.parametrize(
    ("groups", "kept", "error", "message"),
    [
        ([[0, 1.5]], [], TypeError, "groups must be an integer, is 1.5"),
        (["ab"], [], TypeError, "groups must be an integer, is 'ab'"),
        ([], list(range(7)), ValueError, "kept must leave a column to remove, holds all 7"),
    ],
)
def test_slips_in_groups_are_named(groups, kept, error, message):
    with pytest.raises(error, match=message):
        Columns(nn.Linear(7, 2).eval(), groups, n_columns=7, kept=kept)


def test_another_number_of_columns_is_named():
    model = Columns(nn.Linear(7, 2).eval(), [], n_columns=6)
    with pytest.raises(ValueError, match=r"rows must have shape \(n, 6\), as n_columns says, have"):
        make_inputs("table").call(Deletion(), model=model)
