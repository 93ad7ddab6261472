"""Finished shards stay finished, whatever happens to the run."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import quantus
import torch
from torch import nn

from quantus_ext import FFidelity, Infidelity, MoRF
from quantus_ext.adapters import BlackBox
from quantus_ext.evaluation import StoreError
from quantus_ext.evaluation.store import Store
from quantus_ext.files import sealed_json
from tests.evaluation.problem import (
    METHODS,
    Fails,
    Slow,
    assert_same,
    broken,
    data,
    metrics,
    network,
    rows_counted,
    run,
    run_counted,
)
from tests.harness import gradients


def shard_files(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (store / "shards").glob("*.npz")}


def test_a_finished_store_is_read_and_not_made_again(tmp_path):
    first = run(store=tmp_path / "store")
    times = shard_files(tmp_path / "store")
    assert len(times) == 6
    counter = tmp_path / "rows"
    again = run(store=tmp_path / "store", model=network(counter))
    # Only what the model is known by.
    assert rows_counted(counter) < 50
    assert_same(again, first)
    assert shard_files(tmp_path / "store") == times
    np.testing.assert_array_equal(again.seconds, first.seconds)
    for one, other in zip(first.cases, again.cases, strict=True):
        np.testing.assert_array_equal(one.maps["noise"], other.maps["noise"])


# Autograd refuses to work in a fork of a process that had it start threads, as any other test may,
# and forks share locks with it. The server that these children are forked from has done nothing.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["tests.evaluation.problem"])


def in_a_child(work: Callable[..., object], **arguments: object) -> multiprocessing.Process:
    child = CHILDREN.Process(target=work, kwargs=arguments)
    child.start()
    return child


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path):
    """No finished shard is done twice: rows are counted, and files keep their times."""
    chosen = {"INFD": metrics()["INFD"], "MoRF": MoRF(4)}
    settings = {"metrics": chosen, "xai_methods": {"a": Slow(0.005), "b": Slow(0.005)}}
    counter = tmp_path / "rows"
    # The rows of each of the 6 shards of 24 samples, and of what is asked once a run.
    expected = run(model=network(counter), **settings, shard_size=4)
    whole = rows_counted(counter)
    empty = tmp_path / "finished"
    run(model=network(counter), **settings, shard_size=4, store=empty)
    counter.unlink()
    run(model=network(counter), **settings, shard_size=4, store=empty)
    once = rows_counted(counter)
    assert once == 8
    # Without a store two rows say what a pass leaves in the model; and whether rows influence each
    # other is asked once of a model that scores are asked of.
    check = 16
    a_shard = (whole - 2 - check) / 6
    generator = random.Random(0)
    started = finished = 0
    for trial in range(20):
        store = tmp_path / f"store-{trial}"
        child = in_a_child(run_counted, counter=counter, **settings, shard_size=4, store=store)
        # Anywhere from before the first file to after most of them, and a little later.
        while child.is_alive() and len(shard_files(store)) < trial % 10:
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        times = shard_files(store) if store.exists() else {}
        started += len(times) > 0
        finished += len(times) == 12
        # A store that is new asks again, to see whether the answers stay.
        asked = once if (store / "manifest.json").exists() else 2 * once
        counter.unlink(missing_ok=True)
        resumed = run(model=network(counter), **settings, shard_size=4, store=store)
        assert_same(resumed, expected)
        assert not list(store.rglob("*.partial"))
        now = shard_files(store)
        assert len(now) == 12
        assert {name: now[name] for name in times} == times
        missing = [f"{m:04d}-{at:012d}.npz" for m in range(2) for at in range(0, 24, 4)]
        missing = [name for name in missing if name not in times]
        shards = {name.split("-")[1] for name in missing}
        to_do = len(shards) * a_shard + check * bool(shards)
        assert rows_counted(counter) - asked == to_do
    # Otherwise nothing was cut off.
    assert started >= 5
    assert finished <= 15


def test_an_interrupted_call_says_how_to_go_on_and_does(tmp_path):
    # In a file, because what a function holds is part of what it is.
    calls, store = tmp_path / "calls", tmp_path / "store"

    def stops(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
        with calls.open("a") as file:
            file.write("x")
        if calls.read_text() == "xxx":
            raise KeyboardInterrupt
        return gradients(model, inputs, targets)

    given = {"xai_methods": {"gradients": stops}}
    with pytest.raises(KeyboardInterrupt, match="nothing is kept, as there is no store"):
        run(**given)
    calls.unlink()
    with pytest.raises(KeyboardInterrupt, match=r"finished shards are kept in .*store, and the"):
        run(**given, store=store)
    finished = shard_files(store)
    assert len(finished) == 1
    done = run(**given, store=store)
    assert finished.items() <= shard_files(store).items()
    assert_same(done, run(**given))


@pytest.mark.slow
def test_two_runs_at_once_on_one_store(tmp_path):
    store = tmp_path / "store"
    children = [in_a_child(run, store=store) for _ in range(2)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(shard_files(store)) == 6
    assert not list(store.rglob("*.partial"))
    assert_same(run(store=store), run())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {
                "metrics": {
                    **metrics(),
                    "INFD": Infidelity(n_perturb_samples=13, perturb_patch_sizes=[2]),
                }
            },
            "metrics.INFD",
        ),
        ({"metrics": {"INFD": metrics()["INFD"]}}, "metrics.Correlation.* was .* is missing"),
        ({"xai_methods": {**METHODS, "noise": gradients}}, "xai_methods.noise"),
        ({"xai_methods": {**METHODS, "new": gradients}}, "xai_methods.new was missing"),
        ({"x_batch": data()[0] + 1e-3}, "x_batch"),
        ({"y_batch": (data()[1] + 1) % 3}, "y_batch"),
        ({"s_batch": data()[0] > 0}, "s_batch was None"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"shard_size": 12}, "shard_size was 8, is 12"),
        ({"batch_size": 8}, "batch_size was 4, is 8"),
        ({"call_kwargs": {"": {"softmax": True}}}, "call_kwargs"),
        ({"cases": 1}, "cases"),
    ],
)
def test_a_store_of_something_else_is_refused_and_the_difference_named(tmp_path, change, named):
    run(store=tmp_path)
    with pytest.raises(ValueError, match=f"was made with other settings or data.*{named}"):
        run(store=tmp_path, **change)


def test_a_store_of_another_model_is_refused(tmp_path):
    run(store=tmp_path)
    model = network()
    with torch.no_grad():
        model.layers[1].bias[0] += 1e-3
    with pytest.raises(ValueError, match="model was"):
        run(store=tmp_path, model=model)


def test_a_store_of_another_version_is_refused(tmp_path, monkeypatch):
    run(store=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["identity"]["versions"]["quantus"] = "0.1"
    (tmp_path / "manifest.json").write_text(sealed_json(manifest))
    with pytest.raises(ValueError, match=r"versions.quantus was 0.1, is 0"):
        run(store=tmp_path)


def test_settings_that_change_no_score_change_no_store(tmp_path):
    given = metrics()
    given["INFD"]._display_progressbar = True
    x, y = data()
    first = run(store=tmp_path, metrics=given)
    given["Correlation"](network(), x, y, gradients(network(), x, y), device="cpu")
    assert_same(run(store=tmp_path, metrics=given, n_jobs=1, confidence=0.9, threads=1), first)


def test_what_failed_is_tried_again_and_nothing_else(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    store = tmp_path / "store"
    chosen = {"fails": Fails(mark, 9), "MoRF": MoRF(4)}
    first = run(metrics=chosen, store=store, xai_methods={"gradients": gradients})
    assert len(first.failures) == 1
    times = shard_files(store)
    mark.unlink()
    second = run(metrics=chosen, store=store, xai_methods={"gradients": gradients})
    assert not second.failures
    np.testing.assert_allclose(
        second.scores_of("gradients", "fails"), second.scores_of("gradients", "MoRF"), rtol=1e-6
    )
    np.testing.assert_array_equal(
        second.scores_of("gradients", "MoRF"), first.scores_of("gradients", "MoRF")
    )
    assert [name for name, at in shard_files(store).items() if at != times[name]] == [
        "0000-000000000008.npz"
    ]
    assert_same(run(metrics=chosen, store=store, xai_methods={"gradients": gradients}), second)


def test_failures_are_kept(tmp_path):
    first = run(xai_methods={"broken": broken}, store=tmp_path)
    again = run(xai_methods={"broken": broken}, store=tmp_path)
    assert [f.error for f in again.failures] == [f.error for f in first.failures]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_or_turns_read_only(tmp_path, monkeypatch, code):
    store, written = tmp_path / "store", []
    fsync = os.fsync

    def failing(file):
        if len(written) == 4:
            raise OSError(code, os.strerror(code))
        written.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match=f"{os.strerror(code)}.*are kept.*goes on") as caught:
        run(store=store)
    assert caught.value.errno == code
    monkeypatch.undo()
    # The manifest was one of the four.
    times = shard_files(store)
    assert len(times) == 3
    assert not list(store.rglob("*.partial"))
    assert_same(run(store=store), run())
    assert {name: shard_files(store)[name] for name in times} == times


def limited(store):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
    try:
        run(store=store, shard_size=24, cases=24)
    except StoreError as error:
        os._exit(17 if error.errno == errno.EFBIG else 1)
    os._exit(0)


@pytest.mark.slow
def test_a_file_that_may_not_grow(tmp_path):
    """The system itself refuses: no file of this process may be larger than 6,000 bytes."""

    child = in_a_child(limited, store=tmp_path / "store")
    child.join()
    assert child.exitcode == 17
    assert not list((tmp_path / "store").rglob("*.partial"))


def test_a_damaged_shard_is_made_again(tmp_path):
    first = run(store=tmp_path)
    files = sorted((tmp_path / "shards").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-200])
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 255
    files[1].write_bytes(content)
    files[3].write_bytes(files[2].read_bytes())
    damaged = {path.read_bytes() for path in (files[0], files[1], files[3])}
    with pytest.warns(RuntimeWarning, match="left out and computed again") as warned:
        assert_same(run(store=tmp_path), first)
    said = [str(w.message) for w in warned if "computed again" in str(w.message)]
    assert [str(path) in text for path, text in zip(files[:2] + files[3:4], said, strict=True)]
    # They are kept under other names.
    assert {path.read_bytes() for path in (tmp_path / "shards").glob("*.damaged")} == damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(store=tmp_path), first)


def test_a_damaged_manifest_is_made_again(tmp_path):
    chosen = {"INFD": Infidelity(n_perturb_samples=4, perturb_patch_sizes=[2]), "MoRF": MoRF(4)}
    first = run(metrics=chosen, store=tmp_path)
    path = tmp_path / "manifest.json"
    content = path.read_text()
    path.write_text(content.replace('"seed": 0', '"seed": 1', 1))
    with pytest.warns(RuntimeWarning, match=f"{path} is left out and everything computed again"):
        assert_same(run(metrics=chosen, store=tmp_path), first)
    (kept,) = tmp_path.glob("manifest.json.*.damaged")
    assert kept.read_text() == content.replace('"seed": 0', '"seed": 1', 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(metrics=chosen, store=tmp_path), first)
    with pytest.raises(ValueError, match="was made with other settings"):
        run(metrics=chosen, store=tmp_path, seed=1)


class Reads:
    """Answers with weights from a file, which no content shows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), -1) @ np.load(self.path)


def test_no_shard_of_before_is_believed_after_a_damaged_manifest(tmp_path):
    """What another model answered is lost with the manifest, and nothing else tells it."""
    store, path = tmp_path / "store", tmp_path / "weights.npy"
    chosen = {"metrics": {"MoRF": MoRF(4)}, "xai_methods": {"maps": np.abs(data()[0])}}
    weights = np.sin(np.arange(48.0)).reshape(16, 3).astype(np.float32)
    np.save(path, weights)
    run(model=BlackBox(Reads(path), 3), store=store, **chosen)
    for factor in (-2, 3):
        np.save(path, factor * weights)
        (store / "manifest.json").write_bytes(b"")
        with pytest.warns(RuntimeWarning) as warned:
            found = run(model=BlackBox(Reads(path), 3), store=store, **chosen)
        # The manifest and three shards.
        assert sum("computed again" in str(w.message) for w in warned) == 4
        assert_same(found, run(model=BlackBox(Reads(path), 3), **chosen))


@pytest.mark.parametrize(
    "changed",
    [{"seed": "1"}, {"identity": []}, {"rows": None}, {"answers": []}, {"key": 1}],
    ids=str,
)
def test_a_manifest_whose_entries_are_none_is_damaged(changed, tmp_path):
    identity = {"a": 1, "xai_methods": {}}
    first = Store(tmp_path, identity, seed=1)
    path = tmp_path / "manifest.json"
    path.write_text(sealed_json(json.loads(path.read_text()) | changed))
    with pytest.warns(RuntimeWarning, match=f"its {next(iter(changed))} must be"):
        second = Store(tmp_path, identity, seed=2)
    assert second.key != first.key


def objects(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return gradients(model, inputs, targets).astype(object)


def texts(model: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return gradients(model, inputs, targets).astype(str)


def test_maps_of_other_types_are_kept_as_numbers(tmp_path):
    chosen = {"metrics": {"MoRF": MoRF(4)}, "xai_methods": {"a": objects}, "store": tmp_path}
    first = run(**chosen)
    times = shard_files(tmp_path)
    again = run(**chosen)
    assert_same(again, first)
    assert shard_files(tmp_path) == times
    for one, other in zip(first.cases, again.cases, strict=True):
        np.testing.assert_array_equal(one.maps["a"].astype(float), other.maps["a"])


@pytest.mark.filterwarnings("ignore:some scores are NaN")
def test_maps_that_are_no_numbers_fail_and_damage_no_file(tmp_path):
    chosen = {"metrics": {"MoRF": MoRF(4)}, "xai_methods": {"a": texts}, "store": tmp_path}
    for _ in range(2):
        assert len(run(**chosen).failures) == 3
    assert not list((tmp_path / "shards").glob("*.damaged"))


def test_a_store_without_its_shards_is_computed_again(tmp_path):
    first = run(store=tmp_path)
    times = shard_files(tmp_path)
    shutil.rmtree(tmp_path / "shards")
    assert_same(run(store=tmp_path), first)
    assert shard_files(tmp_path).keys() == times.keys()


def test_what_killed_runs_left_is_removed(tmp_path):
    run(store=tmp_path)
    left = [folder / f"x.{'0' * 32}.partial" for folder in (tmp_path, tmp_path / "shards")]
    for path in left:
        path.touch()
    run(store=tmp_path)
    assert not any(path.exists() for path in left)


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        run(store=tmp_path / "file" / "store")


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": 4, "seed": 1},
        {"format": 99},
        json.loads(sealed_json({"format": 6})),
        {"name": "an application", "format": None},
    ],
    ids=["earlier", "later", "later and whole", "something else"],
)
def test_a_store_of_another_version_of_this_package_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=f"has format {manifest['format']}, .* reads 5: use an"):
        run(store=tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_an_address_that_is_no_folder():
    fsspec.filesystem("memory").store.clear()
    first = run(store="memory://evaluation/store")
    assert len(fsspec.filesystem("memory").ls("/evaluation/store/shards")) == 6
    assert_same(run(store="memory://evaluation/store"), first)
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        run(store="memory://evaluation/store", seed=1)


def test_fresh_seeds_are_kept_with_the_store(tmp_path):
    chosen = {"INFD": Infidelity(n_perturb_samples=4, perturb_patch_sizes=[2], seed=None)}
    first = run(metrics=chosen, seed=None, store=tmp_path)
    files = sorted((tmp_path / "shards").iterdir())
    for path in files[::2]:
        path.unlink()
    assert_same(run(metrics=chosen, seed=None, store=tmp_path), first)


def test_the_first_of_two_manifests_counts(tmp_path):
    first = Store(tmp_path, {"a": 1, "xai_methods": {}}, seed=1)
    assert Store(tmp_path, {"a": 1, "xai_methods": {}}, seed=2).seed == first.seed == 1


def test_the_record_says_how_it_was_computed(tmp_path):
    run(store=tmp_path)
    with np.load(tmp_path / "shards" / "0000-000000000000.npz") as arrays:
        about = json.loads(str(arrays["about"]))
    assert about["threads"] == torch.get_num_threads()
    plans = {cell["name"]: cell["plan"] for cell in about["cells"]}
    assert plans["INFD"] == [4096, "contiguous"]
    assert plans["Correlation"] is None


def test_explainers_in_another_order_keep_their_scores(tmp_path):
    first = run(store=tmp_path / "store")
    times = shard_files(tmp_path / "store")
    turned = run(store=tmp_path / "store", xai_methods=dict(reversed(METHODS.items())))
    assert turned.explainers == first.explainers[::-1]
    np.testing.assert_array_equal(turned.scores, first.scores[::-1])
    assert shard_files(tmp_path / "store") == times
    for one, other in zip(first.cases, turned.cases, strict=True):
        np.testing.assert_array_equal(one.maps["noise"], other.maps["noise"])


class Inner(quantus.Sparseness):
    """Has a setting that is named as a result of this package's metrics."""

    def __init__(self, inner: float) -> None:
        super().__init__(disable_warnings=True)
        self.inner = inner

    def evaluate_batch(self, x_batch, **kwargs):
        return [self.inner] * len(x_batch)


def test_settings_of_other_packages_metrics_count_whatever_their_names(tmp_path):
    run(metrics={"Inner": Inner(1.0)}, store=tmp_path)
    with pytest.raises(ValueError, match=r"metrics.Inner.inner was 1.0, is 2.0"):
        run(metrics={"Inner": Inner(2.0)}, store=tmp_path)


def test_what_needs_no_training_trains_nothing(tmp_path):
    trained = tmp_path / "trained"

    def tune(model, masks):
        with trained.open("a") as file:
            file.write("x")
        return model

    mark = tmp_path / "mark"
    mark.touch()
    settings = {
        "metrics": {"Fails": Fails(mark, 10), "F-Fidelity": FFidelity(fine_tune=tune)},
        "store": tmp_path / "store",
    }
    assert {failure.metric for failure in run(**settings).failures} == {"Fails"}
    mark.unlink()
    assert not run(**settings).failures
    assert trained.read_text() == "x"
