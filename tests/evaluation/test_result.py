"""The tables that follow from scores, and the page."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import spearmanr

from quantus_ext import Evaluation
from quantus_ext.evaluation import Case, Failure
from quantus_ext.evaluation.tables import numbers
from quantus_ext.plotting import figures
from tests.evaluation.problem import METHODS, broken, metrics, run


@pytest.fixture(scope="module")
def found():
    with pytest.warns(RuntimeWarning, match="broken by INFD"):
        return run(xai_methods={**METHODS, "broken": broken})


@pytest.fixture
def made():
    generator = np.random.default_rng(0)
    hard = generator.normal(size=50)

    def scores(better):
        return {
            "MoRF": hard + generator.normal(scale=0.1, size=50) + better,
            "LeRF": hard + generator.normal(scale=0.1, size=50) - better,
        }

    return Evaluation.of_scores(
        {"worst": scores(0.0), "best": scores(1.0), "as good": scores(1.0)},
        {"MoRF": "higher", "LeRF": "lower"},
    )


def test_the_tidy_table(found):
    frame = found.to_frame()
    assert list(frame.columns) == ["sample", "explainer", "metric", "score", "standard_error"]
    assert len(frame) == found.scores.size
    some = frame[(frame["explainer"] == "noise") & (frame["metric"] == "QGE")]
    np.testing.assert_array_equal(some["score"], found.scores_of("noise", "QGE"))
    np.testing.assert_array_equal(some["sample"], np.arange(found.n))
    row = frame[
        (frame["sample"] == 7)
        & (frame["explainer"] == "gradients")
        & (frame["metric"] == "R-Fidelity")
    ]
    assert row["standard_error"].item() == found.standard_errors[0, 1, 7] > 0


def test_the_best_are_first_and_ties_are_marked(made):
    ranking = made.ranking()
    for metric in ("MoRF", "LeRF"):
        rows = {row.explainer: row for row in ranking.of(metric)}
        assert ranking.order(metric)[-1] == "worst"
        assert rows["worst"].rank == 3
        assert rows["worst"].ties == ()
        assert rows["best"].ties == ("as good",)
        for row in rows.values():
            assert row.mean == pytest.approx(made.scores_of(row.explainer, metric).mean())
            assert row.low < row.mean < row.high
            assert row.n == 50
    assert made.ranking() == ranking
    text = ranking.to_markdown()
    assert "| MoRF | worst | 3 |" in text
    assert re.search(r"\| MoRF \| (best|as good) \| 1 = \|", text)
    assert list(ranking.to_frame()["rank"]) == [row.rank for row in ranking.rows]


def test_an_explainer_that_failed_has_no_rank_and_takes_no_samples_from_others(found):
    ranking = found.ranking()
    rows = ranking.of("INFD")
    assert [row.explainer for row in rows] == ["gradients", "noise", "broken"]
    assert [row.rank for row in rows] == [1, 2, None]
    assert np.isnan(rows[2].mean)
    assert [row.n for row in rows] == [24, 24, 0]
    assert ranking.order("INFD") == ("gradients", "noise")
    assert "| INFD | broken | – | – | – to – |  |" in ranking.to_markdown()
    assert ranking.to_frame()["rank"].isna().sum() == len(found.metrics)


def test_a_cell_that_failed_on_some_samples_is_not_ranked_by_the_others(made):
    made.scores[2, 0, :10] = np.nan
    failure = Failure("as good", "MoRF", 0, 10, "RuntimeError: no", "")
    failed = dataclasses.replace(made, failures=(failure,))
    rows = {row.explainer: row for row in failed.ranking().of("MoRF")}
    assert rows["as good"].rank is None
    assert [rows[name].rank for name in ("best", "worst")] == [1, 2]
    assert {rows[name].n for name in ("best", "worst")} == {50}
    assert {row.n for row in failed.ranking().of("LeRF")} == {50}
    # Two explainers with both means are left to agree.
    assert failed.agreement().correlation[0, 1] == pytest.approx(1.0)
    assert "| as good | – |" in failed.to_markdown()
    assert Page(run_page(failed)).open == []


def test_nobody_is_ranked_where_nobody_has_scores():
    scores = {e: {"M": [np.nan, np.nan]} for e in "AB"}
    ranking = Evaluation.of_scores(scores, {"M": "higher"}).ranking()
    assert [row.rank for row in ranking.rows] == [None, None]
    assert ranking.order("M") == ()


def test_samples_that_one_lacks_are_left_out_for_all(made):
    made.scores[0, 0, :10] = np.nan
    rows = made.ranking().of("MoRF")
    assert {row.n for row in rows} == {40}
    assert rows[0].mean == pytest.approx(made.scores_of(rows[0].explainer, "MoRF")[10:].mean())
    assert {row.n for row in made.ranking().of("LeRF")} == {50}


def test_a_single_sample_has_no_interval():
    one = Evaluation.of_scores({"A": {"M": [1.0]}, "B": {"M": [2.0]}}, {"M": "higher"})
    rows = one.ranking().of("M")
    assert [row.explainer for row in rows] == ["B", "A"]
    assert np.isnan(rows[0].low)
    assert rows[0].ties == ("A",)
    assert np.isnan(one.compare("A", "B").rows[0].p_value)


def test_rounding_is_no_difference():
    scores = np.random.default_rng(0).normal(size=50)
    shifted = scores + 2 * np.spacing(np.abs(scores))
    two = Evaluation.of_scores({"A": {"M": shifted}, "B": {"M": scores}}, {"M": "higher"})
    assert two.compare("A", "B").rows[0].p_value == 1
    assert two.ranking().of("M")[0].ties


def test_equal_means_share_a_rank():
    equal = Evaluation.of_scores({e: {"M": [1.0, 2.0]} for e in "ABC"}, {"M": "higher"})
    assert [row.rank for row in equal.ranking().rows] == [1, 1, 1]


def test_two_explainers_compared(made):
    comparison = made.compare("best", "worst")
    for row, sign in zip(comparison.rows, (1, -1), strict=True):
        a, b = made.scores_of("best", row.metric), made.scores_of("worst", row.metric)
        # Positive is better, also where lower is.
        difference = sign * (a - b)
        assert row.difference == pytest.approx(difference.mean())
        assert row.low < row.difference < row.high
        assert row.effect == pytest.approx(difference.mean() / difference.std(ddof=1))
        assert row.share == 1.0
        assert (row.mean_a, row.mean_b) == pytest.approx((a.mean(), b.mean()))
        # Of 2,000 resamples none is as far; two metrics.
        assert row.p_value == pytest.approx(2 * 2 / 2001, rel=0.6)
    turned = made.compare("worst", "best").rows[0]
    assert (turned.low, turned.high) == pytest.approx(
        (-comparison.rows[0].high, -comparison.rows[0].low), abs=0.02
    )
    assert made.compare("best", "as good").rows[0].p_value > 0.05
    assert "best better by" in comparison.to_markdown()
    assert list(comparison.to_frame()["n"]) == [50, 50]
    with pytest.raises(ValueError, match="must be two explainers"):
        made.compare("best", "best")
    with pytest.raises(ValueError, match="b must be one of"):
        made.compare("best", "unknown")


def test_agreement_is_of_the_means_turned(made):
    agreement = made.agreement()
    means = made.means()
    expected = spearmanr(means["MoRF"], -means["LeRF"])[0]
    assert agreement.correlation[0, 1] == pytest.approx(expected)


def test_json_and_back(found, tmp_path):
    text = found.to_json(tmp_path / "found.json")
    assert "NaN" not in text
    for source in (text, tmp_path / "found.json", str(tmp_path / "found.json")):
        back = Evaluation.from_json(source)
        for name in ("scores", "standard_errors", "n_evaluations", "seconds"):
            np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
        for name in ("explainers", "metrics", "directions", "failures", "columns", "confidence"):
            assert getattr(back, name) == getattr(found, name)
    assert back.to_json() == text
    assert json.loads(text)["settings"]["metrics"]["INFD"]["n_perturb_samples"] == 12
    assert back.ranking().rows[0] == found.ranking().rows[0]


@pytest.mark.parametrize("text", ["{}", "[1]", "{", '{"format": 99}'])
def test_json_of_something_else(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="source must be what to_json wrote"):
        Evaluation.from_json(path)


def test_it_pickles(found):
    back = pickle.loads(pickle.dumps(found))
    assert back.ranking().to_markdown() == found.ranking().to_markdown()


def test_a_section_for_a_model_card(found, tmp_path):
    text = found.to_markdown(tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == text
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("| explainer"))
    assert head == "| explainer | INFD ↓ | R-Fidelity ↑ | QGE ↑ | Correlation ↑ |"
    row = next(line for line in lines if line.startswith("| gradients"))
    assert re.search(r"\*\*[−\d.e]+ \([−\d.e]+ to [−\d.e]+\)\*\*", row)
    assert "| broken | – | – | – | – |" in text
    assert (
        "- broken by INFD, R-Fidelity, QGE, Correlation: explaining failed: RuntimeError: no such "
        "layer (first on samples 0–7)" in text
    )
    assert text.count("no such layer") == 1
    assert "quantus: 0.6.0" in text


class Page(HTMLParser):
    """What a page asks for, and whether its tags fit each other."""

    VOID = frozenset({"meta", "img", "line", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        named = dict(attributes)
        self.addresses += [
            named[name] for name in ("src", "href", "srcset", "data", "action") if name in named
        ]
        if tag == "img":
            assert named["alt"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else(found, tmp_path):
    path = found.to_html(tmp_path / "page.html")
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert page.addresses
    inside = [address for address in page.addresses if address.startswith("#")]
    assert all(f'id="{address[1:]}"' in text for address in inside)
    assert len(inside) >= 5
    outside = set(page.addresses) - set(inside)
    assert all(address.startswith("data:image/") for address in outside)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    assert 'name="viewport" content="width=device-width' in text
    for name in (*found.explainers, *found.metrics):
        assert name in page.text
    assert "no such layer" in page.text
    assert "Sample 12" in page.text
    assert not list(tmp_path.glob("*.partial"))


def test_names_are_escaped(made):
    renamed = dataclasses.replace(
        made,
        explainers=("<b>a</b>", 'b"', "c & $d$_x"),
        failures=(Failure("<b>a</b>", "MoRF", 0, 4, "<script>", "<i>"),),
        cases=(Case(3, np.ones((1, 4, 4)), 1, {"<b>a</b>": np.ones((1, 4, 4))}),),
    )
    text = run_page(renamed)
    assert "<b>a</b>" not in text
    assert "<script>" not in text
    assert "&lt;b&gt;a&lt;/b&gt;" in text


def run_page(evaluation: Evaluation) -> str:
    from quantus_ext.evaluation.report import to_html

    text = to_html(evaluation)
    assert Page(text).open == []
    return text


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (4, 4, 4), (2, 9), (7,)])
def test_cases_of_every_kind(made, shape):
    values = np.random.default_rng(0).normal(size=shape)
    cases = tuple(Case(i, values, 0, {"best": values, "worst": 0 * values}) for i in (0, 9))
    text = run_page(dataclasses.replace(made, cases=cases))
    if len(shape) == 1:
        # A row for each column, with a bar of each map.
        assert text.count("<tr><td>column ") == 14
        assert text.count('<svg class="bar"') == 28
    else:
        assert len(re.findall("<figure", text)) == 6
    assert f"MoRF {made.scores_of('best', 'MoRF')[9]:.3f}".replace("-", "−") in text


def test_equal_results_make_equal_pages(found):
    assert run_page(found) == run_page(found)


def test_a_page_of_nothing_but_failures():
    with pytest.warns(RuntimeWarning, match="broken by INFD"):
        found = run(xai_methods={"broken": broken}, metrics={"INFD": metrics()["INFD"]})
    text = run_page(found)
    assert "Failed" in text


def test_answers_of_0_and_1_have_intervals_also_where_all_agree():
    scores = {"A": {"M": [0.0] * 8}, "B": {"M": [0.0, 1.0] * 4}}
    found = Evaluation.of_scores(scores, {"M": "higher"})
    rows = {row.explainer: row for row in found.ranking().of("M")}
    # Clopper and Pearson: 1 - 0.025^(1/8).
    assert (rows["A"].low, rows["A"].high) == pytest.approx((0, 1 - 0.025 ** (1 / 8)), abs=0.01)
    same = Evaluation.of_scores({"A": {"M": [0, 1] * 4}, "B": {"M": [0, 1] * 4}}, {"M": "higher"})
    row = same.compare("A", "B").rows[0]
    assert (row.low, row.high) == pytest.approx((-0.369, 0.369), abs=0.02)
    assert (row.difference, row.p_value) == (0, 1)


def test_equal_scores_have_no_interval():
    found = Evaluation.of_scores({"A": {"M": [0.5] * 8}, "B": {"M": range(8)}}, {"M": "higher"})
    rows = {row.explainer: row for row in found.ranking().of("M")}
    assert np.isnan([rows["A"].low, rows["A"].high]).all()
    assert rows["B"].low < rows["B"].mean < rows["B"].high
    assert run_page(found).count("– to –") == 1


def test_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="one number for each sample"):
        Evaluation.of_scores({"A": {"M": [[1.0, 2.0]]}}, {"M": "higher"})
    one = Evaluation.of_scores({"A": {"M": [1.0]}}, {"M": "higher"})
    with pytest.raises(ValueError, match="explainer must be one of 'A'"):
        one.scores_of("B", "M")


def test_a_report_says_where_fewer_samples_count():
    scores = {"A": {"MoRF": [1.0, 2.0, np.nan]}, "B": {"MoRF": [1.0, 2.5, 3.0]}}
    found = Evaluation.of_scores(scores, {"MoRF": "higher"})
    assert "left out: MoRF counts 2." in found.to_markdown()


def test_an_evaluation_prints_in_one_line(found, made):
    assert repr(made) == (
        "Evaluation(explainers=['worst', 'best', 'as good'], metrics=['MoRF', 'LeRF'], n=50)"
    )
    assert "\n" not in repr(found)
    assert "failed_cells=4" in repr(found)
    assert all(len(repr(case)) < 300 for case in found.cases)


class Cells(HTMLParser):
    """Collects the text of a table's cells, and of paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.paragraphs: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.open = {"td": self.rows[-1:], "th": self.rows[-1:], "p": [self.paragraphs]}.get(
            tag, []
        )
        for texts in self.open:
            texts.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "p"):
            self.open = []

    def handle_data(self, data):
        for texts in self.open:
            texts[-1] += data


def test_a_notebook_shows_the_ranking(made):
    ranking = made.ranking()
    header, *rows = Cells(made._repr_html_()).rows
    assert header == ["metric", "explainer", "rank", "mean", "95% interval", "tied with"]
    assert [row[:3] for row in rows] == [
        [row.metric, row.explainer, row.shown_rank] for row in ranking.rows
    ]
    first = ranking.rows[0]
    mean, low, high = numbers(first.mean, first.low, first.high)
    assert rows[0][3:5] == [mean, f"{low} to {high}"]
    assert Cells(ranking._repr_html_()).rows == [header, *rows]


def test_a_notebook_shows_what_failed(found):
    shown = Cells(found._repr_html_()).paragraphs
    assert any(line.startswith("Failed: broken by INFD") for line in shown)


def test_names_are_text_in_a_notebook():
    scores = {"<b>bold</b>": {"a|b": [1.0, 2.0]}, "$x$": {"a|b": [0.0, 1.0]}}
    evaluation = Evaluation.of_scores(scores, {"a|b": "higher"})
    shown = evaluation._repr_html_()
    assert "<b>" not in shown
    assert {row[1] for row in Cells(shown).rows[1:]} == set(scores)
    # The class that keeps notebooks from reading $x$ as a formula.
    assert '<table class="tex2jax_ignore">' in shown
    comparison = Cells(evaluation.compare(*scores)._repr_html_()).rows
    assert comparison[0][3] == "<b>bold</b> better by"
    assert comparison[1][0] == "a|b"


def test_a_figure_shows_means_and_intervals(made, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures, "figure_of", lambda axes, own=figures.figure_of: drawn.append(axes) or own(axes)
    )
    made.plot(show=False, path_to_save=tmp_path / "means.png")
    assert (tmp_path / "means.png").stat().st_size > 0
    (panels,) = drawn
    assert [axes.get_xlabel() for axes in panels] == [
        "MoRF (higher is better)",
        "LeRF (lower is better)",
    ]
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == [*made.explainers]
    for axes, metric in zip(panels, made.metrics, strict=True):
        rows = {row.explainer: row for row in made.ranking().of(metric)}
        for place, (explainer, bars) in enumerate(
            zip(made.explainers, axes.containers, strict=True)
        ):
            (segment,) = bars.lines[2][0].get_segments()
            row = rows[explainer]
            np.testing.assert_allclose(bars.lines[0].get_xydata(), [[row.mean, place]])
            np.testing.assert_allclose(segment, [[row.low, place], [row.high, place]])


def test_a_figure_of_some_metrics(made, tmp_path):
    made.plot(["LeRF"], show=False, path_to_save=tmp_path / "one.png")
    for wrong in (["MORF"], []):
        with pytest.raises(ValueError, match="metrics must"):
            made.plot(wrong, show=False)


def test_a_figure_of_failed_cells(found, tmp_path):
    found.plot(show=False, path_to_save=tmp_path / "failed.png")


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ((32.0, 28.31, 35.7), ("32.0", "28.3", "35.7")),
        ((0.5, -0.0004, 9.99), ("0.500", "0.000", "9.990")),
        ((123.4, -99.6, 1234.5), ("123", "−100", "1,234")),
        ((0.00035, -0.0003), ("0.00035", "−0.00030")),
        ((0.012,), ("0.012",)),
        ((3.5e-7, 1e-8), ("3.50 × 10⁻⁷", "0.10 × 10⁻⁷")),
        ((1.5e9, 2e10), ("0.15 × 10¹⁰", "2.00 × 10¹⁰")),
        ((5e-324,), ("4.94 × 10⁻³²⁴",)),
        ((np.nan, 0.0, -np.inf), ("–", "0.000", "−∞")),
    ],
)
def test_numbers_that_belong_together_have_the_same_decimals(values, written):
    assert numbers(*values) == written
