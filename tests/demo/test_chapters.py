# SPDX-License-Identifier: MIT
"""The chapters as they are told on real stages, and the command."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.playing import playing_here
from pyvmm.demo.stage.bare import BareStage
from pyvmm.demo.stage.objects import LARGEST, MOST
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.chapter import Chapter, Need, is_true
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Observed, Outcome, StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player, Try
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts.call_record import Made
from pyvmm.rules import memslots
from pyvmm.rules.memslots import SET_REGION, SetRegion
from pyvmm.rules.rule import Rule

hosts = pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)
KERNELS_DIFFER = {"twice"}
"""Steps that kernels answer differently; the model is mainline."""
HIDDEN_BY_KERNELS = {"attack/search"}
"""Steps that kernels with private memory answer otherwise than the model, which hides nothing."""
_PRIVATE = frozenset({Need.PRIVATE, Need.IN_PLACE})


def telling(told: Sequence[Chapter]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "chapter",
        [
            pytest.param(
                one, marks=[pytest.mark.slow] if Need.PRIVATE in one.needs else [], id=one.id
            )
            for one in told
        ],
    )


chapters = telling(BOOK.chapters)
on_any_kernel = telling([one for one in BOOK.chapters if not one.needs & _PRIVATE])
on_private_kernels = telling([one for one in BOOK.chapters if Need.PRIVATE in one.needs])


def played(chapter: Chapter, host: StageHost) -> tuple[Moment, ...]:
    async def main() -> tuple[Moment, ...]:
        async with playing_here(Player(BOOK, chapter.id), host) as reader:
            await reader.begin()
            while reader.player.view.phase is not Phase.ENDED:
                assert not reader.player.view.notice, reader.player.view.link
                await reader.move(Plain.NEXT)
            return reader.player.moments

    return trio.run(main)


def on_stage(host: StageHost, *lines: str) -> list[Outcome]:
    async def main() -> list[Outcome]:
        with BareStage(host) as stage:
            return [await stage.do(parse_act(line)) for line in lines]

    return trio.run(main)


def check_answers(moments: Sequence[Moment]) -> None:
    """Of each question exactly one answer came true, and the reader is told why."""
    for moment in moments:
        question = moment.step.question
        if question is not None:
            outcome, before = moment.outcome, moment.before
            true = [one for one in question.choices if is_true(one.fact, outcome, before)]
            assert [one.key for one in true] == [moment.came_true], moment.step.id
            assert true[0].because, moment.step.id


@chapters
def test_exactly_one_answer_of_each_question_comes_true(chapter: Chapter) -> None:
    check_answers(played(chapter, StageHost.MODEL))


@on_any_kernel
@pytest.mark.kvm
def test_exactly_one_answer_comes_true_on_this_kernel(chapter: Chapter) -> None:
    check_answers(played(chapter, StageHost.KVM))


@on_private_kernels
@pytest.mark.kvm
@pytest.mark.slow
def test_exactly_one_answer_comes_true_where_memory_is_private(
    chapter: Chapter, private_host: None
) -> None:
    by_kernel, by_model = played(chapter, StageHost.KVM), played(chapter, StageHost.MODEL)
    check_answers(by_kernel)
    differing = {
        f"{chapter.id}/{kernel.step.id}"
        for kernel, model in zip(by_kernel, by_model, strict=True)
        if kernel.came_true != model.came_true
    }
    assert differing == {one for one in HIDDEN_BY_KERNELS if one.startswith(f"{chapter.id}/")}


def said(state: Observed) -> Observed:
    """A state without what tells how it is known."""
    scenes = tuple((name, replace(scene, seen=frozenset())) for name, scene in state.scenes)
    return replace(state, scenes=scenes, alive=())


@on_any_kernel
@pytest.mark.kvm
def test_kernel_and_model_agree_and_each_says_who_answered(chapter: Chapter) -> None:
    told = played(chapter, StageHost.KVM)
    by_kernel = [one for one in told if one.staged.host is StageHost.KVM]
    asides = [one for one in told if one.staged.host is not StageHost.KVM]
    assert all(one.step.needs for one in asides)
    assert {call.made for one in asides for call in one.outcome.calls} <= {Made.MODEL}
    own = {one.step.id for one in by_kernel}
    by_model = [one for one in played(chapter, StageHost.MODEL) if one.step.id in own]
    differing = {
        kernel.step.id
        for kernel, model in zip(by_kernel, by_model, strict=True)
        if kernel.outcome.errno != model.outcome.errno
    }
    assert differing <= KERNELS_DIFFER
    if not asides:
        assert [said(one.outcome.after) for one in by_kernel] == [
            said(one.outcome.after) for one in by_model
        ]
    assert {call.made for one in by_kernel for call in one.outcome.calls} == {Made.KERNEL}
    assert {call.made for one in by_model for call in one.outcome.calls} <= {Made.MODEL}
    for one in by_kernel:
        why = one.outcome.explained
        if one.outcome.errno:
            assert why is not None
            assert why.rule
            assert why.source
        else:
            assert why is None or not why.rule


def without(rules: Sequence[Rule[SetRegion]], name: str) -> tuple[Rule[SetRegion], ...]:
    return tuple(one for one in rules if one.name != name)


def with_errno(
    rules: Sequence[Rule[SetRegion]], name: str, number: int
) -> tuple[Rule[SetRegion], ...]:
    return tuple(replace(one, errno=number) if one.name == name else one for one in rules)


@pytest.mark.parametrize(
    ("link", "rules", "came_true"),
    [
        ("slots/overlap", without(SET_REGION, "slot-overlap"), "worked"),
        ("slots/overlap", with_errno(SET_REGION, "slot-overlap", errno.EINVAL), "einval"),
        ("guest-memfd/steal", with_errno(SET_REGION, "bind-vm", errno.EEXIST), "eexist"),
        ("guest-memfd/steal", with_errno(SET_REGION, "bind-vm", errno.EPERM), None),
        ("guest-memfd/beyond", with_errno(SET_REGION, "bind-range", errno.EBADF), "ebadf"),
    ],
)
def test_a_rule_that_is_changed_makes_another_answer_come_true(
    monkeypatch: pytest.MonkeyPatch,
    link: str,
    rules: tuple[Rule[SetRegion], ...],
    came_true: str | None,
) -> None:
    assert rules != SET_REGION
    monkeypatch.setattr(memslots, "SET_REGION", rules)
    name, step = link.split("/")
    (chapter,) = (one for one in BOOK.chapters if one.id == name)
    (moment,) = (one for one in played(chapter, StageHost.MODEL) if one.step.id == step)
    assert moment.came_true == came_true


@pytest.mark.kvm
def test_a_kernel_that_answers_otherwise_than_the_rules_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pyvmm.rules import memslots

    monkeypatch.setattr(memslots, "SET_REGION", ())
    *_, last = on_stage(StageHost.KVM, "make-vm 0", "set-slot 0 0 0x1000 0x800")
    assert last.errno == errno.EINVAL
    assert last.explained is not None
    assert "should have worked" in last.explained.cause


@hosts
def test_what_a_reader_tries(host: StageHost) -> None:
    outcomes = on_stage(
        host,
        "make-vm 0",
        "make-file 0 0 0x4000 3",
        "set-slot 0 0 0x1000 0x4000 0",
        "map-file 0",
        "write host 0 0x1234 0x5a",
        "read host 0 0x1234",
        "hole 0 0 0x1000",
        "make-vm 1",
        "set-slot 1 0 0x1000 0x4000 0",
        "close mapping 0",
        "close file 0",
        "set-slot 0 0 0x1000 0",
        "close vm 0",
        "look",
    )
    assert [one.errno for one in outcomes[:8]] == [0] * 8
    assert outcomes[5].value == 0x5A
    assert outcomes[8].errno == errno.EINVAL, "a file of another VM"
    assert outcomes[3].after.held == ("vm 0", "file 0", "mapping 0")
    assert outcomes[3].after.bound == ((0, 0, 0),)
    assert outcomes[3].after.memory[0][1].range == (0x1000, 0x5000)
    assert outcomes[11].after.memory == ()
    assert outcomes[-1].after.held == ("vm 1",)
    assert outcomes[-1].calls == ()


@pytest.mark.kvm
def test_a_stage_that_cannot_be_opened_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyvmm.hosts.model.unicorn_library.is_installed", lambda: False)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(HostLacksError, match="Unicorn"):
        BareStage(StageHost.KVM)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("make-vm 0", "VM 0 already"),
        (f"make-vm {MOST}", f"0..{MOST - 1}"),
        ("make-vm -1", "0.."),
        ("make-file 1 0 0x1000", "no VM 1"),
        (f"make-file 0 0 {LARGEST + 4096}", "64 MiB"),
        ("set-slot 0 0 0 0x1000 3", "no file 3"),
        (f"set-slot 0 1 0 {LARGEST + 1}", "64 MiB"),
        ("close vcpu 0", "no vCPU"),
        ("close mapping 0", "no mapping 0"),
        ("read host 0 0", "no memory at 0x0"),
    ],
)
def test_what_cannot_be_asked_for(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        on_stage(StageHost.MODEL, "make-vm 0", line)


def test_a_reader_who_tries_nonsense_goes_on() -> None:
    async def main() -> tuple[str, Phase]:
        async with playing_here(Player(BOOK, "slots"), StageHost.MODEL) as reader:
            await reader.begin()
            await reader.move(Try(parse_act("close vm 5")))
            notice = reader.player.view.notice
            await reader.move(Plain.NEXT)
            return notice, reader.player.view.phase

    assert trio.run(main) == ("that cannot be tried: there is no VM 5", Phase.SHOWING)
