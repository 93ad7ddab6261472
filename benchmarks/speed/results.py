"""What the sections of the benchmark return, and how it is written."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.timing import Ratio, markdown_table


class Scale(NamedTuple):
    """How much is done: everything, or a small part; and in how many rounds."""

    quick: bool
    repeats: int


@dataclass(frozen=True)
class Entry:
    """Two things compared on a case: a ratio of their times, or another number.

    Attributes
    ----------
    what, case : str
        A row and a column of the summary; a case of "" is in none.
    measured : Ratio or float
    target : float, optional
        At least so much; at most with ``at_most``.
    seconds : mapping of str to list of float
        By what was timed, a time each round.
    rows : mapping of str to int
        Rows through the model, counted by a hook on it.
    notes : mapping of str to str or float
        What else was seen.
    headline : bool, default True
        In the summary, not only in its section.
    """

    what: str
    case: str
    measured: Ratio | float
    target: float | None = None
    at_most: bool = False
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str | float] = field(default_factory=dict)
    headline: bool = True

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None without one."""
        if self.target is None:
            return None
        value = self.measured.median if isinstance(self.measured, Ratio) else self.measured
        return value <= self.target if self.at_most else value >= self.target

    def __str__(self) -> str:
        shown = str(self.measured) if isinstance(self.measured, Ratio) else f"{self.measured:.3g}"
        if self.target is None:
            return shown
        verdict = "reached" if self.reached else "MISSED"
        return f"**{shown}**, {'≤' if self.at_most else '≥'} {self.target:g}: {verdict}"

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Entry:
        """Make the entry again from :meth:`to_dict`."""
        settings = {name: value for name, value in known.items() if name != "reached"}
        if isinstance(settings["measured"], list):
            settings["measured"] = Ratio(*settings["measured"])
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        number = list(self.measured) if isinstance(self.measured, Ratio) else self.measured
        return {
            "what": self.what,
            "case": self.case,
            "measured": number,
            "target": self.target,
            "at_most": self.at_most,
            "reached": self.reached,
            "seconds": {name: list(times) for name, times in self.seconds.items()},
            "rows": dict(self.rows),
            "notes": dict(self.notes),
            "headline": self.headline,
        }


@dataclass(frozen=True)
class Section:
    """The entries of a section, between what is to be said before and tables of its own."""

    title: str
    about: str
    entries: Sequence[Entry]
    tables: Sequence[str] = ()

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Section:
        """Make the section again from :meth:`to_dict`."""
        entries = [Entry.of(entry) for entry in known["entries"]]
        return cls(known["title"], known["about"], entries, known["tables"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {
            "title": self.title,
            "about": self.about,
            "entries": [entry.to_dict() for entry in self.entries],
            "tables": list(self.tables),
        }

    def to_markdown(self) -> list[str]:
        """Return the paragraphs below the title."""
        header = ["", "case", "measured", "median, s", "rows", "besides"]
        rows = [
            [
                entry.what,
                entry.case,
                str(entry),
                _list({name: f"{statistics.median(s):.3g}" for name, s in entry.seconds.items()}),
                _list({name: f"{count:,}" for name, count in entry.rows.items()}),
                _list({name: _shown(note) for name, note in entry.notes.items()}),
            ]
            for entry in self.entries
        ]
        return [self.about, markdown_table(header, rows), *self.tables]


def summary(sections: Sequence[Section]) -> str:
    """Return what is compared × cases as a table, and the entries without a case below."""
    entries = [entry for section in sections for entry in section.entries if entry.headline]
    cells = {(entry.what, entry.case): str(entry) for entry in entries if entry.case}
    cases = list(dict.fromkeys(case for _, case in cells))
    rows = [
        [what, *(cells.get((what, case), "") for case in cases)]
        for what in dict.fromkeys(what for what, _ in cells)
    ]
    besides = [f"- {entry.what}: {entry}" for entry in entries if not entry.case]
    return "\n\n".join(
        part
        for part in (markdown_table(["", *cases], rows) if rows else "", "\n".join(besides))
        if part
    )


def _list(cells: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {cell}" for name, cell in cells.items())


def _shown(note: str | float) -> str:
    return note if isinstance(note, str) else f"{note:.3g}"
