"""What becomes of files that are not as they were written: believed, told, or a raw error.

Every bit of small files is turned, and every bit of a large one's headers and directory; and files
of many other kinds are put in a shard's place. Run ``python -m benchmarks.damaged_files`` in the
repository's root.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import fsspec
import numpy as np
import quantus
import torch
from torch import nn

import quantus_ext
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import Evaluation, files
from quantus_ext.evaluation.packing import packed
from quantus_ext.evaluation.records import Record, Scored
from quantus_ext.evaluation.store import Store
from quantus_ext.files import aside, seal
from quantus_ext.finetune import cache
from quantus_ext.finetune.training import Trained, TuningReport

N = 6
OUTCOMES = ("told", "the same", "another result", "raw error")


@dataclass(frozen=True)
class Kind:
    """A file that is read back.

    Attributes
    ----------
    content : bytes
        As it was written.
    read : callable
        What comes back where other bytes are in its place: a value, or None where it was told
        that they are damaged, and they were kept.
    """

    content: bytes
    read: Callable[[bytes], object]

    def outcome(self, data: bytes) -> str:
        """Say what becomes of a file with this content, one of ``OUTCOMES``."""
        try:
            with patch.object(files, "WAITS", (0.0, 0.0)):
                found = self.read(data)
        except Exception:
            return "raw error"
        if found is None:
            return "told"
        return "the same" if found == self.read(self.content) else "another result"

    def outcomes(self, contents: Iterable[bytes]) -> Counter[str]:
        return Counter(self.outcome(data) for data in contents)


def turned(content: bytes, places: Iterable[int], bits: Iterable[int]) -> Iterator[bytes]:
    """Yield the content with one bit turned, for each place and bit."""
    bits = tuple(bits)
    for place in places:
        for bit in bits:
            data = bytearray(content)
            data[place] ^= 1 << bit
            yield bytes(data)


def told(path: str, said: list[warnings.WarningMessage]) -> bool:
    """Whether a warning names the file and calls it damaged."""
    texts = [str(warning.message) for warning in said]
    return any(path in text and "it is damaged" in text for text in texts)


def identity(n: int) -> dict[str, object]:
    return {
        "versions": {"quantus": "0.6.0"},
        "seed": None,
        "shard_size": n,
        "cases": [1, 4],
        "n": 2 * n,
        "model": "0" * 64,
        "xai_methods": {"gradients": "1" * 64, "noise": "2" * 64},
        "metrics": {"MoRF": {"seed": 0}, "INFD": {"seed": None}},
        "call_kwargs": {"": {}},
    }


def record(n: int, shape: tuple[int, ...]) -> Record:
    draw = np.random.default_rng(0).normal
    unknown, none = np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    return Record(
        method=0,
        start=0,
        stop=n,
        cells={
            "MoRF": Scored(draw(size=n), draw(size=n), none, 40, 30, 0.5, (64, "contiguous")),
            "INFD": Scored(unknown, unknown, none, 0, 0, 0.1, None, "no", "line"),
        },
        maps={case: draw(size=shape).astype(np.float32) for case in (1, 4)},
        seconds=0.25,
        threads=1,
    )


def plain(found: Record) -> object:
    """Return all that is in a record, to be compared."""
    return pickle.dumps(
        (
            replace(found, cells={}, maps={}),
            {
                name: (
                    cell.score.tobytes(),
                    cell.error.tobytes(),
                    replace(cell, score=np.zeros(0), error=np.zeros(0)),
                )
                for name, cell in found.cells.items()
            },
            {
                case: (maps.tobytes(), maps.shape, maps.dtype.str)
                for case, maps in found.maps.items()
            },
        )
    )


def shard(n: int = N, shape: tuple[int, ...] = (2, 3)) -> Kind:
    """Make a shard of a store in memory."""
    fs = fsspec.filesystem("memory")
    root = f"/damaged/{uuid4().hex}"
    store = Store(f"memory:/{root}", identity(n), seed=1)
    store.write(record(n, shape))
    (path,) = fs.ls(f"{root}/shards", detail=False)
    content = fs.cat_file(path)

    def read(data: bytes) -> object:
        fs.pipe_file(path, data)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.read(0, 0, n)
        if found is not None:
            return "a warning" if said else plain(found)
        assert told(path, said)
        kept = aside(path, data)
        assert fs.cat_file(kept) == data
        fs.rm(kept)
        return None

    return Kind(content, read)


def manifest() -> Kind:
    """Make the manifest of a store in memory."""
    fs = fsspec.filesystem("memory")
    root = f"/damaged/{uuid4().hex}"
    address, path = f"memory:/{root}", f"{root}/manifest.json"
    first = Store(address, identity(N), seed=1)
    content = fs.cat_file(path)

    def read(data: bytes) -> object:
        fs.pipe_file(path, data)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = Store(address, identity(N), seed=2)
        if not told(path, said):
            return "a warning" if said else (found.seed, found.key)
        # Nothing that belongs to the first is believed, and all who come agree on the new one.
        again = Store(address, identity(N), seed=3)
        assert found.key != first.key
        assert (again.seed, again.key) == (found.seed, found.key)
        kept = aside(path, data)
        assert fs.cat_file(kept) == data
        fs.rm(kept)
        return None

    return Kind(content, read)


def evaluated(**settings: object) -> Evaluation:
    """Evaluate a small problem."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(6, 3).eval()
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    return quantus_ext.evaluate(
        {
            "MoRF": quantus_ext.MoRF(3),
            "Sparseness": quantus.Sparseness(disable_warnings=True),
        },
        {"forward": x, "backward": x[:, ::-1].copy()},
        model,
        x,
        np.arange(8) % 3,
        shard_size=4,
        **settings,
    )


def baseline(folder: Path) -> Kind:
    """Make a baseline as a file."""
    path = folder / "baseline.json"
    evaluated().to_json(path)
    content = path.read_bytes()

    def read(data: bytes) -> object:
        # To cut a file off takes longer than to write a new one.
        path.unlink()
        path.write_bytes(data)
        try:
            return Evaluation.from_json(path).to_json()
        except ValueError as error:
            if f"{path} is damaged" not in str(error):
                raise
            return None

    return Kind(content, read)


def tuned(folder: Path) -> Kind:
    """Make a tuned model as a file."""
    path, key = folder / "key.pt", "key"
    weights = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.ones(3)}
    report = TuningReport(2, 1, 0.5, 0.75, 0.1)
    cache._write(path, key, Trained(weights, report, (torch.ones(2, 3), torch.zeros(2, 4))))
    content = path.read_bytes()

    def read(data: bytes) -> object:
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = cache._read(path, key)
        if found is not None:
            return "a warning" if said else pickle.dumps(found)
        assert told(str(path), said)
        kept = path.with_name(aside(path.name, data))
        assert kept.read_bytes() == data
        kept.unlink()
        return None

    return Kind(content, read)


def headers(content: bytes) -> list[int]:
    """Return the places in an ``.npz`` file that are no values of an array."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = file.infolist()
        values = set()
        for member in members:
            name = member.header_offset + 26
            lengths = np.frombuffer(content[name : name + 4], dtype="<u2")
            start = name + 4 + int(lengths.sum())
            # The header of an .npy file says how long it is.
            header = 10 + int.from_bytes(content[start + 8 : start + 10], "little")
            values |= set(range(start + header, start + member.file_size))
    return [place for place in range(len(content)) if place not in values]


def sealed(content: bytes) -> bytes:
    """Return content with a checksum that is right."""
    file = io.BytesIO(content)
    seal(file)
    return file.getvalue()


def odd_shards(content: bytes) -> dict[str, bytes]:
    """Return files that are none of the store's shards, by what they are."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    bare = content[: content.rindex(b"\nsha256 ")]

    def saved(**changed: object) -> bytes:
        """Make a file with other arrays, or without those that are None; its checksum is right."""
        file = io.BytesIO()
        merged = {name: value for name, value in (arrays | changed).items() if value is not None}
        np.savez(file, **merged)  # type: ignore[arg-type]
        return sealed(file.getvalue())

    def about_with(**changed: object) -> bytes:
        return saved(about=np.array(json.dumps({**about, **changed})))

    def about_without(name: str) -> bytes:
        return saved(about=np.array(json.dumps({k: v for k, v in about.items() if k != name})))

    def first_with(**changed: object) -> bytes:
        first, *rest = about["cells"]
        return about_with(cells=[{**first, **changed}, *rest])

    def last_with(**changed: object) -> bytes:
        *rest, last = about["cells"]
        return about_with(cells=[*rest, {**last, **changed}])

    def first_without(name: str) -> bytes:
        first, *rest = about["cells"]
        return about_with(cells=[{k: v for k, v in first.items() if k != name}, *rest])

    score, error = arrays["score_0"], arrays["error_0"]
    pickled = io.BytesIO()
    torch.save(arrays["score_0"].tolist(), pickled)
    array = io.BytesIO()
    np.save(array, score)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("about.txt", "about")
    cut = {
        f"cut off after {share:.0%}": content[: int(share * len(content))]
        for share in (0.01, 0.25, 0.5, 0.75, 0.99)
    }
    spread = {
        "empty": b"",
        "one byte": b"P",
        **cut,
        "without its last byte": content[:-1],
        "without its first byte": content[1:],
        "with a byte more": content + b"\n",
        "with a byte before": b"\n" + content,
        "twice": content + content,
        "zeros": bytes(len(content)),
        "a page of zeros in the middle": content[:1024] + bytes(512) + content[1536:],
        "two pages changed places": content[512:1024] + content[:512] + content[1024:],
        "line ends of another system": content.replace(b"\n", b"\r\n"),
        "without a checksum, as of an earlier version": bare,
        "the checksum of something else": bare + sealed(b"something else")[-73:],
        "the checksum in capitals": bare + content[len(bare) :].upper(),
        "the checksum alone": content[len(bare) :],
        "text": b"not found",
        "a page of HTML": b"<html><body>503 Service Unavailable</body></html>",
        "JSON": json.dumps(about).encode(),
        "a pickle": pickle.dumps(arrays),
        "compressed": gzip.compress(content),
        "an .npy file": array.getvalue(),
        "a torch file": pickled.getvalue(),
    }
    right_checksum = {
        "nothing": sealed(b""),
        "text": sealed(b"text"),
        "a pickle": sealed(pickle.dumps(arrays)),
        "an .npy file": sealed(array.getvalue()),
        "a torch file": sealed(pickled.getvalue()),
        "another archive": sealed(archive.getvalue()),
        "another store's": packed(record(N, (2, 3)), key="0" * 64),
        "another explainer's": about_with(method=1),
        "other samples'": about_with(start=N, stop=2 * N),
        "more samples'": about_with(stop=N + 1),
        "no description": saved(about=None),
        "a description that is no JSON": saved(about=np.array("{")),
        "a description that is a list": saved(about=np.array("[]")),
        "a description that is a number": saved(about=np.array(1.0)),
        **{f"a description without {name}": about_without(name) for name in about},
        "no cells": about_with(cells=[]),
        "cells that are none": about_with(cells=None),
        "a cell less": about_with(cells=about["cells"][:1]),
        "a cell twice": about_with(cells=[about["cells"][0]] * 2),
        "a cell more": about_with(cells=[*about["cells"], {**about["cells"][0], "name": "more"}]),
        "a cell of another name": first_with(name="LeRF"),
        "a cell with an entry more": first_with(more=1),
        **{f"a cell without {name}": first_without(name) for name in about["cells"][0]},
        "scores of another type": saved(score_0=score.astype(np.float32)),
        "scores that are whole numbers": saved(score_0=score.astype(int)),
        "scores that are texts": saved(score_0=score.astype(str)),
        "scores that are objects": saved(score_0=score.astype(object)),
        "scores that are complex": saved(score_0=score.astype(complex)),
        "scores in the other byte order": saved(score_0=score.astype(">f8")),
        "a score less": saved(score_0=score[1:], error_0=error[1:]),
        "a score more": saved(score_0=np.append(score, 1.0)),
        "scores as a column": saved(score_0=score[:, None]),
        "one score": saved(score_0=score[0]),
        "no scores": saved(score_0=None),
        "no standard errors": saved(error_0=None),
        "standard errors of another length": saved(error_0=error[1:]),
        "an array more": saved(more=score),
        "a map less": saved(map_1=None),
        "a map of objects": saved(map_1=np.array([{}, None])),
        "a map of texts": saved(map_1=np.array(["a"])),
        "maps of other samples": about_with(cases=[1]),
        "no maps where nothing failed": saved(
            map_1=None,
            map_4=None,
            about=np.array(
                json.dumps(
                    {
                        **about,
                        "cases": [],
                        "cells": [
                            {**cell, "failure": None, "traceback": None} for cell in about["cells"]
                        ],
                    }
                )
            ),
        ),
        "a count that is a fraction": first_with(n_evaluations=1.5),
        "a count below 0": first_with(n_evaluations=-1),
        "a count that is a text": first_with(n_rows="1"),
        "a count that is true": first_with(n_rows=True),
        "seconds that are NaN": first_with(seconds=float("nan")),
        "seconds below 0": about_with(seconds=-1),
        "seconds that are none": first_with(seconds=None),
        "threads that are a text": about_with(threads="1"),
        "a plan of one": first_with(plan=[64]),
        "a plan that is a text": first_with(plan="64"),
        "a plan without a layout": first_with(plan=[64, None]),
        "a failure that is a number": last_with(failure=1),
        "a failure without a traceback": last_with(traceback=None),
        "a failure with scores": first_with(failure="no", traceback="line"),
    }
    return spread | {f"right checksum, {name}": data for name, data in right_checksum.items()}


def evaluations_with_damage(folder: Path, n: int) -> Counter[str]:
    """Turn a bit somewhere in a store, or cut a file off, and evaluate from it."""
    generator = np.random.default_rng(0)
    expected = evaluated()
    found: Counter[str] = Counter()
    for trial in range(n):
        address = folder / f"store-{trial}"
        evaluated(store=address)
        path = generator.choice(sorted(p for p in address.rglob("*") if p.is_file()))
        data = bytearray(path.read_bytes())
        place = int(generator.integers(len(data)))
        if trial % 4 == 3:
            del data[place:]
        else:
            data[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                again = evaluated(store=address)
            except Exception:
                found["raw error"] += 1
                continue
        same = np.array_equal(again.scores, expected.scores, equal_nan=True)
        named = told(str(path), said)
        found["another result" if not same else "told" if named else "the same"] += 1
    return found


def row(name: str, found: Counter[str]) -> list[str]:
    return [name, f"{found.total():,}", *(f"{found[outcome]:,}" for outcome in OUTCOMES)]


def main() -> None:
    chosen = options(parser("damaged_files", __doc__))
    bits = (0,) if chosen.quick else range(8)
    page = Page("damaged_files", (), quick=chosen.quick)
    header = ["file", "cases", *OUTCOMES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = shard(), shard(n=20_000, shape=(3, 64, 64))
        kinds = {
            "a small shard, every bit": (small, range(len(small.content))),
            "a shard of 20,000 samples, every bit that is no value": (
                large,
                headers(large.content),
            ),
        }
        for title, made in (
            ("a manifest, every bit", manifest()),
            ("a baseline, every bit", baseline(folder)),
            ("a tuned model, every bit", tuned(folder)),
        ):
            kinds[title] = made, range(len(made.content))
        rows = [
            row(title, kind.outcomes(turned(kind.content, places, bits)))
            for title, (kind, places) in kinds.items()
        ]
        page.add(
            "One bit flipped",
            "Told: a warning (of a baseline an error) names the file and says that it is damaged; "
            "its bytes are kept under another name, and what it held is computed again. The same: "
            "the bit does not matter, what is read is equal.",
            markdown_table(header, rows),
        )
        odd = odd_shards(small.content)
        outcomes = {title: small.outcome(data) for title, data in odd.items()}
        page.add(
            "Other files in a shard's place",
            markdown_table(header, [row("all", Counter(outcomes.values()))]),
            "\n".join(f"- {title}: {outcome}" for title, outcome in outcomes.items()),
        )
        trials = 20 if chosen.quick else 400
        page.add(
            "Evaluations from a store of which one file is damaged",
            "A random bit of a random file turned; in every fourth the file cut off there instead.",
            markdown_table(
                header, [row("the whole of evaluate", evaluations_with_damage(folder, trials))]
            ),
        )


if __name__ == "__main__":
    main()
