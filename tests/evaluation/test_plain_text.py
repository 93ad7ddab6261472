"""Names and messages show in Markdown and HTML as they are, whatever is in them."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markupsafe import escape

from quantus_ext import Evaluation
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.report import to_html
from quantus_ext.evaluation.tables import markdown, plain
from quantus_ext.protocols import metric_agreement

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = [
    "# heading",
    "[link](http://a.b)",
    "![image](http://a.b/c.png)",
    "<script>alert(1)</script>",
    "<http://a.b>",
    "a | b",
    r"a \| b",
    r"\\[a](b)",
    "1. one",
    "- dash",
    "+ plus",
    "> said",
    "`code`",
    "*a* **b** _c_ ~~d~~",
    "&lt;b&gt; &amp;",
    "two\n\n# lines",
    "a\r\u2028b\x1b[31m\x00",
    "x_1 and x_2",
    "[a]: http://a.b",
    "=cmd|' /C calc'!A0",
]


def rendered(text: str) -> str:
    """Return what is read of Markdown."""
    return html.unescape(re.sub(r"<[^>]*>", "", READER.render(text))).strip()


def shown(text: str) -> str:
    """Return a text in one line, without what no one sees."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


@pytest.mark.parametrize("place", ["{}", "- {}", "| a |\n| --- |\n| {} |"])
@given(st.text(st.sampled_from("# [](){}<>!|\\`*_~-+1.>&:/ab\n\r\t\x00é@w="), max_size=20))
@example("www.a.b")
def test_any_text_is_plain(place, text):
    marks = re.findall(r"<(\w+)", READER.render(place.format("a")))
    page = READER.render(place.format(plain(text)))
    # No element that an ordinary word does not make; a cell or an item may be empty.
    assert set(re.findall(r"<(\w+)", page)) <= set(marks)
    if shown(text):
        assert shown(text) in html.unescape(page)


@pytest.mark.parametrize("text", NASTY)
def test_what_is_nasty_in_every_table_and_report(text):
    scores = {text: {text: [0.5, 0.25, 1.0]}, "other": {text: [0.75, 0.5, 0.5]}}
    found = Evaluation.of_scores(scores, {text: "lower"})
    failure = Failure(text, text, 0, 3, f"RuntimeError: {text}", f"Traceback\n{text}")
    found = replace(found, failures=(failure,), settings={"versions": {text: text}, "seed": text})
    agreement = metric_agreement({text: np.ones((1, 2)), "other": np.ones((1, 2))})
    for page in (
        found.to_markdown(),
        found.ranking().to_markdown(),
        found.compare("other", text).to_markdown(),
        found.drift(found).to_markdown(),
        agreement.to_markdown(),
    ):
        read = READER.render(page)
        assert shown(text) in rendered(page)
        assert not re.search(r"<(a|img|script|h1|code|em|del|blockquote|ol)\b", read)
        assert read.count("<table>") == 1
    # No cell more than there are columns.
    widths = {row.count("<td") + row.count("<th") for row in read.split("<tr>")[1:]}
    assert len(widths) == 1
    page = to_html(found)
    assert escape(text) in page
    assert "<script" not in page
    # Links are those of the page's own contents.
    assert all(re.fullmatch(r'<a href="#[a-z]+">', link) for link in re.findall(r"<a\b.*?>", page))
    assert not re.search(r"<img src=.http\b", page)


def test_bars_in_tables():
    page = READER.render(markdown(["a"], [[plain(r"x\|y|z")], ["p|q"]]))
    assert re.findall("<td>(.*)</td>", page) == [r"x\|y|z", "p|q"]
