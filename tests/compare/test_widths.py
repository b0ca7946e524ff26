# SPDX-License-Identifier: MIT
"""The report at every width: tables fit, and no word is broken that has room on a line."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from pyvmm.compare.html_report import _STYLE, to_html
from pyvmm.compare.report import Report
from pyvmm.compare.terminal import to_text
from tests.compare.samples import report
from tests.compare.wide_report import wide_report

LONG = 30
"""A word of more letters may be broken."""
DRAWN = re.compile(r"[─█▏▎▍▌▋▊▉]+")


def words(text: str) -> set[str]:
    return set(DRAWN.sub(" ", text).split())


@pytest.mark.parametrize("width", range(80, 201, 10))
@pytest.mark.parametrize("made", [report(), wide_report()], ids=["plain", "wide"])
def test_the_text_fits_a_terminal(made: Report, width: int) -> None:
    text = to_text(made, is_terminal=False, width=width)
    assert max(map(len, text.splitlines())) <= width
    whole = words(to_text(made, is_terminal=False, width=4000))
    long = [one for one in whole if len(one) > LONG]
    broken = {one for one in words(text) - whole if not any(one in other for other in long)}
    # A range may be written as "1 - 2" instead of "1-2".
    assert {one for one in broken if not re.fullmatch(r"[\d.]+|-|[a-z-]+:?|\w+,", one)} == set()
    for one in ("steadiness", "explained", "memory-map", "median", "quartiles"):
        assert one in text.replace(",", " ").split()


def test_every_aspect_and_figure_is_there_in_the_narrowest() -> None:
    narrow = to_text(wide_report(), is_terminal=False, width=80)
    for one in wide_report().subjects:
        assert one.subject.name.split(" (")[0] in narrow
    assert narrow.count("steadiness equal") == 6
    assert narrow.count("memory-map unknown") == 5
    assert narrow.count("system CPU") == 1 + 2 * 4


# -- the page --


class Words(HTMLParser):
    """The words of a page that a browser does not break, as they stand between its breaks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._kept = 0
        self._last = ""
        self.feed(text)
        self.close()
        self._end()

    def _end(self) -> None:
        self.found += self._last.split()
        self._last = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"style", "title", "pre", "svg"}:
            self._kept += 1
        if tag not in {"b", "code", "span"}:
            self._end()

    def handle_endtag(self, tag: str) -> None:
        if tag in {"style", "title", "pre", "svg"}:
            self._kept -= 1
        if tag not in {"b", "code", "span"}:
            self._end()

    def handle_data(self, data: str) -> None:
        if not self._kept:
            self._last += data


def test_no_word_of_the_page_is_too_long_for_a_phone() -> None:
    assert max(map(len, Words(to_html(wide_report())).found)) <= LONG


def test_every_cell_of_the_page_says_which_column_it_is_of() -> None:
    page = to_html(wide_report())
    cells = re.findall(r"<td[^>]*>", page)
    assert len(cells) > 100
    for cell in cells:
        found = re.search(r'data-label="([^"]+)"', cell)
        assert found is not None, cell


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * one for one in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_all_text_can_be_read_in_light_and_in_dark() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", _STYLE, re.DOTALL)
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", scheme))
        paper = luminance(colours["paper"])
        for name in ("ink", "faint", "good", "known", "bad"):
            pair = sorted((luminance(colours[name]), paper))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, colours[name])
