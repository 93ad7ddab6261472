"""
Write the tables of the documents anew from `quantus_ext.cards`: ``python -m docs.write``.

A table stands between two marks, ``<!-- table: costs -->`` and ``<!-- end -->``, in
reStructuredText ``.. table: costs`` and ``.. end``, in YAML ``# table: costs`` and ``# end``. The
text around them is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from inspect import signature
from math import inf
from pathlib import Path

from quantus_ext import metrics
from quantus_ext.cards import (
    CARDS,
    DETAILS,
    Card,
    Paper,
    cost,
    direction,
    score_range,
    shown_name,
)
from quantus_ext.files import write_text

ROOT = Path(__file__).parents[1]
MARKED = re.compile(
    r"^(?P<begin>(?:<!--|\.\.|#) table: (?P<name>[\w ]+?)(?: -->)?\n)"
    r".*?^(?P<end>(?:<!--|\.\.|#) end\b)",
    re.MULTILINE | re.DOTALL,
)


def overview() -> str:
    """Return the README's table of all metrics."""
    rows = [
        [
            f"[`{shown_name(name)}`](docs/{card.page})",
            card.question,
            direction(name).value,
            " to ".join(map(_bound, score_range(name))),
            f"{cost(name)} + {card.besides}" if card.besides else f"{cost(name)}",
        ]
        for name, card in CARDS.items()
    ]
    return _table({"Metric": "", "Question": "", "Better": "", "Range": "", "Cost": ":"}, rows)


def citations() -> str:
    """Return the papers as references of a citation file, each with its metrics."""
    named: dict[Paper, list[str]] = {}
    for name, card in CARDS.items():
        named.setdefault(card.paper, []).append(f"`{name}`")
    lines = []
    for paper, names in named.items():
        conference, year = paper.venue.rsplit(" ", 1)
        lines += [
            "  - type: conference-paper",
            f"    title: {_quoted(paper.title)}",
            "    authors:",
        ]
        for author in paper.authors.split(", "):
            given, family = author.rsplit(" ", 1)
            lines += [f"      - given-names: {_quoted(given)}", f"        family-names: {family}"]
        lines += [
            *("    conference:", f"      name: {conference}", f"    year: {year}"),
            f"    notes: {_quoted('Cite it for ' + ', '.join(names))}",
        ]
    return "\n".join(lines)


def costs() -> str:
    """Return the evaluations of each metric: by default, and as a formula."""
    rows = [
        [
            f"`{shown_name(name)}`",
            f"{cost(name)}",
            f"`{card.evaluations}`".replace("*", "·"),
            card.counted,
        ]
        for name, card in CARDS.items()
    ]
    return _table({"Metric": "", "Evaluations": ":", "Formula": "", "What is counted": ""}, rows)


def details() -> str:
    """Return the keys of ``details`` of each metric."""
    sharing: dict[str, list[str]] = {}
    for name, card in CARDS.items():
        keys = ", ".join(f"`{key}`" for key in card.details)
        if card.around:
            keys += ", and those of the inner metric, prefixed by `score_` and `reference_`"
        sharing.setdefault(keys, []).append(f"`{name}`")
    rows = [[", ".join(names), keys] for keys, names in sharing.items()]
    return _table({"Metric": "", "`details`": ""}, rows)


def meanings() -> str:
    """Return what the keys of ``details`` mean."""
    return _table({"Key": "", "Meaning": ""}, [[f"`{k}`", text] for k, text in DETAILS.items()])


def formulas() -> str:
    """Return the formula of each metric in one line, with its source."""
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
        ROOT / "CITATION.cff",
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
            _input_factor(name),
        ]
        for name, card in cards.items()
    ]
    return _table(
        {"Metric": "", "Better": "", "Formula": "", "Source": "", "Input factor": ""}, rows
    )


def _input_factor(name: str) -> str:
    card = CARDS[name]
    if card.carries_input:
        return "yes"
    if "multiply_by_inputs" in signature(getattr(metrics, name)).parameters:
        return "set by `multiply_by_inputs`"
    return "as for the inner metric" if card.around else "–"


def _short(paper: Paper) -> str:
    """Return the first author's surname and the year."""
    surname = paper.authors.split(",")[0].split()[-1]
    return f"{surname} et al., {paper.venue[-4:]}"


def _quoted(text: str) -> str:
    """Return a text as a scalar of YAML, of which JSON is a part."""
    return json.dumps(text, ensure_ascii=False)


def _bound(value: float) -> str:
    size = "∞" if abs(value) == inf else f"{abs(value):g}"
    return f"−{size}" if value < 0 else size


def _table(columns: dict[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a column with a colon as its value is aligned to the right."""
    lines = [[*columns], [f"---{right}" for right in columns.values()], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Write the documents."""
    for page in pages():
        write_text(page, written(page.read_text("utf-8")))


if __name__ == "__main__":
    main()
