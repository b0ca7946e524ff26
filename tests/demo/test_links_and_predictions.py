# SPDX-License-Identifier: MIT
"""Links into the book, and the questions before what readers try."""

from __future__ import annotations

import errno
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.telling.acts import Actor, Attack, Boot, Hole, Look, Read, Road, SetSlot
from pyvmm.demo.telling.chapter import Book, is_true
from pyvmm.demo.telling.links import chapter_named, exercise_named, parse_link
from pyvmm.demo.telling.outcomes import Content, Observed, Outcome, Seen
from pyvmm.demo.telling.predictions import question_of
from pyvmm.errors import UsageError

from .test_acts import any_act


def test_links() -> None:
    assert parse_link("slots", BOOK) == ("slots", "")
    assert parse_link("slots/overlap", BOOK) == ("slots", "overlap")
    assert chapter_named("slots", BOOK) is BOOK.chapters[0]


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("sluts", "no chapter 'sluts'; did you mean slots?"),
        ("", "no chapter ''; there are slots, "),
        ("slots/overlop", "no step 'overlop' in slots; did you mean overlap?"),
        ("slots/", "no step '' in slots; there are create, "),
        ("slots/create/x", "no step 'create/x' in slots"),
    ],
)
def test_what_the_book_has_not(link: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_link(link, BOOK)
    assert said in f"{caught.value.cause}; {caught.value.remedy}"


def test_no_exercise() -> None:
    with pytest.raises(UsageError, match=r"no exercise '7'.*there are none"):
        exercise_named("7", Book(()))


def worked(value: int | None = None, number: int = 0, **more: object) -> Outcome:
    told = Outcome((), (), number, value, None, Observed(), 0.0)
    for name, one in more.items():
        object.__setattr__(told, name, one)
    return told


seen = st.builds(Seen, st.sampled_from(Road), st.just(0), st.sampled_from(Content))
outcomes = st.builds(
    worked,
    st.none() | st.integers(0, 255),
    st.just(0) | st.sampled_from(sorted(errno.errorcode)),
    seen=st.lists(seen, max_size=1).map(tuple),
    same_digest=st.none() | st.booleans(),
)


@given(any_act, outcomes)
def test_exactly_one_answer_comes_true_of_what_is_tried(act: object, outcome: Outcome) -> None:
    question = question_of(act)  # type: ignore[arg-type]
    true = [one.key for one in question.choices if is_true(one.fact, outcome, Observed())]
    assert len(true) == 1
    assert len(question.choices) <= 9
    assert max(Counter(one.key for one in question.choices).values()) == 1


def test_a_hole_has_no_byte() -> None:
    hole = Outcome((), ("vCPU 0: MmioRead(gpa=0x5000, size=1)",), 0, None, None, Observed(), 0.0)
    true = [
        one.key
        for one in question_of(Read(Actor.GUEST, 0, 0x5000)).choices
        if is_true(one.fact, hole, Observed())
    ]
    assert true == ["none"]


def test_refusals_on_offer_are_those_of_the_rules() -> None:
    def words(act: object) -> list[str]:
        return [one.words for one in question_of(act).choices]  # type: ignore[arg-type]

    assert words(SetSlot(0, 0, 0, 0)) == [
        "it works",
        "refused: EBADF",
        "refused: EEXIST",
        "refused: EINVAL",
        "refused: another errno",
    ]
    assert "refused: EOPNOTSUPP" in words(Hole(0, 0, 1))
    assert words(Look()) == ["it works", "it is refused"]
    assert "what the guest wrote there" in words(Attack(Road.CORE, 0))
    assert "that of the launch before" in words(Boot())
