"""What an evaluation is announced to take, and how far it is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from quantus_ext import Deletion, Evaluation, evaluate
from quantus_ext.evaluation import progress
from quantus_ext.evaluation.progress import time_left

N, BATCH = 100, 50


def inputs(**settings: Any) -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    return {
        "metrics": {"Deletion": Deletion(3)},
        "xai_methods": {"A": np.abs(x), "B": -x},
        "model": torch.nn.Linear(6, 2).eval(),
        "x_batch": x,
        "y_batch": np.arange(N) % 2,
        "batch_size": BATCH,
        "shard_size": BATCH,
        **settings,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("a_call", "a_sample"), [(1.3, 0.0), (0.0, 0.01)])
def test_the_time_of_calls_is_told_from_that_of_samples(a_call, a_sample):
    def slow(model: Any, inputs: Any, targets: Any) -> np.ndarray:
        time.sleep(a_call + a_sample * len(inputs))
        return np.array(inputs)

    given = inputs(xai_methods={"slow": slow})
    announced = evaluate(**given, dry_run=True).seconds
    start = time.perf_counter()
    evaluate(**given)
    took = time.perf_counter() - start
    assert announced == pytest.approx(2 * a_call + N * a_sample, rel=0.5)
    assert 1 / 1.5 < announced / took < 1.5


@pytest.mark.parametrize("n", [1, 2, 3, 4, 11])
def test_few_samples_are_enough_for_an_estimate(n):
    given = inputs()
    some = {name: given[name][:n] for name in ("x_batch", "y_batch")}
    maps = {name: maps[:n] for name, maps in given["xai_methods"].items()}
    found = evaluate(**{**given, **some, "xai_methods": maps}, dry_run=True)
    n_rows = evaluate(**{**given, **some, "xai_methods": maps}).n_rows
    # Which states are equal differs between samples.
    assert found.n_evaluations == pytest.approx(n_rows, rel=0.2)
    assert found.seconds > 0


class Bar:
    """Collects what a bar shows."""

    def __init__(self, **settings: Any) -> None:
        self.n, self.total = 0, settings["total"]
        self.shown: list[tuple[int, int, str]] = []

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.text = text

    def update(self, n: int) -> None:
        self.n += n
        self.shown.append((self.n, self.total, self.text))


@pytest.fixture
def bars(monkeypatch) -> list[Bar]:
    made: list[Bar] = []

    def bar(*, shown: bool, **settings: Any) -> Bar:
        made.append(Bar(**settings))
        return made[-1]

    monkeypatch.setattr(progress, "progress_bar", bar)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_evaluations_are_counted_as_they_are_sent(bars, n_jobs, capsys):
    found: Evaluation = evaluate(**inputs(verbose=True), n_jobs=n_jobs)
    (bar,) = bars
    counts = [n for n, *_ in bar.shown]
    assert bar.shown[0][0] == 0
    assert bar.shown[0][2].endswith(" left")
    assert counts == sorted(counts)
    assert bar.shown[-1] == (found.n_rows, found.n_rows, "about 0.0 s left")
    # One's own rows show before a shard is finished.
    assert len(set(counts)) > 3 if n_jobs == 1 else len(set(counts)) >= 3
    announced = capsys.readouterr().out
    assert f"{bar.shown[0][1]:,} evaluations" in announced


def test_what_a_store_has_is_not_to_be_done(bars, tmp_path):
    given = inputs(store=tmp_path)
    evaluate(**given)
    assert bars[0].shown == []
    evaluate(**given, verbose=True)
    assert bars[1].shown[-1] == (0, 0, "about 0.0 s left")


def test_the_time_left_goes_from_what_was_announced_to_what_is_measured():
    assert time_left(0, 100, 0.0, 60.0) == 60
    # Half is done in 10 s, so that the other half takes 10 s or, as announced, 30 s.
    assert 10 < time_left(50, 100, 10.0, 60.0) < 30
    assert time_left(99, 100, 990.0, 10.0) == pytest.approx(10, rel=0.05)
    assert time_left(100, 100, 30.0, 60.0) == 0
    assert time_left(0, 0, 0.0, 0.0) == 0
