"""Names of samples, tokens, columns and classes, on the page and in a notebook."""

from __future__ import annotations

import html
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from quantus_ext import ABPC, Deletion, Evaluation, evaluate
from quantus_ext.adapters import DataFrame, Series, TokenIds
from quantus_ext.evaluation import pictures
from quantus_ext.evaluation.config import Config
from quantus_ext.evaluation.report import to_html
from tests.evaluation.test_result import Page
from tests.harness import make_inputs

N = 6
METRICS = {"Deletion": Deletion(3)}


def inputs_of(modality: str) -> dict[str, Any]:
    made = make_inputs(modality, n=N, dtype=torch.float32)
    y = np.arange(N) % 2
    return {"model": made.model, "x_batch": made.x, "y_batch": y, "xai_methods": {"maps": made.a}}


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids).mean(1))


WORDS = ["[PAD]", "[CLS]", "good", "<b>bad</b>", "$film$", "a", "b", "c", "d"]


def texts() -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(2, 9, size=(N, 8))
    ids[:, 0], ids[:, 5:] = 1, 0
    maps = np.random.default_rng(1).normal(size=ids.shape)
    # What is not explained does not make the others pale.
    maps[:, 0] = 99.0
    model = TokenIds(Mean().eval(), mask_id=2, pad_id=0, special_ids=[1])
    return {"model": model, "x_batch": ids, "y_batch": np.arange(N) % 2, "xai_methods": {"A": maps}}


def named(row: list[int]) -> list[str]:
    return [WORDS[token] for token in row]


def run(inputs: dict[str, Any], **keywords: Any) -> Evaluation:
    return evaluate(**{"metrics": METRICS, **inputs, **keywords})


def shown(evaluation: Evaluation) -> str:
    text = to_html(evaluation)
    assert Page(text).open == []
    assert Page(evaluation._repr_html_()).open == []
    return text


def headings(text: str) -> list[str]:
    return re.findall("<h3>(.*?)</h3>", text.split('id="cases"')[1])


def test_samples_and_classes_have_their_names():
    names = [f"photo {place}" for place in range(N)]
    expected = ["photo 0, class cat", "photo 2, class cat", "photo 5, class dog"]
    for classes in (["cat", "dog"], {1: "dog", 0: "cat"}, np.array(["cat", "dog"])):
        found = run(inputs_of("image"), names=names, class_names=classes)
        assert headings(shown(found)) == expected
        assert all(f"<h3>{each}</h3>" in found._repr_html_() for each in expected)
    assert headings(shown(run(inputs_of("image"))))[0] == "Sample 0, class 0"


def test_names_follow_their_samples_in_a_random_order():
    inputs = inputs_of("image")
    inputs["xai_methods"]["others"] = -inputs["xai_methods"]["maps"]
    names = [str(float(x.sum())) for x in inputs["x_batch"]]
    found = run(inputs, names=names, until="ranked", shard_size=2)
    assert len({case.index for case in found.cases}) == 3
    for case in found.cases:
        assert case.name == names[case.index] == str(float(case.x.sum()))
        np.testing.assert_array_equal(case.maps["maps"], inputs["xai_methods"]["maps"][case.index])


@pytest.mark.parametrize("form", ["function", "lists", "tokenizer"])
def test_texts_are_coloured_tokens(form):
    inputs = texts()
    tokens: Any = {"function": named, "lists": [named(row) for row in inputs["x_batch"]]}.get(form)
    if form == "tokenizer":
        inputs["model"].tokenizer = SimpleNamespace(convert_ids_to_tokens=named)
    text = shown(run(inputs, tokens=tokens, cases=1))
    (line,) = re.findall('<p class="tokens">(.*?)</p>', text)
    spans = re.findall(r"<span( style=.*?)?>(.*?)</span>", line)
    # Padding is left out, special tokens have no colour.
    assert [html.unescape(word) for _, word in spans] == named(inputs["x_batch"][0, :5])
    assert [bool(style) for style, _ in spans] == [False, *[True] * 4]
    values = inputs["xai_methods"]["A"][0, 1:5]
    colours = [re.search("#(..)..(..);", style).groups() for style, _ in spans[1:]]
    for value, (red, blue) in zip(values / np.abs(values).max(), colours, strict=True):
        assert abs(value) < 0.1 or (int(red, 16) > int(blue, 16)) == (value > 0)
    assert any(int(red, 16) < 0x80 or int(blue, 16) < 0x80 for red, blue in colours)
    assert "<b>bad" not in text


def bars(text: str) -> list[list[tuple[str, float, float]]]:
    """Return of each row of a table of a case the kind, left end and width of its bars."""
    rows = re.findall(r"<tr><td>.*?</tr>", text.split('id="cases"')[1], re.DOTALL)
    pattern = r'<rect class="(\w+)" x="([\d.]+)" y="2" width="([\d.]+)"'
    return [
        [(kind, float(left), float(width)) for kind, left, width in re.findall(pattern, row)]
        for row in rows
    ]


def test_tables_have_columns_and_standardised_bars():
    inputs = inputs_of("table")
    names = [f"<{place}>" for place in range(7)]
    text = shown(run(inputs, feature_names=names, cases=1))
    rows = bars(text)
    assert [f"<tr><td>&lt;{place}&gt;</td>" in text for place in range(7)] == [True] * 7
    x, a = inputs["x_batch"], inputs["xai_methods"]["maps"][0]
    deviation = (x[0] - x.mean(0)) / x.std(0)
    for row, z, value in zip(rows, deviation, a, strict=True):
        for (kind, left, width), size, kinds in zip(
            row, (z / 3, value / np.abs(a).max()), (("value",) * 2, ("against", "for")), strict=True
        ):
            assert kind == kinds[int(size > 0)]
            assert width == pytest.approx(50 * min(abs(size), 1), abs=0.06)
            assert left == pytest.approx(50 - (width if size < 0 else 0), abs=0.06)


def test_wide_tables_show_the_columns_that_count():
    x = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    a = np.zeros((4, 50))
    a[:, 10:30] = 1
    model = nn.Linear(50, 2).eval()
    found = run({"model": model, "x_batch": x, "y_batch": [0] * 4, "xai_methods": {"A": a}})
    text = shown(found)
    assert re.findall(r"<td>column (\d+)</td>", text)[:20] == [str(i) for i in range(10, 30)]
    assert "20 of 50 columns, those with the largest attributions." in text


def test_data_frames_have_their_names_and_words():
    frame = pd.DataFrame({"job": ["cook", "pilot"] * 3, "age": np.arange(6) + 30.0})

    def predict(rows: pd.DataFrame) -> np.ndarray:
        yes = (rows["job"] == "pilot").to_numpy() / 2 + rows["age"].to_numpy() / 100
        return np.stack([1 - yes, yes], 1)

    model = DataFrame(predict, frame, classes=2, probabilities=True)
    a = np.ones((6, 2))
    text = shown(
        run({"model": model, "x_batch": frame, "y_batch": [1] * 6, "xai_methods": {"A": a}})
    )
    assert "<td>job</td><td>cook</td>" in text
    assert "<td>age</td><td>30.0</td>" in text
    plain = run(
        {
            "model": nn.Linear(2, 2).eval(),
            "x_batch": pd.DataFrame({"width": [1.0, 2.0], "depth": [3.0, 5.0]}),
            "y_batch": [0, 1],
            "xai_methods": {"A": np.ones((2, 2))},
        }
    )
    assert "<td>width</td><td>1.000</td>" in shown(plain)


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """Collect the axes of what is drawn."""
    found: list[Any] = []
    monkeypatch.setattr(
        pictures, "picture", lambda figure: found.append(figure.axes[0]) or "data:image/png;,"
    )
    return found


def test_padding_of_series_is_left_out(drawn):
    inputs = inputs_of("series")
    x = inputs["x_batch"].copy()
    x[:, :, 7:] = -999
    model = Series(inputs["model"], padding=-999.0)
    found = run({**inputs, "model": model, "x_batch": x}, feature_names=["pulse", "flow"], cases=1)
    to_html(found)
    lines, bars_of_map = drawn[-2:]
    np.testing.assert_array_equal([line.get_ydata() for line in lines.lines], x[0, :, :7])
    assert [text.get_text() for text in lines.get_legend().get_texts()] == ["pulse", "flow"]
    a = inputs["xai_methods"]["maps"][0].sum(0)
    np.testing.assert_allclose([bar.get_height() for bar in bars_of_map.patches], a[:7])


def test_slices_of_volumes_are_those_with_the_largest_attributions(monkeypatch):
    x = np.random.default_rng(0).normal(size=(2, 1, 6, 4, 5)).astype(np.float32)
    a = np.zeros((2, 6, 4, 5))
    a[:, 1], a[:, 2], a[:, 5] = 1.0, -3.0, 2.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(120, 2)).eval()
    inputs = {"model": model, "x_batch": x, "y_batch": [0, 1], "xai_methods": {"A": a}}
    seen = []
    own = pictures.imsave
    monkeypatch.setattr(
        pictures, "imsave", lambda file, values, **k: seen.append(values) or own(file, values, **k)
    )
    text = shown(run(inputs, cases=1))
    assert "Slices 1, 2, 5 of 0 to 5, from the top." in text
    np.testing.assert_array_equal(seen[:3], x[0, 0, [1, 2, 5]])
    np.testing.assert_array_equal(seen[3:6], a[0, [1, 2, 5]])


def test_channels_may_come_last():
    inputs = inputs_of("image")
    first = run(inputs, cases=1)
    last = run(
        {
            **inputs,
            "x_batch": np.moveaxis(inputs["x_batch"], 1, -1),
            "xai_methods": {"maps": np.moveaxis(inputs["xai_methods"]["maps"], 1, -1)},
        },
        call_kwargs={"": {"channel_first": False}},
        cases=1,
    )
    images = [re.findall('<img class="pixels".*?>', shown(found)) for found in (first, last)]
    assert images[0] == images[1] != []


def test_a_notebook_shows_the_cases():
    found = run(inputs_of("image"), metrics={"Deletion": Deletion(3), "ABPC": ABPC(3)})
    text = found._repr_html_()
    assert text.count("<figure>") == 6
    assert "<script" not in text
    score = found.scores_of("maps", "ABPC")[0]
    assert f"ABPC {score:.3f}".replace("-", "−") in text
    loose = Evaluation.of_scores({"A": {"M": [1.0]}}, {"M": "higher"})._repr_html_()
    assert "<figure" not in loose


@pytest.mark.parametrize(
    ("inputs", "keywords", "error", "message"),
    [
        ("image", {"names": ["a"]}, ValueError, "names must hold one text for each sample, 6; hol"),
        ("image", {"names": "abcdef"}, TypeError, "names must hold one text for each sample, is"),
        ("image", {"names": [*"abcde", 3]}, TypeError, "names must hold texts, holds 3 at 5"),
        ("image", {"class_names": ["a"]}, ValueError, "class in y_batch, lacks 1"),
        ("image", {"class_names": {0: "a"}}, ValueError, "class in y_batch, lacks 1"),
        ("image", {"class_names": {"cat": "a"}}, TypeError, "classes of class_names"),
        ("image", {"class_names": [1, 2]}, TypeError, "class_names must hold texts"),
        ("image", {"feature_names": ["a"]}, ValueError, "feature_names must be left out unless"),
        ("image", {"tokens": named}, ValueError, "tokens must be left out unless"),
        ("table", {"feature_names": ["a"]}, ValueError, "each column, 7; holds 1"),
        ("series", {"feature_names": ["a"]}, ValueError, "each channel, 2; holds 1"),
        ("text", {"tokens": [["a"]]}, ValueError, "a list for each of the 6 texts, holds 1"),
        ("text", {"tokens": [["a"]] * 6}, ValueError, r"tokens\[0\].*each id, 8; holds 1"),
        ("text", {"tokens": lambda row: row[:3]}, ValueError, "tokens of sample 0.*holds 3"),
        ("text", {"tokens": lambda row: row}, TypeError, "tokens of sample 0 must hold texts"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_the_work(inputs, keywords, error, message):
    given = texts() if inputs == "text" else inputs_of(inputs)

    def explain(**_: Any) -> None:
        raise AssertionError("nothing is to be explained")

    with pytest.raises(error, match=message):
        run({**given, "xai_methods": {"A": explain}}, **keywords)


def test_the_command_line_knows_labels(tmp_path: Path):
    inputs = inputs_of("table")
    torch.save(inputs["model"][0].state_dict(), tmp_path / "model.pt")
    np.save(tmp_path / "x.npy", inputs["x_batch"])
    np.save(tmp_path / "y.npy", inputs["y_batch"])
    np.save(tmp_path / "a.npy", inputs["xai_methods"]["maps"])
    (tmp_path / "readers.py").write_text(
        "import torch\n\ndef load(weights):\n    model = torch.nn.Linear(7, 8)\n"
        "    model.load_state_dict(weights)\n    return model.eval()\n"
    )
    (tmp_path / "config.toml").write_text(
        """
        model = {call = "readers:load", weights = {weights = "model.pt"}}
        [data]
        x_batch = "x.npy"
        y_batch = "y.npy"
        [metrics.Deletion]
        steps = 3
        [xai_methods]
        maps = {file = "a.npy"}
        [labels]
        feature_names = ["a", "b", "c", "d", "e", "f", "colour"]
        class_names = ["no", "yes"]
        [report]
        html = "page.html"
        """
    )
    Config(tmp_path / "config.toml").run()
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<td>colour</td>" in text
    assert "Sample 5, class yes" in text
