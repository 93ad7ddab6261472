"""
Write the tables of the documents anew from `quantus_ext.facts`: ``python -m docs.write``.

A table stands between two marks, ``<!-- table: costs -->`` and ``<!-- end -->``, in
reStructuredText ``.. table: costs`` and ``.. end``, in YAML ``# table: costs`` and ``# end``. The
text around them is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path

from quantus_ext import metrics
from quantus_ext.card import bound, card_of, cost, shown_name
from quantus_ext.facts import DETAILS, FACTS, Facts, Paper
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
            f"[`{shown_name(name)}`](docs/{facts.page})",
            facts.question,
            card_of(getattr(metrics, name)).direction,
            " to ".join(map(bound, getattr(metrics, name).score_range)),
            f"{cost(name)} + {facts.besides}" if facts.besides else f"{cost(name)}",
        ]
        for name, facts in FACTS.items()
    ]
    return _table({"Metric": "", "Question": "", "Better": "", "Range": "", "Cost": ":"}, rows)


def citations() -> str:
    """Return the papers as references of a citation file, each with its metrics."""
    named: dict[Paper, list[str]] = {}
    for name, facts in FACTS.items():
        assert facts.paper is not None
        named.setdefault(facts.paper, []).append(f"`{name}`")
    lines = []
    for paper, names in named.items():
        venue, year = paper.venue.rsplit(" ", 1)
        lines += [
            f"  - type: {'article' if paper.is_journal else 'conference-paper'}",
            f"    title: {_quoted(paper.title)}",
            "    authors:",
        ]
        for author in paper.authors.split(", "):
            given, family = author.rsplit(" ", 1)
            lines += [f"      - given-names: {_quoted(given)}", f"        family-names: {family}"]
        lines += [
            *(
                [f"    journal: {venue}"]
                if paper.is_journal
                else ["    conference:", f"      name: {venue}"]
            ),
            f"    year: {year}",
            f"    notes: {_quoted('Cite it for ' + ', '.join(names))}",
        ]
    return "\n".join(lines)


def costs() -> str:
    """Return the evaluations of each metric: by default, and as a formula."""
    rows = [
        [
            f"`{shown_name(name)}`",
            f"{cost(name)}",
            f"`{facts.evaluations}`".replace("*", "·"),
            facts.counted,
        ]
        for name, facts in FACTS.items()
    ]
    return _table({"Metric": "", "Evaluations": ":", "Formula": "", "What is counted": ""}, rows)


def details() -> str:
    """Return the keys of ``details`` of each metric."""
    sharing: dict[str, list[str]] = {}
    for name, facts in FACTS.items():
        keys = ", ".join(f"`{key}`" for key in facts.details)
        if facts.around:
            keys += ", and those of the inner metric, prefixed by `score_` and `reference_`"
        sharing.setdefault(keys, []).append(f"`{name}`")
    rows = [[", ".join(names), keys] for keys, names in sharing.items()]
    return _table({"Metric": "", "`details`": ""}, rows)


def meanings() -> str:
    """Return what the keys of ``details`` mean."""
    return _table({"Key": "", "Meaning": ""}, [[f"`{k}`", text] for k, text in DETAILS.items()])


def formulas() -> str:
    """Return the formula of each metric in one line, with its source."""
    return _formulas(FACTS)


def removal_curves() -> str:
    """Return the formulas of the page on removal curves."""
    page = "removal_curves.md"
    return _formulas({name: facts for name, facts in FACTS.items() if facts.page == page})


def linear() -> str:
    """Return what maps of a linear model score."""
    rows = [
        [f"`{shown_name(name)}`", card_of(getattr(metrics, name)).direction, *map(bound, scores)]
        for name, facts in FACTS.items()
        if (scores := facts.linear) is not None
    ]
    names = ("Exact map", "Negative", "Constant", "Noise")
    return _table({"Metric": "", "Better": "", **dict.fromkeys(names, ":")}, rows)


def behaviour() -> str:
    """Return what scores read, what is random in them, and what is removed."""
    cards = {name: card_of(getattr(metrics, name)) for name in FACTS}
    rows = [
        [
            f"`{shown_name(name)}`",
            card.space,
            card.ties,
            "yes" if card.draws else "no",
            card.removed,
            card.unit,
        ]
        for name, card in cards.items()
    ]
    names = ("Metric", "Reads", "Ties", "Random draws", "A removed element becomes", "Unit")
    return _table(dict.fromkeys(names, ""), rows)


def neighbours() -> str:
    """Return how numbers of other packages compare."""
    rows = [
        [f"`{each.name}`", f"`{name}`", each.how]
        for name, facts in FACTS.items()
        for each in facts.neighbours
    ]
    return _table({"Elsewhere": "", "Here": "", "Conversion": ""}, rows)


def classes() -> str:
    """Return the reference of all classes."""
    return "\n" + "\n\n".join(f".. autoclass:: {name}\n   :no-members:" for name in FACTS) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "overview": overview,
    "citations": citations,
    "costs": costs,
    "details": details,
    "meanings": meanings,
    "formulas": formulas,
    "removal curves": removal_curves,
    "linear": linear,
    "behaviour": behaviour,
    "neighbours": neighbours,
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


def _formulas(given: dict[str, Facts]) -> str:
    rows = [
        [
            f"`{name}`",
            card_of(getattr(metrics, name)).direction,
            facts.formula,
            ", ".join(filter(None, [_short(facts), facts.equation])),
            _input_factor(name),
        ]
        for name, facts in given.items()
    ]
    return _table(
        {"Metric": "", "Better": "", "Formula": "", "Source": "", "Input factor": ""}, rows
    )


def _input_factor(name: str) -> str:
    facts = FACTS[name]
    if facts.carries_input:
        return "yes"
    if "multiply_by_inputs" in signature(getattr(metrics, name)).parameters:
        return "set by `multiply_by_inputs`"
    return "as for the inner metric" if facts.around else "–"


def _short(facts: Facts) -> str:
    """Return the first author's surname and the year."""
    paper = facts.paper
    assert paper is not None
    surname = paper.authors.split(",")[0].split()[-1]
    return f"{surname} et al., {paper.venue[-4:]}"


def _quoted(text: str) -> str:
    """Return a text as a scalar of YAML, of which JSON is a part."""
    return json.dumps(text, ensure_ascii=False)


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
