"""Numbers and tables as text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from html import escape

_MINUS = "−"

_BAR = re.compile(r"(?<!\\)\|")
"""A bar that is not escaped."""


_SMALLEST, _LARGEST = 1e-4, 1e7
"""Beyond them numbers have a power of ten."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """Return a number with about three digits, or a dash for none.

    Examples
    --------
    >>> from quantus_ext.evaluation.tables import number
    >>> number(-0.12345), number(12345.6), number(0.00001), number(float("nan"))
    ('−0.123', '12,346', '1.00 × 10⁻⁵', '–')
    """
    return numbers(value)[0]


def numbers(*values: float) -> tuple[str, ...]:
    """Return numbers that belong together, all with as many decimals as the largest.

    Examples
    --------
    >>> from quantus_ext.evaluation.tables import numbers
    >>> numbers(32.0, 28.31, 35.7), numbers(0.00035, 0.0003, 0.0004)
    (('32.0', '28.3', '35.7'), ('0.00035', '0.00030', '0.00040'))
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    order = math.floor(math.log10(largest)) if largest else 0
    power = 0 if _SMALLEST <= largest < _LARGEST or not largest else order
    # Three decimals for scores of about 1, and two digits of what is smaller.
    decimals = 2 if power else max(3, 1 - order) if order <= 0 else max(0, 2 - order)
    return tuple(_written(value, decimals, power) for value in values)


def _written(value: float, decimals: int, power: int) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return f"{_MINUS * (value < 0)}∞"
    # Powers of ten beyond what a float holds.
    text = f"{Decimal(value).scaleb(-power):,.{decimals}f}"
    raised = f" × 10{str(power).translate(_RAISED)}" if power else ""
    # A rounded zero has no sign.
    sign = _MINUS if text.startswith("-") and text.strip("-0.,") else ""
    return f"{sign}{text.lstrip('-')}{raised}"


_MARKS = re.compile(r"[\\`*_{}\[\]<>#~&@|]")
"""What is a mark anywhere in a line of Markdown."""

_FIRST = re.compile(r"^([-+]|\d+(?=[.)]))")
"""What is one at its beginning."""

_ADDRESS = re.compile(r"(?<=:)//|(?<=\bwww)\.", re.IGNORECASE)
"""What makes a link of a plain address."""


def plain(text: str) -> str:
    """Return text for Markdown that shows as it is: no heading, link, image, table or HTML.

    Examples
    --------
    >>> from quantus_ext.evaluation.tables import plain
    >>> print(plain("# no [link](x) of x_1"))
    \\# no \\[link\\](x) of x\\_1
    """
    line = "".join(each if each.isprintable() else " " for each in text)
    line = _MARKS.sub(r"\\\g<0>", " ".join(line.split()))
    line = _ADDRESS.sub(lambda found: "".join(f"\\{each}" for each in found[0]), line)
    return _FIRST.sub(lambda found: _escaped_first(found[0]), line)


def _escaped_first(mark: str) -> str:
    # Before digits a backslash is one.
    return f"&#{ord(mark[0])};{mark[1:]}" if mark[0].isdigit() else f"\\{mark}"


def html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a notebook's cell; text from elsewhere is escaped.

    Examples
    --------
    >>> from quantus_ext.evaluation.tables import html
    >>> "<td>&lt;b&gt;</td>" in html(["a"], [["<b>"]])
    True
    """
    lines = [
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in [("th", header), *(("td", row) for row in rows)]
    ]
    head, *body = [f"<tr>{line}</tr>" for line in lines]
    # The class keeps notebooks from reading formulas into names.
    return (
        f'<table class="tex2jax_ignore"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; bars within a cell are escaped, and text from elsewhere is :func:`plain`.

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
        [_BAR.sub(r"\\|", cell).replace("\n", " ") for cell in row] for row in (header, *rows)
    ]
    lines = [escaped[0], rule, *escaped[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
