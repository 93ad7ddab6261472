"""Figures: nothing is shown, files are not blank, and what doesn't fit is an error."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import quantus
from matplotlib.figure import Figure

from quantus_ext import QGE, Evaluation, Infidelity, RFidelity, plotting
from quantus_ext.plotting import (
    on_pyplot,
    plot_agreement,
    plot_area,
    plot_case,
    plot_curves,
    plot_deletion_insertion,
    plot_fidelity,
    plot_maps,
    plot_means,
    plot_metric,
    plot_qge,
    plot_ranking,
    plot_removal,
    plot_scores,
    save_figure,
)
from tests.harness import make_inputs
from tests.plotting.drawn import (
    both,
    compared,
    consistencies,
    curves,
    details,
    fidelity_details,
)


def called() -> RFidelity:
    metric = RFidelity(n_samples=2)
    make_inputs("table").call(metric)
    return metric


IDENTITY = pd.DataFrame([[1.0]], ["A"], ["A"])
EVALUATION = Evaluation.of_scores({"A": {"x": [0.0, 1.0]}}, {"x": "lower"})

ONE_PANEL = {
    "fidelity": lambda ax: plot_fidelity(fidelity_details(), ax=ax),
    "curves": lambda ax: plot_curves(details(curves()), ax=ax),
    "removal": lambda ax: plot_removal(both(curves(), curves()), ax=ax),
    "agreement": lambda ax: plot_agreement(IDENTITY, ax=ax),
    "means": lambda ax: plot_means({"A": [0.0, 1.0]}, label="a", ax=ax),
    "scores": lambda ax: plot_scores(called(), ax=ax),
    "metric": lambda ax: plot_metric(called(), ax=ax),
}

SEVERAL_PANELS = {
    "deletion": lambda ax: plot_deletion_insertion(details(curves()), details(curves()), ax=ax),
    "qge": lambda ax: plot_qge(compared(), ax=ax),
    "ranking": lambda ax: plot_ranking(EVALUATION, ax=ax),
    "maps": lambda ax: plot_maps(np.ones((1, 4, 4)), {"A": np.ones((1, 4, 4))}, ax=ax),
    "area": lambda ax: plot_area({"A": consistencies()}, ax=ax),
    "image": lambda ax: plot_case(np.ones((1, 1, 4, 4)), np.ones((1, 4, 4)), ax=ax),
    "series": lambda ax: plot_case(np.ones((1, 1, 4)), np.ones((1, 1, 4)), ax=ax),
    "table": lambda ax: plot_case(np.ones((1, 4)), np.ones((1, 4)), ax=ax),
    "text": lambda ax: plot_case([[1, 2]], [[1, 2]], tokens=["a", "b"], ax=ax),
}


@pytest.mark.parametrize("name", ONE_PANEL)
def test_one_panel_is_drawn_on_axes_or_on_a_figure(name):
    axes, figure = Figure().subplots(), Figure()
    assert ONE_PANEL[name](axes) is axes
    assert ONE_PANEL[name](figure).figure is figure


@pytest.mark.parametrize("name", SEVERAL_PANELS)
def test_several_panels_are_drawn_on_a_figure_or_in_place_of_axes(name):
    figure = Figure()
    drawn = SEVERAL_PANELS[name](figure)
    assert all(axis.figure is figure for axis in np.ravel(drawn))
    whole = Figure(layout="constrained")
    left, right = whole.subplots(1, 2)
    drawn = np.ravel(SEVERAL_PANELS[name](right))
    assert left not in drawn
    whole.canvas.draw()
    border = left.get_window_extent().x1
    assert all(axis.get_window_extent().x0 > border for axis in drawn)


@pytest.mark.parametrize("plot", [*ONE_PANEL.values(), *SEVERAL_PANELS.values()])
def test_places_that_are_none(plot):
    with pytest.raises(TypeError, match="ax must be matplotlib axes, a figure or a subfigure"):
        plot("axes")


def test_several_panels_need_a_place_in_a_grid():
    axes = Figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="ax must be axes in a grid"):
        plot_qge(compared(), ax=axes)


def test_nothing_is_shown_and_files_are_not_blank(tmp_path):
    before = mpl.get_backend(auto_select=False)
    figure = Figure(layout="constrained")
    axes = plot_deletion_insertion(details(curves()), details(curves()), ax=figure)
    assert axes[0].figure is figure
    save_figure(figure, tmp_path / "figure.png", dpi=40)
    image = mpl.image.imread(tmp_path / "figure.png")
    assert np.ptp(image) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert mpl.get_backend(auto_select=False) == before
    assert not hasattr(plotting, "plt")


PLOTS = {
    "fidelity": (plot_fidelity, lambda: {"metric": fidelity_details()}),
    "qge": (plot_qge, lambda: {"metric": compared()}),
    "area": (plot_area, lambda: {"results": {"A": consistencies()}}),
    "case": (
        plot_case,
        lambda: {"x_batch": np.ones((1, 4)), "a_batch": np.array([[3, 1, 2, 0.0]])},
    ),
    "means": (plot_means, lambda: {"scores": {"A": [1.0, 2.0]}, "label": "s"}),
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


@pytest.mark.slow
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
    RFidelity().plot(plot_case, False, tmp_path / "figure.png", [[1.0]], [[1.0]], ax=part)
    assert mpl.image.imread(tmp_path / "figure.png").shape[1] > 1000


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        ("bars", "plot_func must be callable, is 'bars'"),
        (lambda: None, "plot_func must draw"),
        (None, "metric must have been called"),
    ],
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
        (
            lambda: plot_case(np.ones((1, 3)), np.ones((1, 3)), feature_names=["a"]),
            "feature_names must have",
        ),
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
        (lambda: plot_curves(details([[1, 1]], fractions=[0, 0])), "must increase, are all 0"),
        (lambda: plot_curves(details([[1, 1]], fractions=[1, 0])), "two or more increasing"),
        (lambda: plot_curves(details([[1, 1]], fractions=[0, np.nan])), "fractions"),
        (
            lambda: plot_curves({"A": details([[1]], fractions=[0, 1])}),
            r"curves of A.*\(n, 2\).*\(1, 1\)",
        ),
        (lambda: plot_curves(details([[1, np.nan]], fractions=[0, 1])), "sample without NaN"),
        (
            lambda: plot_curves(details([[1, 0]], fractions=[[0, 1]] * 2)),
            "one row, or one per sample, 1; have 2",
        ),
        (lambda: plot_curves({}), "metric must have been called and have curve"),
        (lambda: plot_removal(both([[1, 0]], [[1, 0]], [0, 0.2])), "must go from 0 to 1"),
        (lambda: plot_removal(both([[1, 0]], [[1, 0]] * 2, [0, 1])), "same samples"),
        (lambda: plot_removal(both([[1, np.nan]], [[1, 0]], [0, 1])), "sample without NaN"),
        (lambda: plot_removal(RFidelity()), "metric must have been called.*curve_morf"),
        (
            lambda: plot_deletion_insertion(
                *({name: details(curves()) for name in names} for names in ("AB", "BC"))
            ),
            r"same explainers; got \['A', 'B'\] and \['B', 'C'\]",
        ),
        (lambda: plot_deletion_insertion({}, {}), "metric must have been called"),
        (
            lambda: plot_deletion_insertion({"A": details(curves())}, {"A": details([[1]])}),
            "insertion of A",
        ),
        (
            lambda: plot_agreement(pd.DataFrame([[1, 0]], ["A"], ["A", "B"])),
            "agreement must have one row and one column for each metric",
        ),
        (lambda: plot_agreement(pd.DataFrame()), "agreement must have"),
        (lambda: plot_agreement(IDENTITY * 1.2), "between -1 and 1; got 1.2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
