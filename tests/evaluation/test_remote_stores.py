"""A store at an address is as good as its file system lets it be, and says what it is not."""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import warnings

import fsspec
import numpy as np
import pytest

from quantus_ext import Infidelity, MoRF, files
from quantus_ext.evaluation import StoreError, store
from quantus_ext.evaluation.store import Store
from quantus_ext.files import unsealed
from tests.evaluation.problem import METHODS, assert_same, network, rows_counted, run
from tests.file_systems import Refusing, Unconditional, Unsteady

IDENTITY = {"a": 1, "xai_methods": {}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    fsspec.filesystem("memory").store.clear()
    Refusing.store.clear()
    for kind in (Unsteady, Unconditional):
        kind.fresh(halves=False)
    monkeypatch.setattr(files, "WAITS", tuple(wait / 50 for wait in files.WAITS))


def settings(seed: int | None = 0) -> dict[str, object]:
    return {
        "metrics": {
            "INFD": Infidelity(n_perturb_samples=4, perturb_patch_sizes=[2], seed=seed),
            "MoRF": MoRF(4),
        },
        "xai_methods": METHODS,
        "shard_size": 4,
        "seed": seed,
    }


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("kind", [Unsteady, Unconditional])
def test_a_file_system_that_fails_one_request_in_five(kind, halves):
    kind.fresh(halves=halves)
    expected = run(**settings())
    for trial in range(3):
        address = f"{kind.protocol}://store-{trial}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if halves:
                # A manifest that was written in part is told.
                warnings.filterwarnings("ignore", message=".*manifest.json is left out")
            assert_same(run(**settings(), store=address), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_same(run(**settings(), store=address), expected)
        with pytest.raises(ValueError, match="was made with other settings"):
            run(**{**settings(), "seed": 1}, store=address)
    assert kind.fails > 10


class Killed(BaseException):
    """Nobody catches it."""


@pytest.mark.parametrize("protocol", ["memory", "unsteady"])
def test_killed_twenty_times_while_it_writes(protocol, monkeypatch, tmp_path):
    """What was written whole is not computed again: rows are counted."""
    counter = tmp_path / "rows"
    chosen = {**settings(), "shard_size": 8}
    expected = run(model=network(counter), **chosen)
    whole = rows_counted(counter)
    counter.unlink()
    run(model=network(counter), **chosen, store="memory://finished")
    # Asked of every store, and once more of a new one.
    once, check = 8, 16
    assert rows_counted(counter) == whole - 2 + 2 * once
    a_shard = (whole - 2 - check) / 3
    generator = random.Random(0)
    kind = type(fsspec.filesystem(protocol))
    pipe_file = kind.pipe_file
    for trial in range(20):
        root = f"/store-{trial}"
        address = f"{protocol}:/{root}"
        dies_at = generator.randrange(6)
        written, halved = [], []

        def dying(self, path, value, mode="overwrite", at=dies_at, written=written, halved=halved):
            if len(written) == at:
                halved.append(self._strip_protocol(path))
                with self.open(path, "wb") as file:
                    file.write(value[: generator.randrange(len(value))])
                raise Killed
            pipe_file(self, path, value, mode)
            written.append(path)

        with monkeypatch.context() as patched, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patched.setattr(kind, "pipe_file", dying)
            with pytest.raises(Killed):
                run(**chosen, store=address)
        there = [path for path in kind.store if path.startswith(f"{root}/")]
        there.remove(halved[-1])
        counter.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed = run(model=network(counter), **chosen, store=address)
        assert_same(resumed, expected)
        # Of each shard come two files.
        to_do = {at for at in range(0, 24, 8) if sum(f"{at:012d}.npz" in p for p in there) < 2}
        asked = once if f"{root}/manifest.json" in there else 2 * once
        assert rows_counted(counter) == asked + len(to_do) * a_shard + check * bool(to_do)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_file_system_that_is_full_or_turns_read_only(code, monkeypatch):
    monkeypatch.setattr(Refusing, "code", code)
    monkeypatch.setattr(Refusing, "left", 5)
    with pytest.raises(StoreError, match=f"{os.strerror(code)}.*are kept.*goes on") as caught:
        run(**settings(), store="refusing://store")
    assert caught.value.errno == code
    assert len(Refusing.store) == 5
    before = {path: bytes(file.getbuffer()) for path, file in Refusing.store.items()}
    with pytest.raises(StoreError):
        run(**settings(), store="refusing://store")
    monkeypatch.setattr(Refusing, "left", 100)
    expected = run(**settings())
    assert_same(run(**settings(), store="refusing://store"), expected)
    assert before.items() <= {p: bytes(f.getbuffer()) for p, f in Refusing.store.items()}.items()
    # What is finished can be read where nothing can be written.
    monkeypatch.setattr(Refusing, "left", 0)

    def refused(self, path, **keywords):
        raise PermissionError("not yours")

    monkeypatch.setattr(Refusing, "makedirs", refused)
    assert_same(run(**settings(), store="refusing://store"), expected)


@pytest.mark.parametrize("address", ["memory://new", "unsteady://new", "unconditional://new", ""])
def test_all_who_start_at_once_agree_on_one_manifest(address, tmp_path):
    for trial in range(10):
        start = threading.Barrier(4)
        made: list[Store] = []

        def begin(seed: int, trial=trial, start=start, made=made) -> None:
            start.wait()
            at = f"{address}-{trial}" if address else tmp_path / str(trial)
            made.append(Store(at, IDENTITY, seed=seed))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(made) == 4
        assert len({(store.seed, store.key) for store in made}) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 5, "seed": 1}'])
def test_all_who_find_a_damaged_manifest_agree_on_the_next(content, tmp_path):
    for trial in range(5):
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / "manifest.json").write_bytes(content)
        start = threading.Barrier(4)
        made: list[Store] = []

        def begin(seed: int, folder=folder, start=start, made=made) -> None:
            start.wait()
            made.append(Store(folder, IDENTITY, seed=seed))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(made) == 4
        assert len({(store.seed, store.key) for store in made}) == 1
        assert Store(folder, IDENTITY, seed=9).key == made[0].key


def test_two_evaluations_with_fresh_seeds_at_once(tmp_path):
    from tests.evaluation.test_store import in_a_child

    chosen = settings(seed=None)
    children = [in_a_child(run, **chosen, store=tmp_path) for _ in range(2)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = run(**chosen, store=tmp_path)
    assert len(list((tmp_path / "shards").iterdir())) == 12
    for path in list((tmp_path / "shards").iterdir())[::3]:
        path.unlink()
    assert_same(run(**chosen, store=tmp_path), first)


def test_a_failed_request_never_makes_another_the_owner(monkeypatch):
    """fsspec's ``exists`` is False for any error."""
    first = Store("memory://owned", IDENTITY, seed=1)
    before = dict(fsspec.filesystem("memory").store)
    cat_file = type(fsspec.filesystem("memory")).cat_file
    failed = []

    def failing(self, path, *arguments, **keywords):
        if len(failed) < 3:
            failed.append(path)
            raise ConnectionResetError("reset")
        return cat_file(self, path, *arguments, **keywords)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", failing)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", lambda self, path: False)
    with pytest.raises(ValueError, match="a was 1, is 2"):
        Store("memory://owned", {**IDENTITY, "a": 2}, seed=2)
    assert len(failed) == 3
    assert dict(fsspec.filesystem("memory").store) == before
    assert Store("memory://owned", IDENTITY, seed=3).key == first.key


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ConnectionResetError("reset"), 1 + len(files.WAITS)),
        (RuntimeError("of its own kind"), 1 + len(files.WAITS)),
        (PermissionError("not yours"), 1),
        (OSError(errno.ENAMETOOLONG, "too long"), 1),
    ],
)
def test_a_request_that_goes_on_failing_is_told(error, tries, monkeypatch):
    run(**settings(), store="memory://told")
    asked = []

    def failing(self, path, *arguments, **keywords):
        if "/shards/" in path:
            asked.append(path)
            raise error
        return cat_file(self, path, *arguments, **keywords)

    cat_file = type(fsspec.filesystem("memory")).cat_file
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", failing)
    with pytest.raises(
        StoreError, match=f"cannot be read .*{re.escape(str(error))}.*the same call goes on"
    ):
        run(**settings(), store="memory://told")
    assert len(asked) == tries


@pytest.mark.parametrize("protocol", ["memory", "unconditional"])
def test_who_comes_between_looking_and_writing_is_not_overwritten(protocol, monkeypatch):
    kind = type(fsspec.filesystem(protocol))
    monkeypatch.setattr(Unconditional, "failure", lambda self: None)
    first = Store(f"{protocol}://between", IDENTITY, seed=1)
    before = kind.store["/between/manifest.json"].getvalue()
    cat_file, looked = kind.cat_file, []

    def not_yet(self, path, *arguments, **keywords):
        looked.append(path)
        if len(looked) <= 2:
            raise FileNotFoundError(path)
        return cat_file(self, path, *arguments, **keywords)

    monkeypatch.setattr(kind, "cat_file", not_yet)
    second = Store(f"{protocol}://between", IDENTITY, seed=2)
    assert (second.seed, second.key) == (first.seed, first.key)
    assert kind.store["/between/manifest.json"].getvalue() == before
    assert len(looked) > 2


def test_a_creation_that_was_done_and_seemed_to_fail(monkeypatch):
    memory = type(fsspec.filesystem("memory"))
    pipe_file = memory.pipe_file

    def lost(self, path, value, mode="overwrite"):
        if self._strip_protocol(path) in self.store:
            # Some give no reason.
            raise OSError("failure")
        pipe_file(self, path, value, mode)
        raise ConnectionResetError("reset")

    monkeypatch.setattr(memory, "pipe_file", lost)
    assert Store("memory://done", IDENTITY, seed=1).seed == 1


def test_a_manifest_that_is_being_written_is_not_damaged(monkeypatch):
    first = Store("memory://begun", IDENTITY, seed=1)
    memory = type(fsspec.filesystem("memory"))
    cat_file, read = memory.cat_file, []

    def growing(self, path, *arguments, **keywords):
        content = cat_file(self, path, *arguments, **keywords)
        read.append(path)
        return content[: 200 * len(read)]

    monkeypatch.setattr(memory, "cat_file", growing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = Store("memory://begun", IDENTITY, seed=2)
    assert (second.seed, second.key) == (first.seed, first.key)
    assert len(read) > 1


def test_a_manifest_that_never_stays_is_told(monkeypatch):
    Store("memory://changing", IDENTITY, seed=1)
    memory = type(fsspec.filesystem("memory"))
    read = []

    def changing(self, path, *arguments, **keywords):
        read.append(path)
        return b"%d" % len(read)

    monkeypatch.setattr(memory, "cat_file", changing)
    monkeypatch.setattr(store, "_manifest", lambda content: unsealed(content))
    with pytest.raises(StoreError, match="changes or is damaged each time it is read"):
        Store("memory://changing", IDENTITY, seed=2)


def test_a_store_without_conditions(monkeypatch):
    """Some object stores answer so that they know none."""
    memory = type(fsspec.filesystem("memory"))
    pipe_file = memory.pipe_file

    def plain(self, path, value, mode="overwrite", **keywords):
        if mode == "create":
            raise OSError(errno.EIO, "A header you provided implies what is not implemented")
        pipe_file(self, path, value, **keywords)

    monkeypatch.setattr(memory, "pipe_file", plain)
    first = Store("memory://plain", IDENTITY, seed=1)
    assert Store("memory://plain", IDENTITY, seed=2).seed == first.seed == 1


def test_what_is_read_is_what_was_written_wherever_it_is():
    folder = files.Folder("memory://folder")
    folder.make("within")
    assert folder.read("none") is None
    folder.create("one", b"first")
    folder.create("one", b"second")
    assert folder.read("one") == b"first"
    folder.write("one", b"third")
    assert folder.read("one") == b"third"
    assert np.all([path.endswith("/one") for path in fsspec.filesystem("memory").store])
