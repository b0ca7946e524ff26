# SPDX-License-Identifier: MIT
"""Messages: the closed set of wishes, and anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.telling.acts import Actor, Read
from pyvmm.demo.telling.player import Jump, LookAt, Plain, Predict, Try
from pyvmm.demo.web.messages import (
    Asked,
    Consider,
    LeaveLecture,
    LeaveMachine,
    Story,
    Wish,
    read_asked,
    trial,
)
from pyvmm.errors import UsageError

READ = Read(Actor.HOST, 0, 0x1000)


@pytest.mark.parametrize(
    ("plain", "wish"),
    [
        ({"move": "next"}, Plain.NEXT),
        ({"move": "restart"}, Plain.RESTART),
        ({"predict": "a"}, Predict("a")),
        ({"jump": "slots"}, Jump("slots")),
        ({"jump": "slots/overlap"}, Jump("slots", "overlap")),
        ({"look": "12"}, LookAt(12)),
        ({"try": "read host 0 0x1000"}, Try(READ)),
        ({"try": "read host 0 0x1000", "predicted": "zero"}, Try(READ, "zero")),
        ({"consider": "read host 0 0x1000"}, Consider(READ)),
        ({"leave": "machine"}, LeaveMachine()),
        ({"leave": "lecture"}, LeaveLecture()),
    ],
)
def test_wishes(plain: dict[str, str], wish: Wish) -> None:
    assert read_asked(json.dumps(plain)) == Asked(wish)
    assert read_asked(json.dumps({**plain, "seen": 3})) == Asked(wish, 3)


@pytest.mark.parametrize(
    "data",
    [
        "", "{", "[]", "1", "null", '"next"', "{}", '{"seen": 1}', '{"move": "sideways"}',
        '{"move": 1}', '{"move": ["next"]}', '{"move": null}', '{"move": "next", "predict": "a"}',
        '{"move": "next", "seen": -1}', '{"move": "next", "seen": true}',
        '{"move": "next", "seen": 1.5}', '{"move": "next", "seen": "1"}',
        '{"move": "next", "more": "x"}', '{"look": "-1"}', '{"look": "\u0663"}', '{"look": ""}',
        '{"try": "read host 0 0", "seen": 99999999999999999999}', '{"try": "explode"}',
        '{"leave": "town"}', '{"jump": {}}', "[" * 4000, '{"look": "' + "9" * 4000 + '"}',
        '{"seen": ' + "9" * 4000 + "}", '{"move": NaN}',
    ],
)  # fmt: skip
def test_what_is_no_wish(data: str) -> None:
    with pytest.raises(UsageError):
        read_asked(data)


@given(st.text() | st.dictionaries(st.text(), st.text() | st.integers()).map(json.dumps))
def test_anything_else_is_refused(data: str) -> None:
    try:
        read_asked(data)
    except UsageError:
        return
    assert isinstance(json.loads(data), dict)


def test_a_trial_asks_before_anything_is_done() -> None:
    told = json.loads(trial(READ))
    assert told["trial"] == "read host 0 0x1000"
    assert 'data-key="zero"' in told["html"]


changes = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=8)


@given(changes, st.integers(-1, 12))
def test_a_page_that_was_away_has_in_the_end_what_one_has_that_was_there(
    told: list[dict[str, str]], gone_at: int
) -> None:
    story = Story()
    page: dict[str, str] = {}
    seen = 0
    for number, parts in enumerate(told):
        story.tell(parts)
        if number == gone_at:
            seen, page = story.number, dict(story.parts)
    message = json.loads(story.since(seen))
    if message["whole"]:
        page = {}
    page.update(message["parts"])
    assert page == story.parts
    assert {name: text for name, text in page.items() if text} == (told[-1] if told else {})
