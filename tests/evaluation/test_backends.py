"""The same scores wherever the work runs and however it is split, and whoever dies meanwhile."""

from __future__ import annotations

import os
import tempfile
import threading
import time

import joblib
import numpy as np
import pytest
import torch

from quantus_ext import evaluate
from quantus_ext.evaluation import WorkerError, dispatch
from quantus_ext.evaluation.payload import Payload, claimed
from tests.evaluation.problem import (
    BATCH,
    METHODS,
    Killed,
    N,
    assert_same,
    data,
    metrics,
    network,
    run,
)
from tests.harness import gradients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone():
    return run()


@pytest.mark.parametrize("shard_size", [BATCH, 3 * BATCH, N])
def test_shards_of_any_size(alone, shard_size):
    other = run(shard_size=shard_size)
    np.testing.assert_allclose(other.scores, alone.scores, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(other.standard_errors, alone.standard_errors, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(other.n_evaluations, alone.n_evaluations)


def test_the_whole_in_one_call(alone):
    """What each metric says of all samples at once, without any of this."""
    x, y = data()
    a = gradients(network(), x, y)
    for name, metric in metrics().items():
        if name != "Correlation":
            expected = metric(network(), x, y, a, batch_size=BATCH)
            np.testing.assert_allclose(alone.scores_of("gradients", name), expected, rtol=1e-5)


def test_threads(alone):
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert_same(run(), alone)


@pytest.mark.slow
def test_processes(alone, tmp_path):
    assert_same(run(n_jobs=2), alone)


@pytest.fixture
def dying(monkeypatch):
    """Make workers die after each task, from the given number of tasks on."""
    dispatched = dispatch._dispatched

    def make(after):
        def until_death(*arguments):
            for number, record in enumerate(dispatched(*arguments)):
                if number == after:
                    raise ConnectionError("lost")
                yield record

        monkeypatch.setattr(dispatch, "_dispatched", until_death)

    return make


def test_what_workers_left_when_they_died_is_sent_again(alone, dying):
    dying(1)
    with pytest.warns(RuntimeWarning, match=r"died .* the 2 shards that are not finished"):
        assert_same(run(), alone)


@pytest.mark.filterwarnings("ignore:a worker died")
def test_workers_that_always_die_are_an_error(dying):
    dying(0)
    with pytest.raises(WorkerError, match=r"ConnectionError: lost.*, 3 times"):
        run()


def test_a_worker_that_cannot_work_says_why():
    with pytest.raises(WorkerError, match=r"cannot work: (.|\n)*_moved(.|\n)*(?i:fpga)"):
        run(devices=["fpga"])
    with pytest.raises(ValueError, match=r"devices must name a torch device, .* is 'nonsense'"):
        run(devices=["nonsense"])


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield {"backend": "dask", "client": client}


@pytest.mark.slow
def test_dask(alone, cluster):
    with joblib.parallel_config(**cluster):
        assert_same(run(), alone)


def test_a_worker_killed_under_dask(alone, cluster, tmp_path):
    killed = Killed(tmp_path / "mark", data()[0][13, 0, 0, 0])
    with joblib.parallel_config(**cluster):
        other = run(xai_methods={**METHODS, "gradients": killed})
    assert killed.mark.exists()
    assert_same(other, alone)


@pytest.mark.slow
def test_ray(alone, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        register_ray()
        with joblib.parallel_config(backend="ray", n_jobs=2):
            assert_same(run(), alone)
    finally:
        ray.shutdown()


def test_what_does_not_pickle_is_named_before_the_start():
    lock = threading.Lock()

    def explain(model, inputs, targets):
        with lock:
            return gradients(model, inputs, targets)

    with pytest.raises(TypeError, match="must be ones that pickle"):
        run(n_jobs=2, xai_methods={"explain": explain})
    run(n_jobs=1, xai_methods={"explain": explain})


def test_the_model_is_unpacked_once_a_thread():
    payload = Payload(network())
    sent = Payload.__new__(Payload)
    sent.__setstate__(payload.__getstate__())
    assert payload.load() is payload._loaded
    assert sent.load() is sent.load()
    assert sent.load() is not payload.load()


def test_devices_are_shared_out_one_each(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with claimed(["cuda:0", "cuda:1"], "test") as first, claimed(["cuda:0", "cuda:1"], "test") as b:
        assert {first, b} == {"cuda:0", "cuda:1"}
    with claimed(["cuda:0"], "test") as again:
        assert again == "cuda:0"
    with claimed(None, "test") as none:
        assert none is None


def test_a_device_list(alone, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert_same(run(devices=["cpu"]), alone)
    assert not list(tmp_path.iterdir())


def test_locks_that_killed_runs_left_are_removed_and_no_others(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("left", "recent", "held"):
        with claimed(["cpu"], name):
            pass
    (tmp_path / "quantus_ext-left" / "cpu.lock").touch()
    (tmp_path / "somebody-else").mkdir()
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    with claimed(["cpu"], "held"):
        for name in ("quantus_ext-left", "quantus_ext-held", "somebody-else"):
            os.utime(tmp_path / name, (two_days_ago, two_days_ago))
        with claimed(["cpu"], "new"):
            found = {path.name.removeprefix("quantus_ext-") for path in tmp_path.iterdir()}
            assert found == {"recent", "held", "new", "somebody-else"}
    # A run that goes on is in use, however long ago it began and whether its locks stay as files.
    held = tmp_path / "quantus_ext-held"
    (held / "cpu.lock").touch()
    os.utime(held, (two_days_ago, two_days_ago))
    with claimed(["cpu"], "held"):
        assert held.stat().st_mtime > two_days_ago + 60


def test_threads_are_those_asked_for_and_put_back():
    seen = []

    def explain(model, inputs, targets):
        seen.append(torch.get_num_threads())
        return gradients(model, inputs, targets)

    before = torch.get_num_threads()
    x, y = data(BATCH)
    evaluate(metrics(), {"e": explain}, network(), x, y, threads=2)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before
