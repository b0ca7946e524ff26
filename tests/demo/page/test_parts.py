# SPDX-License-Identifier: MIT
"""Parts of the page: well-formed, named, and never a guest's or a host's text as markup."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.page.call_words import FIELDS, REQUESTS
from pyvmm.demo.page.parts import PARTS, moment_html, view_html
from pyvmm.demo.telling.acts import Look
from pyvmm.demo.telling.chapter import Chapter
from pyvmm.demo.telling.outcomes import Answer
from pyvmm.demo.telling.player import Phase, Plain, Player, View
from tests.demo.page.html_tree import Element, tree
from tests.demo.page.own_book import OWN
from tests.demo.page.told import HOSTILE, hostile, told

chapters = pytest.mark.parametrize("chapter", BOOK.chapters, ids=lambda one: one.id)


def part_trees(parts: dict[str, str]) -> list[Element]:
    return [one for html in parts.values() for one in tree(html).walk()]


def check(elements: list[Element]) -> None:
    """Ids are there once; all that can be focused has a name; tables name their columns."""
    ids = Counter(one.attributes["id"] for one in elements if "id" in one.attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    for one in elements:
        if "tabindex" in one.attributes and one.name != "pre":
            name = one.attributes.get("aria-label") or "".join(
                child.text for child in one.children if child.name == "title"
            )
            assert name.strip(), one
            assert one.attributes["role"] in {"gridcell", "img"}
        if one.name == "svg":
            assert one.attributes["role"] in {"grid", "group"}
            assert one.attributes.get("aria-label") or one.attributes.get("aria-labelledby") in ids
        if one.name == "table":
            assert one.children[0].name == "caption"
        assert not any(name.startswith("on") or name == "style" for name in one.attributes)
    for grid in (one for one in elements if one.attributes.get("role") == "grid"):
        stops = [one.attributes["tabindex"] for one in grid.walk() if "tabindex" in one.attributes]
        assert Counter(stops)["0"] == 1
        assert {one.attributes["role"] for one in grid.children if one.name == "g"} == {"row"}


@pytest.mark.slow
@chapters
def test_every_moment_is_well_formed_and_says_where_it_ran(chapter: Chapter) -> None:
    run = told(chapter.id, BOOK)
    assert run.ended == ""
    assert len(run.moments) == len(chapter.steps)
    for number, moment in enumerate(run.moments):
        parts = moment_html(chapter, moment, f"m{number}")
        assert parts.keys() <= PARTS.keys()
        check(part_trees(parts))
        says = tree(parts["says"]).text
        assert "Not the real thing:" in says
        assert f"step {number + 1} of {len(chapter.steps)}" in says
        for call in moment.outcome.calls:
            assert call.request in tree(parts["calls"]).text


@pytest.mark.slow
@chapters
def test_every_picture_has_a_table_that_says_the_same(chapter: Chapter) -> None:
    for number, moment in enumerate(told(chapter.id, BOOK).moments):
        parts = moment_html(chapter, moment, f"m{number}")
        for name in ("pages", "graph"):
            for figure in (one for one in tree(parts[name]).walk() if one.name == "figure"):
                inside = Counter(one.name for one in figure.walk())
                assert inside["svg"] == 1
                assert inside["table"] >= 1
                drawn = sum(one.attributes.get("role") == "gridcell" for one in figure.walk())
                assert drawn or name == "graph"


def test_hostile_text_is_text() -> None:
    moment = hostile()
    parts = moment_html(told().chapter, moment, "m0")
    elements = part_trees(parts)
    check(elements)
    assert not {"script", "img"} & {one.name for one in elements}
    whole = "".join(parts.values())
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    assert "alert(1)" in tree(parts["console"]).text
    assert "\\x1b[2J\\u202e" in tree(parts["console"]).text
    assert "\\xff" in tree(parts["console"]).text
    assert "next\tline" in tree(parts["console"]).text
    for name in ("says", "outcome", "calls", "graph", "attacker", "console"):
        assert "alert(1)" in parts[name], name
    assert parts["status"]


def test_each_way_of_the_attacker_is_told() -> None:
    text = tree(moment_html(told().chapter, hostile(), "m0")["attacker"]).text
    assert "a core file of the monitor" in text
    assert "the secret: 3c 73 63 72" in text
    assert "<script>&\"'.." in text
    assert "nothing (EOPNOTSUPP)" in text
    answer = tree(
        moment_html(
            told().chapter, replace(hostile(), outcome=replace(hostile().outcome, errno=0)), "m0"
        )["outcome"]
    ).children[1]
    assert answer.attributes["class"] == "answer bad"
    assert answer.text == "The attacker gets the secret, nothing."


def test_a_moment_tells_prediction_and_outcome_beside_each_other() -> None:
    run = told("slots")
    moment = next(one for one in run.moments if one.step.id == "overlap")
    assert moment.came_true == "eexist"

    def outcome(predicted: str | None, came_true: str | None = "eexist") -> str:
        shown = replace(moment, predicted=predicted, came_true=came_true)
        return tree(moment_html(run.chapter, shown, "m")["outcome"]).text

    shown = replace(moment, predicted="eexist")
    question = moment_html(run.chapter, shown, "m")["question"]
    assert "EEXIST, and nothing changes (your prediction, came true)" in tree(question).text
    assert "data-ask" not in question
    assert "The answer: EEXIST" in outcome(None)
    assert "As you predicted: EEXIST" in outcome("eexist")
    assert "You predicted: it works: the newer slot wins. It was: EEXIST" in outcome("worked")
    assert "None of the answers came true on this host." in outcome("worked", None)
    assert "It was refused: EEXIST." in outcome(None)
    assert "kvm_check_memslot_overlap" in outcome(None)


def test_a_wish_of_the_mails_is_not_violated() -> None:
    run = told("slots")
    moment = run.moments[0]
    answers = (
        Answer("today", "EBADF", ("closing-is-harmless",)),
        Answer("mail", "worked", ("nothing-dangles",)),
    )
    shown = replace(moment, outcome=replace(moment.outcome, answers=answers))
    html = moment_html(run.chapter, shown, "m")["outcome"]
    assert "is not as the mail wishes, <b>closing-is-harmless</b>: Closing the file" in html
    assert 'violates <b class="bad">nothing-dangles</b>: Nothing points' in html


@pytest.mark.slow
def test_structures_are_spelled_out_field_by_field() -> None:
    run = told("slots")
    moment = next(one for one in run.moments if one.step.id == "slot")
    calls = tree(moment_html(run.chapter, moment, "m")["calls"])
    rows = [[cell.text for cell in one.children] for one in calls.walk() if one.name == "tr"]
    assert [
        "guest_phys_addr",
        "0x100000",
        "0x08: 00 00 10 00 00 00 00 00",
        "Where the guest sees it: the first guest-physical address.",
    ] in rows
    known = {
        call.request
        for one in BOOK.chapters
        for m in told(one.id, BOOK).moments
        for call in (m.outcome.calls)
        if call.name == "ioctl"
    }
    assert known <= REQUESTS.keys()
    for one in BOOK.chapters:
        for made in (call for m in told(one.id, BOOK).moments for call in m.outcome.calls):
            if made.structure in FIELDS:
                fields = {
                    each.name
                    for each in made.given
                    if not each.name.startswith(("pad", "reserved"))
                }
                assert fields <= FIELDS[made.structure].keys() | {"flags"}


def test_views_of_every_phase() -> None:
    player = Player(OWN, "guest-memfd")
    player.begin()
    opening = view_html(player.view)
    assert opening["status"] == "A stage is being opened."
    run = told()
    first, second = run.moments[:2]
    step = run.chapter.steps[2]
    asking = View(
        run.chapter,
        step,
        3,
        Phase.ASKING,
        first.staged,
        None,
        HOSTILE,
        False,
        second.outcome.after,
        run.moments[:2],
    )
    parts = view_html(asking)
    check(part_trees(parts))
    assert parts.keys() == PARTS.keys()
    assert "data-ask" in parts["question"]
    assert parts["outcome"] == parts["calls"] == ""
    assert "svg" in parts["graph"]
    assert "alert(1)" in tree(parts["status"]).text
    items = [one.attributes for one in tree(parts["timeline"]).walk() if one.name == "li"]
    assert [one.get("data-moment") for one in items[:3]] == ["0", "1", None]
    assert items[2]["aria-current"] == "step"
    assert len(items) == len(run.chapter.steps)
    showing = replace(asking, phase=Phase.SHOWING, step=second.step, moment=second, notice="")
    parts = view_html(showing)
    assert "data-ask" not in parts["question"]
    items = [one.attributes for one in tree(parts["timeline"]).walk() if one.name == "li"]
    assert [one.get("aria-current") for one in items[:3]] == [None, "step", None]
    for phase, said in (
        (Phase.LOST, "The stage was lost"),
        (Phase.DOING, "It is being done"),
        (Phase.ENDED, "End of the chapter"),
    ):
        assert said in view_html(replace(showing, phase=phase))["status"]
    assert re.sub("<[^>]*>", "", view_html(showing)["status"]) == "It worked."


def test_a_chapters_end_leads_on() -> None:
    run = told()
    last = run.moments[-1]
    ended = View(
        replace(run.chapter, exercise=7),
        replace(run.chapter.steps[-1], tries=(Look(),)),
        len(run.chapter.steps),
        Phase.ENDED,
        last.staged,
        last,
        "",
        True,
        last.outcome.after,
        run.moments,
        following=replace(run.chapter, title="Behind <it>"),
    )
    parts = view_html(ended)
    check(part_trees(parts))
    says = tree(parts["says"]).text
    assert "pyvmm demo --exercise 7" in says
    assert "the chapter Behind <it>." in says
    assert "data-act" in parts["tries"]
    alone = view_html(replace(ended, chapter=replace(run.chapter, exercise=0), following=None))
    assert "--exercise" not in alone["says"]
    assert "Next" not in alone["says"]


def test_a_view_from_its_player() -> None:
    player = Player(OWN, "slots")
    player.begin()
    player.move(Plain.NEXT)
    assert "wait until it is done" in view_html(player.view)["says"]
