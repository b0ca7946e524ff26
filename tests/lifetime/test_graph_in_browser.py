# SPDX-License-Identifier: MIT
"""Pictures of graphs in a browser: no text is where another text, an arrow's head or a box is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.lifetime.graph_svg import style, to_svg
from pyvmm.lifetime.pictures import pictures
from tests.chromium import DARK, LIGHT, found_by

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MEASURE = """
// Boxes are of what is drawn: a serif reaches over an end of its line by a tenth of an em.
const meet = (a, b) => a.x < b.x + b.width - .1 && b.x < a.x + a.width - .1
  && a.y < b.y + b.height - .1 && b.y < a.y + a.height - .1;
addEventListener('load', () => {
  const found = [...document.querySelectorAll('svg')].map(svg => {
    const boxed = (names) => [...svg.querySelectorAll(names)].map(one => {
      const {x, y, width, height} = one.getBBox();
      return {x, y, width, height, words: one.textContent, parent: one.parentNode};
    });
    const texts = boxed('text'), heads = boxed('.head'), boxes = boxed('.box rect');
    const placed = [...svg.querySelectorAll('text')];
    return {
      font: getComputedStyle(placed[0]).fontFamily,
      paper: getComputedStyle(svg.querySelector('.paper')).fill,
      texts: texts.length, heads: heads.length, boxes: boxes.length,
      wide: texts.filter((one, at) => {
        const [said, size, left, line] = ['textLength', 'font-size', 'x', 'y'].map(
          name => +placed[at].getAttribute(name));
        return Math.abs(one.width - said) > .2 * size || Math.abs(one.x - left) > .12 * size
          || one.y < line - 1.1 * size || one.y + one.height > line + .4 * size;
      }).map(one => one.words),
      met: texts.flatMap((one, at) => [
        ...texts.slice(at + 1), ...heads, ...boxes.filter(box => box.parent != one.parent),
      ].filter(other => meet(one, other)).map(other => one.words + ' on ' + other.words)),
    };
  });
  document.body.textContent = '<<' + JSON.stringify(found) + '>>';
});
"""


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_no_text_meets_another_a_head_or_a_box(scheme: int, tmp_path: Path) -> None:
    fonts = ["monospace", "serif"]
    placed = pictures().values()
    svgs = [
        to_svg(each, ids=f"picture{number}", inline=True).replace(
            'class="pins"', f'class="pins" style="--font:{font}"', 1
        )
        for number, each in enumerate(placed)
        for font in fonts
    ]
    rules = f"{style('svg.pins')} svg.pins text {{ font-family: var(--font) }}"
    body = f"<style>{rules}</style>{''.join(svgs)}<script>{MEASURE}</script>"
    found = found_by(body, tmp_path, scheme)
    assert [one["font"] for one in found] == fonts * len(placed)
    for one in found:
        assert one["met"] == [], one
        assert one["wide"] == [], one
        assert min(int(str(one[kind])) for kind in ("texts", "heads", "boxes")) >= 4
    papers = {one["paper"] for one in found}
    assert papers == {"rgb(255, 255, 255)" if scheme == LIGHT else "rgb(13, 17, 23)"}
