"""Tuned weights found again by content and answers, in memory and, where asked, on disk."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from quantus_ext.finetune.known import Known
from quantus_ext.finetune.training import Trained, TuningReport
from quantus_ext.identity import content_key, same_answers
from quantus_ext.memory import Memory

# Shared by all tuners: copies of a metric have copies of its tuner.
_memory: Memory[Trained] = Memory(
    lambda trained: sum(t.numel() * t.element_size() for t in trained.state.values()),
    most_entries=128,
    most_bytes=2 * 2**30,
)


def clear_memory() -> None:
    """Forget the tuned models that this process remembers; files stay."""
    _memory.clear()


def find(
    key: str, directory: Path | None, known: Sequence[Known] = (), masked: Tensor | None = None
) -> Trained | None:
    """Return the entry of a key, from memory or else from its file, if it is of these models.

    Parameters
    ----------
    key : str
    directory : Path, optional
        Where files are. A file that is damaged, or not one of ours, is ignored with a warning.
    known : sequence of Known
        The models whose content is in the key, which must answer as they did.
    masked : Tensor, optional
        What the masks make of the first inputs, which must be what it was.
    """
    entry = _memory.get(key)
    if entry is not None and _is_of(entry, known, masked):
        return entry
    if directory is None or not _path(directory, key).exists():
        return None
    entry = _read(_path(directory, key), key)
    if entry is None or not _is_of(entry, known, masked):
        return None
    _memory.put(key, entry)
    return entry


def _is_of(entry: Trained, known: Sequence[Known], masked: Tensor | None) -> bool:
    return masked is None or (
        len(entry.answers) == len(known) + 1
        and all(each.gave(then) for each, then in zip(known, entry.answers, strict=False))
        and same_answers(entry.answers[-1], masked)
    )


def keep(key: str, entry: Trained, directory: Path | None) -> None:
    """Remember an entry, and write its file at once or not at all."""
    _memory.put(key, entry)
    if directory is None:
        return
    try:
        _write(_path(directory, key), key, entry)
    except (OSError, RuntimeError) as error:  # torch's own writer, of a full disk
        warnings.warn(f"the tuned model was not written to cache_dir: {error}", stacklevel=4)


def _path(directory: Path, key: str) -> Path:
    return directory / f"{key}.pt"


def _write(path: Path, key: str, entry: Trained) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "key": key,
        "state": entry.state,
        "report": asdict(entry.report),
        "answers": list(entry.answers),
        "checksum": content_key(entry.state, list(entry.answers)),
    }
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{key}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
        # Another process may do the same: each replaces the whole file by an equal one.
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _read(path: Path, key: str) -> Trained | None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, report = content["state"], TuningReport(**content["report"])
        answers = content["answers"]
        if content["key"] != key or content["checksum"] != content_key(state, answers):
            raise ValueError("its content is not what its name and checksum say")
    except Exception as error:
        warnings.warn(
            f"{path} in cache_dir is ignored and the model tuned again: {error}", stacklevel=5
        )
        return None
    return Trained(state, report, tuple(answers))
