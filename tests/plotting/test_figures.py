"""Figures: nothing is shown, files are not blank, and what doesn't fit is an error."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import quantus
from matplotlib.figure import Figure

from quantus_ext import QGE, Infidelity, RFidelity, plotting
from quantus_ext.plotting import (
    on_pyplot,
    plot_agreement,
    plot_area,
    plot_case,
    plot_curves,
    plot_deletion_insertion,
    plot_fidelity,
    plot_qge,
    plot_removal,
    plot_scores,
    save_figure,
)
from tests.plotting.drawn import (
    FRACTIONS,
    compared,
    consistencies,
    curves,
    fidelity_details,
)

DRAWN = {
    "fidelity": lambda axes: plot_fidelity(fidelity_details(), axes=axes),
    "curves": lambda axes: plot_curves(FRACTIONS, {"A": curves()}, label="f", axes=axes),
    "removal": lambda axes: plot_removal(FRACTIONS, curves(), curves(), axes=axes),
    "agreement": lambda axes: plot_agreement(["A"], [[1]], axes=axes),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_where_it_is_told(name):
    axes = Figure().subplots()
    assert DRAWN[name](axes) is axes


def test_nothing_is_shown_and_files_are_not_blank(tmp_path):
    before = mpl.get_backend(auto_select=False)
    figure = Figure(layout="constrained")
    axes = plot_deletion_insertion(FRACTIONS, {"A": curves()}, {"A": curves()}, figure=figure)
    assert axes[0].figure is figure
    save_figure(figure, tmp_path / "figure.png", dpi=40)
    image = mpl.image.imread(tmp_path / "figure.png")
    assert np.ptp(image) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert mpl.get_backend(auto_select=False) == before
    assert not hasattr(plotting, "plt")


ON_FIGURES = {
    "qge": lambda figure: plot_qge(compared(), figure=figure),
    "area": lambda figure: plot_area({"A": consistencies()}, figure=figure),
    "image": lambda figure: plot_case(np.ones((1, 1, 4, 4)), np.ones((1, 4, 4)), figure=figure),
    "series": lambda figure: plot_case(np.ones((1, 1, 4)), np.ones((1, 1, 4)), figure=figure),
    "table": lambda figure: plot_case(np.ones((1, 4)), np.ones((1, 4)), figure=figure),
}


@pytest.mark.parametrize("name", ON_FIGURES)
def test_draws_on_the_figure_that_it_is_told(name):
    figure = Figure()
    assert all(axis.figure is figure for axis in ON_FIGURES[name](figure))


PLOTS = {
    "fidelity": (plot_fidelity, lambda: {"metric": fidelity_details()}),
    "qge": (plot_qge, lambda: {"metric": compared()}),
    "area": (plot_area, lambda: {"results": {"A": consistencies()}}),
    "case": (
        plot_case,
        lambda: {"x_batch": np.ones((1, 4)), "a_batch": np.array([[3, 1, 2, 0.0]])},
    ),
    "scores": (
        plot_scores,
        lambda: {"names": ["A"], "scores": [1], "errors": [0.1], "label": "s"},
    ),
}


@pytest.fixture
def shown(monkeypatch) -> list[bool]:
    """Collect whether a file was there whenever pyplot showed something."""
    from matplotlib import pyplot as plt

    mpl.use("agg")
    plt.close("all")
    calls: list[bool] = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(Path("figure.png").exists()))
    yield calls
    plt.close("all")


def on_axes() -> None:
    """Plot as Quantus's own functions do: on pyplot's current figure, returning nothing."""
    from matplotlib import pyplot as plt

    plt.plot([0, 1], [0, 1])


@pytest.mark.parametrize("name", [*PLOTS, "own"])
@pytest.mark.parametrize("show", [False, True])
def test_plot_saves_before_it_shows(name, show, shown, tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    monkeypatch.chdir(tmp_path)
    plot, keywords = PLOTS.get(name, (on_axes, dict))
    metric = RFidelity(default_plot_func=plot)
    metric.plot(show=show, path_to_save="figure.png", **keywords())
    assert np.ptp(mpl.image.imread(tmp_path / "figure.png")) > 0
    assert shown == ([True] if show else [])
    # What is not shown is no figure of pyplot's, which notebooks would show.
    assert bool(plt.get_fignums()) == (show or name == "own")
    # As Quantus's, by position, and with pyplot's default format.
    metric.plot(plot, False, "again", **keywords())
    assert (tmp_path / "again.png").exists()


def test_plot_draws_on_a_part_of_a_figure(shown, tmp_path):
    figure = Figure()
    part = figure.subfigures(1, 2)[1]
    RFidelity().plot(plot_case, False, tmp_path / "figure.png", [[1.0]], [[1.0]], figure=part)
    assert mpl.image.imread(tmp_path / "figure.png").shape[1] > 1000


@pytest.mark.parametrize(
    ("plot", "message"),
    [(None, "plot_func must be callable, is None"), (lambda: None, "plot_func must draw")],
)
def test_plot_of_nothing_is_an_error_and_no_file(plot, message, shown, tmp_path):
    with pytest.raises(ValueError, match=message):
        RFidelity().plot(plot, path_to_save=tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
    assert not shown


@pytest.mark.parametrize("name", PLOTS)
def test_quantus_plot_saves_what_is_drawn(name, tmp_path):
    from matplotlib import pyplot as plt

    mpl.use("agg")
    plt.close("all")
    plot, keywords = PLOTS[name]
    metric = quantus.Sparseness(default_plot_func=on_pyplot(plot), disable_warnings=True)
    copied = copy.deepcopy(pickle.loads(pickle.dumps(metric)))
    path = tmp_path / "figure.png"
    copied.plot(show=False, path_to_save=str(path), **keywords())
    assert np.ptp(mpl.image.imread(path)) > 0
    assert plt.gcf().axes
    plt.close("all")
    # Without it pyplot knows of no figure, also after one that failed.
    with pytest.raises((TypeError, ValueError)):
        on_pyplot(plot)(None)
    plot(**keywords())
    plt.close("all")
    plot(**keywords())
    assert plt.get_fignums() == []


def bad_area(**parts: Any) -> dict[str, Any]:
    given = consistencies()
    given["Model"]["consistency_scores"].update(parts)
    return {"A": given}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_fidelity(RFidelity()), "metric must have been called.*sparsity"),
        (lambda: plot_fidelity({"sparsity": [[1]]}), "curve_plus"),
        (
            lambda: plot_fidelity({**fidelity_details(), "curve_plus": np.full((6, 4), np.nan)}),
            "sample without NaN",
        ),
        (lambda: plot_qge(QGE(Infidelity())), "metric must have been called.*reference"),
        (lambda: plot_area({}), "results must have a metric"),
        (lambda: plot_area({"A": {}}), r"results\['A'\] must have the results of Input or Model"),
        (lambda: plot_area({"A": {"Weights": {}}}), "Weights"),
        (lambda: plot_area(bad_area(**{"IEC_{AR}": np.nan})), "IEC_{AR} between 0 and 1, has nan"),
        (lambda: plot_area(bad_area(**{"IAC_{NR}": 1.2})), "has 1.2"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 4))), "a_batch"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), sample=1), "sample must be.*is 1"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), share=0), "share"),
        (lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), names=["a"]), "names must have"),
        (
            lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), tokens=["a"]),
            "tokens must be.*got 1",
        ),
        (
            lambda: plot_case([[1, 2]], [[1, 2]], tokens=["a", "b"], special=("a", "b")),
            "special must leave a token",
        ),
        (
            lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), [RFidelity()]),
            r"metrics\[0\] must have one score per sample",
        ),
        (lambda: plot_curves([0, 0], {}, label="f"), "fractions must increase, are all 0"),
        (lambda: plot_curves([1, 0], {}, label="f"), "fractions must be two or more increasing"),
        (lambda: plot_curves([0, np.nan], {}, label="f"), "fractions"),
        (
            lambda: plot_curves([0, 1], {"A": [[1]]}, label="f"),
            r"curves\['A'\].*\(n, 2\).*\(1, 1\)",
        ),
        (lambda: plot_curves([0, 1], {"A": [[1, np.nan]]}, label="f"), "sample without NaN"),
        (lambda: plot_removal([0, 0.2], [[1, 0]], [[1, 0]]), "must go from 0 to 1"),
        (lambda: plot_removal([0, 1], [[1, 0]], [[1, 0]] * 2), "same samples"),
        (lambda: plot_removal([0, 1], [[1, np.nan]], [[1, 0]]), "morf and lerf must have"),
        (
            lambda: plot_deletion_insertion([0, 1], {"A": [[1, 0]]}, {"B": [[1, 0]]}),
            "same explainers",
        ),
        (lambda: plot_deletion_insertion([0, 1], {}, {}), "at least one"),
        (
            lambda: plot_deletion_insertion([0, 1], {"A": [[1, 0]]}, {"A": [[1]]}),
            r"insertion\['A'\]",
        ),
        (
            lambda: plot_agreement(["A"], [[1, 0], [0, 1]]),
            r"correlation.*1; got the shape \(2, 2\)",
        ),
        (lambda: plot_agreement([], np.zeros((0, 0))), "correlation"),
        (lambda: plot_agreement(["A"], [[1.2]]), "between -1 and 1; got 1.2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
