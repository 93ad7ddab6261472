"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MINUS = "−"


def number(value: float) -> str:
    """Return a number with three digits, or a dash for none.

    Examples
    --------
    >>> from quantus_ext.evaluation.tables import number
    >>> number(-0.12345), number(12345.6), number(0.00001), number(float("nan"))
    ('−0.123', '12,346', '1.0e−05', '–')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value).replace("-", _MINUS).replace("inf", "∞")
    size = abs(value)
    if 0 < size < 0.0005:
        text = f"{value:.1e}"
    else:
        text = f"{value:,.0f}" if size >= 100 else f"{value:.3g}" if size >= 10 else f"{value:.3f}"
    return text.replace("-", _MINUS)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; bars within a cell are escaped.

    Examples
    --------
    >>> from quantus_ext.evaluation.tables import markdown
    >>> print(markdown(["a", "b"], [["x|y", "1"]]))
    | a | b |
    | --- | ---: |
    | x\\|y | 1 |
    """
    rule = ["---", *("---:" for _ in header[1:])]
    escaped = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)
    ]
    lines = [escaped[0], rule, *escaped[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
