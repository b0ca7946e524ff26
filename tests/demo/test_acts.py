# SPDX-License-Identifier: MIT
"""Acts, and the lines of words that mean them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.telling.acts import (
    NAMES,
    Act,
    Actor,
    MakeVm,
    NextExit,
    Operate,
    Read,
    SetSlot,
    act_words,
    parse_act,
)
from pyvmm.errors import UsageError

WORDS = st.from_regex(r"[a-zA-Z0-9_:,=-]{1,80}", fullmatch=True)
any_act: st.SearchStrategy[Act] = st.one_of(
    [st.builds(NextExit, WORDS), st.builds(Operate, WORDS)]
    + [st.builds(kind) for kind in NAMES.values() if kind not in {NextExit, Operate}]
).filter(
    lambda act: all(
        not isinstance(getattr(act, name), int) or -1 <= getattr(act, name) < 1 << 63
        for name in act.__dataclass_fields__
    )
)


@given(any_act)
def test_a_line_gives_its_act_back(act: Act) -> None:
    assert parse_act(act_words(act)) == act


def test_lines() -> None:
    assert act_words(Read(Actor.HOST, 0, 0x1000)) == "read host 0 0x1000"
    assert act_words(MakeVm(1)) == "make-vm 1"
    assert parse_act("  make-vm   1  yes ") == MakeVm(1, private=True)
    assert parse_act("set-slot 0 0 0x1000 4096") == SetSlot(0, 0, 0x1000, 4096)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "there is no ''"),
        ("raed host 0 0", "did you mean read"),
        ("read", "read lacks its who"),
        ("read host 0", "lacks its gpa"),
        ("read host 0 0 0", "read has 3 arguments"),
        ("read nobody 0 0", "'nobody' is no who"),
        ("read host 0 1_0", "is no number"),
        ("read host 0 -2", "is no number"),
        ("read host 0 0x11111111111111111", "is no number"),
        ("read host 0 \u0663", "is no number"),
        ("make-vm 0 maybe", "'maybe' is no private"),
    ],
)
def test_what_means_nothing_says_what_would(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_act(line)
    assert said in f"{caught.value.cause}; {caught.value.remedy}"


@given(st.text())
def test_any_text_is_an_act_or_refused(text: str) -> None:
    try:
        act = parse_act(text)
    except UsageError:
        return
    assert parse_act(act_words(act)) == act
