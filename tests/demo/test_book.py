# SPDX-License-Identifier: MIT
"""The book as data: its identifiers, its length, its words, and what every chapter has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.chapters.glossary import TERMS, terms_in
from pyvmm.demo.telling.acts import act_words, parse_act
from pyvmm.demo.telling.chapter import Chapter, Step

IDS = Path(__file__).with_name("step_ids.txt")
"""Every chapter and step that there ever was; those that are gone have a minus before them."""
WORDS_A_MINUTE = 238
"""Silent reading of English: M. Brysbaert, How many words do we read per minute?, 2019."""
chapters = pytest.mark.parametrize("chapter", BOOK.chapters, ids=lambda one: one.id)


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.?!]*[.?!](?=\s|$)", text)


def read_of(step: Step) -> Iterator[str]:
    """All that a reader reads of a step, with the longest explanation."""
    yield from (step.says, step.after)
    if step.question is not None:
        yield step.question.asks
        yield from (one.words for one in step.question.choices)
        yield max((one.because for one in step.question.choices), key=len)


def seconds(chapter: Chapter) -> float:
    words = sum(len(text.split()) for step in chapter.steps for text in read_of(step))
    return words * 60 / WORDS_A_MINUTE


def test_identifiers_are_frozen_and_none_is_used_again() -> None:
    listed = IDS.read_text().split("\n")
    assert listed.pop() == ""
    assert listed == sorted(set(listed), key=lambda line: line.lstrip("-"))
    gone = {line[1:] for line in listed if line.startswith("-")}
    now = [f"{chapter.id}/{step.id}" for chapter in BOOK.chapters for step in chapter.steps]
    assert max(Counter(now).values()) == 1
    assert all(re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", one) for one in now)
    assert set(now) == {line for line in listed if not line.startswith("-")}
    assert not gone & set(now)


@chapters
def test_a_chapter_is_short_and_ends_in_something_to_change(chapter: Chapter) -> None:
    assert 0 < len(chapter.steps) <= 12
    for step in chapter.steps:
        assert 1 <= len(sentences(step.says)) <= 3, step.id
        assert sentences(step.says)[-1].strip()[-1] == step.says[-1], step.id
        assert len(sentences(step.after)) <= 3, step.id
    assert 50 <= seconds(chapter) <= 120
    last = chapter.steps[-1]
    assert last.tries
    assert "Change it: " in last.after
    assert chapter.exercise in {one.number for one in BOOK.exercises}
    assert sum(step.question is not None for step in chapter.steps) >= 2


@chapters
def test_a_surprise_comes_within_two_minutes(chapter: Chapter) -> None:
    """What one would rather not think comes true, and is explained, before long."""
    text = ""
    for step in chapter.steps:
        text += " ".join(read_of(step)) + " "
        if step.question is not None and any(one.because for one in step.question.choices):
            break
    assert len(text.split()) * 60 / WORDS_A_MINUTE <= 60


@chapters
def test_questions_are_about_facts(chapter: Chapter) -> None:
    for step in chapter.steps:
        if step.question is None:
            continue
        choices = step.question.choices
        assert len(choices) >= 2
        assert len({one.key for one in choices}) == len(choices)
        assert len({one.fact for one in choices}) == len(choices)
        assert step.question.asks[-1] in "?:", step.id
        for one in choices:
            assert one.because == "" or one.because[-1] == ".", step.id
            assert re.fullmatch(r"[a-z0-9-]+", one.key)


@chapters
def test_acts_are_lines_that_one_can_type(chapter: Chapter) -> None:
    for step in chapter.steps:
        for act in (step.act, *step.tries):
            assert parse_act(act_words(act)) == act


def test_no_term_comes_before_the_step_that_explains_it() -> None:
    seen: dict[str, str] = {}
    for chapter in BOOK.chapters:
        for step in chapter.steps:
            for term in terms_in(" ".join(read_of(step))):
                seen.setdefault(term.name, f"{chapter.id}/{step.id}")
    assert seen == {term.name: term.step for term in TERMS if term.step}


def test_the_glossary_is_in_order_and_knows_its_own_words() -> None:
    names = [term.name for term in TERMS]
    assert names == sorted(names, key=str.lower)
    words = Counter(word.lower() for term in TERMS for word in (term.name, *term.also))
    assert max(words.values()) == 1, words.most_common(1)
    for term in TERMS:
        assert 1 <= len(sentences(term.says)) <= 3
        assert term.says[0].isupper()
        assert term in terms_in(f"See {term.name}.")
