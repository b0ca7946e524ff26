# SPDX-License-Identifier: MIT
"""The pictures of a report's page: SVG, inline, coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from pyvmm.compare.observations import METRIC_TITLES, Metric
from pyvmm.compare.ram import RegionComparison
from pyvmm.compare.report import PairRatio, SubjectReport
from pyvmm.compare.statistics import Spread, number
from pyvmm.compare.subjects import PyvmmSubject, Subject

_WIDTH = 640
_LEFT = 12
_LABELS = 210
_WORDS = 300
_NAME = 20
_ROW = 24
_NAME_MAX = 56
_TOP = 24
_GAP = 8
_LETTER = 11.7
"""Width that a letter may have: 0.65 of the page's largest, 18."""


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _line(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>'


def _rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
        f'height="{height:.1f}"/>'
    )


def _short(name: str) -> str:
    """A name with its middle left out where it is too long; tables have the whole of it."""
    return name if len(name) <= _NAME_MAX else f"{name[:20]}…{name[20 - _NAME_MAX + 1 :]}"


def _median(spread: Spread, unit: str = "") -> str:
    """Words for the median: beside a dot the bare figure would be taken for the dot's."""
    return f"median {number(spread.median)} {unit}".rstrip()


def _room(words: Iterable[str]) -> float:
    """Width to the right of a scale in which each of these has room."""
    return _GAP + _LETTER * max(map(len, words))


def _side(subject: Subject) -> str:
    return "ours" if isinstance(subject, PyvmmSubject) else "theirs"


def runs(metric: Metric, having: Sequence[SubjectReport]) -> str:
    """Two lines for each subject: its name, and on a scale from 0 its runs as dots.

    A box goes from quartile to quartile, a line is the median, and its figure stands behind all.
    """
    title, unit = METRIC_TITLES[metric]
    words = [_median(one.figures[metric], unit) for one in having]
    most = max(one.figures[metric].most for one in having) or 1.0
    scale = (_WIDTH - _LEFT - _room(words)) / most
    bottom = _TOP + (_NAME + _ROW) * len(having)
    parts = []
    for step in _steps(most):
        x = _LEFT + step * scale
        parts += [_line(x, _TOP - 4, bottom, "axis"), _text(x, 14, f"{step:g}", "middle", "faint")]
    for row, one in enumerate(having):
        spread, side = one.figures[metric], _side(one.subject)
        top = _TOP + (_NAME + _ROW) * row
        middle = top + _NAME + _ROW / 2
        parts.append(_text(_LEFT + 4, top + 16, _short(one.subject.name)))
        low = _LEFT + spread.low * scale
        parts.append(
            _rectangle(low, middle - 8, (spread.high - spread.low) * scale, 16, f"{side} box")
        )
        for run in one.runs:
            value = run.value(metric)
            if value is not None:
                x = _LEFT + value * scale
                parts.append(f'<circle class="{side}" cx="{x:.1f}" cy="{middle:.1f}" r="3"/>')
        x = _LEFT + spread.median * scale
        parts.append(_line(x, middle - 10, middle + 10, "median"))
        end = _LEFT + spread.most * scale
        parts.append(_text(end + _GAP, middle + 4, words[row]))
    return _svg(bottom + 6, parts, title)


def _steps(most: float) -> list[float]:
    """About five round numbers from 0 to `most`."""
    rough = most / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * number for number in range(int(most / step) + 1)]


def ratios(pairs: Sequence[PairRatio]) -> str:
    """Each ratio with its quartiles on a logarithmic scale: to the left of 1 pyvmm needs less."""
    most = max(2.0, *(one.ratio.high for one in pairs)) * 1.1
    # A measured 0 has no place on such a scale.
    least = max(min(0.5, *(one.ratio.low for one in pairs)) * 0.9, most / 1e6)
    room = _room(_median(one.ratio) for one in pairs)
    scale = (_WIDTH - _LABELS - room) / (math.log(most) - math.log(least))

    def place(value: float) -> float:
        return _LABELS + (math.log(max(value, least)) - math.log(least)) * scale

    rows: list[str] = []
    name, y = "", float(_TOP)
    for one in pairs:
        pair = f"{one.ours.name} / {one.theirs.name}"
        if pair != name:
            name = pair
            rows.append(_text(0, y + 16, _short(name)))
            y += _NAME
        rows += _ratio_row(one, y + _ROW / 2, place)
        y += _ROW
    axis = []
    for step in _powers(least, most):
        kind = "median" if step == 1 else "axis"
        axis.append(_line(place(step), _TOP - 4, y, kind))
        axis.append(_text(place(step), 14, f"{step:g}", "middle", "faint"))
    return _svg(y + 6, [*axis, *rows], "ratios")


def _ratio_row(one: PairRatio, middle: float, place: Callable[[float], float]) -> list[str]:
    label = METRIC_TITLES[one.metric][0].removeprefix("time to ")
    low, high = place(one.ratio.low), place(one.ratio.high)
    x = place(one.ratio.median)
    return [
        _text(_LABELS - 8, middle + 4, label, "end"),
        _rectangle(low, middle - 6, high - low, 12, "ours box"),
        f'<circle class="ours" cx="{x:.1f}" cy="{middle:.1f}" r="4"/>',
        _text(high + _GAP, middle + 4, _median(one.ratio)),
    ]


def _powers(least: float, most: float) -> list[float]:
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    steps = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    shown = [step for step in steps if least <= step <= most]
    return shown if len(shown) <= 8 else [step for step in shown if f"{step:e}"[0] == "1"]


def ram(regions: Sequence[RegionComparison]) -> str:
    """A bar for each region of RAM: the share of its pages that differ."""
    width = _WIDTH - _LABELS - _WORDS
    parts = []
    for row, one in enumerate(regions):
        middle = _ROW * (row + 0.5)
        pages = one.pages
        total = pages.same + pages.differing
        parts.append(_text(_LABELS - 8, middle + 4, f"RAM {one.region.name}", "end"))
        parts.append(_rectangle(_LABELS, middle - 8, width, 16, "good box"))
        if pages.differing:
            share = width * pages.differing / total
            parts.append(_rectangle(_LABELS, middle - 8, max(share, 2), 16, "known"))
        words = f"{pages.differing} of {total} pages differ"
        parts.append(_text(_LABELS + width + 8, middle + 4, words))
    return _svg(_ROW * len(regions) + 4, parts, "RAM")
