"""Fidelity against the size of the explanation."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from quantus_ext.plotting.figures import COLOURS, Place, one_panel, style_axes
from quantus_ext.plotting.given import Called, details_of, without_nan


def plot_fidelity(metric: Called, *, ax: Place | None = None) -> Axes:
    """
    Draw Fid⁺ and Fid⁻ against the size of the explanation, with bands of one standard error.

    Parameters
    ----------
    metric : Fidelity, RFidelity, FFidelity or ROAR; or mapping
        A metric that has been called, or its ``details``. Samples with NaN are left out, and the
        legend gives their number.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The lines are means over samples. The bands are the standard error of the mean, from the
        spread over samples, which includes that over draws. For a single sample, they are the
        standard error over its draws.

    Raises
    ------
    ValueError
        If the details are not those of a metric of this family, or all samples have NaN.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Fidelity
    >>> model = torch.nn.Linear(4, 2).eval()
    >>> metric = Fidelity([0.25, 0.5])
    >>> _ = metric(model, np.ones((3, 4)), np.array([0, 1, 0]), np.eye(3, 4))
    >>> axes = plot_fidelity(metric)
    >>> axes.get_xlabel(), axes.lines[0].get_xdata().tolist()
    ('size of the explanation, s/t', [0.25, 0.5])
    """
    names = [f"{part}_{sign}" for sign in ("plus", "minus") for part in ("curve", "error")]
    details = details_of(metric, ("sparsity", *names))
    order = np.argsort(details["sparsity"][0])
    sizes = details["sparsity"][0, order]
    values = {name: details[name][:, order] for name in names}
    # A sample whose error is unknown is still drawn.
    curves = np.concatenate([values["curve_plus"], values["curve_minus"]], axis=1)
    without_nan("curve_plus and curve_minus", curves)
    known = ~np.isnan(curves).any(1)
    axes = one_panel(ax, 4.8, 3.6)
    for sign, name, colour, style in (
        ("plus", "Fid⁺, without it (higher is better)", COLOURS[0], "-"),
        ("minus", "Fid⁻, with it alone (lower is better)", COLOURS[1], "--"),
    ):
        curve, errors = values[f"curve_{sign}"][known], values[f"error_{sign}"][known]
        mean = curve.mean(0)
        error = curve.std(0, ddof=1) / np.sqrt(len(curve)) if len(curve) > 1 else errors[0]
        axes.plot(sizes, mean, style, color=colour, marker="o", markersize=3, label=name)
        if len(sizes) > 1:
            edges = (mean - error, mean + error)
            axes.fill_between(sizes, *edges, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.errorbar(sizes, mean, error, color=colour, capsize=3)
    output = getattr(metric, "output", None)
    what = {"label": ": fall of 1(y = f(·))", "probability": ": fall of the probability"}
    style_axes(axes, "size of the explanation, s/t", f"fidelity{what.get(str(output), '')}")
    left_out = f", {(~known).sum()} with NaN left out" if not known.all() else ""
    shown = "mean ± standard error" if len(curves) > 1 else "± standard error of the draws"
    # Above: curves of a good explanation fill all corners.
    axes.legend(
        frameon=False,
        fontsize="small",
        title=f"{shown}{left_out}",
        title_fontsize="small",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
    return axes
