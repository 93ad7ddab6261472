"""Image comparison: figures look as they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from quantus_ext.plotting import (
    plot_area,
    plot_case,
    plot_fidelity,
    plot_qge,
)
from tests.plotting.drawn import (
    compared,
    consistencies,
    fidelity_details,
)

IMAGES = Path(__file__).parent / "images"


def text(attributions: list[float]) -> list[Any]:
    """Return the map and the masked copy of four tokens."""
    tokens = ["a", "truly", "great", "film"]
    return [*plot_case([[1, 2, 3, 4]], [attributions], tokens=tokens)[1:3]]


PICTURES = {
    "fidelity": lambda: [plot_fidelity(fidelity_details())],
    "qge": lambda: plot_qge(compared()),
    "area": lambda: plot_area({"A": consistencies(), "B": consistencies(1)}),
    "tokens": lambda: text([0.1, -0.8, 0.4, 1.0]),
}


_TOLERANCE = 0.03


def pixels(axes: Any) -> np.ndarray:
    """Return what is drawn without anything that depends on fonts, shape (rows, columns, 3)."""
    figure = axes[0].figure
    figure.set_layout_engine("none")
    figure.set_size_inches(4, 2)
    figure.set_dpi(60)
    for other in set(figure.axes) - set(axes):
        other.remove()
    for written in figure.findobj(Text):
        # The letters of tokens go, their backgrounds stay.
        written.set_color("none")
    for shown in [*figure.legends, *(axis.get_legend() for axis in axes)]:
        if shown is not None:
            shown.remove()
    for place, axis in enumerate(axes):
        axis.set_position([(place + 0.05) / len(axes), 0.05, 0.9 / len(axes), 0.9])
        axis.tick_params(length=0)
        axis.grid(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(((first - second) ** 2).mean()))


@pytest.mark.parametrize("name", PICTURES)
def test_looks_as_it_did(name):
    expected = mpl.image.imread(IMAGES / f"{name}.png")[..., :3]
    assert distance(pixels(PICTURES[name]()), expected) < _TOLERANCE


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (
            "fidelity",
            lambda: [plot_fidelity({**fidelity_details(), "curve_minus": np.ones((6, 4))})],
        ),
        ("qge", lambda: plot_qge(compared(1))),
        ("area", lambda: plot_area({"A": consistencies(), "B": consistencies(2)})),
        ("tokens", lambda: text([0.1, -0.8, 1.0, 0.4])),
    ],
)
def test_another_figure_does_not_look_the_same(name, changed):
    expected = mpl.image.imread(IMAGES / f"{name}.png")[..., :3]
    assert distance(pixels(changed()), expected) > _TOLERANCE


if __name__ == "__main__":  # python -m tests.plotting.test_images: after a change that is meant
    IMAGES.mkdir(exist_ok=True)
    for picture, draw in PICTURES.items():
        mpl.image.imsave(IMAGES / f"{picture}.png", pixels(draw()))
