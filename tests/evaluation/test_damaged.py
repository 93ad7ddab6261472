"""No file that is not as it was written gives other numbers, or an error that is not told.

A small part of ``python -m benchmarks.damaged_files``: a bit of every byte.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from benchmarks import damaged_files
from benchmarks.damaged_files import headers, odd_shards, turned
from quantus_ext import Evaluation
from quantus_ext.files import sealed_json


def outcomes(kind: damaged_files.Kind, places: list[int]) -> Counter[str]:
    bits = itertools.cycle(range(8))
    data = (next(turned(kind.content, [place], [next(bits)])) for place in places)
    return kind.outcomes(data)


def test_bits_of_a_small_shard():
    kind = damaged_files.shard()
    n = len(kind.content)
    assert outcomes(kind, list(range(n))) == {"told": n}


@pytest.mark.slow
def test_bits_of_the_headers_of_a_large_shard():
    kind = damaged_files.shard(n=5_000, shape=(3, 32, 32))
    places = headers(kind.content)
    assert 1_000 < len(places) < len(kind.content) / 50
    assert outcomes(kind, places) == {"told": len(places)}


def test_bits_of_a_manifest():
    kind = damaged_files.manifest()
    found = outcomes(kind, list(range(len(kind.content))))
    assert set(found) <= {"told", "the same"}
    assert found["told"] > 0.99 * len(kind.content)


def test_bits_of_a_baseline(tmp_path):
    kind = damaged_files.baseline(tmp_path)
    found = outcomes(kind, list(range(len(kind.content))))
    assert set(found) <= {"told", "the same"}
    # The last digits of a number may be more than it has.
    assert found["told"] > 0.98 * len(kind.content)


def test_bits_of_a_tuned_model(tmp_path):
    kind = damaged_files.tuned(tmp_path)
    n = len(kind.content)
    assert outcomes(kind, list(range(n))) == {"told": n}


def test_other_files_in_a_shards_place():
    kind = damaged_files.shard()
    odd = odd_shards(kind.content)
    assert len(odd) > 45
    assert {name: kind.outcome(data) for name, data in odd.items()} == dict.fromkeys(odd, "told")


def test_evaluations_from_damaged_stores(tmp_path):
    found = damaged_files.evaluations_with_damage(tmp_path, 12)
    assert set(found) <= {"told", "the same"}
    assert found["told"] > 8


@pytest.mark.parametrize("place", [0, 1, 5, 40])
def test_the_text_of_a_damaged_baseline(place):
    text = damaged_files.evaluated().to_json()
    other = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
    with pytest.raises(ValueError, match="source must be what to_json wrote, the text is damaged"):
        Evaluation.from_json(other)


@pytest.mark.parametrize(
    "changed",
    [
        *({name: None} for name in ("explainers", "metrics", "columns", "failures", "directions")),
        {"explainers": ["forward"]},
        {"metrics": ["MoRF", "LeRF"]},
        {"scores": [[[1.0]]]},
        {"standard_errors": []},
        {"scores": [[[1.0]]], "standard_errors": [[[1.0]]]},
        {"scores": [[["a"]]]},
        {"n_evaluations": [[10**30]]},
        {"seconds": [1.0]},
        {"directions": {"MoRF": "higher"}},
        {"directions": {"MoRF": "up", "Sparseness": "down"}},
        {"failures": [{"explainer": "forward"}]},
        {"columns": [["MoRF"]]},
        {"cards": {"MoRF": {"name": "MoRF"}}},
        {"cards": None},
    ],
    ids=str,
)
def test_a_baseline_whose_parts_do_not_fit(changed, tmp_path):
    path = tmp_path / "baseline.json"
    content = json.loads(damaged_files.evaluated().to_json())
    path.write_text(sealed_json(content | changed))
    with pytest.raises(ValueError, match=f"source must be what to_json wrote, {path} is damaged"):
        Evaluation.from_json(path)
    for name in content.keys() - {"format", "sha256"}:
        path.write_text(sealed_json({n: v for n, v in content.items() if n != name}))
        with pytest.raises(ValueError, match="is damaged"):
            Evaluation.from_json(path)


def test_a_baseline_of_an_earlier_version(tmp_path):
    (tmp_path / "old.json").write_text('{"format": 1, "explainers": []}')
    with pytest.raises(ValueError, match=r"old.json has format 1, .* reads 4: write it anew"):
        Evaluation.from_json(tmp_path / "old.json")
