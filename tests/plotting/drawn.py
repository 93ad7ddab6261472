"""What the figures of the tests are made of, and what is read from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantus_ext import QGE, Infidelity

FRACTIONS = np.linspace(0, 1, 5)


def curves(n: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 5))


def details(values: Any, key: str = "curve", fractions: Any = FRACTIONS) -> dict[str, Any]:
    return {"fractions": fractions, key: values}


def both(morf: Any, lerf: Any, fractions: Any = FRACTIONS) -> dict[str, Any]:
    return {"fractions": fractions, "curve_morf": morf, "curve_lerf": lerf}


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def band(collection) -> np.ndarray:
    """Return the lower and the upper edge of a filled band at each fraction."""
    vertices = collection.get_paths()[0].vertices
    at = [vertices[np.isclose(vertices[:, 0], place), 1] for place in FRACTIONS]
    return np.array([[values.min(), values.max()] for values in at]).T


def fidelity_details(n: int = 6) -> dict[str, np.ndarray]:
    sizes = np.tile(FRACTIONS[1:], (n, 1))
    plus = curves(n)[:, 1:] * 0.4 + np.sqrt(sizes) * 0.6
    minus = curves(n, seed=1)[:, 1:] * 0.3
    return {
        "sparsity": sizes,
        "curve_plus": plus,
        "curve_minus": minus,
        "error_plus": np.full_like(plus, 0.05),
        "error_minus": np.full_like(plus, 0.02),
    }


def compared(k: int = 4) -> QGE:
    """Return a metric as a call leaves it: lower is better, k random references."""
    metric = QGE(Infidelity(), reference="random", n_references=k)
    mean = np.array([2.0, 2.0, 1.0])
    spread = np.linspace(-0.5, 0.5, k)
    metric.details = {
        "score": np.array([1.0, 2.0, 3.0]),
        "reference": mean,
        "references": mean[:, None] + spread * [[1.0], [2.0], [1.0]],
    }
    metric.standard_errors = np.array([0.1, 0.2, np.nan])
    return metric


def consistencies(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    names = ("IAC_{NR}", "IAC_{AR}", "IEC_{NR}", "IEC_{AR}")
    return {
        kind: {"consistency_scores": {name: generator.random(3) for name in names}}
        for kind in ("Input", "Model")
    }
