"""Everything prints in one line, with what differs from the defaults."""

from __future__ import annotations

import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import quantus
import torch
from quantus.functions.perturb_func import gaussian_noise
from torch import nn

from quantus_ext import (
    ABPC,
    QGE,
    AutoDraws,
    Deletion,
    FineTuner,
    Infidelity,
    LeRF,
    MoRF,
    Plan,
    RFidelity,
    adapters,
    metrics,
)
from quantus_ext.shown import short
from tests.trained import needed

X, Y = np.arange(24, dtype="float32").reshape(8, 3), np.arange(8) % 2
LINEAR = nn.Linear(3, 2).eval()


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embedding(ids).mean(1)


def predict(rows: np.ndarray) -> np.ndarray:
    return rows[:, :2]


def tuner(**settings: object) -> FineTuner:
    return FineTuner(X, Y, display_progressbar=False, **settings)


@pytest.mark.parametrize("name", metrics.__all__)
def test_a_metric_shows_only_what_it_was_given(name):
    given = needed(name, tuner(), [LINEAR], torch.from_numpy(X))
    made = getattr(metrics, name)(**given)
    shown = repr(made)
    assert shown.startswith(f"{name}(")
    assert shown.endswith(")")
    assert len(shown) < 200
    arguments = shown.removeprefix(f"{name}(").removesuffix(")")
    assert arguments == ", ".join(f"{key}={short(value)}" for key, value in given.items())
    assert repr(pickle.loads(pickle.dumps(made))) == shown


COMMON = ("abs=True, ", "return_aggregate=True, ", "precision='bfloat16', ", "seed=None, ")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            Infidelity(perturb_patch_sizes=[2, 4], perturb_baseline=0.0, tolerance=0.1),
            "Infidelity(perturb_patch_sizes=[2, 4], perturb_baseline=0.0, tolerance=0.1)",
        ),
        (
            Infidelity(perturb_func=gaussian_noise, perturb_func_kwargs={"perturb_std": 0.2}),
            "Infidelity(perturb_func=gaussian_noise, perturb_func_kwargs={'perturb_std': 0.2})",
        ),
        (
            Infidelity(scheme="subset", subset_fraction=0.3, perturb_baseline=np.zeros((1, 2))),
            "Infidelity(scheme='subset', subset_fraction=0.3, perturb_baseline=<array (1, 2)>)",
        ),
        (MoRF(8), "MoRF(steps=8)"),
        (LeRF([0.1, 0.5]), "LeRF(steps=[0.0, 0.1, 0.5, 1.0])"),
        (ABPC(patch_size=3, seed=4), "ABPC(element='patch', patch_size=3, seed=4)"),
        (
            RFidelity(0.2, alpha=0.3, n_samples=4, normalise=True),
            "RFidelity(sparsity=[0.2], alpha=0.3, n_samples=4, normalise=True)",
        ),
        (RFidelity(alpha=(0.3, 0.4)), "RFidelity(alpha=(0.3, 0.4))"),
        (RFidelity(n_samples="auto"), "RFidelity(n_samples='auto')"),
        (
            Infidelity(n_perturb_samples=AutoDraws(widening=0.1)),
            "Infidelity(n_perturb_samples=AutoDraws(widening=0.1))",
        ),
        (
            Deletion(plan=Plan(64), abs=True),
            "Deletion(plan=Plan(chunk_size=64, memory_format='contiguous'), abs=True)",
        ),
        (
            QGE(MoRF(8, abs=True), reference="random", n_references=3),
            "QGE(metric=MoRF(steps=8, abs=True), reference='random', n_references=3)",
        ),
        (
            QGE(quantus.PixelFlipping(disable_warnings=True), direction="higher"),
            "QGE(metric=PixelFlipping(…), direction='higher')",
        ),
        (
            tuner(epochs=3, cache_dir="tuned"),
            (
                "FineTuner(x=<tensor (8, 3)>, y=<tensor (8,)>, epochs=3, cache_dir='tuned', "
                "display_progressbar=False)"
            ),
        ),
        (adapters.BlackBox(predict, classes=2), "BlackBox(predict=predict, classes=2)"),
        (
            adapters.BlackBox(predict, classes=2, key="v1", max_rows_per_call=5),
            "BlackBox(predict=predict, classes=2, max_rows_per_call=5, key='v1')",
        ),
        (adapters.BinaryLogit(nn.Linear(3, 1).eval()), "BinaryLogit(model=Linear(…))"),
        (
            adapters.Series(LINEAR, padding=-99.0, time_first=True),
            "Series(model=Linear(…), time_first=True, padding=-99.0)",
        ),
        (
            adapters.Columns(adapters.BlackBox(predict, classes=2), [[0]], n_columns=3, kept=[2]),
            (
                "Columns(model=BlackBox(predict=predict, classes=2), groups=((0,),), "
                "n_columns=3, kept=(2,))"
            ),
        ),
        (
            adapters.TokenIds(Text().eval(), 1, 0, [2], removal="pad"),
            "TokenIds(model=Text(…), mask_id=1, pad_id=0, special_ids=(2,), removal='pad')",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_that_differ_are_shown(made, expected):
    assert repr(made) == expected


@pytest.mark.parametrize("setting", COMMON)
def test_every_common_argument_is_shown(setting):
    name, value = setting.rstrip(", ").split("=")
    made = MoRF(**{name: eval(value)})
    assert repr(made) == f"MoRF({name}={value})"


def test_what_a_call_stores_is_not_shown():
    metric = MoRF(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric(LINEAR, X, Y, X)
    assert repr(metric) == "MoRF(steps=3)"


def test_scores_of_maps_are_shown_by_shape():
    found = MoRF(3).score_maps(LINEAR, X, Y, [X, X])
    assert "scores=<array (2, 8)>" in repr(found)
    assert len(repr(found)) < 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2, 3, 4, 5], "[1, 2, 3, 4, … 1 more]"),
        ((1,), "(1,)"),
        (tuple(range(9)), "(0, 1, 2, 3, … 5 more)"),
        ({"a": np.zeros(3)}, "{'a': <array (3,)>}"),
        (torch.zeros(2, 3), "<tensor (2, 3)>"),
        (partial(predict, rows=2), "partial(predict, rows=2)"),
        (np.mean, "mean"),
        (object(), "object(…)"),
        (quantus.helpers.enums.ScoreDirection.LOWER, "'lower'"),
        ("x" * 100, "'" + "x" * 59 + "…"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_values_in_a_few_words(value, expected):
    assert short(value) == expected
