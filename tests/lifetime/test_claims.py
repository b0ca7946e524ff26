# SPDX-License-Identifier: MIT
"""The verdicts follow from the runs, and change when what they rest on changes."""

from __future__ import annotations

import pytest

from pyvmm.lifetime import claims
from pyvmm.lifetime.answer import sufficiency
from pyvmm.lifetime.claims import judge_all
from pyvmm.lifetime.designs import memslot_pins_file
from pyvmm.lifetime.evidence import Evidence, Judgement, Verdict
from pyvmm.lifetime.locks import Protection
from pyvmm.lifetime.steps import Locking
from pyvmm.lifetime.universe import SMALL
from pyvmm.rules.lifecycle import Effect, Event

from .gathered import LITTLE

pytestmark = pytest.mark.slow

EXPECTED = {
    "closing-breaks-the-vm": Verdict.HOLDS,
    "false-handle-on-the-vm": Verdict.HOLDS,
    "invalidate-lock-is-enough": Verdict.HOLDS_IF,
    "rcu-is-unnecessary": Verdict.HOLDS_IF,
    "no-clean-up-in-release": Verdict.HOLDS_IF,
    "one-vm-at-a-time": Verdict.HOLDS,
    "one-vm-for-its-contents": Verdict.FAILS,
    "pointers-tell-vms-apart": Verdict.HOLDS_IF,
    "permission-at-first-binding": Verdict.HOLDS_IF,
    "system-ioctl": Verdict.HOLDS_IF,
    "simpler": Verdict.HOLDS_IF,
    "sufficient": Verdict.HOLDS_IF,
}


@pytest.fixture(scope="module")
def judged() -> dict[str, Judgement]:
    return {each.name: each for each in judge_all(LITTLE)}


def test_the_verdicts(judged: dict[str, Judgement]) -> None:
    assert {name: each.verdict for name, each in judged.items()} == EXPECTED
    for each in judged.values():
        assert each.because
        assert bool(each.condition) == (each.verdict is Verdict.HOLDS_IF)
        assert each.quote in each.lines()[0]


def test_what_is_sufficient_for_which_memory(judged: dict[str, Judgement]) -> None:
    found = judged["sufficient"]
    assert found.condition == (
        "memory is software-protected, with zero-at-rebinding or owner-in-inode; "
        "for memory that belongs to a virtual machine no remedy does"
    )
    (story,) = found.stories
    assert len(story.steps) == 5
    table = {each.design.name: each for each in sufficiency(LITTLE)}
    assert table["file-pins-vm"].owned == table["file-pins-vm"].linked == ()
    assert table["file-pins-vm + any-link"].linked == ("contents-stay", "memory-dies-with-its-vm")
    assert table["memslot-pins-file + zero-at-unbinding"].owned == ("slots-keep-contents",)
    assert table["memslot-pins-file + owner-in-inode"].owned == ("memory-dies-with-its-vm",)


def test_edge_cases_are_counted(judged: dict[str, Judgement]) -> None:
    reasons = judged["simpler"].because
    assert "0 edge cases" in reasons[0]
    assert "2 edge cases" in reasons[1]
    assert "edge cases" not in judged["simpler"].condition


def test_a_leak_and_a_returning_address_are_told(judged: dict[str, Judgement]) -> None:
    assert "wrote" in judged["one-vm-for-its-contents"].stories[0].ending
    (story,) = judged["pointers-tell-vms-apart"].stories
    created = [step.operation for step in story.steps if "create vm" in str(step)]
    assert len(created) == 2
    assert created[0].vm == created[1].vm


def test_what_is_dropped_is_told_by_schedules(judged: dict[str, Judgement]) -> None:
    assert judged["invalidate-lock-is-enough"].schedules
    assert judged["rcu-is-unnecessary"].schedules
    (schedule,) = judged["no-clean-up-in-release"].schedules
    assert any("tear the MMU down" in step for _, step in schedule.steps)


def test_verdicts_change_with_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = memslot_pins_file()
    monkeypatch.setattr(claims, "MAIL", mail.without(Event.BIND, Effect.FIRST_BINDING_NAMES_VM))
    monkeypatch.setattr(
        claims, "OWNED", claims.OWNED.without(Event.BIND, Effect.FIRST_BINDING_OWNS_INODE)
    )
    changed = {each.name: each.verdict for each in judge_all(LITTLE)}
    assert changed["one-vm-at-a-time"] is Verdict.FAILS
    assert changed["permission-at-first-binding"] is Verdict.FAILS
    assert changed["pointers-tell-vms-apart"] is Verdict.FAILS
    assert changed["system-ioctl"] is Verdict.FAILS


def test_evidence_is_gathered_once_and_says_so() -> None:
    told: list[str] = []
    evidence = Evidence(SMALL, (2,), told.append)
    first = evidence.raced(Locking.PROPOSAL, Protection.RETRY)
    assert evidence.raced(Locking.PROPOSAL, Protection.RETRY) is first
    assert evidence.explored(claims.MAIL) is evidence.explored(claims.MAIL)
    assert told == ["racing PROPOSAL without RETRY", "exploring memslot-pins-file"]
