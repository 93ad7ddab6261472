"""What other libraries give: each figure of the page from its formula, and ours beside it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from benchmarks import neighbours
from benchmarks.neighbour_probes import LIBRARIES
from benchmarks.neighbours import (
    FALLING,
    FLAT,
    HABITS,
    ORDER,
    OURS,
    RISING,
    ROWS,
    SLOPED,
    WIDE,
    Habit,
    Row,
    X,
    both,
    our_ties,
    ours,
)

PAGE = neighbours.PAGE.read_text("utf-8")


def lines(text: str) -> dict[tuple[str, str], list[str]]:
    """Return the cells of the table in a part of the page, by library and metric."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {(cells[0], cells[1]): cells[2:] for cells in rows[2:]}


FIGURES, _, REST = PAGE.partition("## Ties, batches and seeds")
TIES, _, ENDING = REST.partition("## Run with")
TIES, _, NOT_RUN = TIES.partition("## Not run")
SHOWN, TREATED, RUN = lines(FIGURES), lines(TIES), lines(ENDING)


def skip_if_not_run(library: str, *, shown: bool) -> None:
    """Skip a library without a figure, which has to be named as one."""
    if not shown:
        assert f"| {library} |" in NOT_RUN
        pytest.skip(f"{library} was not run")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library}: {row.key}")
def test_a_figure_is_what_its_formula_gives(row: Row):
    skip_if_not_run(row.library, shown=(row.library, row.metric) in SHOWN)
    theirs, formula, own = SHOWN[row.library, row.metric]
    assert formula == row.formula
    # In single precision, and to four digits.
    about = {"rel": 6e-4, "abs": 1e-7, "nan_ok": True}
    assert float(theirs) == pytest.approx(row.expected(), **about)
    if row.ours is None:
        assert own == row.why != ""
    else:
        assert float(own) == pytest.approx(row.ours(), **about)


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: f"{habit.library}: {habit.key}")
def test_ties_are_broken_as_said(habit: Habit):
    skip_if_not_run(habit.library, shown=(habit.library, habit.metric) in TREATED)
    tied, *words = TREATED[habit.library, habit.metric]
    assert words == [habit.which, habit.batch, habit.seed]
    if habit.ties is None:
        # The library's generator decides, of which no formula is known.
        assert tied == "by draws"
        assert habit.seed != "none"
    else:
        wanted = [habit.ties(w) for w in (FALLING, RISING)]
        about = {"rel": habit.about, "abs": 6e-4, "nan_ok": True}
        assert [float(each) for each in tied.split(", ")] == pytest.approx(wanted, **about)


@pytest.mark.parametrize(("name", "metric", "which"), OURS, ids=lambda each: str(each)[:20])
def test_ours_depend_on_no_company_and_no_global_seed(name, metric, which):
    assert TREATED["this package", name] == [our_ties(metric), which, "as alone", "none"]
    pair = {"x": np.concatenate([WIDE, X]), "a": np.concatenate([ORDER[..., ::-1], ORDER])}
    assert ours(metric, SLOPED) == pytest.approx(ours(metric, SLOPED, **pair), rel=1e-5)
    seen = set()
    state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng():
        for seed in (0, 1):
            for each in (random.seed, np.random.seed, torch.manual_seed):
                each(seed)
            seen.add(both(ours(metric, SLOPED, a, WIDE) for a in (ORDER, FLAT)))
    np.random.set_state(state[0])  # noqa: NPY002
    random.setstate(state[1])
    assert len(seen) == 1


def test_every_library_is_on_the_page():
    ran = {library for library, _ in RUN}
    for library in LIBRARIES:
        assert (library.name in ran) != (f"| {library.name} |" in NOT_RUN)
        assert any(name == library.name for name, _ in SHOWN) == (library.name in ran)
    asked = {each.library for each in (*ROWS, *HABITS)} | {"OpenXAI"}
    assert asked == {library.name for library in LIBRARIES}


def test_requirements_are_pinned():
    for library in LIBRARIES:
        assert "==" in (library.bare or library.requires)[0] or library.name == "OpenXAI"
