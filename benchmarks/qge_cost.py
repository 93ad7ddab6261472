"""What QGE costs beside the metric it is put around.

Run ``python -m benchmarks.qge_cost`` in the repository's root; ``--quick`` writes nothing.
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import quantus
from quantus.metrics.base import Metric

import quantus_ext
from benchmarks.models import Case, lenet_on_digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, counted, markdown_table, ratio
from quantus_ext import QGE

TARGETS = {"quantus.PixelFlipping": 2.05, "quantus_ext.Infidelity": 2.0}


def metrics() -> dict[str, Metric[Any]]:
    return {
        "quantus.PixelFlipping": quantus.PixelFlipping(),
        "quantus_ext.Infidelity": quantus_ext.Infidelity(),
    }


def row(name: str, metric: Metric[Any], case: Case, repeats: int) -> list[str]:
    wrapped = QGE(metric)
    arguments = (case.model, case.x, case.y, case.a)
    calls = {"alone": lambda: metric(*arguments), "in QGE": lambda: wrapped(*arguments)}
    rows = {kind: counted(case.model, call)[0] for kind, call in calls.items()}
    seconds = alternate(calls, repeats)
    measured = ratio(seconds["in QGE"], seconds["alone"])
    verdict = "reached" if measured.median <= TARGETS[name] else "MISSED"
    return [
        f"`{name}`",
        str(len(case.x)),
        f"{rows['alone']:,}",
        f"{rows['in QGE']:,}",
        f"{statistics.median(seconds['alone']):.2f} s",
        f"{measured}",
        f"≤ {TARGETS[name]:g}: {verdict}",
    ]


def main() -> None:
    made = parser("qge_cost", __doc__)
    made.add_argument("--repeats", type=int, default=7, help="rounds that times are taken in")
    chosen = options(made)
    # Quantus warns at every call.
    warnings.simplefilter("ignore")
    case = lenet_on_digits(4 if chosen.quick else 16)
    repeats = 1 if chosen.quick else chosen.repeats
    table = markdown_table(
        ["metric", "inputs", "evaluations alone", "in QGE", "time alone", "ratio", "target"],
        [row(name, metric, case, repeats) for name, metric in metrics().items()],
    )
    text = (
        f"{case.name}, default arguments; medians of {repeats} rounds in which the two "
        f"alternate, with the lowest and the highest ratio.\n\n{table}"
    )
    Page("qge_cost", (), quick=chosen.quick).text(text)


if __name__ == "__main__":
    main()
