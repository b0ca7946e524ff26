# SPDX-License-Identifier: MIT
"""Conversion in place on a bare stage: one memory, the file's attribute, pages that are held."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from pyvmm.demo.stage.bare import BareStage
from pyvmm.demo.stage.stage import open_stage
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.outcomes import Outcome, Resident, StageHost
from pyvmm.demo.telling.pins_picture import graph_of_stage
from pyvmm.errors import UsageError
from pyvmm.hosts.call_record import SystemCall
from pyvmm.lifetime.graph import Drawn
from pyvmm.lifetime.graph_overlaps import overlaps
from pyvmm.lifetime.graph_places import place
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState

AT = "0x100000"
BEGIN = ("make-vm 0 yes", "make-file 0 0 0x4000 3", f"set-slot 0 0 {AT} 0x4000 0 0 0 no")


def on(*lines: str, host: StageHost = StageHost.MODEL, in_place: bool = True) -> list[Outcome]:
    async def main() -> list[Outcome]:
        with BareStage(host, in_place=in_place) as stage:
            return [await stage.do(parse_act(line)) for line in lines]

    return trio.run(main)


def sides(outcome: Outcome) -> list[tuple[int, int, PageState]]:
    runs: list[PageRun] = [run for _, run in outcome.after.memory]
    return [(run.range.start, run.range.end, run.state) for run in runs]


def test_contents_stay_and_the_host_s_access_does_not() -> None:
    seen = on(
        *BEGIN,
        "map-file 0",
        f"write host 0 {AT} 0x5a",
        "convert-in-place 0 0 0x1000 private",
        f"read host 0 {AT}",
        f"write host 0 {AT} 1",
        f"read guest 0 {AT}",
        f"write guest 0 {AT} 0x6b",
        "read host 0 0x101000",
        "convert-in-place 0 0 0x1000 shared",
        f"read host 0 {AT}",
    )[5:]
    converted, read, written, guest, wrote, beside, back, after = seen
    assert (converted.errno, back.errno) == (0, 0)
    assert sides(converted) == [
        (0x10_0000, 0x10_1000, PageState.PRIVATE),
        (0x10_1000, 0x10_4000, PageState.SHARED),
    ]
    assert (read.errno, written.errno) == (errno.EFAULT, errno.EFAULT)
    assert read.explained is not None
    assert "SIGBUS" in read.explained.cause
    assert (guest.value, wrote.value, beside.value, after.value) == (0x5A, 0x6B, 0, 0x6B)
    assert not any(one.exits for one in seen)


def test_there_is_one_copy_of_memory() -> None:
    before, after = on(
        *BEGIN, f"write guest 0 {AT} 1", "convert-in-place 0 0 0x2000 private"
    )[3:]  # fmt: skip
    page = GpaRange(0x10_0000, 0x10_1000)
    assert before.after.resident == (Resident(0, Side.SHARED, page),)
    assert after.after.resident == (Resident(0, Side.PRIVATE, page),)


def test_a_file_without_init_shared_starts_private_and_can_be_shared() -> None:
    *_, mapped, refused, converted, read = on(
        "make-vm 0 yes", "make-file 0 0 0x4000 1", f"set-slot 0 0 {AT} 0x4000 0 0 0 no",
        "map-file 0", f"read host 0 {AT}", "convert-in-place 0 0 0x4000 shared",
        f"read host 0 {AT}",
    )  # fmt: skip
    assert sides(mapped) == [(0x10_0000, 0x10_4000, PageState.PRIVATE)]
    assert refused.errno == errno.EFAULT
    assert (converted.errno, read.value) == (0, 0)


def test_a_page_that_somebody_holds_keeps_the_whole_range_shared() -> None:
    held, whole, before, *_, dropped, again = on(
        *BEGIN,
        "hold-page 0 0x2010",
        "convert-in-place 0 0 0x4000 private",
        "convert-in-place 0 0 0x2000 private",
        "convert-in-place 0 0x2000 0x1000 shared",
        "hold-page 0 0x2000 no",
        "convert-in-place 0 0 0x4000 private",
    )[3:]
    assert "page 0 2" in held.after.held
    assert (whole.errno, sides(whole)) == (errno.EAGAIN, sides(held))
    assert whole.explained is not None
    assert whole.explained.rule == "in-place-held"
    call: SystemCall = whole.calls[0]
    assert (call.request, call.structure) == (
        "KVM_SET_MEMORY_ATTRIBUTES2", "struct kvm_memory_attributes2",
    )  # fmt: skip
    assert [(one.name, one.value) for one in call.returned] == [("error_offset", 0x2000)]
    assert sum(len(one.raw) for one in call.given) == 128
    assert before.errno == 0
    assert "page 0 2" not in dropped.after.held
    assert (again.errno, sides(again)) == (0, [(0x10_0000, 0x10_4000, PageState.PRIVATE)])


def test_a_private_page_cannot_be_taken_hold_of() -> None:
    refused = on(*BEGIN, "convert-in-place 0 0 0x1000 private", "hold-page 0 0")[-1]
    assert (refused.errno, refused.after.held) == (errno.EFAULT, ("vm 0", "file 0"))


def test_a_hole_changes_contents_and_no_attribute() -> None:
    hole, read = on(
        *BEGIN, f"write guest 0 {AT} 1", "convert-in-place 0 0 0x1000 private",
        "hole 0 0 0x1000", f"read guest 0 {AT}",
    )[-2:]  # fmt: skip
    assert sides(hole)[0] == (0x10_0000, 0x10_1000, PageState.PRIVATE)
    assert read.value == 0


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("convert-in-place 0 0 0 private", "in-place-empty"),
        ("convert-in-place 0 0x800 0x1000 private", "in-place-alignment"),
        ("convert-in-place 0 0x3000 0x2000 shared", "in-place-beyond-end"),
        ("convert-in-place 0 0x7ffffffffffff000 0xfffffffffffff000 shared", "in-place-beyond-end"),
        (f"set-attributes 0 {AT} 0x1000 private", "attributes-known"),
    ],
)
def test_what_is_refused(line: str, rule: str) -> None:
    outcome = on(*BEGIN, line)[-1]
    assert outcome.errno == errno.EINVAL
    assert outcome.explained is not None
    assert outcome.explained.rule == rule
    assert outcome.explained.source


@pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)
def test_elsewhere_no_file_keeps_attributes(host: StageHost) -> None:
    lines = ("make-vm 0", "make-file 0 0 0x4000 3", "convert-in-place 0 0 0x1000 private")
    outcome = on(*lines, host=host, in_place=False)[-1]
    assert outcome.errno == errno.ENOTTY
    assert outcome.explained is not None
    assert outcome.explained.rule == "in-place-offered"
    assert [one.request for one in outcome.calls] == ["KVM_SET_MEMORY_ATTRIBUTES2"]


@pytest.mark.kvm
def test_a_page_of_a_file_is_held_by_a_pipe() -> None:
    lines = ("make-vm 0", "make-file 0 0 0x4000 3", "hold-page 0 0x1000", "hold-page 0 0x1000 no")
    held, dropped = on(*lines, host=StageHost.KVM, in_place=False)[2:]
    assert "vmsplice" in [one.name for one in held.calls]
    assert (held.errno, held.after.held) == (0, ("vm 0", "file 0", "page 0 1"))
    assert dropped.after.held == ("vm 0", "file 0")
    refused = on("make-vm 0", "make-file 0 0 0x4000 1", "hold-page 0 0", host=StageHost.KVM)[-1]
    assert refused.errno == errno.EFAULT


@pytest.mark.kvm
def test_no_more_descriptors_for_a_pipe_are_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe", refuse)
    lines = ("make-vm 0", "make-file 0 0 0x4000 3", "hold-page 0 0", "look")
    held, after = on(*lines, host=StageHost.KVM, in_place=False)[2:]
    assert (held.errno, after.after.held) == (errno.EMFILE, ("vm 0", "file 0"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("convert-in-place 1 0 0x1000 shared", "no file 1"),
        ("hold-page 0 0x4000", "0x4000 bytes"),
        ("hold-page 0 0 no", "nobody holds"),
    ],
)
def test_what_cannot_be_asked_for(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        on(*BEGIN, line)


def test_the_graph_has_who_holds_a_page() -> None:
    state = on(*BEGIN, "hold-page 0 0")[-1].after
    graph = graph_of_stage(state)
    assert ("process", "inode 0", False, "reference on a page") in {
        edge.identity for edge in graph.edges
    }
    assert overlaps(place([Drawn("", (graph,))], "t")) == ()


def test_a_stage_that_is_to_convert_in_place_is_the_model_and_says_why() -> None:
    async def main() -> tuple[StageHost, str, frozenset[Need]]:
        needs = frozenset({Need.GUEST_MEMFD, Need.IN_PLACE})
        async with open_stage(Setup(), needs, None) as stage:
            return stage.staged.host, stage.staged.why, stage.offers

    host, why, offers = trio.run(main)
    if host is StageHost.MODEL:
        assert "conversion in place" in why or "no KVM" in why
    assert Need.IN_PLACE in offers
