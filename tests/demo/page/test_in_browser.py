# SPDX-License-Identifier: MIT
"""The hand-out in a browser, opened from disk with the network off, as a reader takes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from pyvmm.demo.page.handout import ToldChapter, handout_html
from pyvmm.demo.page.static_files import script, style
from pyvmm.demo.telling.acts import Look
from pyvmm.demo.telling.outcomes import Observed
from pyvmm.demo.telling.predictions import question_of
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.demo.page.told import hostile, told

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WIDTHS = (320, 390, 1280)


@dataclass
class Opened:
    """A page, and what it asked for and complained of; both have to stay empty."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def at(self) -> str:
        """Id of the moment that is shown."""
        (found,) = self.page.eval_on_selector_all(".moment.at", "found => found.map(e => e.id)")
        return str(found)

    def is_seen(self, part: str) -> bool:
        return self.page.locator(f'.moment.at [data-part="{part}"]').is_visible()

    def said(self, part: str) -> str:
        return self.page.locator(f'.moment.at [data-part="{part}"]').inner_text()

    def focus(self) -> str:
        """Name of the element that has the focus."""
        return str(
            self.page.evaluate(
                "(one => one.id || one.getAttribute('aria-label')"
                " || one.querySelector('title')?.textContent || one.tagName)"
                "(document.activeElement)"
            )
        )


@pytest.fixture(scope="module")
def handout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chapters; in the first one something is tried; behind them something hostile."""
    slots, files = told("slots"), told()
    act = Look()
    came_true = question_of(act).choices[0].key
    tried = replace(slots.moments[3], act=act, predicted=None, came_true=came_true)
    bad = replace(
        files, chapter=replace(files.chapter, id="bad", title="Hostile"), moments=(hostile(),)
    )
    run = [ToldChapter(slots.chapter, (*slots.moments[:4], tried, *slots.moments[4:])), files, bad]
    file = tmp_path_factory.mktemp("handout") / "run.html"
    file.write_text(handout_html(run, script=script(), style=style()))
    return file


@pytest.fixture(scope="module")
def browser(handout: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, handout: Path) -> Iterator[Callable[..., Any]]:
    """Open the file: in a way that `new_context` of the browser knows, at a place in it."""

    @contextmanager
    def open_it(place: str = "", file: Path = handout, **ways: Any) -> Iterator[Opened]:
        context = browser.new_context(offline=True, **ways)
        page = context.new_page()
        found = Opened(page)
        page.on("request", lambda made: found.asked.append(made.url))
        page.on("console", lambda told: found.complaints.append(told.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.goto(f"{file.as_uri()}{'#' * bool(place)}{place}")
        yield found
        assert [one for one in found.asked if not one.startswith(file.as_uri())] == []
        assert found.complaints == []
        context.close()

    yield open_it


def test_a_reader_steps_back_and_forth_by_keys(opened: Callable[..., Any]) -> None:
    with opened() as here:
        press = here.page.keyboard.press
        assert here.at == "slots/create"
        assert not here.is_seen("outcome")
        assert not here.is_seen("pages")
        press("1")
        assert here.at == "slots/create"
        assert "As you predicted: none." in here.said("outcome")
        assert "none (your prediction, came true)" in here.said("question")
        assert here.page.locator("#status").inner_text() == "As you predicted: none."
        assert here.focus() == "next"
        press("n")
        assert here.at == "slots/slot"
        assert "struct kvm_userspace_memory_region" in here.said("calls")
        press("ArrowRight")
        press("ArrowRight")
        assert here.at == "slots/read-back"
        press("2")
        assert "You predicted: the host alone. It was: the guest, too." in here.said("outcome")
        press("n")
        assert here.at == "slots/read-back/4"
        assert "You try: look" in here.said("says")
        press("b")
        press("ArrowLeft")
        assert here.at == "slots/same-memory"
        press("r")
        assert here.at == "slots/create"
        assert here.is_seen("outcome")
        press("b")
        assert here.at == "slots/create"
        # Whoever wants letters for something else says so.
        here.page.locator("#keys").uncheck()
        press("n")
        assert here.at == "slots/create"


def test_a_reader_steps_by_mouse_and_the_address_is_the_place(opened: Callable[..., Any]) -> None:
    with opened("slots/overlap") as here:
        page = here.page
        assert here.at == "slots/overlap"
        # What there is before the step can be looked at while one predicts.
        assert page.locator(".moment.before svg.page-map").is_visible()
        assert not here.is_seen("calls")
        page.get_by_role("button", name="EEXIST, and nothing changes").click()
        assert "As you predicted: EEXIST" in here.said("outcome")
        page.get_by_role("button", name="Back").click()
        assert here.at == "slots/read-back/4"
        page.get_by_role("link", name="delete").click()
        assert here.at == "slots/delete"
        assert page.url.endswith("#slots/delete")
        page.locator("#chapter").select_option("guest-memfd")
        assert here.at == "guest-memfd/vm"
        slider = page.get_by_role("slider", name="Moment")
        slider.focus()
        page.keyboard.press("End")
        assert here.at == "guest-memfd/close"
        assert here.focus() == "scrub"
        page.keyboard.press("ArrowLeft")
        assert here.at == "guest-memfd/steal"
        page.get_by_role("button", name="Restart").click()
        assert here.at == "guest-memfd/vm"
        page.go_back()


def test_every_moment_can_be_reached_and_the_end_is_the_end(opened: Callable[..., Any]) -> None:
    with opened() as here:
        seen: list[str] = []
        for _ in range(32):
            if not seen or seen[-1] != here.at:
                seen.append(here.at)
            here.page.keyboard.press("n")
        every = here.page.eval_on_selector_all(".moment", "found => found.map(e => e.id)")
        assert seen == every
        assert here.page.locator("#next").get_attribute("aria-disabled") == "true"


def test_pictures_are_walked_with_arrows_and_explain_themselves(
    opened: Callable[..., Any],
) -> None:
    with opened("bad/map") as here:
        page = here.page
        page.keyboard.press("n")
        cells = page.locator(".moment.at [role=gridcell]")
        stops = page.locator('.moment.at [role=gridcell][tabindex="0"]')
        assert (cells.count(), stops.count()) == (3, 1)
        stops.focus()
        assert here.focus().startswith("0x0: private; the kernel holds a page of the guest_memfd")
        assert page.locator("#explains").inner_text() == here.focus()
        page.keyboard.press("ArrowRight")
        assert here.focus().startswith("0x1000 to 0x27fff, 39 pages: private; the kernel holds no")
        page.keyboard.press("ArrowDown")
        assert here.focus().startswith("0x10000000000: withheld")
        page.keyboard.press("Home")
        assert here.focus().startswith("0x0: private")
        assert stops.count() == 1
        assert here.at == "bad/map"
        # Pages that are alike can be looked at one by one.
        page.keyboard.press("ArrowRight")
        assert page.locator("#explains").inner_text().endswith("(Enter: page by page)")
        page.keyboard.press("Enter")
        zoomed = page.locator(".moment.at .zoom [role=gridcell]")
        assert zoomed.count() == 39
        assert here.focus().startswith("0x1000: private; the kernel holds nothing; changed")
        page.keyboard.press("End")
        assert here.focus().startswith("0x27000: private")
        page.keyboard.press("Escape")
        assert (zoomed.count(), here.focus()[:18]) == (0, "0x1000 to 0x27fff,")
        marks = page.locator('.moment.at svg.pins [tabindex="0"]')
        assert marks.count() == 1
        marks.focus()
        first = here.focus()
        page.keyboard.press("ArrowRight")
        assert first != here.focus() != ""


def test_a_large_run_is_looked_into_until_its_pages_are_there(
    tmp_path: Path, opened: Callable[..., Any]
) -> None:
    run = told("slots")
    large = GpaRange(0, (1 << 20) * PAGE_SIZE)
    after = Observed(memory=((0, PageRun(large, PageState.PRIVATE)),))
    moment = replace(
        run.moments[1], outcome=replace(run.moments[1].outcome, after=after), before=after
    )
    file = tmp_path / "run.html"
    few = replace(run, moments=(moment,))
    file.write_text(handout_html([few], script=script(), style=style()))
    with opened("slots/slot", file) as here:
        cells = here.page.locator(".moment.at .zoom [role=gridcell]")
        here.page.locator(".moment.at [role=gridcell]").click()
        counts = [cells.count()]
        for _ in range(2):
            cells.last.click()
            counts.append(cells.count())
        assert counts == [512, 512, 4]
        cells.last.focus()
        assert here.focus() == f"{large.end - PAGE_SIZE:#x}: private"


def test_it_is_whole_and_in_order_without_scripts(opened: Callable[..., Any]) -> None:
    with opened(java_script_enabled=False) as here:
        page = here.page
        moments = page.locator(".moment")
        assert moments.count() == 6 + 1 + 7 + 1
        for part in ("says", "outcome", "calls", "pages"):
            parts = page.locator(f'[data-part="{part}"]:not(:empty)')
            assert parts.count() == 15
            assert all(parts.nth(number).is_visible() for number in range(0, 15, 4))
        assert not page.locator("nav.bar").is_visible()
        assert not page.locator(".before-words").first.is_visible()
        tops = [moments.nth(number).bounding_box()["y"] for number in (0, 1, 8, 14)]
        assert tops == sorted(tops)
        assert page.get_by_role("link", name="overlap").is_visible()


def test_on_paper_everything_is_there(opened: Callable[..., Any]) -> None:
    with opened() as here:
        here.page.emulate_media(media="print")
        moments = here.page.locator(".moment")
        assert all(moments.nth(number).is_visible() for number in (0, 1, 8, 14))
        assert here.page.locator('.moment [data-part="calls"]').first.is_visible()
        assert not here.page.locator("nav.bar").is_visible()


PLACES = (("slots/overlap", ""), ("slots/overlap", "2"), ("bad/map", "n"))
"""Moments to be looked at, and the key that is pressed there first."""
OPEN_ALL = "document.querySelectorAll('details').forEach(e => e.open = true)"


def test_nothing_sticks_out_at_any_width(opened: Callable[..., Any]) -> None:
    for width in WIDTHS:
        with opened(viewport={"width": width, "height": 800}) as here:
            here.page.evaluate(OPEN_ALL)
            for place, key in PLACES:
                here.page.evaluate("place => { location.hash = place; }", place)
                here.page.locator(f'.moment.at[id="{place}"]').wait_for()
                if key:
                    here.page.keyboard.press(key)
                wide = here.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, (width, place, key)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_axe_finds_nothing(
    width: int, scheme: str, tmp_path: Path, opened: Callable[..., Any]
) -> None:
    slots = told("slots")
    few = replace(slots, moments=slots.moments[3:5])
    bad = replace(slots, chapter=replace(slots.chapter, id="bad", title="Hostile"))
    run = [few, replace(bad, moments=(replace(hostile(), step=slots.chapter.steps[0]),))]
    file = tmp_path / "run.html"
    file.write_text(handout_html(run, script=script(), style=style()))
    # Without motion: half of a fading is no colour to be judged.
    ways = {"viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
    with opened("slots/overlap", file, color_scheme=scheme, **ways) as here:
        here.page.evaluate(OPEN_ALL)
        # A question with what was before, its outcome, and what is hostile.
        for key in ("", "2", "n"):
            if key:
                here.page.keyboard.press(key)
            found = Axe().run(here.page).response
            assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
            assert len(found["passes"]) > 20
        assert here.at == "bad/create/0"


def test_nothing_moves_for_whoever_wants_no_motion(opened: Callable[..., Any]) -> None:
    names = "getComputedStyle(document.querySelector('.moment.at')).animationName"
    with opened(reduced_motion="reduce") as here:
        assert here.page.evaluate(names) == "none"
    with opened(reduced_motion="no-preference") as here:
        assert here.page.evaluate(names) == "come"


def test_with_forced_colours_marks_are_still_told_apart(opened: Callable[..., Any]) -> None:
    with opened("slots/slot", forced_colors="active") as here:
        texts = here.page.locator(".moment.at .cell text").all_text_contents()
        assert set(texts) == {"s", "*"}
        strokes = here.page.eval_on_selector_all(
            ".moment.at .cell rect",
            "found => found.map(one => getComputedStyle(one).stroke)",
        )
        assert len(set(strokes)) == 1


MEASURE = """
() => [...document.querySelectorAll('.moment.at svg.page-map .cell')].map(cell => {
  const box = one => one.getBBox();
  const meets = (a, b) => a.x < b.x + b.width - .1 && b.x < a.x + a.width - .1
    && a.y < b.y + b.height - .1 && b.y < a.y + a.height - .1;
  const rect = box(cell.querySelector('rect'));
  const inside = [...cell.querySelectorAll('text, .held, .free')].map(box);
  return inside.filter((one, at) => one.x < rect.x || one.y < rect.y - .6
    || one.x + one.width > rect.x + rect.width || one.y + one.height > rect.y + rect.height
    || inside.slice(at + 1).some(other => meets(one, other))).map(JSON.stringify);
})
"""


def test_letters_of_the_page_map_stay_in_their_cells(opened: Callable[..., Any]) -> None:
    for place in ("slots/slot", "bad/map"):
        with opened(place) as here:
            if place == "bad/map":
                here.page.keyboard.press("n")
            found = here.page.evaluate(MEASURE)
            assert len(found) >= 3
            assert [json.dumps(one) for one in found if one] == []
