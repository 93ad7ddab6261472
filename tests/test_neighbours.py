"""What other libraries give: each figure of the page from its formula, and ours beside it."""

from __future__ import annotations

import pytest

from benchmarks import neighbours
from benchmarks.neighbours import ROWS, Row


def lines() -> dict[tuple[str, str], list[str]]:
    """Return the cells of the page's table, by library and metric."""
    text = neighbours.PAGE.read_text("utf-8").split("## Not run")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {(cells[0], cells[1]): cells[2:] for cells in rows[2:]}


SHOWN = lines()
NOT_RUN = neighbours.PAGE.read_text("utf-8").partition("## Not run")[2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library}: {row.key}")
def test_a_figure_is_what_its_formula_gives(row: Row):
    if (row.library, row.metric) not in SHOWN:
        assert f"| {row.library} |" in NOT_RUN
        pytest.skip(f"{row.library} was not run")
    theirs, formula, ours = SHOWN[row.library, row.metric]
    assert formula == row.formula
    # In single precision, and to four digits.
    assert float(theirs) == pytest.approx(row.expected(), rel=6e-4, abs=1e-7)
    if row.ours is None:
        assert ours == row.why != ""
    else:
        assert float(ours) == pytest.approx(row.ours(), rel=6e-4, abs=1e-7)


def test_every_library_is_on_the_page():
    for library in neighbours.LIBRARIES:
        run = any(name == library.name for name, _ in SHOWN)
        assert run != (f"| {library.name} |" in NOT_RUN)


def test_requirements_are_pinned():
    for library in neighbours.LIBRARIES:
        assert "==" in library.requires[0] or library.name == "OpenXAI"
