# SPDX-License-Identifier: MIT
"""Each act on a machine with private memory: on the model, and where a kernel has that, there."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pyvmm.demo.stage.private import PrivateStage
from pyvmm.demo.stage.private_record import MOST, PrivateRecord
from pyvmm.demo.stage.secret import Secret, content_of
from pyvmm.demo.telling.acts import Change, parse_act
from pyvmm.demo.telling.outcomes import Content, Outcome, StageHost
from pyvmm.errors import UsageError
from pyvmm.hosts.call_record import Made, SystemCall
from pyvmm.hosts.exits import Hlt, Interrupted
from pyvmm.hosts.interface import Vcpu
from pyvmm.memory.conversion import Side
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

from .stages import PAGE, done, outcomes, with_stage

GPA = int(PAGE, 16)
WINDOW = 0xC000_0000


@pytest.fixture(
    params=[
        StageHost.MODEL,
        pytest.param(StageHost.KVM, marks=[pytest.mark.kvm, pytest.mark.slow]),
    ]
)
def host(request: pytest.FixtureRequest) -> StageHost:
    found: StageHost = request.param
    if found is StageHost.KVM:
        request.getfixturevalue("private_host")
    return found


def state_at(outcome: Outcome, gpa: int) -> PageState | None:
    found = (run.state for _, run in outcome.after.memory if run.range.contains(gpa, 1))
    return next(found, None)


def sides_of(outcome: Outcome, gpa: int) -> set[Side]:
    """The sides on which the kernel holds the page."""
    return {one.side for one in outcome.after.resident if one.range.contains(gpa, PAGE_SIZE)}


def requests(outcome: Outcome) -> list[str]:
    return [call.request or call.name for call in outcome.calls]


def test_conversion_by_the_guest_and_by_the_host(host: StageHost) -> None:
    boot, written, shared, guest, seen, back, hole, bad, end = outcomes(
        "boot none mailbox",
        f"write guest 0 {PAGE} 7",
        f"convert guest {PAGE} 4096 shared",
        f"read guest 0 {PAGE}",
        f"write host 0 {PAGE} 9",
        f"convert host {PAGE} 4096 private",
        f"hole 0 {PAGE} 4096",
        "hole 0 1 4096",
        "end",
        host=host,
    )
    assert state_at(written, GPA) is PageState.PRIVATE
    assert sides_of(written, GPA) == {Side.PRIVATE}
    assert shared.exits == (
        "vCPU 0: Hypercall(KVM_HC_MAP_GPA_RANGE, gpa=0x400000, pages=1, shared)",
    )
    assert requests(shared) == [
        "KVM_SET_MEMORY_ATTRIBUTES",
        "FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE",
    ]
    made = Made.MODEL if host is StageHost.MODEL else Made.KERNEL
    assert {call.made for call in shared.calls} == {made}
    assert state_at(shared, GPA) is PageState.SHARED
    assert sides_of(shared, GPA) == set()
    assert guest.value == 0, "its contents are gone"
    assert sides_of(seen, GPA) == {Side.SHARED}
    assert requests(back) == ["KVM_SET_MEMORY_ATTRIBUTES", "MADV_REMOVE"]
    assert state_at(back, GPA) is PageState.PRIVATE
    assert sides_of(back, GPA) == set()
    assert not hole.errno
    assert bad.errno == errno.EINVAL
    assert bad.explained is not None
    assert bad.explained.rule == "fallocate-alignment"
    assert bad.explained.source
    left_out = dict(boot.left_out)
    assert left_out["port writes that C took"] >= len(boot.console)
    assert "conversions that C made" not in left_out
    assert shared.in_order == (*shared.exits, *shared.calls), "the exit comes first"
    assert [one.left_out for one in (shared, guest, seen, back)] == [()] * 4
    assert end.after.held == ()
    assert "munmap" in requests(end)


def test_who_reads_what(host: StageHost) -> None:
    _, _, guest, by_host = outcomes(
        "boot none mailbox",
        f"write guest 0 {PAGE} 7",
        f"read guest 0 {PAGE}",
        f"read host 0 {PAGE}",
        host=host,
    )
    assert (guest.value, by_host.value) == (7, 0)
    # Reading where nothing was took memory: the page is there on both sides now.
    assert sides_of(by_host, GPA) == {Side.SHARED, Side.PRIVATE}
    assert guest.after.ended is None
    assert guest.after.held == ("vm 0", "file 0", "vcpu 0")


def test_the_guest_listens_before_it_is_told_something(host: StageHost) -> None:
    boot, read, again = outcomes("boot", f"read guest 0 {PAGE}", f"read guest 0 {PAGE}", host=host)
    assert boot.console == b""
    assert b"mailbox at 0x" in read.console
    assert read.exits == ()
    assert dict(read.left_out)["calls and exits until the guest listened"] >= 3
    assert again.left_out == ()


@pytest.mark.parametrize("gpa", [WINDOW, WINDOW + 5 * PAGE_SIZE + 8])
def test_a_touch_is_honoured_or_ends_the_guest(gpa: int, host: StageHost) -> None:
    _, before, honoured, again, refused = outcomes(
        "boot none mailbox",
        "look",
        f"touch {gpa:#x} shared",
        f"touch {gpa:#x} shared no",
        f"touch {gpa + PAGE_SIZE:#x} shared no",
        host=host,
    )
    assert state_at(before, gpa) is PageState.WITHHELD
    assert "vCPU 0: MemoryFault(" in honoured.exits[0]
    assert requests(honoured)[0] == "KVM_SET_MEMORY_ATTRIBUTES"
    assert state_at(honoured, gpa) is PageState.SHARED
    assert sides_of(honoured, gpa // PAGE_SIZE * PAGE_SIZE) == {Side.SHARED}
    assert again.exits == ()
    assert again.explained is not None
    assert "names" in again.explained.cause
    assert refused.after.ended == 82
    assert "vcpu 0" not in refused.after.held
    assert state_at(refused, gpa + PAGE_SIZE) is PageState.WITHHELD


def test_a_touch_leaves_what_is_there() -> None:
    async def act(stage: PrivateStage) -> None:
        _, _, touched, read = await done(
            stage, "boot none mailbox", f"write guest 0 {GPA + 3:#x} 7", f"touch {PAGE} private",
            f"read guest 0 {GPA + 3:#x}",
        )  # fmt: skip
        assert (touched.value, read.value) == (None, 7)
        # The host would see a secret that the guest is told to write.
        await done(stage, f"hide-secret {PAGE}", f"touch {PAGE} private")
        page = stage.machine.memory.read(0x110000, PAGE_SIZE)
        assert page is not None
        assert stage.secret is not None
        assert not any(stage.secret.is_in(page[at:], GPA) for at in range(0, PAGE_SIZE, 8))

    with_stage(act)


def test_digests_tell_what_is_an_input_of_the_launch(host: StageHost) -> None:
    booted = outcomes(*(f"boot {one.value}" for one in Change), host=host)
    found = dict(zip(Change, booted, strict=True))
    assert {one: outcome.same_digest for one, outcome in found.items()} == {
        Change.NONE: None,
        Change.KERNEL_BYTE: False,
        Change.APPEND: False,
        Change.MEMORY: False,
        Change.INITRD: False,
        Change.STDIN: True,
        Change.FORGED_REPORT: True,
    }
    for one, outcome in found.items():
        assert len(outcome.after.measured) == 48
        is_true = outcome.after.measured == outcome.after.reported
        assert is_true is (one is not Change.FORGED_REPORT)
        assert requests(outcome)[:2] == ["O_RDWR|O_CLOEXEC", "KVM_CREATE_VM"] or host is not (
            StageHost.MODEL
        )
    assert found[Change.FORGED_REPORT].after.reported == found[Change.STDIN].after.reported


def test_changes_add_up_until_there_is_none() -> None:
    first, append, byte, again = (
        one.after.measured
        for one in outcomes("boot", "boot append", "boot kernel-byte", "boot none")
    )
    assert len({first, append, byte}) == 3
    assert again == first


def test_the_firmware_exit_by_exit(host: StageHost) -> None:
    boot, *steps = outcomes(
        "boot none reset-vector",
        *["next-exit"] * 3,
        "next-exit IoOut",
        f"read guest 0 {PAGE}",
        host=host,
    )
    assert boot.exits == ()
    assert boot.after.reported == b""
    assert boot.after.measured
    assert state_at(boot, 0xFFFE_0000) is PageState.SHARED
    for step in steps[:3]:
        assert len(step.exits) == 1, step.exits
        assert "Hypercall(KVM_HC_MAP_GPA_RANGE" in step.exits[0]
        assert requests(step)[0] == "KVM_SET_MEMORY_ATTRIBUTES"
        assert step.after.reported == b""
    assert "IoOut(port=0x5f0" in steps[3].exits[-1]
    assert steps[3].after.reported == boot.after.measured
    assert state_at(steps[3], 0xFFFE_0000) is None
    assert steps[4].value == 0


def test_the_file_can_be_closed_under_the_guest(host: StageHost) -> None:
    _, closed, read = outcomes(
        "boot none mailbox", "close file 0", f"read guest 0 {PAGE}", host=host
    )
    assert "file 0" not in closed.after.held
    assert closed.after.bound == ()
    assert requests(closed) == ["close"]
    # The guest's own code was in it.
    assert read.value is None
    assert read.after.ended == 82
    assert "vCPU 0: MemoryFault(" in read.exits[0]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("convert host 0x400001 4096 shared", "conversion-unaligned"),
        ("convert guest 0x400001 4096 shared", "conversion-unaligned"),
        ("convert guest 0x400000 0 shared", "conversion-empty"),
        ("convert host 0x2000000 4096 private", "conversion-uncovered"),
        ("convert guest 0xc0000000 4096 private", "conversion-no-private-side"),
    ],
)
def test_refused_conversions_change_nothing(line: str, rule: str) -> None:
    _, before, refused = outcomes("boot none mailbox", "look", line)
    assert refused.errno in {errno.EINVAL, errno.EOPNOTSUPP}
    assert refused.explained is not None
    assert refused.explained.rule == rule
    assert refused.after.memory == before.after.memory
    assert requests(refused) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("read guest 1 0", "there is no VM 1"),
        ("read host 0 0x2000000", "there is no memory at 0x2000000"),
        ("hide-secret 4", "multiple of 8"),
        ("convert guest 0x400000 100 shared", "counts pages"),
        ("convert guest 0x110000 4096 private", "told what to do"),
        ("convert host 0x100000 0x20000 private", "told what to do"),
        ("write guest 0 0x110008 1", "told what to do"),
        ("touch 0xc0000000 private", "no private side"),
        ("hole 1 0 4096", "there is no file 1"),
        ("close file 1", "there is no file 1"),
        ("close vm 0", "end it"),
        ("next-exit Nonsense", "there is no exit Nonsense"),
        ("make-vm 0", "a running machine, and nothing else"),
    ],
)
def test_what_cannot_be_asked_for(line: str, said: str) -> None:
    async def act(stage: PrivateStage) -> None:
        (before,) = await done(stage, "boot none mailbox")
        with pytest.raises(UsageError) as caught:
            await stage.do(parse_act(line))
        assert said in caught.value.cause
        assert await stage.observe() == before.after

    with_stage(act)


def test_without_a_machine_there_is_nothing_to_be_done() -> None:
    async def act(stage: PrivateStage) -> None:
        assert (await done(stage, "look"))[0].after.held == ()
        with pytest.raises(UsageError, match="boot one first"):
            await done(stage, f"read guest 0 {PAGE}")
        await done(stage, "boot none mailbox", f"touch {WINDOW:#x} shared no")
        with pytest.raises(UsageError, match=r"has ended \(82\)"):
            await done(stage, f"read guest 0 {PAGE}")
        (again,) = await done(stage, "boot")
        assert again.same_digest is True
        assert again.after.ended is None

    with_stage(act)


def test_a_secret_is_told_by_its_seed_and_is_nowhere_else() -> None:
    async def act(stage: PrivateStage) -> None:
        (_, hidden) = await done(stage, "boot none mailbox", "hide-secret 0x400010")
        assert not hidden.errno
        assert stage.secret is not None
        with pytest.raises(UsageError, match="the secret's other bytes"):
            await done(stage, "write guest 0 0x400018 1")
        reads = await done(stage, *(f"read guest 0 {0x400010 + at:#x}" for at in range(16)))
        told = bytes(one.value or 0 for one in reads)
        assert content_of(told, 0x400010, stage.secret) is Content.SECRET
        # Where it does not belong, and bytes that are others, are not it.
        assert content_of(told, 0x400020, stage.secret) is Content.OTHER
        assert content_of(bytes(16), 0x400010, stage.secret) is Content.ZERO
        # The page that the guest answers on never had them.
        page = stage.machine.memory.read(0x110000, PAGE_SIZE)
        assert page is not None
        assert all(told[at : at + 8] not in page for at in (0, 8))

    with_stage(act)


def test_two_secrets_differ() -> None:
    seeds = set()

    async def act(stage: PrivateStage) -> None:
        await done(stage, "boot none mailbox")
        for _ in range(2):
            await done(stage, "hide-secret 0x400010")
            assert stage.secret is not None
            seeds.add(stage.secret.seed)

    with_stage(act)
    assert len(seeds) == 2


def test_a_word_is_compared_where_it_belongs() -> None:
    secret = Secret(0x1000, 5)
    word = ((0x1000 ^ 5) * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1).to_bytes(8, "little")
    assert secret.is_in(bytes(16) + word + bytes(8), 0x0FF0)
    assert not secret.is_in(word, 0x1008)
    assert not secret.is_in(word[:7], 0x1000)


def test_a_record_is_bounded_and_counts_the_rest() -> None:
    record = PrivateRecord()
    reached = []
    record.watch(lambda one: type(one) is Hlt, lambda: reached.append(1))
    for _ in range(MOST + 3):
        record.exit(0, Hlt())
        record.exit(0, Interrupted())
    calls, exits, exited_after, left_out = record.take()
    assert calls == ()
    assert exited_after == (0,) * MOST
    assert exits == ("vCPU 0: Hlt()",) * MOST
    assert left_out == (("exit Hlt", 3),)
    assert reached == [1]
    assert not record.take()
    asked = SystemCall(
        Made.KERNEL, "ioctl", "KVM_CHECK_EXTENSION", "KVM fd 3", "", (), (), 1, 0, "api.rst 4.4", ""
    )
    record.call(asked)
    record.call(replace(asked, request="KVM_KVMCLOCK_CTRL"))  # It goes with each pause.
    record.call(replace(asked, request="KVM_CREATE_VM"))
    record.exit(0, Hlt())
    record.call(replace(asked, request="KVM_CREATE_VCPU"))
    calls, _, exited_after, left_out = record.take()
    assert [one.request for one in calls] == ["KVM_CREATE_VM", "KVM_CREATE_VCPU"]
    assert exited_after == (1,)
    assert left_out == (("KVM_CHECK_EXTENSION", 1),)


def test_the_guest_may_be_broken_by_what_is_written(host: StageHost) -> None:
    async def act(stage: PrivateStage) -> None:
        await done(stage, "boot none mailbox")
        places: list[int] = []
        await stage.machine.inside.machine.vcpus[0].call(
            lambda vcpu: places.append(vcpu.get_regs().rip)
        )
        # Where it waits to be told something: an instruction that there is none of (SDM, #UD).
        (written,) = await done(stage, f"write guest 0 {places[0]:#x} 6")
        console = written.console
        if written.after.ended is None:  # It has answered before it came to that.
            (written,) = await done(stage, f"read guest 0 {PAGE}")
            assert written.value is None
            console += written.console
        assert written.after.ended == 81
        assert not written.errno
        assert b"PANIC: unexpected exception 6" in console

    with_stage(act, host)


def test_a_guest_that_does_not_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(vcpu: Vcpu) -> None:
        vcpu.set_regs(replace(vcpu.get_regs(), rip=GPA))

    async def act(stage: PrivateStage) -> None:
        # A jump to itself (SDM, JMP rel8).
        await done(
            stage,
            "boot none mailbox",
            f"write guest 0 {PAGE} 0xeb",
            f"write guest 0 {GPA + 1:#x} 254",
        )
        await stage.machine.inside.machine.vcpus[0].call(astray)
        monkeypatch.setattr("pyvmm.demo.stage.private_machine.SILENCE", 0.05)
        monkeypatch.setattr("pyvmm.demo.stage.private_acts.PATIENCE", 0.05)
        for line in (f"read guest 0 {PAGE}", f"convert guest {PAGE} 4096 shared", "next-exit"):
            (silent,) = await done(stage, line)
            assert silent.errno == errno.ETIMEDOUT
            assert silent.explained is not None
            assert "0.05 s" in silent.explained.cause
            assert silent.after.ended is None
        (by_host, again) = await done(stage, f"read host 0 {PAGE}", "boot none mailbox")
        assert (by_host.value, again.after.ended) == (0, None)

    with_stage(act)


def test_what_the_host_writes_into_the_mailbox_is_answered_first() -> None:
    *_, read, _, _, ended = outcomes(
        "boot none mailbox",
        f"read guest 0 {PAGE}",
        "write host 0 0x110040 200",
        f"read guest 0 {PAGE}",
        # The command at 16 of the channel: 0 is the end, with the first argument for a status.
        "write host 0 0x110050 0",
        "write host 0 0x110040 9",
        f"read guest 0 {PAGE}",
    )
    assert (read.errno, read.value, read.after.ended) == (0, 0, None)
    assert (ended.errno, ended.value) == (0, None)
    assert ended.after.ended == 0
    assert b"the host has asked for the end" in ended.console
