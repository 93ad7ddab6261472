"""Tuned weights found again by content and answers, in memory and, where asked, on disk."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor

from quantus_ext.files import (
    DamagedError,
    aside,
    remove_partial,
    seal,
    unsealed,
    write_bytes,
)
from quantus_ext.finetune.known import Known
from quantus_ext.finetune.training import Trained, TuningReport
from quantus_ext.identity import same_answers
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
        Where files are. A file that is damaged, or not one of ours, is put aside with a warning.
    known : sequence of Known
        The models whose content is in the key, which must answer as they did.
    masked : Tensor, optional
        What the masks make of the first inputs, which must be what it was.
    """
    entry = _memory.get(key)
    if entry is not None and _is_of(entry, known, masked):
        return entry
    if directory is None:
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
    except (OSError, MemoryError) as error:
        warnings.warn(f"the tuned model was not written to cache_dir: {error}", stacklevel=4)


def _path(directory: Path, key: str) -> Path:
    return directory / f"{key}.pt"


def _write(path: Path, key: str, entry: Trained) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial(path.parent)
    content = {
        "key": key,
        "state": entry.state,
        "report": asdict(entry.report),
        "answers": list(entry.answers),
    }
    file = io.BytesIO()
    torch.save(content, file)
    seal(file)
    # Another process may do the same: each replaces the whole file by an equal one.
    write_bytes(path, file.getbuffer())


def _read(path: Path, key: str) -> Trained | None:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _ignored(path, f"it cannot be read, {error}")
        return None
    try:
        return _entry(unsealed(data), key)
    except DamagedError as error:
        kept = path.with_name(aside(path.name, data))
        try:
            path.replace(kept)
        except OSError as refused:
            _ignored(path, f"it is damaged, {error}; it stays there, {refused}")
        else:
            _ignored(path, f"it is damaged, {error}; it is kept as {kept.name}")
        return None


def _ignored(path: Path, why: str) -> None:
    warnings.warn(f"{path} in cache_dir is ignored and the model tuned again: {why}", stacklevel=6)


def _entry(content: bytes, key: str) -> Trained:
    """Return what was written, every part of it checked."""
    try:
        read = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        found, state, report, answers = (
            read.pop(name) for name in ("key", "state", "report", "answers")
        )
        entry = Trained(state, TuningReport(**report), tuple(answers))
        tensors = [*state.values(), *answers]
    except Exception as error:
        raise DamagedError(f"its parts are not those of a tuned model: {error!r}") from error
    if found != key:
        raise DamagedError("it is another tuned model's")
    types = {field.name: field.type for field in fields(TuningReport)}
    for name, value in report.items():
        if type(value).__name__ != types[name]:
            raise DamagedError(f"the {name} of its report must be {types[name]}, is {value!r}")
    if read or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise DamagedError("it must hold tensors and nothing else")
    return entry
