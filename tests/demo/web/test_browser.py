# SPDX-License-Identifier: MIT
"""The page in a browser, used as readers use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from pyvmm.demo.chapters import BOOK
from tests.demo.web.browser import Served, Watched, chromium, served
from tests.demo.web.client import LINKS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

Visit = Callable[..., Watched]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as one:
        yield one


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens URLs, each as somebody else; nothing may have gone wrong on any in the end."""
    contexts: list[BrowserContext] = []
    pages: list[Watched] = []

    def opened(url: str, **settings: Any) -> Watched:
        contexts.append(browser.new_context(**settings))
        pages.append(Watched(contexts[-1].new_page(), url))
        pages[-1].until("document.body.dataset.role")
        return pages[-1]

    yield opened
    for one in contexts:
        one.close()
    assert [page.wrong for page in pages] == [[] for _ in pages]


def walk(reader: Watched, chapter: str) -> int:
    """Click through a chapter; gives the number of questions, each of which had an answer."""
    page = reader.page
    page.select_option("#chapter", chapter)
    reader.until(f"document.body.dataset.link.startsWith('{chapter}/')")
    questions = 0
    while True:
        reader.until_phase("asking", "showing", "ended", "lost")
        phase, link = reader.word("phase"), reader.word("link")
        assert phase != "lost", reader.text("says")
        if phase == "ended":
            return questions
        answers = page.locator("[data-part=question] [data-ask] > li > button")
        if phase == "asking" and answers.count():
            answers.last.click()
            reader.until_phase("showing", "lost")
            came_true = page.locator("[data-part=question] li.true").count()
            assert came_true == 1, f"{link}: {reader.text('outcome')}"
            questions += 1
        else:
            page.click("#next")
            reader.until_not(phase, link)


@pytest.mark.parametrize("host", ["model", pytest.param("lab", marks=pytest.mark.lab)])
def test_every_chapter_is_clicked_through(host: str, visit: Visit) -> None:
    with served(host=host) as one:
        reader = visit(one.urls[0])
        asked = {}
        for chapter in BOOK.chapters:
            asked[chapter.id] = walk(reader, chapter.id)
            assert reader.violations() == [], chapter.id
        reader.close()
        assert asked == {
            one.id: sum(step.question is not None for step in one.steps) for one in BOOK.chapters
        }


def test_a_chapter_by_keyboard_alone(server: Served, visit: Visit) -> None:
    reader = visit(server.urls[0])
    keyboard = reader.page.keyboard
    reader.until_phase("asking")
    # The link that leads past what comes before the step is the first stop.
    keyboard.press("Tab")
    assert reader.page.evaluate("document.activeElement.className") == "skip"
    keyboard.press("Enter")
    keyboard.press("Tab")
    assert reader.page.evaluate("document.activeElement.closest('[data-ask]') !== null")
    keyboard.press("Enter")
    reader.until_phase("showing")
    assert reader.page.evaluate("document.activeElement !== document.body")
    first = reader.word("link")
    chapter = BOOK.chapters[0]
    for step in chapter.steps[1:]:
        keyboard.press("n")
        reader.until(f"document.body.dataset.link == '{chapter.id}/{step.id}'")
        reader.until_phase("asking")
        keyboard.press("1" if step.question is not None else "n")
        reader.until_phase("showing")
    keyboard.press("n")
    reader.until_phase("ended")
    keyboard.press("b")
    reader.until_phase("showing")
    reader.page.focus("#scrub")
    keyboard.press("Home")
    reader.until("document.body.dataset.at == '0'")
    assert reader.word("link") == first
    # One tab stop in a picture, and arrows from there on.
    reader.page.focus("svg.pins [tabindex='0']")
    keyboard.press("End")
    assert reader.page.inner_text("#explains")
    # Keys that are typed are no moves.
    reader.page.focus("#act")
    keyboard.type("r")
    assert reader.page.input_value("#act") == "r"
    assert reader.word("at") == "0"


def test_something_of_ones_own_is_predicted_tried_and_in_the_timeline(
    server: Served, visit: Visit
) -> None:
    reader = visit(server.urls[0])
    page = reader.page
    reader.until_phase("asking")
    page.fill("#act", "expolde")
    page.press("#act", "Enter")
    reader.until("document.getElementById('notice').textContent.includes('expolde')")
    page.fill("#act", "make-vm 1")
    page.click("#try button")
    page.locator("#trial [data-key=worked] button").click()
    reader.until("document.body.dataset.moments == '1'")
    assert "As you predicted" in reader.text("outcome")
    page.click("#next")
    reader.until_phase("asking")
    page.click("#next")
    reader.until("document.body.dataset.moments == '2'")
    page.click("li[data-moment='0'] button")
    reader.until("document.body.dataset.at == '0'")
    assert reader.violations() == []


def test_readers_are_apart_tabs_of_one_are_not_and_a_reload_loses_nothing(
    server: Served, visit: Visit
) -> None:
    one, other = visit(server.urls[0]), visit(server.urls[0])
    for reader in (one, other):
        reader.until_phase("asking")
    one.page.click("#next")
    one.until_phase("showing")
    # The token is not in the address any more: what is there now may be shown to anybody.
    address = one.page.url
    assert server.urls[0].partition("#")[2] not in address
    second = Watched(one.page.context.new_page(), address)
    second.until_phase("showing")
    assert other.word("phase") == "asking"
    second.page.click("#next")
    one.until(f"document.body.dataset.link == '{LINKS[1]}'")
    second.page.reload()
    second.until("document.body.dataset.role")
    assert second.word("link") == one.word("link")
    assert second.wrong == []


SETTINGS: dict[str, dict[str, Any]] = {
    "phone": {"viewport": {"width": 360, "height": 640}},
    "dark phone": {"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"},
    "dark": {"color_scheme": "dark", "reduced_motion": "reduce"},
    "forced colours": {"forced_colors": "active"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_any_width_and_colours(server: Served, visit: Visit, settings: dict[str, Any]) -> None:
    reader = visit(server.urls[0], **settings)
    reader.until_phase("asking")
    reader.page.select_option("#chapter", "guest-memfd")
    reader.until("document.body.dataset.link.startsWith('guest-memfd/')")
    for _ in range(8):
        reader.until_phase("asking", "showing")
        before = reader.word("phase"), reader.word("link")
        reader.page.click("#next")
        reader.until_not(*before)
    reader.until_phase("asking", "showing")
    root = "document.documentElement"
    assert reader.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert reader.violations() == []
    if settings.get("reduced_motion"):
        assert reader.page.evaluate("document.getAnimations().length") == 0


def test_a_lecture(visit: Visit) -> None:
    with served("--lecture", lines=2) as lecture:
        teachers, followers = lecture.urls
        follower = visit(followers)
        assert follower.word("role") == "follower"
        teacher = visit(teachers)
        teacher.until_phase("asking")
        follower.until_phase("asking")
        follower.page.locator("[data-ask] button").first.click()
        follower.until("document.querySelector('[data-part=mine]').textContent")
        teacher.until("document.querySelector('[data-part=tally]').textContent.includes('1 pred')")
        teacher.page.click("#next")
        for one in (teacher, follower):
            one.until_phase("showing")
        assert follower.page.get_attribute("#next", "aria-disabled") == "true"
        assert "It was:" in follower.text("mine")
        late = visit(followers)
        late.until_phase("showing")
        assert late.text("outcome") == teacher.text("outcome")
        late.page.click("[data-leave=lecture]")
        late.until("document.body.dataset.role == 'reader'")
        late.until_phase("asking")
        for one in (teacher, follower, late):
            assert one.violations() == []
        for one in (teacher, follower, late):
            one.close()


def test_a_page_says_when_the_connection_is_lost_and_when_its_machine_is_left(
    browser: Browser, visit: Visit
) -> None:
    with served() as one:
        leaver = visit(one.urls[0])
        leaver.until_phase("asking")
        leaver.page.click("[data-leave=machine]")
        leaver.until("document.getElementById('connection').textContent.includes('have left')")
        reader = Watched(browser.new_context().new_page(), one.urls[0])
        reader.until_phase("asking")
        one.process.kill()
        reader.until("document.getElementById('connection').textContent.includes('is lost')")
        assert reader.page.inner_text("[data-part=says]")
        reader.close()
        leaver.close()
