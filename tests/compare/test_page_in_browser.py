# SPDX-License-Identifier: MIT
"""The page in a browser: it fits every width, in light and in dark."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pytest

from pyvmm.compare.html_report import to_html
from tests.chromium import DARK, LIGHT, found_by
from tests.compare.wide_report import wide_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Steps of 50 px; the last one of a wide screen.
WIDTHS = (*range(400, 1201, 50), 1600)
# What sticks out of a page to the right (its pictures scale), what cannot be seen of its tables.
MEASURE = """
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const root = frame.contentDocument.documentElement;
    const parts = [...root.querySelectorAll('body *:not(svg *)')];
    const out = parts.filter(one => one.getBoundingClientRect().right > root.clientWidth + 1);
    const cells = [...root.querySelectorAll('td')];
    const style = frame.contentWindow.getComputedStyle(frame.contentDocument.body);
    return {
      width: root.clientWidth, scrolls: root.scrollWidth,
      out: out.slice(0, 5).map(one => one.outerHTML.slice(0, 100)),
      cells: cells.length, seen: cells.filter(one => one.getClientRects().length).length,
      stacked: frame.contentWindow.getComputedStyle(cells[0]).display != 'table-cell',
      ink: style.color, paper: style.backgroundColor,
      cut: [...root.querySelectorAll('svg text')].filter(one => {
        const text = one.getBoundingClientRect();
        const picture = one.ownerSVGElement.getBoundingClientRect();
        return text.left < picture.left - 1 || text.right > picture.right + 1;
      }).map(one => one.textContent),
      smallest: Math.min(...[...root.querySelectorAll('svg text')].map(
        one => one.getBoundingClientRect().height)),
    };
  });
  document.body.textContent = '<<' + JSON.stringify(found) + '>>';
});
"""


def measured(page: str, scheme: int, tmp_path: Path) -> list[dict[str, object]]:
    """What `MEASURE` finds of the page in a frame of each width."""
    frames = "".join(
        f'<iframe style="width:{width}px; border: 0" srcdoc="{escape(page)}"></iframe>'
        for width in WIDTHS
    )
    page = f"{frames}<script>{MEASURE}</script>"
    return found_by(page, tmp_path, scheme)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_it_fits_every_width(scheme: int, tmp_path: Path) -> None:
    found = measured(to_html(wide_report()), scheme, tmp_path)
    assert [one["width"] for one in found] == list(WIDTHS)
    for one in found:
        assert one["out"] == [], one
        assert one["cut"] == [], one
        assert one["scrolls"] == one["width"]
        assert one["cells"] == one["seen"] != 0
        assert isinstance(one["smallest"], float | int)
        assert one["smallest"] >= 11, one
    assert found[0]["stacked"]
    assert not found[-1]["stacked"]
    papers = {str(one["paper"]) for one in found}
    assert papers == {"rgb(255, 255, 255)" if scheme == LIGHT else "rgb(24, 24, 24)"}
