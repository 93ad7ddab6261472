"""The model, explainers and metrics on their way to the workers: once for each, not for each task.

loky maps its bytes, an array, into every process from one file; Ray puts it into its store because
it says how large it is; to Dask's workers it is sent before the tasks. A worker unpacks it once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
import numpy as np
import torch
from filelock import FileLock, Timeout

from quantus_ext.engine.turns import turns
from quantus_ext.evaluation.records import Record, Shard
from quantus_ext.evaluation.shard import Worker
from quantus_ext.identity import copied

_POLL = 0.05
"""Seconds between looks for a device that has become free."""


_LOCKS = "quantus_ext-"
"""Begins the names of folders of locks."""

_LEFT = 24 * 60 * 60
"""Seconds after which locks that nobody holds are taken for left."""


class _OfThread(threading.local):
    """What a thread has unpacked last, one for each device, and the device it used."""

    key: str | None = None
    loaded: dict[str | None, Worker] = {}  # noqa: RUF012 - replaced, never written to
    device: str | None = None


_of_thread = _OfThread()


class Payload:
    """Everything that is the same for all shards.

    Parameters
    ----------
    loaded : Worker
        Used as it is by the thread that made the payload; other threads and processes get copies,
        because explainers put hooks on models and metrics keep their last results. What cannot be
        copied (a session, a lock) is shared by the threads of this process.
    devices : sequence of str, optional
        On each machine, devices that workers share out among themselves, one each at a time.
    """

    def __init__(self, loaded: Worker, devices: Sequence[str] | None = None) -> None:
        self.key = uuid4().hex
        self.devices = None if devices is None else tuple(devices)
        self._loaded: Worker | None = loaded
        self._owner = threading.get_ident()
        self._data: np.ndarray | None = None
        self._lock = threading.Lock()

    def data(self) -> np.ndarray:
        """Return the bytes, made when they are first asked for.

        Raises
        ------
        TypeError
            If something cannot be pickled.
        """
        with self._lock:
            if self._data is None:
                try:
                    with self._asking():
                        packed = cloudpickle.dumps(self._loaded)
                except Exception as error:
                    raise TypeError(
                        "model, metrics and explainers must be ones that pickle to go to other "
                        f"workers (n_jobs=1 needs no pickling): {error}"
                    ) from error
                # An array, because that is what backends share.
                self._data = np.frombuffer(packed, dtype=np.uint8)
            return self._data

    def __getstate__(self) -> dict[str, Any]:
        return {"key": self.key, "devices": self.devices, "_data": self.data()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _loaded=None, _owner=None, _lock=threading.Lock())

    def __sizeof__(self) -> int:
        # Ray asks for it to decide what goes into its store, once.
        return object.__sizeof__(self) + self.data().nbytes

    def _copy(self) -> Worker:
        if self._loaded is not None and not self._pickles():
            with self._asking():
                return copied(self._loaded)
        loaded: Worker = cloudpickle.loads(self.data())
        return loaded

    def _asking(self) -> AbstractContextManager[None]:
        """Let no thread's foreign code have the model while it is copied."""
        model = getattr(self._loaded, "model", None)
        return nullcontext() if model is None else turns.asking(model)

    def _pickles(self) -> bool:
        try:
            self.data()
        except TypeError:
            return False
        return True

    def load(self, device: str | None = None) -> Worker:
        """Return this thread's own copy, on a device or else on the one it came from."""
        if self._loaded is not None and self._owner == threading.get_ident() and device is None:
            return self._loaded
        if _of_thread.key != self.key:
            _of_thread.key, _of_thread.loaded = self.key, {}
        if device not in _of_thread.loaded:
            loaded = self._copy()
            _of_thread.loaded[device] = loaded if device is None else _moved(loaded, device)
        return _of_thread.loaded[device]


@dataclass(frozen=True)
class Task:
    """What one call of a worker does.

    Attributes
    ----------
    start, stop : int
    wanted : dict of int to tuple of str
        By the places of the explainers, the names of the cells to compute.
    threads : int or None
        Of torch.
    """

    start: int
    stop: int
    wanted: dict[int, tuple[str, ...]]
    threads: int | None


@dataclass(frozen=True)
class Unusable:
    """A worker that cannot work: it says why, for it would fail as often as it is asked.

    Attributes
    ----------
    reason : str
    """

    reason: str


def work(payload: Payload, shard: Shard, task: Task) -> list[Record] | Unusable:
    """Do a task; what the backends call."""
    before = torch.get_num_threads()
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    try:
        with claimed(payload.devices, payload.key) as device:
            return payload.load(device).run(shard, task.wanted)
    except (Exception, SystemExit) as error:
        # What explainers and metrics raise is in the record. Code that ends the program would end
        # a worker, which is waited for.
        return Unusable("".join(traceback.format_exception(error)))
    finally:
        torch.set_num_threads(before)


@contextmanager
def claimed(devices: Sequence[str] | None, run: str) -> Iterator[str | None]:
    """Hold one of this machine's devices, waiting until one is free; None where there are none.

    A lock on a file stands for a device, so that threads and processes share them out, and one
    that is killed gives its own back.

    Parameters
    ----------
    devices : sequence of str or None
    run : str
        Runs of other names have locks of their own.
    """
    if devices is None:
        yield None
        return
    folder = _folder_of_locks(run)
    if not folder.exists():
        _clear_left()
    folder.mkdir(exist_ok=True)
    # It is in use.
    os.utime(folder)
    while True:
        # The one it had last first: the model is there.
        for device in sorted(devices, key=lambda name: name != _of_thread.device):
            lock = FileLock(folder / f"{devices.index(device)}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                _of_thread.device = device
                yield device
            finally:
                lock.release()
            return
        time.sleep(_POLL)


@contextmanager
def locks_cleared(run: str) -> Iterator[None]:
    """Leave none of a run's locks on this machine, whatever happens."""
    try:
        yield
    finally:
        shutil.rmtree(_folder_of_locks(run), ignore_errors=True)


def _folder_of_locks(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{_LOCKS}{run}"


def _clear_left() -> None:
    """Remove the locks of runs that were killed, and of those whose workers were elsewhere."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_LOCKS}*"):
        # It may be gone by now, or belong to another process.
        with suppress(OSError):
            unused = time.time() - folder.stat().st_mtime > _LEFT
            if unused and all(map(_is_free, folder.glob("*.lock"))):
                shutil.rmtree(folder, ignore_errors=True)


def _is_free(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _moved(loaded: Worker, device: str) -> Worker:
    plan = replace(loaded.plan, device=device)
    return Worker(loaded.model.to(device), plan)
