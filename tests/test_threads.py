"""In threads and forks each call scores as alone, on one model and one object of each metric."""

from __future__ import annotations

import multiprocessing
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from quantus.helpers import asserts
from torch import nn

import quantus_ext
from benchmarks import threads
from quantus_ext.finetune import cache
from tests.leaving import data, network

pytestmark = pytest.mark.slow


def everything_at_once(answer: Connection) -> None:
    warnings.simplefilter("ignore")
    # A child of a process with threads of OpenMP's may wait for them for ever, in any layer.
    torch.set_num_threads(1)
    tasks = threads.Tasks().tasks()
    expected = {name: threads.bits(task()) for name, task in tasks.items()}
    found = threads.run(tasks, 1, forks=True)
    wrong = [(name, where, text[:99]) for name, where, text in found if text != expected[name]]
    answer.send((len(found) - len(tasks) * threads.THREADS, wrong))


def test_everything_at_once_as_alone():
    # Autograd refuses to work in a fork of a process that had it start threads, as any other test
    # may. The server that this child is forked from has done nothing.
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    child = context.Process(target=everything_at_once, args=(there,))
    child.start()
    assert here.poll(120)
    assert here.recv() == (threads.CHILDREN, [])
    child.join()


class Slow(quantus.FaithfulnessCorrelation):
    """Waits in the middle of a call until it is told to go on."""

    def __init__(self, **given: Any) -> None:
        super().__init__(nr_runs=4, subset_size=6, disable_warnings=True, **given)

    def evaluate_batch(self, *arguments: Any, **keywords: Any) -> Any:
        within.set()
        assert go_on.wait(10)
        return super().evaluate_batch(*arguments, **keywords)


within, go_on = threading.Event(), threading.Event()


def test_quantus_checks_attributions_of_other_threads_as_ever():
    (x, y), model = data(4), network()
    within.clear()
    go_on.clear()
    strict = asserts.assert_attributions
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(quantus_ext.QGE(Slow()), model, x, y, x, device="cpu")
        assert within.wait(10)
        with pytest.raises(AssertionError):
            asserts.assert_attributions(x_batch=x, a_batch=np.zeros_like(x))
        go_on.set()
        call.result(10)
    assert asserts.assert_attributions is strict


def plain() -> nn.Module:
    """Only of torch's own layers, none of which draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def test_tuning_and_native_metrics_leave_the_global_generators_to_other_threads(monkeypatch):
    (x, y), model = data(16), plain()
    monkeypatch.setattr(torch, "set_rng_state", lambda state: pytest.fail("put back"))
    monkeypatch.setattr(np.random, "set_state", lambda state: pytest.fail("put back"))
    tuner = quantus_ext.FineTuner(x, y, epochs=1, batch_size=8, display_progressbar=False)
    cache.clear_memory()
    tuner.fine_tune(model, beta=0.3)
    quantus_ext.QGE(quantus_ext.RFidelity([0.5], n_samples=2))(model, x, y, x)


@pytest.mark.parametrize("kind", ["dropout", "own code", "hook"])
def test_what_may_draw_is_isolated(kind: str):
    class Own(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(rows, training=self.training)

    model = plain()
    if kind == "hook":
        model.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    else:
        model.append(nn.Dropout() if kind == "dropout" else Own()).eval()
    x, y = data(16)
    tuner = quantus_ext.FineTuner(x, y, epochs=1, batch_size=8, display_progressbar=False)
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        cache.clear_memory()
        weights.append(tuner.fine_tune(model, beta=0.3)[1].weight)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*weights)


def test_each_thread_has_the_report_and_health_of_its_own_call():
    x, y = data(16)
    tuner = quantus_ext.FineTuner(x, y, epochs=1, batch_size=8, display_progressbar=False)
    metric = quantus_ext.FFidelity([0.5], n_samples=2, fine_tune=tuner)
    model = network()
    cache.clear_memory()
    with ThreadPoolExecutor(3) as pool:
        scores = list(pool.map(lambda _: metric(model, x, y, x), range(6)))
    assert scores == [scores[0]] * 6
    assert len(metric.healths) == 6
    assert metric.health in metric.healths
    assert metric.health.report is not None
    hits = sorted(health.report.cache_hit for health in metric.healths)
    # The first one was trained; the others waited, or found it.
    assert hits[0] is False
    assert hits[-1] is True


def test_a_call_that_fails_leaves_nothing_on_the_metric():
    x, y = data(4)
    metric = quantus_ext.QGE(quantus_ext.MoRF(6))
    metric(network(), x, y, x)
    kept = metric.inner, metric.details, metric.evaluation_scores
    with pytest.raises(ValueError, match="y_batch"):
        metric(network(), x, y + 9, x)
    assert (metric.inner, metric.details, metric.evaluation_scores) == kept


def test_a_model_that_foreign_code_has_is_asked_afterwards():
    x, y = data(4)
    model, metric = network(), quantus_ext.MoRF(6)
    expected = metric(model, x, y, x)
    started = threading.Event()

    def turns_round(model: Any, inputs: Any, targets: Any) -> Any:
        weight = model.head.weight
        kept = weight.detach().clone()
        model.train()
        weight.data.neg_()
        started.set()
        time.sleep(0.2)
        weight.data.copy_(kept)
        model.eval()
        return inputs

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(quantus_ext.MoRF(6), model, x, y, explain_func=turns_round)
        assert started.wait(10)
        assert metric(model, x, y, x) == expected
        assert other.result() == expected
