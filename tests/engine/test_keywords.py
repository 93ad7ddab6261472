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
from quantus_ext import QGE, Deletion, FFidelity, FineTuner, Infidelity
from quantus_ext.adapters import PerSample, Shared
from quantus_ext.engine.keywords import told_apart

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
    "cut to the rows": (first_rows, values(N, 1)),
    "texts": (with_lists, ["abcdef"[: k + 1] for k in range(N)]),
    "numbers in a list": (
        lambda x, given: x * torch.tensor(given, dtype=x.dtype)[:, None],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    ),
    "beside a matrix as long": (
        lambda x, given: x * given[0] * given[1].mean(),
        (values(N, 1), values(N, N)),
    ),
    "sparse": (lambda x, given: x * given.to_dense(), values(N, F).to_sparse()),
}

NEITHER = {
    "on another axis": (lambda x, given: x + given[0, :, :1], values(1, N, 3)),
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


@pytest.mark.parametrize(("function", "given"), NEITHER.values(), ids=NEITHER)
def test_what_is_neither_shared_nor_of_single_samples_is_refused(function, given):
    for metric in (Deletion(2), QGE(quantus_metric())):
        with pytest.raises(ValueError, match="model_predict_kwargs must be shared by all samples"):
            metric(
                Called(function).eval(),
                x,
                y,
                x,
                model_predict_kwargs={"given": given},
                batch_size=4,
            )


def one_by_one(metric: Any, model: nn.Module, given: Any) -> list[float]:
    """Score each sample in a call of its own, with a model that holds its entry."""

    def entry(value: Any, k: int) -> Any:
        if isinstance(value, dict):
            return {name: entry(each, k) for name, each in value.items()}
        if isinstance(value, tuple):
            return tuple(entry(each, k) for each in value)
        if isinstance(value, Tensor) and value.is_sparse:
            return value.to_dense()[k : k + 1].to_sparse()
        # A row for each sample; a matrix is shared.
        own = len(value) == N and np.shape(value) != (N, N)
        return value[k : k + 1] if own else value

    scores = []
    for k in range(N):

        class Filled(nn.Module):
            def __init__(self, own: Any) -> None:
                super().__init__()
                self.own = own

            def forward(self, rows: Tensor) -> Tensor:
                return torch.cat([model(row[None], self.own) for row in rows])

        part = slice(k, k + 1)
        filled = Filled(entry(given, k)).eval()
        scores += metric(filled, x[part], y[part], x[part], index_batch=np.array([k]))
    return scores


@pytest.mark.parametrize("chunk_size", [4, N, 2 * N, 100])
@pytest.mark.parametrize(("function", "given"), OWN.values(), ids=OWN)
def test_what_belongs_to_single_samples_goes_along_with_their_rows(function, given, chunk_size):
    model = Called(function).eval()
    for metric in (
        Deletion(2, chunk_size=chunk_size),
        Infidelity(n_perturb_samples=9, chunk_size=chunk_size),
    ):
        scores = metric(model, x, y, x, model_predict_kwargs={"given": given}, batch_size=4)
        np.testing.assert_allclose(scores, one_by_one(metric, model, given), rtol=2e-5, atol=1e-6)


def test_entries_go_along_in_quantus_s_scheme():
    class Scaled(nn.Module):
        def forward(self, rows: Tensor, scale: Tensor) -> Tensor:
            return rows.flatten(1)[:, :2] * scale

    images = np.random.default_rng(1).random((4, 1, 4, 4))
    scale, labels = torch.tensor([[1.0], [-1.0], [0.5], [2.0]]), np.array([0, 1, 0, 1])
    metric = Infidelity(perturb_patch_sizes=2, n_perturb_samples=1, scheme="quantus")
    model = Scaled().eval()

    def call(part: slice) -> list[float]:
        keywords = {"scale": PerSample(scale[part])}
        arrays = images[part], labels[part], images[part]
        return metric(model, *arrays, model_predict_kwargs=keywords)

    alone = [call(slice(k, k + 1))[0] for k in range(4)]
    np.testing.assert_allclose(call(slice(4)), alone, rtol=1e-9)
    assert len(set(alone)) == 4


@pytest.mark.parametrize(("function", "given"), OWN.values(), ids=OWN)
def test_another_package_s_metric_refuses_them(function, given):
    with pytest.raises(ValueError, match="must be shared by all samples for a metric of another"):
        QGE(quantus_metric())(
            Called(function).eval(), x, y, x, model_predict_kwargs={"given": given}, batch_size=4
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
    given = {"mask": values(4, 1), "weight": values(F)}
    with pytest.raises(ValueError, match=r"with given\['mask'\] of shape \(4, 1\) the model fails"):
        told_apart(model, {"given": given}, torch.from_numpy(x), sizes=(4,))


def test_a_model_that_answers_by_chance_is_not_taken_for_one_with_an_entry_a_sample():
    generator = torch.Generator().manual_seed(0)
    model = Called(lambda rows, given: rows * torch.rand(len(rows), 1, generator=generator))
    told_apart(model, {"given": values(F)}, torch.from_numpy(x))


def test_other_errors_of_a_call_stay_what_they_are():
    model = Called(times).eval()
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        Deletion(2)(model, x, y, x, model_predict_kwargs={"weights": values(F)})


def test_plain_keywords_cost_no_rows():
    rows = []
    model = Called(lambda rows_, given: rows.append(len(rows_)) or rows_ * given)
    told_apart(model, {"given": 2.0}, torch.from_numpy(x))
    assert not rows
    told_apart(model, {"given": values(F)}, torch.from_numpy(x))
    assert rows == [4]
    # Another number than anything has entries.
    told_apart(model, {"given": values(4, 1, 1).sum(0)}, torch.ones(4, F), sizes=(5,))
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


@pytest.mark.parametrize("shard_size", [1, 4, N])
def test_evaluate_carries_entries_along(shard_size, tmp_path):
    given = values(N, 1).flip(0)
    model, metric = Called(times).eval(), Deletion(2)
    keywords = {"": {"model_predict_kwargs": {"given": given}}}
    evaluation = quantus_ext.evaluate(
        {"metric": metric},
        {"map": x, "other": -x},
        model,
        x,
        y,
        call_kwargs=keywords,
        shard_size=shard_size,
        store=tmp_path,
    )
    assert not evaluation.failures
    expected = metric(model, x, y, x, model_predict_kwargs={"given": given})
    np.testing.assert_allclose(evaluation.scores_of("map", "metric"), expected, rtol=1e-6)
    # Other entries are another evaluation.
    keywords[""]["model_predict_kwargs"] = {"given": given + 1}
    with pytest.raises(ValueError, match="store"):
        quantus_ext.evaluate(
            {"metric": metric}, {"map": x}, model, x, y, call_kwargs=keywords, store=tmp_path
        )


def test_answers_are_shared_where_entries_are_the_same():
    rows = []
    model = Called(lambda r, given: rows.append(len(r)) or r * given).eval()
    first, other = values(N, 1), values(N, 1).flip(0)

    def call(given):
        return Deletion(2)(model, x, y, x, model_predict_kwargs={"given": given})

    alone = [call(first), call(other)]
    with quantus_ext.answers_shared():
        assert [call(first), call(other), call(first)] == [*alone, alone[0]]


def test_who_says_so_is_believed():
    """The mean of what all have, or of the rows': no answer for one sample tells."""

    class Centred(nn.Module):
        def forward(self, rows: Tensor, given: Tensor) -> Tensor:
            return rows[:, :2] * given.amax()

    model, many = Centred().eval(), np.ones((300, F), dtype=np.float32)
    labels, given = np.zeros(300, dtype=int), torch.linspace(1, 2, 300)

    def call(value):
        keywords = {"given": value}
        metric = Deletion(1)
        return metric(model, many, labels, many, model_predict_kwargs=keywords, softmax=False)

    with pytest.raises(ValueError, match=r"given may be shared .* or have an entry .*PerSample"):
        call(given)
    assert call(Shared(given))[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="an entry for each of 300 samples as PerSample, has 2"):
        call(PerSample(given[:2]))


def test_training_data_have_no_entries():
    tuner = FineTuner(x, y, epochs=1, display_progressbar=False)
    metric = FFidelity([0.4], n_samples=3, fine_tune=tuner)
    model, keywords = Called(times).eval(), {"given": values(N, 1)}
    with pytest.raises(ValueError, match="rows from outside the call, as in training"):
        metric(model, x, y, x, model_predict_kwargs=keywords)


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
