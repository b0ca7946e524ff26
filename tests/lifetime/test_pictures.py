# SPDX-License-Identifier: MIT
"""The write-up's pictures: they are in docs/pictures as they would be made now."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from pyvmm.lifetime.graph_overlaps import overlaps
from pyvmm.lifetime.graph_shapes import Placed
from pyvmm.lifetime.graph_svg import to_svg
from pyvmm.lifetime.pictures import STORIES, pictures
from pyvmm.lifetime.universe import SMALL

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"


@cache
def made() -> dict[str, Placed]:
    return pictures()


def test_the_pictures_are_what_is_made_now() -> None:
    there = {
        path.name: path.read_text()
        for path in (DOCS / "pictures").iterdir()
        # Of the demo, which are as a run was.
        if not path.name.startswith("demo-")
    }
    now = {name: to_svg(placed) for name, placed in made().items()}
    others = [name for name in sorted(there | now) if there.get(name) != now.get(name)]
    assert others == [], "`pyvmm lifetime pictures docs/pictures` makes them anew"


def test_nothing_in_a_picture_overlaps_and_it_fits_a_page() -> None:
    for placed in made().values():
        assert overlaps(placed) == ()
        assert placed.width <= 900


def test_each_shows_the_end_of_its_story() -> None:
    for each in STORIES:
        panels = made()[f"{each.name}.svg"].panels
        assert len(panels) == each.moments
        assert panels[-1].graph.finding
        assert re.match(r"\d+\. ", panels[0].graph.title)
    assert {each.universe for each in STORIES} > {SMALL}


def test_every_picture_that_the_documents_show_is_there() -> None:
    shown = {
        name
        for path in DOCS.glob("*.md")
        for name in re.findall(r"\]\(pictures/([^)]+)\)", path.read_text())
    }
    assert shown <= made().keys()
