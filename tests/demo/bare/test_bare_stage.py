# SPDX-License-Identifier: MIT
"""The bare stage: accesses of its guest and of the host, who lives, and what is resident."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.stage import bare
from pyvmm.demo.stage.bare import BareStage
from pyvmm.demo.telling.acts import NAMES, parse_act
from pyvmm.demo.telling.outcomes import Observed, Outcome, Resident, StageHost
from pyvmm.demo.telling.pins_picture import graph_of_stage
from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.call_record import Made
from pyvmm.hosts.kvm.system import System
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.access import FAULTS
from pyvmm.rules.profile import SHARED_ONLY

AT = "0x100000"
SLOT = f"set-slot 0 0 {AT} 0x4000"
hosts = pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)


def on(host: StageHost, *lines: str) -> list[Outcome]:
    async def main() -> list[Outcome]:
        with BareStage(host) as stage:
            return [await stage.do(parse_act(line)) for line in lines]

    return trio.run(main)


def last(host: StageHost, *lines: str) -> Outcome:
    return on(host, *lines)[-1]


def calls(outcome: Outcome) -> list[str]:
    return [one.request if one.name == "ioctl" else one.name for one in outcome.calls]


@hosts
def test_guest_and_host_see_one_memory(host: StageHost) -> None:
    lines = ("make-vm 0", SLOT, f"write guest 0 {AT} 0x5a", f"read host 0 {AT}")
    _, _, written, read = on(host, *lines, "look")[:4]
    assert (written.errno, written.value, written.exits) == (0, 0x5A, ())
    assert read.value == 0x5A
    assert calls(written) == [
        "KVM_SET_USER_MEMORY_REGION", "KVM_CREATE_VCPU", "KVM_SET_REGS", "KVM_RUN",
    ]  # fmt: skip
    assert "exit by which the guest says that it is done" in dict(written.left_out)
    run = written.calls[-1]
    assert run.made is (Made.MODEL if host is StageHost.MODEL else Made.KERNEL)
    assert run.target == written.calls[-2].target
    assert run.target.startswith("vCPU fd ")
    again = last(host, *lines, f"read guest 0 {AT}")
    assert (again.value, calls(again)) == (0x5A, ["KVM_SET_REGS", "KVM_RUN"])
    assert again.after.held == ("vm 0", "vcpu 0")
    assert ("vcpu 0", "vm 0") in again.after.origins


@hosts
def test_a_hole_is_mmio_and_no_fault(host: StageHost) -> None:
    read, write = on(host, "make-vm 0", "read guest 0 0x5000", "write guest 0 0x5001 7")[1:]
    assert (read.errno, read.value, read.explained) == (0, None, None)
    assert read.exits == ("vCPU 0: MmioRead(gpa=0x5000, size=1)",)
    assert write.exits == ("vCPU 0: MmioWrite(gpa=0x5001, data=07)",)
    assert calls(write) == ["KVM_SET_REGS", "KVM_RUN", "KVM_RUN"]


@hosts
def test_a_slot_without_the_host_s_memory_fails_without_an_exit(host: StageHost) -> None:
    outcome = last(host, "make-vm 0", f"{SLOT} -1 0 0 no", f"read guest 0 {AT}")
    assert (outcome.errno, outcome.value, outcome.exits) == (errno.EFAULT, None, ())
    assert outcome.explained is not None
    assert outcome.explained.rule == "access-host-unmapped"
    assert (outcome.calls[-1].result, outcome.calls[-1].errno) == (-1, errno.EFAULT)


PRIVATE = ("make-vm 0 yes", "make-file 0 0 0x4000", f"{SLOT} 0")


def test_private_accesses_follow_the_attribute() -> None:
    seen = on(
        StageHost.MODEL,
        *PRIVATE,
        f"write guest 0 {AT} 0x11",
        f"set-attributes 0 {AT} 0x1000 private",
        f"read guest 0 {AT}",
        f"write guest 0 {AT} 0x22",
        f"read host 0 {AT}",
        f"set-attributes 0 {AT} 0x1000 shared",
        f"read guest 0 {AT}",
    )
    assert [one.value for one in seen[3:]] == [0x11, None, 0, 0x22, 0x11, None, 0x11]


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        ((SLOT, f"set-attributes 0 {AT} 0x1000 private"), "access-no-private-side"),
        ((f"set-attributes 0 {AT} 0x1000 private",), "access-private-no-slot"),
        (
            ("make-file 0 0 0x4000", f"{SLOT} 0", "close file 0",
             f"set-attributes 0 {AT} 0x1000 private"),
            "access-file-closed",
        ),
    ],
)  # fmt: skip
def test_a_private_page_without_a_private_side_is_a_memory_fault(
    lines: Sequence[str], rule: str
) -> None:
    outcome = last(StageHost.MODEL, "make-vm 0 yes", *lines, f"read guest 0 {AT}")
    assert (outcome.errno, outcome.value) == (errno.EFAULT, None)
    (exit_,) = outcome.exits
    assert exit_.startswith("vCPU 0: MemoryFault(gpa=0x100000")
    assert outcome.explained is not None
    assert (outcome.explained.rule, outcome.explained.source) == (rule, FAULTS[rule][1])
    assert (outcome.calls[-1].request, outcome.calls[-1].errno) == ("KVM_RUN", errno.EFAULT)


@hosts
def test_a_file_that_can_be_mapped_is_what_the_host_looks_at(host: StageHost) -> None:
    lines = ("make-vm 0", "make-file 0 0 0x8000 3", f"set-slot 0 0 {AT} 0x4000 0 0x4000")
    with pytest.raises(UsageError, match="map-file 0"):
        on(host, *lines, f"read host 0 {AT}")
    more = ("map-file 0", f"write guest 0 {AT} 9", "close file 0")
    read, written, guest, lost, gone = on(
        host, *lines, *more, f"read host 0 {AT}", f"write host 0 {AT} 8", f"read guest 0 {AT}",
        "close mapping 0", f"read guest 0 {AT}",
    )[6:]  # fmt: skip
    assert (read.value, calls(read)) == (9, ["process_vm_readv"])
    assert calls(written) == ["process_vm_writev"]
    assert guest.value == 8
    assert lost.after.bound == ()
    assert gone.errno == errno.EFAULT
    assert gone.explained is not None
    assert gone.explained.rule == "access-file-closed"


@hosts
def test_the_host_s_touch_of_private_memory_is_a_refusal_and_no_signal(host: StageHost) -> None:
    *_, mapped, read, written, guest = on(
        host, "make-vm 0", "make-file 0 0 0x4000 1", f"{SLOT} 0", "map-file 0",
        f"read host 0 {AT}", f"write host 0 {AT} 1", f"read guest 0 {AT}",
    )  # fmt: skip
    assert (mapped.errno, mapped.explained) == (0, None)
    assert mapped.after.held == ("vm 0", "file 0", "mapping 0")
    for outcome in (read, written):
        assert outcome.errno == errno.EFAULT
        assert outcome.explained is not None
        assert "SIGBUS" in outcome.explained.cause
    assert guest.value == 0


def test_a_type_of_vm_that_is_not_there_is_refused_by_a_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bare, "MAINLINE", SHARED_ONLY)
    outcome = last(StageHost.MODEL, "make-vm 0 yes")
    assert (outcome.errno, calls(outcome)) == (errno.EINVAL, ["KVM_CREATE_VM"])
    assert outcome.explained is not None
    assert outcome.explained.rule == "vm-type"
    assert outcome.explained.source


@hosts
def test_a_hole_of_a_negative_length_is_no_overflow(host: StageHost) -> None:
    outcome = last(host, "make-vm 0", "make-file 0 0 0x4000", "hole 0 64 0xfffffffffffff000")
    assert outcome.errno == errno.EINVAL
    assert outcome.explained is not None
    assert outcome.explained.rule == "fallocate-range"


@hosts
def test_a_page_is_held_by_way_of_a_mapping(host: StageHost) -> None:
    lines = ("make-vm 0", "make-file 0 0 0x4000 3", "make-file 0 1 0x4000")
    held, refused = on(host, *lines, "hold-page 0 0", "hold-page 1 0")[3:]
    assert calls(held) == ["mmap", "madvise", "vmsplice", "munmap"]
    assert (refused.errno, calls(refused)) == (errno.ENODEV, ["mmap"])
    assert refused.explained is not None
    assert refused.explained.rule == "mmap-flag"


@hosts
def test_what_each_thing_keeps_alive(host: StageHost) -> None:
    states = [
        one.after for one in on(
            host, "make-vm 0", "make-file 0 0 0x4000 3", "dup file 0", "map-file 0",
            "read guest 0 0", "close vm 0", "read guest 0 0", "close file 0", "close vcpu 0",
            "close file 0", "close mapping 0", "make-vm 0",
        )
    ]  # fmt: skip
    held = [one.held for one in states]
    assert held[4] == ("vm 0", "file 0", "file 0", "mapping 0", "vcpu 0")
    assert held[5:] == [
        ("file 0", "file 0", "mapping 0", "vcpu 0"),
        ("file 0", "file 0", "mapping 0", "vcpu 0"),
        ("file 0", "mapping 0", "vcpu 0"),
        ("file 0", "mapping 0"),
        ("mapping 0",),
        (),
        ("vm 0",),
    ]
    assert ("file 0", "vm 0") in states[9].origins
    assert {node.name for node in graph_of_stage(states[9]).nodes} == {
        "process", "vm 0", "file 0", "inode 0",
    }  # fmt: skip
    assert states[10].origins == ()
    with_debugfs = [one.alive for one in states if one.alive[0][1] is not None]
    if with_debugfs:
        assert [one[0][1] for one in with_debugfs] == [True] * 10 + [False, True]
    # Rules and what is seen do not differ.
    assert not any(graph_of_stage(one).finding for one in states)


@hosts
def test_descriptors_of_one_thing(host: StageHost) -> None:
    dup, *closed = on(host, "make-vm 0", "dup vm 0", "close vm 0", "close vm 0")[1:]
    assert (dup.after.held, [one.after.held for one in closed]) == (
        ("vm 0", "vm 0"),
        [("vm 0",), ()],
    )
    assert calls(dup) == ["fcntl"]
    assert [calls(one) for one in closed] == [["close"], ["close"]]
    assert closed[0].calls[0].target == f"VM fd {dup.calls[0].result}"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("read guest 0 0x400000000",), "below 0x400000000"),
        (("set-slot 0 64 0 0x1000",), "slot 64"),
        (("set-slot 0 1 0x800000000 0x1000",), "at 0x800000000"),
        (("set-slot 0 0x100000000 0 0x1000",), "no slot"),
        (("set-slot 0 0 -1 0x1000",), "no gpa"),
        (("make-file 0 0 -1",), "no size"),
        (("make-file 0 0 0x1000", "hole 0 0x8000000000000000 0x1000"), "no offset"),
        (("set-attributes 0 0 0x10000000 private",), "64 MiB"),
        (("dup mapping 0",), "no descriptor"),
        (("dup vcpu 0",), "no vCPU"),
        (("read guest 0 0", "close vm 0", "close vm 0"), "no descriptor any more"),
        (("read guest 0 0", "close vm 0", "make-vm 0"), "VM 0 already"),
        (("make-file 0 0 0x1000", "close vm 0", "read guest 0 0"), "no descriptor any more"),
        (("dup vm 0",) * 8, "8 descriptors"),
        (("read guest 0 0", "close vcpu 0") * 33, "32 vCPUs"),
    ],
)
def test_what_cannot_be_asked_for(lines: Sequence[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        on(StageHost.MODEL, "make-vm 0", *lines)


@hosts
def test_what_is_resident(host: StageHost) -> None:
    states: list[Observed] = [
        one.after for one in on(
            host, "make-vm 0", SLOT, f"write host 0 {AT} 1", "write guest 0 0x102000 1",
            "make-file 0 0 0x4000", "set-slot 0 1 0 0x4000 0",
        )
    ]  # fmt: skip
    assert states[1].resident == ()
    page, last_page = GpaRange(0x10_0000, 0x10_1000), GpaRange(0x10_2000, 0x10_3000)
    assert states[2].resident == (Resident(0, Side.SHARED, page),)
    both = (Resident(0, Side.SHARED, page), Resident(0, Side.SHARED, last_page))
    assert states[3].resident == states[5].resident == both


def test_private_memory_is_resident_on_its_own_side() -> None:
    filled = last(
        StageHost.MODEL, *PRIVATE, f"set-attributes 0 {AT} 0x2000 private",
        f"write guest 0 {AT} 1", "write guest 0 0x101000 1", "write host 0 0x103000 1",
    )  # fmt: skip
    assert filled.after.resident == (
        Resident(0, Side.PRIVATE, GpaRange(0x10_0000, 0x10_2000)),
        Resident(0, Side.SHARED, GpaRange(0x10_3000, 0x10_4000)),
    )


@pytest.mark.kvm
def test_a_stage_that_cannot_ask_its_kvm_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = System.close

    def noted(system: System) -> None:
        closed.append(system.fd)
        close(system)

    def fails(_system: System) -> None:
        raise SystemCallError("ask", errno.EIO, "EIO")

    monkeypatch.setattr(System, "capabilities", fails)
    monkeypatch.setattr(System, "close", noted)
    with pytest.raises(SystemCallError):
        BareStage(StageHost.KVM)
    assert len(closed) == 1
    assert closed[0] >= 0


WORDS = {
    "int": st.sampled_from(
        ("0", "1", "3", "7", "8", "64", "0x1000", "0x4000", "0x100000", "0x102000", "-1",
         "0x800000000", "0x3fffff000", "0xffffffffffffffff", "0xfffffffffffff000",
         "0x8000000000000000", "0x100000000", "9999999999999999999")
    ),
    "word": st.sampled_from(
        ("vm", "file", "mapping", "vcpu", "guest", "host", "private", "shared", "yes", "no")
    ),
}  # fmt: skip
LINES = st.builds(
    lambda name, words: " ".join((name, *words)),
    st.sampled_from(sorted(NAMES)),
    st.lists(WORDS["int"] | WORDS["word"], max_size=6),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)
def test_any_acts_in_any_order_are_outcomes_or_said_not_to_be_possible(host: StageHost) -> None:
    @given(st.lists(LINES, max_size=12))
    def check(lines: list[str]) -> None:
        async def main() -> None:
            with BareStage(host) as stage:
                for begun in ("make-vm 0", "make-file 0 0 0x4000 3", f"{SLOT} 0", "map-file 0"):
                    await stage.do(parse_act(begun))
                for line in lines:
                    try:
                        outcome = await stage.do(parse_act(line))
                    except UsageError:
                        continue
                    # Where kernel and rules differ, there is a sentence, and no rule.
                    assert (outcome.explained is None) is (not outcome.errno), (line, outcome)
                    assert outcome.explained is None or outcome.explained.rule, (line, outcome)
                    assert not graph_of_stage(outcome.after).finding

        trio.run(main)

    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    check()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 2
