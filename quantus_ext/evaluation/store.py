"""A folder of finished shards, so that a run which was cut off goes on where it was."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import torch
from torch import Tensor

from quantus_ext.evaluation.plan import UNREADABLE, differences
from quantus_ext.evaluation.shard import Record, Scored
from quantus_ext.finetune.known import Known
from quantus_ext.identity import content_key

_FORMAT = 3
_MANIFEST = "manifest.json"


class StoreError(OSError):
    """The store could not be written or read; what had been written to it is kept."""


class Store:
    """Finished shards in a folder, or at any address that fsspec knows.

    A file is there whole or not at all, and holds what it belongs to, so that several runs may
    use one store at once: they write equal files.

    Parameters
    ----------
    address : str or Path
        A folder, made if it is missing; or an address such as ``s3://bucket/folder``.
    identity : dict
        What scores depend on; see :func:`quantus_ext.evaluation.plan.identity`.
    seed : int
        Kept with it where the store is new.
    known : mapping of str to Known, optional
        What the models are known by; their answers are kept, and compared on each later use.
    rows : sequence of int, optional
        The samples that they were asked for.

    Attributes
    ----------
    seed : int
        That of the run which made the store.

    Raises
    ------
    ValueError
        If the store was made with other settings, data or models, the message names them; or
        something could not be told from another of its kind.
    StoreError
        If it cannot be written or read.
    """

    def __init__(
        self,
        address: str | Path,
        identity: dict[str, Any],
        seed: int,
        known: Mapping[str, Known] | None = None,
        rows: Sequence[int] = (),
    ) -> None:
        self.address = str(address)
        fs, root = fsspec.core.url_to_fs(self.address)
        self._fs, self._root = fs, root.rstrip("/")
        self._is_local = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
        # As it reads when it comes back.
        self.identity = json.loads(json.dumps(identity))
        _refuse_unreadable(self.identity)
        models = dict(known or {})
        _refuse_untold(models)

        def new() -> dict[str, Any]:
            return {
                "format": _FORMAT,
                "seed": seed,
                "identity": self.identity,
                "rows": list(rows),
                "answers": {name: _lasting_answers(name, each) for name, each in models.items()},
            }

        manifest = self._open(new)
        if manifest.get("format") != _FORMAT:
            raise ValueError(
                f"store {self.address} has format {manifest.get('format')!r}, this version of "
                f"quantus_ext reads {_FORMAT}"
            )
        found = differences(manifest["identity"], self.identity)
        if found:
            raise ValueError(
                f"store {self.address} was made with other settings or data, use another: "
                + "; ".join(found)
            )
        found = _other_answers(manifest, models)
        if found:
            raise ValueError(
                f"store {self.address} was made with another model, use another: "
                + "; ".join(found)
            )
        self.seed = int(manifest["seed"])
        self.key = content_key(self.identity, self.seed)
        # Another order of the same explainers is the same evaluation: files are named by the
        # alphabetical one.
        names = list(self.identity["xai_methods"])
        self._places = [sorted(names).index(name) for name in names]

    def _open(self, new: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the manifest that is there, or else write a new one."""
        try:
            self._fs.makedirs(f"{self._root}/shards", exist_ok=True)
            is_new = not self._fs.exists(self._path(_MANIFEST))
        except OSError as error:
            raise StoreError(
                error.errno, f"store {self.address} cannot be used: {error}"
            ) from error
        manifest = new() if is_new else {}
        try:
            if is_new:
                self._write(_MANIFEST, json.dumps(manifest, indent=1).encode(), exclusive=True)
            # Another run may have been first.
            found: dict[str, Any] = json.loads(self._fs.cat_file(self._path(_MANIFEST)))
        except OSError as error:
            raise StoreError(
                error.errno, f"store {self.address} cannot be used: {error}"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"store {self.address} is damaged, its {_MANIFEST} is no JSON: {error}"
            ) from error
        return found

    def read(self, method: int, start: int, stop: int) -> Record | None:
        """Return what is known of a shard by an explainer, or None.

        A file that is damaged is left out with a warning, and written again.
        """
        place = self._places[method]
        path = self._path(_name(place, start))
        if not self._fs.exists(path):
            return None
        try:
            record, key = _unpacked(self._fs.cat_file(path))
            if key != self.key or (record.method, record.start, record.stop) != (
                place,
                start,
                stop,
            ):
                raise ValueError("it belongs to another evaluation")
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(
                f"{path} is left out and computed again: {error}", RuntimeWarning, stacklevel=2
            )
            return None
        return replace(record, method=method)

    def write(self, record: Record) -> None:
        """Write a shard, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written; the others stay.
        """
        record = replace(record, method=self._places[record.method])
        name = _name(record.method, record.start)
        try:
            self._write(name, _packed(record, self.key))
        except OSError as error:
            raise StoreError(
                error.errno,
                f"store {self.address} cannot be written ({error}). The shards that it holds are "
                "kept: when that is mended, the same call goes on from them",
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        if not self._is_local:
            # An object store has a new object whole or not at all; elsewhere a part of one is
            # found out when it is read.
            self._fs.pipe_file(self._path(name), content)
            return
        path = Path(self._path(name))
        partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if not exclusive:
                partial.replace(path)
                return
            try:
                os.link(partial, path)
            except FileExistsError:
                pass
            except OSError:
                # A file system without links.
                partial.replace(path)
        finally:
            # On a file system that has become read-only the first error is the one to be told.
            with suppress(OSError):
                partial.unlink(missing_ok=True)


_WAYS_OUT = (
    "name what it answers, as BlackBox(predict, classes, key='model-2026-11'), or pass store=None"
)


def _refuse_unreadable(identity: Mapping[str, Any]) -> None:
    """Raise ValueError if something besides the models could not be read."""
    for name, value in _plain_values(identity):
        if isinstance(value, str) and value.startswith(UNREADABLE):
            types = value.removeprefix(UNREADABLE).rpartition(" ")[0]
            raise ValueError(
                f"store must be None where {name} holds what cannot be read ({types}), so that it "
                "is not told from another; explainers can be passed as arrays of attributions"
            )


def _plain_values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _plain_values(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _plain_values(item, name)
    else:
        yield name, value


def _refuse_untold(models: Mapping[str, Known]) -> None:
    """Raise ValueError if neither content nor answers tell a model from another."""
    for name, known in models.items():
        if not known.findable:
            why = (
                f"it holds what cannot be read ({', '.join(known.content.unread)})"
                if known.content.unread
                else "it calls a function of one's own, which may read anything"
            )
            raise ValueError(
                f"store must be None for a model that is not told from another, {name} is not: "
                f"{why}, and answers the same, or with whole numbers, in all of "
                f"{len(known.answers)} samples; {_WAYS_OUT}"
            )


def _lasting_answers(name: str, known: Known) -> dict[str, Any] | None:
    """Return the answers that a store keeps, None of a model that is known without."""
    if not known.content.closed and not known.gave(known.ask_again()):
        if not known.named:
            raise ValueError(
                f"store must be None for a model that answers otherwise each time it is asked, "
                f"{name} does: draw its random numbers from torch's, numpy's or random's global "
                f"generators, which are seeded here; {_WAYS_OUT}"
            )
        return None
    return {"dtype": str(known.answers.dtype), "values": known.answers.tolist()}


def _other_answers(manifest: Mapping[str, Any], models: Mapping[str, Known]) -> list[str]:
    """Return which models answer otherwise than those that the store was made with."""
    kept, found = manifest["answers"], []
    for name in sorted({*kept, *models}):
        if name not in kept or name not in models:
            found.append(f"{name} {'answered' if name in kept else 'failed'} then and not now")
            continue
        if kept[name] is None or models[name].gave(_tensor(kept[name])):
            continue
        now, then = models[name].answers, _tensor(kept[name])
        line = f"{name} answers otherwise"
        if now.shape == then.shape:
            difference = (now.double() - then.double()).abs().flatten(1).amax(1).nan_to_num(np.inf)
            at = int(difference.argmax())
            line += f", for sample {manifest['rows'][at]} by up to {float(difference[at]):.2g}"
        if models[name].doubtful:
            line += " (a rounding counts too where answers are all that is known: give it a key)"
        found.append(line)
    return found


def _tensor(answers: Mapping[str, Any]) -> Tensor:
    dtype = getattr(torch, answers["dtype"].removeprefix("torch."))
    return torch.tensor(answers["values"], dtype=dtype)


def _name(method: int, start: int) -> str:
    return f"shards/{method:04d}-{start:012d}.npz"


def _packed(record: Record, key: str) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    cells = []
    for place, (name, scored) in enumerate(record.cells.items()):
        arrays[f"score_{place}"], arrays[f"error_{place}"] = scored.score, scored.error
        cells.append(
            {
                "name": name,
                "n_evaluations": scored.n_evaluations,
                "n_rows": scored.n_rows,
                "seconds": scored.seconds,
                "plan": scored.plan,
                "failure": scored.failure,
                "traceback": scored.traceback,
            }
        )
    for case, maps in record.maps.items():
        arrays[f"map_{case}"] = maps
    about = {
        "key": key,
        "method": record.method,
        "start": record.start,
        "stop": record.stop,
        "seconds": record.seconds,
        "threads": record.threads,
        "cells": cells,
        "cases": list(record.maps),
    }
    file = io.BytesIO()
    np.savez(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _unpacked(content: bytes) -> tuple[Record, str]:
    # Every member of the file carries a checksum, which reading it compares.
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        cells = {
            cell.pop("name"): Scored(
                arrays[f"score_{place}"],
                arrays[f"error_{place}"],
                **{**cell, "plan": None if cell["plan"] is None else tuple(cell["plan"])},
            )
            for place, cell in enumerate(about["cells"])
        }
        maps = {case: arrays[f"map_{case}"] for case in about["cases"]}
    record = Record(
        method=about["method"],
        start=about["start"],
        stop=about["stop"],
        cells=cells,
        maps=maps,
        seconds=about["seconds"],
        threads=about["threads"],
    )
    return record, about["key"]
