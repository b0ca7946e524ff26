# SPDX-License-Identifier: MIT
"""Lines between a reader's side and a stage: every value comes back, and nothing else comes."""

from __future__ import annotations

import enum
import functools
import json
import types
import typing
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from pyvmm.demo.house import lines
from pyvmm.demo.telling.acts import Boot, Look
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.orders import DoAct, OpenStage, StageLost, StageOpened
from pyvmm.demo.telling.outcomes import Staged, StageHost
from pyvmm.typed_values import UnfitValueError

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 63), (1 << 64) - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
}


@functools.cache
def drawn(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type: a field that is added to one is tried without a change here."""
    parts = typing.get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return st.one_of([drawn(part) for part in parts])
    if typing.get_origin(hint) is frozenset:
        return st.frozensets(drawn(parts[0]), max_size=3)
    if typing.get_origin(hint) is tuple and parts[-1] is Ellipsis:
        return st.lists(drawn(parts[0]), max_size=3).map(tuple)
    if typing.get_origin(hint) is tuple:
        return st.tuples(*map(drawn, parts))
    if issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    hints = typing.get_type_hints(hint)
    return st.builds(hint, **{name: drawn(part) for name, part in hints.items()})


CASES = hypothesis.settings(
    max_examples=60, suppress_health_check=list(hypothesis.HealthCheck), deadline=None
)


@CASES
@hypothesis.given(drawn(lines.Asked))
def test_every_order_comes_back(order: lines.Asked) -> None:
    line = lines.line_of(order)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert lines.asked(line[:-1]) == order


@CASES
@hypothesis.given(drawn(lines.Said))
def test_every_answer_comes_back(word: lines.Said) -> None:
    assert lines.said(lines.line_of(word)[:-1]) == word


def test_kinds_are_told_apart_by_their_names() -> None:
    names = [kind.__name__ for kind in lines.KINDS]
    assert sorted(names) == sorted(set(names))
    for kind in lines.KINDS:
        typing.get_type_hints(kind)


ORDER = OpenStage(Setup(), frozenset({Need.PRIVATE}), (DoAct(Boot(), 3),), 3)
SENT = json.loads(lines.line_of(lines.OpenOn(StageHost.KVM, ORDER)))


def changed(**parts: Any) -> bytes:
    return json.dumps({**SENT, **parts}).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "is no JSON"),
        (b"hello", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"1" * 5000, "is no JSON"),
        (b"NaN", "NaN is no number"),
        (b"null", "is no value of any kind"),
        (b"[]", "is no value of any kind"),
        (b'{"is": "Path"}', "no kind of value to be there"),
        (b'{"is": "Alive"}', "no kind of value to be there"),
        (b'{"is": 3}', "no kind of value to be there"),
        (changed(host="HELL"), "no StageHost 'HELL'"),
        (changed(more=1), "has not the fields"),
        (changed(order=None), "is no value of any kind"),
        (changed(order={**SENT["order"], "ticket": True}), "True is no int"),
        (changed(order={**SENT["order"], "ticket": 1 << 256}), "is no int"),
        (changed(order={**SENT["order"], "ticket": 1.0}), "is no int"),
        (changed(order={**SENT["order"], "needs": ["PRIVATE", "PRIVATE"]}), "an entry twice"),
        (changed(order={**SENT["order"], "replay": "Boot"}), "is no list"),
        (b" " * lines.LONGEST, "a line of more than"),
    ],
)
def test_a_line_that_is_no_order_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(UnfitValueError, match=why):
        lines.asked(line)


@pytest.mark.parametrize("data", [b"3", b'"a b"', b'"\xc3\xa4"', b'"QQ"', b"null"])
def test_bytes_that_are_no_base64_are_refused(data: bytes) -> None:
    opened = StageOpened(Staged(StageHost.KVM), _observed(b"reported"), 1)
    line = lines.line_of(opened)[:-1]
    with pytest.raises(UnfitValueError, match="base64"):
        lines.said(line.replace(b'"cmVwb3J0ZWQ="', data))


def _observed(reported: bytes) -> Any:
    from pyvmm.demo.telling.outcomes import Observed

    return Observed(reported=reported)


def test_an_answer_that_is_too_long_is_not_written() -> None:
    with pytest.raises(UnfitValueError, match="more than the 4194304 of a line"):
        lines.line_of(StageLost("x" * lines.LONGEST, 1))


def test_an_order_is_no_answer() -> None:
    with pytest.raises(UnfitValueError, match="no kind of value"):
        lines.said(lines.line_of(DoAct(Look(), 1))[:-1])


def test_an_error_comes_back_as_what_it_was() -> None:
    for number in (64, 69, 77, 71, 3):
        error = lines.NoStage(number, "open", "no", "do", 1).error()
        assert (error.attempt, error.cause, error.remedy) == ("open", "no", "do")
        assert error.exit_code == (71 if number == 3 else number)
