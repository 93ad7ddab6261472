"""What models get beside their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

import quantus_ext
from quantus_ext import QGE, Deletion, FFidelity, Infidelity
from quantus_ext.engine.keywords import check_shared

N, F = 6, 5


class Called(nn.Module):
    """A linear model around a function of rows and something else."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(F, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(2.0 * F).reshape(2, F) / F)

    def forward(self, x: Tensor, given: Any) -> Tensor:
        return self.linear(self.function(x, given))


def times(x: Tensor, given: Any) -> Tensor:
    return x * given


def neighbours(x: Tensor, given: Any) -> Tensor:
    return (given @ x.T).T


def first_rows(x: Tensor, given: Any) -> Tensor:
    return x * given[: len(x)]


def values(*shape: int) -> Tensor:
    return torch.linspace(0.5, 2, int(np.prod(shape))).reshape(shape)


def with_lists(x: Tensor, given: Any) -> Tensor:
    return torch.stack([row * float(len(text)) for row, text in zip(x, given, strict=False)])


OWN = {
    "a column": (times, values(N, 1)),
    "as wide as inputs": (times, values(N, F)),
    "an array": (lambda x, given: x * torch.from_numpy(given), values(N, F).numpy()),
    "in a dict": (lambda x, given: x * given["mask"], {"mask": values(N, 1)}),
    "in a tuple": (lambda x, given: x * given[0] * given[1], (values(F), values(N, 1))),
    "on another axis": (lambda x, given: x + given[0, :, :1], values(1, N, 3)),
    "cut to the rows": (first_rows, values(N, 1)),
    "texts": (with_lists, ["abcdef"[: k + 1] for k in range(N)]),
    "numbers in a list": (
        lambda x, given: x * torch.tensor(given, dtype=x.dtype)[:, None],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    ),
    "of a batch": (times, values(4, 1)),
    "asserted": (neighbours, values(N, N)),
}

SHARED = {
    "a number": (times, 2.0),
    "0 axes": (times, torch.tensor(2.0)),
    "one entry": (times, values(1, 1)),
    "a feature each": (times, values(F)),
    "a matrix": (neighbours, values(F, F)),
    "sparse": (neighbours, values(F, F).to_sparse()),
    "sparse, compressed": (neighbours, values(F, F).to_sparse_csr()),
    "nested": (lambda x, given: x * given["a"][0], {"a": [values(F), None]}),
    "as long as there are samples": (lambda x, given: x * given.mean(), values(N, N)),
    "as long as a batch": (lambda x, given: x + given.sum(0), values(2, F)),
}

x = np.random.default_rng(0).normal(size=(N, F)).astype(np.float32)
y = np.array([0, 1] * 3)


@pytest.mark.parametrize("chunk_size", [4, N, 2 * N])
@pytest.mark.parametrize(("function", "given"), OWN.values(), ids=OWN)
def test_what_belongs_to_single_samples_is_refused(function, given, chunk_size):
    for metric in (Deletion(2, chunk_size=chunk_size), QGE(quantus_metric())):
        with pytest.raises(ValueError, match="model_predict_kwargs must be shared by all samples"):
            metric(
                Called(function).eval(),
                x,
                y,
                x,
                model_predict_kwargs={"given": given},
                batch_size=4,
            )


def quantus_metric() -> Any:
    return quantus.PixelFlipping(features_in_step=1, disable_warnings=True)


@pytest.mark.parametrize(("function", "given"), SHARED.values(), ids=SHARED)
def test_what_is_shared_passes(function, given):
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Called(function)

        def forward(self, rows: Tensor) -> Tensor:
            return self.model(rows, given)

    expected = Deletion(2)(Filled().eval(), x, y, x)
    scores = Deletion(2)(
        Called(function).eval(), x, y, x, model_predict_kwargs={"given": given}, batch_size=2
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_what_is_named():
    model = Called(lambda rows, given: rows * given["mask"] * given["weight"]).eval()
    given = {"mask": values(N, 1), "weight": values(F)}
    with pytest.raises(ValueError, match=r"with given\['mask'\] of shape \(6, 1\) the model fails"):
        check_shared(model, {"given": given}, torch.from_numpy(x))


def test_a_model_that_answers_by_chance_is_not_taken_for_one_with_an_entry_a_sample():
    generator = torch.Generator().manual_seed(0)
    model = Called(lambda rows, given: rows * torch.rand(len(rows), 1, generator=generator))
    check_shared(model, {"given": values(F)}, torch.from_numpy(x))


def test_other_errors_of_a_call_stay_what_they_are():
    model = Called(times).eval()
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        Deletion(2)(model, x, y, x, model_predict_kwargs={"weights": values(F)})


def test_plain_keywords_cost_no_rows():
    rows = []
    model = Called(lambda rows_, given: rows.append(len(rows_)) or rows_ * given)
    check_shared(model, {"given": 2.0}, torch.from_numpy(x))
    assert not rows
    check_shared(model, {"given": values(F)}, torch.from_numpy(x))
    assert rows == [4]
    # Another number than anything has entries.
    check_shared(model, {"given": values(4, 1, 1).sum(0)}, torch.ones(4, F), sizes=(5,))
    assert rows == [4, 6]


@pytest.mark.parametrize("given", [values(F, F), values(F, F).to_sparse()], ids=["dense", "sparse"])
@pytest.mark.parametrize("metric", [Deletion(2), quantus_metric()], ids=["own", "other"])
def test_evaluate(metric, given):
    model = Called(neighbours).eval()
    evaluation = quantus_ext.evaluate(
        {"metric": metric},
        {"map": x},
        model,
        x,
        y,
        call_kwargs={"": {"model_predict_kwargs": {"given": given}, "softmax": False}},
        batch_size=2,
        shard_size=4,
    )
    assert not evaluation.failures
    with pytest.raises(ValueError, match=r"given of shape \(6, 1\)"):
        quantus_ext.evaluate(
            {"metric": metric},
            {"map": x},
            Called(times).eval(),
            x,
            y,
            call_kwargs={"": {"model_predict_kwargs": {"given": values(N, 1)}}},
            batch_size=2,
            shard_size=N,
        )


@pytest.mark.filterwarnings("ignore:fine_tune is None", "ignore:beta = ", "ignore:Sparse")
@pytest.mark.parametrize(
    "sparse",
    [Tensor.to_sparse, Tensor.to_sparse_csr, Tensor.to_sparse_csc],
    ids=["coo", "csr", "csc"],
)
def test_sparse_keywords_score_as_dense_ones(sparse):
    dense = (values(F, F) > 1).float()
    model = Called(neighbours).eval()
    for metric in (Infidelity(n_perturb_samples=5), FFidelity([0.4], n_samples=3)):
        scores = [
            metric(model, x, y, x, model_predict_kwargs={"given": given})
            for given in (dense, sparse(dense))
        ]
        np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-6)
