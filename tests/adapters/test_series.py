"""Series: another order of axes, and lengths that differ; padding is never removed or counted."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantus.functions.perturb_func import baseline_replacement_by_blur, gaussian_noise
from torch import Tensor, nn

from quantus_ext import ABPC, QGE, Deletion, FFidelity, Fidelity, FineTuner, Infidelity, RFidelity
from quantus_ext.adapters import Series
from tests.harness import make_inputs, rows_seen
from tests.reference import fidelity

PADDING = -999.0


class Recurrent(nn.Module):
    """Reads (n, T, C) up to each series' length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        assert x.shape[2] == 2
        assert not (x == PADDING).any()
        states, _ = self.lstm(x)
        return self.head(states[torch.arange(len(x)), lengths - 1])


def recurrent(padding: float = PADDING) -> Series:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Recurrent().double().eval()
    return Series(model, time_first=True, padding=padding, lengths_argument="lengths")


def padded(lengths: list[int], width: int | None = None, seed: int = 0) -> np.ndarray:
    x = np.full((len(lengths), 2, width or max(lengths)), PADDING)
    for i, (row, length) in enumerate(zip(x, lengths, strict=True)):
        row[:, :length] = np.random.default_rng([seed, i]).normal(size=(length, 2)).T
    return x


def maps(x: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.random.default_rng([9, i]).normal(size=(99, 2))[: x.shape[2]].T for i in range(len(x))]
    )


LENGTHS, LABELS = [8, 5, 11, 3], np.array([0, 2, 1, 1])


def _halved(arr: np.ndarray, **_: object) -> np.ndarray:
    return arr * 0.5


METRICS: dict[str, Callable[[], object]] = {
    "Fidelity": partial(Fidelity, [0.2, 0.5], output="probability"),
    "RFidelity": partial(RFidelity, [0.2, 0.5], n_samples=5, output="probability"),
    "Deletion of windows": partial(Deletion, 4, element="patch", patch_size=3),
    "Deletion of values": partial(Deletion, 4, element="channel_value"),
    "Infidelity windows": partial(
        Infidelity, perturb_baseline=0.0, perturb_patch_sizes=[2, 4], n_perturb_samples=9
    ),
    "Infidelity subsets": partial(
        Infidelity, scheme="subset", perturb_baseline=0.0, n_perturb_samples=9, rescale=True
    ),
    "Infidelity by default": partial(Infidelity, perturb_patch_sizes=[2], n_perturb_samples=9),
    "Infidelity, a function of the whole": partial(
        Infidelity, perturb_func=_halved, scheme="all", n_perturb_samples=1
    ),
    "Deletion to the mean": partial(Deletion, 4, perturb_baseline="mean"),
    "Deletion to the largest": partial(Deletion, 4, perturb_baseline="white"),
    "Deletion, blurred": partial(Deletion, 4, perturb_func=baseline_replacement_by_blur),
    "noise": partial(Infidelity, perturb_func=gaussian_noise, n_perturb_samples=9),
    "normalised": partial(Infidelity, perturb_baseline=0.0, n_perturb_samples=9, normalise=True),
    "QGE": lambda: QGE(ABPC(4)),
    "QGE random": lambda: QGE(ABPC(4), reference="random", n_references=2),
}


def test_steps_equal_the_slow_reference_on_each_series_by_itself():
    model, x = recurrent(), padded(LENGTHS)
    settings = {"sparsity": (0.3, 0.6), "alpha": 0.5, "n_samples": 4, "output": "probability"}
    scores = RFidelity(**settings)(model, x, LABELS, maps(x))
    expected = []
    for i, length in enumerate(LENGTHS):

        def predict(rows: np.ndarray) -> np.ndarray:
            inner, n = model.model, len(rows)
            time_first = torch.from_numpy(rows.transpose(0, 2, 1).copy())
            with torch.no_grad():
                return inner(time_first, torch.full((n,), rows.shape[2])).softmax(1).numpy()

        one = x[i : i + 1, :, :length]
        expected += list(
            fidelity.fidelity(
                predict, one, LABELS[i : i + 1], maps(x)[i : i + 1, :, :length], [i], **settings
            )
        )
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(4, 9), min_size=1, max_size=4),
    more=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_scores_do_not_depend_on_padding(name: str, lengths: list[int], more: int, seed: int):
    model, y = recurrent(), LABELS[: len(lengths)]
    short = padded(lengths, seed=seed)
    longer = padded(lengths, short.shape[2] + more, seed=seed)
    expected = METRICS[name]()(model, short, y, maps(short))
    with rows_seen(model) as seen:
        scores = METRICS[name]()(model, longer, y, maps(longer))
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    alone = METRICS[name]()(model, longer[:1], y[:1], maps(longer)[:1])
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-9, atol=1e-12)
    # Nor on what stands there.
    other = np.where(longer == PADDING, 77.0, longer)
    again = METRICS[name]()(recurrent(77.0), other, y, maps(longer))
    np.testing.assert_allclose(again, expected, rtol=1e-9, atol=1e-12)
    ends = {length for rows in seen for length in (rows != PADDING).any(1).sum(1).tolist()}
    assert ends == set(lengths)


def test_without_padding_scores_are_those_of_the_plain_model():
    inputs = make_inputs("series")

    class TimeFirst(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inputs.model(x.transpose(1, 2))

    for metric in (Deletion, Infidelity, lambda: RFidelity(n_samples=3)):
        plain = inputs.call(metric())
        turned = inputs.call(metric(), model=Series(TimeFirst().eval(), time_first=True))
        np.testing.assert_allclose(turned, plain)
        # Windows and subsets are the same draws where nothing is padding.
        full = inputs.call(metric(), model=Series(inputs.model, padding=PADDING))
        np.testing.assert_allclose(full, plain)


def test_tuning_takes_padded_series():
    model, x, y = recurrent(), padded([6, 9, 4] * 6), np.arange(18) % 3
    metric = FFidelity([0.5], fine_tune=FineTuner(x, y, epochs=1), n_samples=3, beta=0.4)
    assert np.isfinite(metric(model, x[:3], y[:3], maps(x[:3]))).all()
    assert metric.health.count == [0, 1, 2, 3]


def test_a_copy_tuned_beforehand_is_the_one_that_the_metric_asks():
    model, x, y = recurrent(), padded([6, 9, 4] * 6), np.arange(18) % 3
    tuner = FineTuner(x, y, epochs=1, seed=3)
    tuner.fine_tune(model, beta=0.4)
    metric = FFidelity([0.5], fine_tune=tuner, n_samples=3, beta=0.4)
    metric(model, x[:3], y[:3], maps(x[:3]))
    assert metric.health.report.cache_hit


def test_more_channels_than_steps_are_taken_as_they_come():
    model, x = Series(nn.Sequential(nn.Conv1d(8, 3, 1), nn.Flatten()).eval()), np.ones((2, 8, 5))
    a = np.random.default_rng(0).normal(size=x.shape)
    expected = Deletion(4)(model, x, np.array([0, 1]), a, channel_first=True)
    assert Deletion(4)(model, x, np.array([0, 1]), a) == expected


def test_it_pickles_and_copies():
    model, x = recurrent(), padded(LENGTHS)
    scores = Deletion(4)(model, x, LABELS, maps(x))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(Deletion(4)(twin, x, LABELS, maps(x)), scores)


def test_bad_arguments_are_named():
    model = nn.Flatten().eval()
    with pytest.raises(ValueError, match="padding must be finite, is nan"):
        Series(model, padding=np.nan)
    with pytest.raises(ValueError, match="lengths_argument needs padding"):
        Series(model, lengths_argument="lengths")
    with pytest.raises(ValueError, match=r"series must have shape \(n, C, T\), have \(2, 3\)"):
        Deletion(4)(Series(model), np.ones((2, 3)), np.array([0, 1]), np.ones((2, 3)))
    zeros = np.array([[[1.0, 2, 0, 0]]])
    with pytest.raises(ValueError, match="creates steps that look like padding: choose another"):
        Deletion(2)(Series(model, padding=0.0), zeros, np.array([0]), zeros)
    empty = np.full((2, 1, 3), PADDING)
    empty[0] = 1.0
    with pytest.raises(ValueError, match="padding or special tokens only in sample 1"):
        Deletion(4)(Series(model, padding=PADDING), empty, np.array([0, 1]), empty)
