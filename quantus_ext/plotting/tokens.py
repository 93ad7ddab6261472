"""Tokens of a text on coloured backgrounds, wrapped over lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from numpy.typing import NDArray

from quantus_ext.plotting.figures import DARK, DIVERGING_MAP

_SIZE = 9.0
"""Of the letters, in points."""
_WIDE = 0.602
"""A letter's width as a share of its size, the same for all letters of the font."""
_GAP = 5.0
"""Points between two tokens."""
LINE = 21.0
"""Points from one line to the next."""


class Token(NamedTuple):
    """A token's text and its colours."""

    text: str
    background: str = "none"
    letters: str = "black"


def coloured(
    texts: Sequence[str], values: NDArray[np.float64], largest: float, kept: NDArray[np.bool_]
) -> list[Token]:
    """Return tokens on backgrounds in the colours of their values, from -largest to largest.

    Parameters
    ----------
    texts : sequence of L str
    values : numpy.ndarray, shape (L,)
    largest : float
    kept : numpy.ndarray of bool, shape (L,)
        Tokens without a colour.
    """
    colours = mpl.colormaps[DIVERGING_MAP](0.5 + values / (2 * largest))
    return [
        Token(text)
        if stays
        else Token(text, to_hex(colour), "white" if abs(value) > DARK * largest else "black")
        for text, value, colour, stays in zip(texts, values, colours, kept, strict=True)
    ]


def greyed(texts: Sequence[str], removed: NDArray[np.bool_]) -> list[Token]:
    """Return tokens, the removed ones in grey."""
    return [
        Token(text, "0.9", "0.6") if gone else Token(text)
        for text, gone in zip(texts, removed, strict=True)
    ]


def wrapped(texts: Sequence[str], width: float) -> list[list[int]]:
    """Return the token indices of each line of a text of the given width in points."""
    lines: list[list[int]] = [[]]
    used = 0.0
    for place, text in enumerate(texts):
        length = max(len(text), 1) * _WIDE * _SIZE + _GAP
        if lines[-1] and used + length > width:
            lines.append([])
            used = 0.0
        lines[-1].append(place)
        used += length
    return lines


def write(axes: Axes, tokens: Sequence[Token], lines: Sequence[Sequence[int]]) -> None:
    """Write tokens from the upper left corner of the axes, on these lines."""

    def area(token: Token) -> TextArea:
        look: dict[str, Any] = {
            "family": "monospace",
            "size": _SIZE,
            "color": token.letters,
            # Show dollar signs as they are.
            "parse_math": False,
            "bbox": {"facecolor": token.background, "edgecolor": "none", "pad": 2.0},
        }
        return TextArea(token.text.replace("\n", "⏎"), textprops=look)

    rows: list[Artist] = [
        HPacker(pad=0, sep=_GAP, children=[area(tokens[i]) for i in line]) for line in lines
    ]
    block = VPacker(pad=0, sep=LINE - 1.25 * _SIZE, align="left", children=rows)
    axes.add_artist(
        AnchoredOffsetbox(
            "upper left",
            child=block,
            frameon=False,
            pad=0.2,
            borderpad=0,
            bbox_to_anchor=(0, 1),
            bbox_transform=axes.transAxes,
        )
    )
    axes.set_axis_off()
