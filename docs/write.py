"""
Write the tables of the documents anew from `quantus_ext.cards`: ``python -m docs.write``.

A table stands between two marks, ``<!-- table: costs -->`` and ``<!-- end -->``, in
reStructuredText ``.. table: costs`` and ``.. end``. What is around them is written by hand.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from inspect import signature
from math import inf
from pathlib import Path

from quantus.helpers.enums import DataType

from quantus_ext import metrics
from quantus_ext.cards import CARDS, DETAILS, Card, Paper, cost, direction, shown_name
from quantus_ext.files import write_text

ROOT = Path(__file__).parents[1]
MARKED = re.compile(
    r"^(?P<begin>(?:<!--|\.\.) table: (?P<name>[\w ]+?)(?: -->)?\n)"
    r".*?^(?P<end>(?:<!--|\.\.) end\b)",
    re.MULTILINE | re.DOTALL,
)
INPUTS = {
    DataType.IMAGE: "image",
    DataType.TIMESERIES: "series",
    DataType.TABULAR: "table",
    DataType.TEXT: "text",
}


def overview() -> str:
    """Return the README's table of all metrics."""
    rows = []
    for name, card in CARDS.items():
        taken = getattr(metrics, name).data_applicability
        rows.append(
            [
                f"[`{shown_name(name)}`](docs/{card.page})",
                direction(name).value,
                " to ".join(map(_bound, card.range)),
                ", ".join(word for kind, word in INPUTS.items() if kind in taken),
                f"{cost(name)} + {card.besides}" if card.besides else f"{cost(name)}",
                card.question,
            ]
        )
    return _table(
        {"Metric": "", "Better": "", "Range": "", "Inputs": "", "Cost": ":", "Question": ""}, rows
    )


def citations() -> str:
    """Return the papers, each with its metrics."""
    named: dict[Paper, list[str]] = {}
    for name, card in CARDS.items():
        named.setdefault(card.paper, []).append(f"`{name}`")
    return "\n".join(
        textwrap.fill(
            f"- {', '.join(names)}: {paper.authors}. *{paper.title}.* {paper.venue}.",
            width=100,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for paper, names in named.items()
    )


def costs() -> str:
    """Return what the metrics cost by default, and the formula."""
    rows = [
        [
            f"`{shown_name(name)}`",
            f"{cost(name)}",
            f"`{card.evaluations}`".replace("*", "·"),
            card.counted,
        ]
        for name, card in CARDS.items()
    ]
    return _table(
        {"Metric": "", "Evaluations": ":", "Formula": "", "How they come about": ""}, rows
    )


def details() -> str:
    """Return which keys of ``details`` a metric leaves."""
    sharing: dict[str, list[str]] = {}
    for name, card in CARDS.items():
        keys = ", ".join(f"`{key}`" for key in card.details)
        if card.around:
            keys += ", and those of the metric with `score_` and `reference_` in front"
        sharing.setdefault(keys, []).append(f"`{name}`")
    rows = [[", ".join(names), keys] for keys, names in sharing.items()]
    return _table({"Metric": "", "`details`": ""}, rows)


def meanings() -> str:
    """Return what the keys of ``details`` mean."""
    return _table({"Key": "", "What it is": ""}, [[f"`{k}`", text] for k, text in DETAILS.items()])


def formulas() -> str:
    """Return the formulas in one line, with where they are from."""
    return _formulas(CARDS)


def removal_curves() -> str:
    """Return the formulas of the page on removal curves."""
    page = "removal_curves.md"
    return _formulas({name: card for name, card in CARDS.items() if card.page == page})


def classes() -> str:
    """Return the reference of all classes."""
    return "\n" + "\n\n".join(f".. autoclass:: {name}\n   :no-members:" for name in CARDS) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "overview": overview,
    "citations": citations,
    "costs": costs,
    "details": details,
    "meanings": meanings,
    "formulas": formulas,
    "removal curves": removal_curves,
    "classes": classes,
}


def written(text: str) -> str:
    """
    Return a document with its marked tables as the cards have them.

    Parameters
    ----------
    text : str

    Raises
    ------
    KeyError
        If a mark names no table.
    """

    def table(found: re.Match[str]) -> str:
        return f"{found['begin']}{TABLES[found['name']]()}\n{found['end']}"

    return MARKED.sub(table, text)


def pages() -> dict[Path, list[str]]:
    """Return the documents with marks, and the tables that each has."""
    found = {}
    for page in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "docs").rglob("*.rst")),
    ]:
        names = [mark["name"] for mark in MARKED.finditer(page.read_text("utf-8"))]
        if names:
            found[page] = names
    return found


def _formulas(cards: dict[str, Card]) -> str:
    rows = [
        [
            f"`{name}`",
            direction(name).value,
            card.formula,
            ", ".join(filter(None, [_short(card.paper), card.equation])),
            _map(name),
        ]
        for name, card in cards.items()
    ]
    return _table({"Metric": "", "Better": "", "Formula": "", "From": "", "Map": ""}, rows)


def _map(name: str) -> str:
    card = CARDS[name]
    if card.carries_input:
        return "carries the input"
    if "multiply_by_inputs" in signature(getattr(metrics, name)).parameters:
        return "as `multiply_by_inputs` says"
    return "as the metric within" if card.around else "–"


def _short(paper: Paper) -> str:
    """Return the first author's surname and the year."""
    surname = paper.authors.split(",")[0].split()[-1]
    return f"{surname} et al., {paper.venue[-4:]}"


def _bound(value: float) -> str:
    size = "∞" if abs(value) == inf else f"{abs(value):g}"
    return f"−{size}" if value < 0 else size


def _table(columns: dict[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a colon behind a column's name puts its cells to the right."""
    lines = [[*columns], [f"---{right}" for right in columns.values()], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Write the documents."""
    for page in pages():
        write_text(page, written(page.read_text("utf-8")))


if __name__ == "__main__":
    main()
