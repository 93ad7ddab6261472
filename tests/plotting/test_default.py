"""The figure and the table that every metric has after a call."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import quantus
from matplotlib.figure import Figure

from quantus_ext import Deletion, Infidelity, MoRF, metrics, plotting
from quantus_ext.base import TorchMetric
from quantus_ext.plotting import on_pyplot, plot_metric, plot_scores
from tests.cases import CASES
from tests.harness import make_inputs

Y_LABELS = {
    "Fidelity": "fidelity",
    "RFidelity": "fidelity",
    "FFidelity": "fidelity",
    "ROAR": "fidelity",
    "MoRF": "output",
    "LeRF": "output",
    "ABPC": "output",
    "Deletion": "output",
    "Insertion": "output",
    "AverageDrop": "Average Drop (lower",
    "AverageIncrease": "Average Increase (higher",
    "AverageGain": "Average Gain (higher",
    "Infidelity": "Infidelity (lower",
    "PScore": "PScore (higher",
    "SynScore": "SynScore (higher",
    "QGE": "Infidelity\n(lower",
}
"""What the y-axis of the first panel of each metric's default figure begins with."""


@pytest.mark.slow
@pytest.mark.parametrize("name", Y_LABELS)
@pytest.mark.filterwarnings("ignore:retrain=")
def test_every_metric_has_a_figure_and_a_table(name, tmp_path, monkeypatch):
    case = CASES[name]
    metric = case.metric()
    scores = make_inputs(case.modalities[0]).call(metric)
    frame = metric.to_frame()
    np.testing.assert_array_equal(frame["score"], scores)
    np.testing.assert_array_equal(frame["standard_error"], metric.standard_errors)
    single = {k for k, v in metric.details.items() if np.shape(v) == scores.shape}
    names = {key: "details_score" if key == "score" else key for key in single}
    assert {*frame} == {"score", "standard_error", *names.values()}
    for key, column in names.items():
        np.testing.assert_array_equal(frame[column], metric.details[key])

    drawn = []
    monkeypatch.setattr(
        plotting.figures, "figure_of", lambda axes: drawn.append(axes) or np.ravel(axes)[0].figure
    )
    metric.plot(show=False, path_to_save=tmp_path / "figure.png")
    assert np.ptp(mpl.image.imread(tmp_path / "figure.png")) > 0
    first = np.ravel(drawn[0])[0]
    assert first.get_ylabel().startswith(Y_LABELS[type(metric).__name__])


def test_no_metric_is_left_out():
    assert {metric.__name__ for metric in metrics.__dict__.values() if is_metric(metric)} == {
        *Y_LABELS
    }


def is_metric(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, TorchMetric)


def test_a_metric_that_was_not_called_has_neither():
    metric = Infidelity()
    with pytest.raises(ValueError, match="metric must have been called"):
        metric.plot(show=False)
    with pytest.raises(ValueError, match="Infidelity has no score for each sample: call it"):
        metric.to_frame()


def test_an_aggregate_is_no_score_of_a_sample():
    metric = MoRF(4, return_aggregate=True)
    make_inputs("table").call(metric)
    with pytest.raises(ValueError, match="return_aggregate=False"):
        metric.to_frame()


def test_a_metric_of_quantus_has_the_figure_of_its_scores():
    metric = quantus.Sparseness(disable_warnings=True)
    metric.evaluation_scores = [0.25, 0.5]
    assert plot_metric(metric).get_ylabel() == "Sparseness (higher is better)"


@pytest.mark.parametrize("chosen", [plot_scores, on_pyplot(plot_scores)])
@pytest.mark.parametrize("by_default", [True, False])
def test_a_figure_of_this_package_gets_the_metric(chosen, by_default, tmp_path):
    from matplotlib import pyplot as plt

    metric = Deletion(2, default_plot_func=chosen if by_default else None)
    make_inputs("table").call(metric)
    metric.plot(None if by_default else chosen, show=False, path_to_save=tmp_path / "a.png")
    axes = Figure().subplots()
    metric.plot(None if by_default else chosen, show=False, ax=axes)
    assert axes.get_ylabel() == "Deletion (lower is better)"
    plt.close("all")


def test_a_function_of_ones_own_gets_what_it_is_given():
    seen = []

    def own(*args, **keywords):
        seen.append((args, keywords))
        return Figure().subplots()

    metric = Deletion(2)
    metric.plot(own, False, None, 1, scores=[2])
    assert seen == [((1,), {"scores": [2]})]


@pytest.fixture
def kernel(monkeypatch):
    """Stand in for the kernel of a notebook."""
    from matplotlib import pyplot as plt

    mpl.use("agg")
    plt.close("all")
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    yield shell
    plt.close("all")


def test_a_figure_shows_by_itself_in_a_notebook(kernel):
    from matplotlib import pyplot as plt

    metric = Deletion(2)
    make_inputs("table").call(metric)
    axes = plot_metric(metric)
    # The kernel shows the figures that pyplot has at the end of a cell.
    assert [plt.figure(number) for number in plt.get_fignums()] == [axes.figure]
    plt.close("all")
    metric.plot(show=False)
    assert plt.get_fignums() == []
    # A terminal's IPython has no cells.
    del kernel.kernel
    plot_metric(metric)
    assert plt.get_fignums() == []
