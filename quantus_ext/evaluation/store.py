"""A folder of finished shards, so that a run which was cut off goes on where it was."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantus_ext.draws import Draws
from quantus_ext.evaluation.packing import expected, packed, unpacked
from quantus_ext.evaluation.plan import UNREADABLE, differences, shown_name
from quantus_ext.evaluation.records import Record
from quantus_ext.files import (
    DamagedError,
    Folder,
    OtherFormatError,
    aside,
    digest_of,
    sealed_json,
    unsealed_json,
)
from quantus_ext.finetune.known import Known

_FORMAT = 5
_MANIFEST, _SHARDS = "manifest.json", "shards"

_ENTRIES = {"seed": int, "identity": dict, "rows": list, "answers": dict, "key": str}

_ROUNDS = 6
"""Times that a manifest is read before evaluations count as unable to agree on one."""


class StoreError(OSError):
    """The store could not be written or read; what had been written to it is kept."""


class Store:
    """Finished shards in a folder, or at any address that fsspec knows.

    A file is there whole or not at all, and holds what it belongs to, so that several runs may
    use one store at once: they write equal files. Whatever is not as it was written is told, kept
    under another name and computed again.

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
    key : str
        Of the manifest, which each shard names.

    Raises
    ------
    ValueError
        If the store was made with other settings, data, models or another version of this
        package, the message names them; or something could not be told from another of its kind.
    StoreError
        If it cannot be written or read.
    """

    def __init__(
        self,
        address: str | Path,
        identity: Mapping[str, Any],
        seed: int,
        known: Mapping[str, Known] | None = None,
        rows: Sequence[int] = (),
    ) -> None:
        self.address = str(address)
        _refuse_unreadable(identity)
        models = dict(known or {})
        _refuse_untold(models)
        self._folder = Folder(self.address)
        # As it will be read back.
        self.identity = json.loads(json.dumps(identity))
        # Models are asked once more, and only where a manifest is written.
        lasting = functools.cache(
            lambda: {name: _lasting_answers(name, each) for name, each in models.items()}
        )

        def new(seed: int) -> bytes:
            content = {
                "format": _FORMAT,
                "seed": seed,
                "identity": self.identity,
                "rows": list(rows),
                "answers": lasting(),
            }
            # So that shards belong to this manifest, and to none that takes its place.
            return sealed_json({**content, "key": digest_of(content)}, indent=1).encode()

        try:
            manifest = self._agreed(seed, new)
        except OtherFormatError as error:
            raise ValueError(
                f"store {self.address} {error}: use another, or delete it and compute again"
            ) from error
        except OSError as error:
            raise StoreError(
                error.errno,
                f"store {self.address} cannot be used ({error}). See whether it can be reached, "
                "read and written; what it holds is kept",
            ) from error
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
        self.key = str(manifest["key"])
        # Another order of the same explainers is the same evaluation: files are named by the
        # alphabetical one.
        names = list(self.identity["xai_methods"])
        self._places = [sorted(names).index(name) for name in names]
        calls = self.identity.get("call_kwargs", {})
        metrics = self.identity.get("metrics", {})
        self._cells = [shown_name(metric, call, calls) for metric in metrics for call in calls]

    def _agreed(self, seed: int, new: Callable[[int], bytes]) -> dict[str, Any]:
        """Return the manifest that is there, or a new one, the same for all who ask at once."""
        for folder in ("", _SHARDS):
            self._folder.tidy(folder)
        for _ in range(_ROUNDS):
            content = self._folder.read(_MANIFEST)
            if content is None:
                self._folder.make(_SHARDS)
                # Whoever is first; then it is read again.
                self._folder.create(_MANIFEST, new(seed))
                continue
            try:
                return _manifest(content)
            except DamagedError as error:
                if self._folder.read_later(_MANIFEST) != content:
                    continue
                kept = self._put_aside(_MANIFEST, content)
                # All who find it so write the same seed; and no shard that was there names what
                # they write, so that none is taken for one of an evaluation that is not known.
                self._folder.write(_MANIFEST, new(_seed_after(content)))
                warnings.warn(
                    f"{self._folder.path(_MANIFEST)} is left out and everything computed again: "
                    f"it is damaged, {error}; it is kept as {kept}",
                    RuntimeWarning,
                    stacklevel=4,
                )
        raise OSError(f"its {_MANIFEST} changes or is damaged each time it is read")

    def read(self, method: int, start: int, stop: int) -> Record | None:
        """Return what is known of a shard by an explainer, or None.

        A file that is damaged is left out with a warning, and written again.

        Raises
        ------
        StoreError
            If the file system does not say what is there.
        """
        place = self._places[method]
        name = _name(place, start)
        try:
            content = self._folder.read(name)
            if content is None:
                return None
            cases = [case for case in self.identity.get("cases", []) if start <= case < stop]
            try:
                record = unpacked(content, self.key, (place, start, stop), self._cells, cases)
            except DamagedError as error:
                kept = self._put_aside(name, content)
                warnings.warn(
                    f"{self._folder.path(name)} is left out and computed again: it is damaged, "
                    f"{error}; it is kept as {kept}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return None
        except OSError as error:
            raise StoreError(
                error.errno,
                f"store {self.address} cannot be read ({error}). What it holds is kept: when that "
                "is mended, the same call goes on from it",
            ) from error
        return replace(record, method=method)

    def write(self, record: Record) -> None:
        """Write a shard, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written; the others stay.
        """
        record = replace(record, method=self._places[record.method])
        try:
            self._folder.write(_name(record.method, record.start), packed(record, self.key))
        except OSError as error:
            raise StoreError(
                error.errno,
                f"store {self.address} cannot be written ({error}). The shards that it holds are "
                "kept: when that is mended, the same call goes on from them",
            ) from error

    def draws(self, made: Mapping[str, object] | None = None) -> dict[str, Draws]:
        """Return the numbers of draws that pilots have found, by the names of cells.

        Parameters
        ----------
        made : mapping of str to Draws, optional
            What a pilot has found now, kept where nothing is kept yet: all runs use the same.

        Raises
        ------
        StoreError
            If it cannot be read or written.
        """
        found = {}
        try:
            for place, cell in enumerate(self._cells):
                name = f"draws-{place:04d}.json"
                new = (made or {}).get(cell)
                known = self._draws(name, cell)
                if known is None and isinstance(new, Draws):
                    content = {"format": _FORMAT, "key": self.key, "cell": cell, **asdict(new)}
                    self._folder.create(name, sealed_json(content).encode())
                    known = self._draws(name, cell)
                    if known is None:
                        # It was damaged, which has been told.
                        self._folder.write(name, sealed_json(content).encode())
                        known = new
                if known is not None:
                    found[cell] = known
        except OSError as error:
            raise StoreError(
                error.errno,
                f"store {self.address} cannot be used ({error}). What it holds is kept: when that "
                "is mended, the same call goes on from it",
            ) from error
        return found

    def _draws(self, name: str, cell: str) -> Draws | None:
        content = self._folder.read(name)
        if content is None:
            return None
        try:
            about = unsealed_json(content, format=_FORMAT)
            expected(about.get("key") == self.key, "it belongs to another evaluation")
            expected(about.get("cell") == cell, f"it is of {about.get('cell')}, not {cell}")
            expected(type(about.get("n")) is int and about["n"] > 0, "n must be a count")
            return Draws(about["n"], str(about["reason"]))
        except (DamagedError, OtherFormatError, KeyError) as error:
            warnings.warn(
                f"{self._folder.path(name)} is left out and found again: it is damaged, {error}",
                RuntimeWarning,
                stacklevel=5,
            )
            return None

    def _put_aside(self, name: str, content: bytes) -> str:
        """Keep the content of a damaged file; in its place comes what is computed again."""
        kept = aside(name, content)
        self._folder.write(kept, content)
        return kept


def _manifest(content: bytes) -> dict[str, Any]:
    """Return what a manifest says."""
    manifest = unsealed_json(content, format=_FORMAT)
    for name, kind in _ENTRIES.items():
        expected(isinstance(manifest.get(name), kind), f"its {name} must be {kind.__name__}")
    return manifest


def _seed_after(content: bytes) -> int:
    """Return the seed of the manifest that comes after a damaged one."""
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big")


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
    return f"{_SHARDS}/{method:04d}-{start:012d}.npz"
