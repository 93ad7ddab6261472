"""A record of a shard as bytes, and back, every part of it checked."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from quantus_ext.engine.spaces import SPACES
from quantus_ext.evaluation.records import Record, Scored
from quantus_ext.files import DamagedError, seal, unsealed

_NUMBERS = "biufc"
"""Kinds of arrays that attributions can be."""


def packed(record: Record, key: str) -> bytes:
    """Return a record as a sealed ``.npz`` file that names the store it belongs to.

    Parameters
    ----------
    record : Record
    key : str
        Of the store.
    """
    arrays: dict[str, np.ndarray] = {}
    cells = []
    for place, (name, scored) in enumerate(record.cells.items()):
        arrays[f"score_{place}"], arrays[f"error_{place}"] = scored.score, scored.error
        arrays[f"flags_{place}"], arrays[f"space_{place}"] = scored.flags, scored.space
        if scored.class_scores is not None and scored.class_errors is not None:
            arrays[f"classes_{place}"] = np.stack([scored.class_scores, scored.class_errors])
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
        arrays[f"map_{case}"] = _numbers(maps)
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
    seal(file)
    return file.getvalue()


def _numbers(maps: np.ndarray) -> np.ndarray:
    """Return attributions as numbers, which need no pickle; NaN where they are none."""
    if maps.dtype.kind in _NUMBERS:
        return maps
    try:
        return maps.astype(np.float64)
    except (TypeError, ValueError):
        return np.full(maps.shape, np.nan)


def unpacked(
    data: bytes,
    key: str,
    place: tuple[int, int, int],
    names: Collection[str],
    cases: Collection[int],
) -> Record:
    """Return the record that is in a file.

    Parameters
    ----------
    data : bytes
    key : str
        Of the store.
    place : (int, int, int)
        The explainer's, and the first sample and the one after the last.
    names : collection of str
        Of the cells that it may have.
    cases : collection of int
        The samples whose maps it may have, all or none.

    Raises
    ------
    DamagedError
        If it is not what was written, or not what is looked for.
    """
    content = unsealed(data)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
        expected(about["key"] == key, "it belongs to another evaluation")
        found = (about["method"], about["start"], about["stop"])
        expected(found == place, f"it is of explainer and samples {found}, not {place}")
        told = {cell.pop("name"): cell for cell in about["cells"]}
        expected(
            len(told) == len(about["cells"]) > 0 and set(told) <= set(names),
            f"it must hold some of the cells {', '.join(names)}, holds {', '.join(map(str, told))}",
        )
        method, start, stop = place
        n = stop - start
        cells = {
            name: _scored(
                name,
                cell,
                arrays.pop(f"score_{i}"),
                arrays.pop(f"error_{i}"),
                arrays.pop(f"flags_{i}"),
                arrays.pop(f"space_{i}"),
                arrays.pop(f"classes_{i}", None),
                n,
            )
            for i, (name, cell) in enumerate(told.items())
        }
        maps = {case: arrays.pop(f"map_{case}") for case in about["cases"]}
        expected(not arrays, f"it must hold nothing else, holds {', '.join(arrays)}")
        record = Record(
            method=method,
            start=start,
            stop=stop,
            cells=cells,
            maps=maps,
            seconds=_duration(about["seconds"]),
            threads=_count("threads", about["threads"]),
        )
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(f"its parts are not those of a shard: {error!r}") from error
    # Where explaining failed there are no maps.
    whole = set(maps) == set(cases) or (not maps and bool(record.failed))
    expected(whole, f"it must hold the maps of {list(cases)}, holds those of {list(maps)}")
    for case, values in maps.items():
        expected(values.dtype.kind in _NUMBERS, f"its map of {case} must be of numbers")
    return record


def expected(rule: bool, otherwise: str) -> None:
    """Raise DamagedError unless a rule holds."""
    if not rule:
        raise DamagedError(otherwise)


def _scored(
    name: str,
    about: Mapping[str, Any],
    score: np.ndarray,
    error: np.ndarray,
    flags: np.ndarray,
    space: np.ndarray,
    classes: np.ndarray | None,
    n: int,
) -> Scored:
    for values, kind in ((score, np.float64), (error, np.float64), (flags, np.int64)):
        expected(
            values.dtype == kind and values.shape == (n,),
            f"{name} must have {n} numbers of {kind.__name__}, has {values.shape} of "
            f"{values.dtype}",
        )
    expected(
        space.dtype == np.float64 and space.shape == (n, len(SPACES)),
        f"{name} must have {n} rows of {len(SPACES)} spaces, has {space.shape} of {space.dtype}",
    )
    if classes is not None:
        expected(
            classes.dtype == np.float64 and classes.ndim == 3 and classes.shape[:2] == (2, n),
            f"{name} must have {n} rows of scores and errors by class, has {classes.shape} of "
            f"{classes.dtype}",
        )
    texts = (about["failure"], about["traceback"])
    expected(
        texts == (None, None) or all(isinstance(text, str) for text in texts),
        f"failure and traceback of {name} must be texts or nothing",
    )
    expected(texts[0] is None or bool(np.isnan(score).all()), f"{name} failed and has scores")
    plan = about["plan"]
    if plan is not None:
        rows, layout = plan
        expected(isinstance(layout, str), f"the plan of {name} must name a layout")
        plan = (_count("rows a pass", rows), layout)
    return Scored(
        score,
        error,
        flags,
        space,
        **{
            **about,
            "n_evaluations": _count("n_evaluations", about["n_evaluations"]),
            "n_rows": _count("n_rows", about["n_rows"]),
            "seconds": _duration(about["seconds"]),
            "plan": plan,
        },
        class_scores=None if classes is None else classes[0],
        class_errors=None if classes is None else classes[1],
    )


def _count(name: str, value: Any) -> int:
    expected(type(value) is int and value >= 0, f"{name} must be a count, is {value!r}")
    return int(value)


def _duration(value: Any) -> float:
    sound = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
    expected(sound, f"seconds must be a duration, are {value!r}")
    return float(value)
