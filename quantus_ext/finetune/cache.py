"""Tuned weights found again by content, in memory and, where asked, on disk."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantus_ext.finetune.identity import content_key
from quantus_ext.memory import Memory


class Entry(NamedTuple):
    """Weights on the processor, and how they were got."""

    state: dict[str, Any]
    record: dict[str, Any]


# Shared by all tuners: copies of a metric have copies of its tuner.
_memory: Memory[Entry] = Memory(lambda e: _size(e.state), most_entries=16, most_bytes=2 * 2**30)


def clear_memory() -> None:
    """Forget the tuned models that this process remembers; files stay."""
    _memory.clear()


def find(key: str, like: Mapping[str, Any], directory: Path | None) -> Entry | None:
    """Return the entry of a key, from memory or else from its file.

    Parameters
    ----------
    key : str
    like : mapping
        A state dict with the same names and shapes.
    directory : Path, optional
        Where files are. A file that is damaged, or not one of ours, is ignored with a warning.
    """
    entry = _memory.get(key)
    if entry is None and directory is not None:
        path = _path(directory, key)
        if path.exists():
            entry = _read(path, key, like)
            if entry is not None:
                _memory.put(key, entry)
    return entry


def keep(key: str, entry: Entry, directory: Path | None) -> None:
    """Remember an entry, and write its file at once or not at all."""
    _memory.put(key, entry)
    if directory is None:
        return
    try:
        _write(_path(directory, key), key, entry)
    except OSError as error:
        warnings.warn(f"the tuned model was not written to cache_dir: {error}", stacklevel=4)


def _path(directory: Path, key: str) -> Path:
    return directory / f"{key}.pt"


def _write(path: Path, key: str, entry: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"key": key, **entry._asdict(), "checksum": content_key(entry.state)}
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


def _read(path: Path, key: str, like: Mapping[str, Any]) -> Entry | None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, record = content["state"], content["record"]
        if content["key"] != key or content["checksum"] != content_key(state):
            raise ValueError("its content is not what its name and checksum say")
        if _shapes(state) != _shapes(like):
            raise ValueError("its weights are those of another architecture")
    except Exception as error:
        warnings.warn(
            f"{path} in cache_dir is ignored and the model tuned again: {error}", stacklevel=5
        )
        return None
    return Entry(state, dict(record))


def _shapes(state: Mapping[str, Any]) -> dict[str, object]:
    return {k: tuple(v.shape) if isinstance(v, Tensor) else None for k, v in state.items()}


def _size(state: Mapping[str, Any]) -> int:
    tensors = (value for value in state.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
