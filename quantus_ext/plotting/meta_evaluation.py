"""MetaQuantus's area plot for several metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantus_ext.plotting.figures import COLOURS, Place, several_panels

_CONSISTENCIES = ("IAC_{AR}", "IAC_{NR}", "IEC_{AR}", "IEC_{NR}")
"""To the left, above, to the right and below, as in MetaQuantus's own area plot."""
_KINDS: dict[str, dict[str, Any]] = {
    "Input": {"color": COLOURS[0], "hatch": None},
    "Model": {"color": COLOURS[1], "hatch": "///"},
}
_COLUMNS = 4


def plot_area(
    results: Mapping[str, Mapping[str, Any]], *, ax: Place | None = None
) -> NDArray[np.object_]:
    """
    Draw MetaQuantus's area plot: the four consistencies of each metric, the larger the better.

    Parameters
    ----------
    results : mapping of str to mapping
        For each metric, ``MetaEvaluation.results_meta_consistency_scores`` or what
        ``MetaEvaluationBenchmarking`` keeps of it. One category of a benchmark's results,
        ``results[data][model][category]``, is such a mapping.
    ax : matplotlib axes, figure or subfigure, optional
        Where to draw; a new figure by default.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, shape (len(results),)
        The title of each is the metric's name and MC, the mean over perturbations and
        consistencies. The dashed line is the largest possible area.

    Raises
    ------
    ValueError
        If there are no results, or a consistency is missing, undefined (no prediction changed
        under the adversary's perturbation) or outside [0, 1].

    Examples
    --------
    >>> parts = {"IAC_{NR}": [0.5], "IAC_{AR}": [0.9], "IEC_{NR}": [0.6], "IEC_{AR}": [0.8]}
    >>> axes = plot_area({"Infidelity": {"Input": {"consistency_scores": parts}}})
    >>> axes[0].get_title()
    'Infidelity\\nMC = 0.700'
    """
    if not results:
        raise ValueError("results must have a metric, is empty")
    known = {name: _consistencies(name, given) for name, given in results.items()}
    columns = min(len(known), _COLUMNS)
    rows = -(-len(known) // columns)
    figure = several_panels(ax, 2.6 * columns, 2.9 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in grid[len(known) :]:
        axis.remove()
    axes: NDArray[np.object_] = grid[: len(known)]
    handles: dict[str, Any] = {}
    ticks = np.array([-1, -0.5, 0, 0.5, 1])
    for axis, (name, kinds) in zip(axes, known.items(), strict=True):
        best = axis.plot([-1, 0, 1, 0, -1], [0, 1, 0, -1, 0], "--", color="0.5", linewidth=1)
        handles["largest possible"] = best[0]
        for kind, style in _KINDS.items():
            if kind not in kinds:
                continue
            left, up, right, down = kinds[kind]
            colour = style["color"]
            handles[f"{kind.lower()} perturbed"] = axis.fill(
                [-left, 0, right, 0],
                [0, up, 0, -down],
                facecolor=(colour, 0.3),
                edgecolor=colour,
                linewidth=1.5,
                hatch=style["hatch"],
            )[0]
        axis.set_title(f"{name}\nMC = {np.mean([*kinds.values()]):.3f}", fontsize="medium")
        axis.set_xlabel("$IAC_{AR}$  ←      →  $IEC_{AR}$")
        axis.set_ylabel("$IEC_{NR}$  ←      →  $IAC_{NR}$")
        axis.set_xticks(ticks, [f"{abs(tick):g}" for tick in ticks])
        axis.set_yticks(ticks, [f"{abs(tick):g}" for tick in ticks])
        axis.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[:].set_visible(False)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    return axes


def _consistencies(name: str, given: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the four consistencies of each kind of perturbation, by its name."""
    kinds = given.get("results_meta_consistency_scores", given)
    unknown = set(kinds) - set(_KINDS)
    if unknown or not kinds:
        raise ValueError(
            f"results[{name!r}] must have the results of {' or '.join(_KINDS)}; has {list(kinds)}"
        )
    found = {}
    for kind, result in kinds.items():
        parts = result["consistency_scores"]
        found[kind] = [float(np.mean(parts.get(part, np.nan))) for part in _CONSISTENCIES]
        for part, value in zip(_CONSISTENCIES, found[kind], strict=True):
            if not 0 <= value <= 1:
                raise ValueError(
                    f"results[{name!r}][{kind!r}] must have {part} between 0 and 1, has {value}; "
                    "NaN says that it was never defined, as where no prediction changed"
                )
    return found
