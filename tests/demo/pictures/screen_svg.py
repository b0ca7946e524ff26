# SPDX-License-Identifier: MIT
"""A terminal's screen as an SVG, letter by letter where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby

import pyte
from pyte.screens import Char

_SIZE, _WIDTH, _HEIGHT, _MARGIN = 14, 8.4, 19, 12
_PAPER, _INK = "#0d1117", "#e6edf3"
_COLOURS = {
    "default": _INK,
    "black": "#9198a1",
    "red": "#ff8178",
    "green": "#56d364",
    "brown": "#e3a34c",
    "blue": "#79b8ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": _INK,
}


def screen_svg(screen: pyte.Screen, about: str) -> str:
    """Draw all rows of a screen; `about` says for who cannot see it what is on it."""
    width = round(screen.columns * _WIDTH + 2 * _MARGIN)
    height = screen.lines * _HEIGHT + 2 * _MARGIN
    rows = [
        one
        for number in range(screen.lines)
        for one in _row([screen.buffer[number][at] for at in range(screen.columns)], number)
    ]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="about">',
            f'<title id="about">{escape(about)}</title>',
            f'<rect width="{width}" height="{height}" rx="6" fill="{_PAPER}"/>',
            f'<g font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" '
            f'font-size="{_SIZE}" xml:space="preserve">',
            *rows,
            "</g></svg>",
            "",
        )
    )


def _row(letters: list[Char], number: int) -> Iterator[str]:
    """The row's pieces in one colour, each as wide as its letters are."""
    at = 0
    for (colour, is_bold), group in groupby(letters, lambda one: (one.fg, one.bold)):
        words = "".join(one.data for one in group)
        shown = words.strip()
        if shown:
            x = _MARGIN + (at + len(words) - len(words.lstrip())) * _WIDTH
            y = _MARGIN + number * _HEIGHT + 14
            ink = _COLOURS.get(colour, f"#{colour}" if len(colour) == 6 else _INK)
            bold = ' font-weight="bold"' if is_bold else ""
            yield (
                f'<text x="{x:g}" y="{y:g}" fill="{ink}"{bold} '
                f'textLength="{len(shown) * _WIDTH:g}">{escape(shown)}</text>'
            )
        at += len(words)
