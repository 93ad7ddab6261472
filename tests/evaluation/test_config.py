"""A file says what to evaluate, and the exit code whether it is good enough."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from quantus_ext import Evaluation, Infidelity, MoRF
from quantus_ext.__main__ import EXAMPLE, main
from quantus_ext.evaluation.config import _SECTIONS, Config
from quantus_ext.files import sealed_json
from tests.evaluation.problem import assert_same, data, network, noise, run
from tests.harness import gradients

FILE = """
model = {call = "tests.evaluation.problem:network"}

[data]
x_batch = "x.npy"
y_batch = "y.npy"

[metrics.INFD]
call = "quantus_ext:Infidelity"
n_perturb_samples = 12
perturb_patch_sizes = [2]

[metrics.MoRF]
steps = 4

[xai_methods]
gradients = {import = "tests.harness:gradients"}
noise = {import = "tests.evaluation.problem:noise"}
maps = {file = "maps.npy"}

[run]
batch_size = 4
shard_size = 8
store = "store"

[report]
html = "page.html"
markdown = "card.md"
json = "found.json"
"""


@pytest.fixture
def config(tmp_path):
    x, y = data()
    for name, values in (("x", x), ("y", y), ("maps", gradients(network(), x, y))):
        np.save(tmp_path / f"{name}.npy", values)

    def write(more: str = "") -> str:
        path = tmp_path / "config.toml"
        path.write_text(FILE + more)
        return str(path)

    return write


def code_of(*arguments: str) -> int:
    try:
        main(["evaluate", *arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_a_file_says_which_classes_are_explained(config, tmp_path):
    file = Path(config())
    text = (
        file.read_text()
        .replace('y_batch = "y.npy"', "")
        .replace("[run]", '[run]\ntargets = "top2"')
    )
    file.write_text(text.replace('maps = {file = "maps.npy"}\n', ""))
    assert code_of(str(file)) == 0
    found = Evaluation.from_json(tmp_path / "found.json")
    with torch.no_grad():
        outputs = network()(torch.from_numpy(data()[0])).numpy()
    np.testing.assert_array_equal(found.classes, np.argsort(-outputs, axis=1)[:, :2])


def test_a_file_says_whether_probabilities_are_asked_for(config, tmp_path):
    file = Path(config())
    file.write_text(file.read_text().replace("[run]", "[run]\nsoftmax = false"))
    assert code_of(str(file)) == 0
    x, y = data()
    maps = gradients(network(), x, y)
    expected = MoRF(4)(network(), x, y, maps, softmax=False)
    found = Evaluation.from_json(tmp_path / "found.json").scores_of("maps", "MoRF")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_file_is_evaluated_and_reported(config, tmp_path, capsys):
    assert code_of(config()) == 0
    x, y = data()
    expected = run(
        metrics={
            "INFD": Infidelity(n_perturb_samples=12, perturb_patch_sizes=[2]),
            "MoRF": MoRF(4),
        },
        xai_methods={
            "gradients": gradients,
            "noise": noise,
            "maps": gradients(network(), x, y),
        },
    )
    assert_same(Evaluation.from_json(tmp_path / "found.json"), expected)
    assert (tmp_path / "card.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert len(list((tmp_path / "store" / "shards").iterdir())) == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "line"),
    [
        ('[[thresholds]]\nmetric = "INFD"\nat_most = 1000', None),
        (
            '[[thresholds]]\nmetric = "INFD"\nexplainer = "noise"\nat_most = 0.001',
            "INFD of noise must be at most 0.001, is ",
        ),
        (
            '[[thresholds]]\nmetric = "MoRF"\nat_least = 5\nat_most = 6',
            "MoRF of maps must be at least 5 and at most 6, is ",
        ),
    ],
)
def test_thresholds_decide_on_the_exit_code(config, capsys, more, line):
    assert code_of(config(more)) == (0 if line is None else 1)
    printed = capsys.readouterr().out
    assert ("FAILED" in printed) == (line is not None)
    assert line is None or f"FAILED: {line}" in printed


def baseline(tmp_path, shift):
    text = json.loads((tmp_path / "found.json").read_text())
    scores = np.array(text["scores"])
    scores[1, 1] += shift
    (tmp_path / "baseline.json").write_text(sealed_json({**text, "scores": scores.tolist()}))


@pytest.mark.slow
def test_drift_decides_on_the_exit_code(config, tmp_path, capsys):
    assert code_of(config()) == 0
    more = '[drift]\nbaseline = "baseline.json"\n'
    baseline(tmp_path, 0.0)
    assert code_of(config(more)) == 0
    baseline(tmp_path, 1.0)
    capsys.readouterr()
    assert code_of(config(more)) == 1
    assert "FAILED: MoRF of noise is worse than the baseline's" in capsys.readouterr().out
    assert code_of(config(more + 'fail_on = ["better", "missing"]')) == 0
    assert code_of(config(more + "alpha = 1e-30")) == 0
    baseline(tmp_path, -1.0)
    capsys.readouterr()
    assert code_of(config(more + "smallest_effect = 0.1")) == 0
    out = capsys.readouterr().out
    assert "compared with those of baseline.json; a change has a p-value of at most 0.05" in out
    assert "an effect of at least 0.1; the check fails on worse, unknown, changed, missing" in out
    assert "**better**" in out
    assert code_of(config(more + 'fail_on = ["better"]')) == 1
    assert "FAILED: MoRF of noise is better than the baseline's" in capsys.readouterr().out
    assert code_of(config(more + "fail_on = []")) == 0
    assert "the check fails on nothing" in capsys.readouterr().out


def test_what_is_missing_since_the_baseline_fails(config, tmp_path, capsys):
    assert code_of(config()) == 0
    text = json.loads((tmp_path / "found.json").read_text())
    text["explainers"][2] = "old"
    (tmp_path / "baseline.json").write_text(sealed_json(text))
    assert code_of(config('[drift]\nbaseline = "baseline.json"\n')) == 1
    assert "FAILED: maps, INFD: in one of the two" in capsys.readouterr().out


def test_a_score_that_is_missing_breaks_its_threshold(config, tmp_path, capsys):
    maps = np.load(tmp_path / "maps.npy")
    maps[5] = np.nan
    np.save(tmp_path / "maps.npy", maps)
    with pytest.warns(RuntimeWarning, match="because of errors: maps by INFD, MoRF"):
        code = code_of(config('[[thresholds]]\nmetric = "INFD"\nat_most = 1000'))
    assert code == 1
    assert "INFD of maps must be at most 1000, is not known for every" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(config, tmp_path, capsys):
    assert code_of(config(), "--dry-run") == 0
    assert "evaluations" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "found.json").exists()


def test_objects_are_made_of_tables(config, tmp_path):
    more = """
[metrics.FF]
call = "quantus_ext:FFidelity"
fine_tune = {call = "quantus_ext:FineTuner", x = {file = "x.npy"}, y = {file = "y.npy"}, epochs = 1}
"""
    made = Config(config(more))._metric("FF", Config(config(more)).content["metrics"]["FF"])
    assert made.fine_tune.settings.epochs == 1
    assert len(made.fine_tune.data.x) == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[report]", "[reports]"), "a section must be one of"),
        (("html =", "pdf ="), r"a key of \[report\] must be one of html, json, markdown; has pdf"),
        (("[metrics.MoRF]", "[metrics.Morph]"), "must have call = .*module:Class"),
        (("[data]", "[data"), "is no TOML"),
        (('"tests.harness:gradients"', '"tests.harness"'), "must be named as"),
        (('"x.npy"', '"z.npy"'), "z.npy"),
        (("batch_size = 4", "batch_size = 5"), "shard_size must be a multiple"),
        (("[run]", "[drift]\nalpha = 0.1\n[run]"), r"\[drift\] must have the key baseline"),
        (("[run]", '[drift]\nbaseline = "none.json"\n[run]'), "none.json"),
        (("[run]", '[[thresholds]]\nmetric = "INFD"\n[run]'), "must have metric, and at_least"),
        (("[run]", '[[thresholds]]\nmetric = "X"\nat_most = 1\n[run]'), "metric of thresholds"),
        (("[run]", '[drift]\nbaseline = "b.json"\nalpha = 2\n[run]'), "alpha must be above 0 and"),
        (
            ("[run]", '[drift]\nbaseline = "b.json"\nfail_on = "worse"\n[run]'),
            r"fail_on of \[drift\] must be a list, is 'worse'",
        ),
        (("[run]", '[thresholds]\nmetric = "INFD"\n[run]'), r"must be tables, \[\[thresholds"),
        (("[data]", "[data]\nz = 3"), r"a key of \[data\]"),
        (("model =", "call_kwargs ="), r"must have the section \[model\]"),
    ],
)
def test_mistakes_are_named_and_exit_with_2(config, tmp_path, capsys, change, message):
    path = config()
    (tmp_path / "config.toml").write_text(FILE.replace(*change))
    assert code_of(path) == 2
    assert re.search(message, capsys.readouterr().err)


def test_errors_of_any_kind_exit_with_2(config, tmp_path, capsys):
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "model.pt")
    (tmp_path / "loading.py").write_text(
        "import torch\n"
        "def load(weights):\n"
        "    model = torch.nn.Linear(2, 2)\n"
        "    model.load_state_dict(weights)\n"
    )
    path = Path(config())
    made = 'model = {call = "loading:load", weights = {weights = "model.pt"}}'
    path.write_text(path.read_text().replace(path.read_text().splitlines()[1], made))
    assert code_of(str(path)) == 2
    assert "Missing key(s) in state_dict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[[thresholds]]\nmetric = "Morf"\nat_most = 1', "metric of thresholds must be one of"),
        (
            '[[thresholds]]\nmetric = "MoRF"\nexplainer = "map"\nat_most = 1',
            "explainer of thresholds must be one of",
        ),
        ("[drift]", "must have the key baseline"),
    ],
)
def test_mistakes_are_found_before_the_work(config, tmp_path, capsys, more, message):
    assert code_of(config(more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_the_help_shows_a_file_that_is_taken(tmp_path, capsys):
    main(["evaluate", "--help"])
    shown = capsys.readouterr().out
    assert EXAMPLE in shown
    assert "docs/" not in shown
    (tmp_path / "config.toml").write_text(EXAMPLE, encoding="utf-8")
    # Each section that there is.
    assert set(Config(tmp_path / "config.toml").content) == set(_SECTIONS)
