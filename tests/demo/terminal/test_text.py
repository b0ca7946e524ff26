# SPDX-License-Identifier: MIT
"""Outcomes as text: every kind of thing that a step can show, and marks in letters and words."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pyvmm.demo.page.words import answer_words
from pyvmm.demo.telling.acts import Attack, Boot, Look, MakeVm, Operate, Road, act_words, parse_act
from pyvmm.demo.telling.chapter import StageKind, Step
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import (
    Answer,
    Content,
    Explained,
    Observed,
    Outcome,
    Resident,
    Seen,
    Staged,
    StageHost,
)
from pyvmm.demo.telling.usages import usages
from pyvmm.demo.terminal import text
from pyvmm.demo.terminal.lines import Line, Tone
from pyvmm.demo.terminal.parts import Part, in_order, parts
from pyvmm.demo.terminal.text_calls import calls
from pyvmm.demo.terminal.text_memory import memory
from pyvmm.demo.terminal.text_pins import pins
from pyvmm.hosts.call_record import Field, Made, SystemCall, number_field
from pyvmm.lifetime.operation_words import parse_operation
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.memory.page_states import PageRun, PageState

PAGE = 4096


def run(start: int, end: int, state: PageState, vm: int = 0) -> tuple[int, PageRun]:
    return vm, PageRun(GpaRange(start, end), state)


def resident(start: int, end: int, side: Side) -> Resident:
    return Resident(0, side, GpaRange(start, end))


def outcome(**values: object) -> Outcome:
    told = Outcome((), (), 0, None, None, Observed(), 0.0)
    for name, value in values.items():
        object.__setattr__(told, name, value)
    return told


def moment(told: Outcome, before: Observed | None = None, act: object = None) -> Moment:
    step = Step("s", "It is done.", Look())
    here = Staged(StageHost.MODEL)
    return Moment(step, act or step.act, here, None, None, before or Observed(), told)  # type: ignore[arg-type]


def words(lines: object) -> list[str]:
    return [line.text for line in lines]  # type: ignore[attr-defined]


def told(one: Moment, width: int = 80) -> str:
    return "\n".join(words(in_order(one, parts(one, width), width)))


BEFORE = Observed(
    memory=(run(0, 16 * MIB, PageState.PRIVATE), run(3 * GIB, 3 * GIB + PAGE, PageState.SHARED)),
    resident=(resident(0, 8 * PAGE, Side.PRIVATE),),
)
AFTER = Observed(
    memory=(
        run(0, MIB, PageState.PRIVATE),
        run(MIB, MIB + PAGE, PageState.SHARED),
        run(MIB + PAGE, 16 * MIB, PageState.PRIVATE),
    ),
    resident=(resident(0, 8 * PAGE, Side.PRIVATE), resident(MIB, MIB + PAGE, Side.SHARED)),
)


def test_memory_with_residency_and_what_has_changed() -> None:
    lines = words(memory(BEFORE, AFTER, 80))
    assert lines == [
        "guest memory of VM 0  * changed",
        " [PPPPPPPPPPPPPPPPPPPPPPPPPsssPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP]",
        " [f------------------------hhh----------------------------------]",
        "  P private, s shared, f in the file, - not resident, h in the host's mapping;",
        "  not to scale",
        "    0x0-0xfffff  1 MiB  private  resident: 32 KiB in the file",
        "* 0x100000-0x100fff  4 KiB  shared  resident: 4 KiB in the host's mapping  (was",
        "    private)",
        "    0x101000-0xffffff  15356 KiB  private  not resident",
        "- 0xc0000000-0xc0000fff  4 KiB  gone (was shared)",
    ]
    assert words(memory(AFTER, AFTER, 80))[0] == "guest memory of VM 0"
    # Nothing but residency is another: that is a change, too.
    empty = Observed(memory=AFTER.memory, resident=AFTER.resident[:1])
    assert "* 0x100000-0x100fff  4 KiB  shared  not resident" in words(memory(AFTER, empty, 80))
    grown = Observed(memory=(run(MIB, MIB + 2 * PAGE, PageState.SHARED),))
    small = Observed(memory=(run(MIB, MIB + PAGE, PageState.SHARED),))
    assert words(memory(small, grown, 80))[-1].endswith("  8 KiB  shared  (has grown)")
    # Where no stage tells of residency none is shown.
    assert not [
        line
        for line in words(memory(Observed(), Observed(memory=AFTER.memory), 80))
        if "resident" in line
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 132])
@pytest.mark.parametrize("count", [1, 2, 3, 17, 200])
def test_any_number_of_runs_of_any_sizes_fits(width: int, count: int) -> None:
    states = [PageState.PRIVATE, PageState.SHARED, PageState.WITHHELD]
    runs = tuple(
        run(at << 30, (at << 30) + (PAGE << at % 18), states[at % 3], vm=at % 2)
        for at in range(count)
    )
    ordered = tuple(sorted(runs, key=lambda one: (one[0], one[1].range)))
    lines = words(memory(Observed(), Observed(memory=ordered), width))
    assert max(map(len, lines)) <= width
    bars = [line for line in lines if line.startswith(" [")]
    assert len(bars) == min(2, count)
    shown = [line for line in lines if line.startswith("+ ")]
    assert len(shown) == min(count, 32) or count == 17
    assert [line for line in lines if "more runs" in line] == (
        ["  ... 84 more runs"] * 2 if count == 200 else []
    )


def call(name: str, error: int = 0, **fields: Field) -> SystemCall:
    return SystemCall(
        Made.KERNEL, "ioctl", name, "VM fd 7", "struct s", tuple(fields.values()), (),
        -1 if error else 0, error, "api.rst 4.1", "vCPU 0",
    )  # fmt: skip


def test_calls_with_their_structures() -> None:
    field = number_field("size", PAGE, meaning="4 KiB")
    pad = Field("pad", bytes(8))
    asked = call("KVM_X", slot=number_field("slot", 0), size=field, pad=pad)
    wrote = SystemCall(
        Made.KERNEL, "ioctl", "KVM_Y", "VM fd 7", "struct s", (field,),
        (field, number_field("error_offset", 0x2000)), -1, errno.EAGAIN, "api.rst 4.2", "",
    )  # fmt: skip
    plain = SystemCall(
        Made.KERNEL, "mmap", "", "file fd 9", "", (number_field("length", PAGE),), (),
        0x7F0000000000, 0, "mmap(2)", "",
    )  # fmt: skip
    assert words(calls(outcome(calls=(asked, wrote, plain)), 80)) == [
        "KVM_X(VM fd 7) = 0   [api.rst 4.1]",
        "  struct s",
        "    .size = 0x1000 (4 KiB)",
        "    .slot, .pad = 0",
        "KVM_Y(VM fd 7) = -1 EAGAIN   [api.rst 4.2]",
        "  struct s",
        "    .size = 0x1000 (4 KiB)",
        "    the kernel wrote: .error_offset = 0x2000",
        "mmap(file fd 9, length 0x1000) = 0x7f0000000000   [mmap(2)]",
    ]


def test_many_calls_are_counted_where_it_is_to_be_short_but_for_those_refused() -> None:
    made = (*[call("KVM_X", size=number_field("size", 1))] * 20, call("KVM_Y", errno.EINVAL))
    told_all = outcome(calls=made, exits=("vCPU 0: Hlt()",) * 12, left_out=(("madvise", 3),))
    short = words(calls(told_all, 80, brief=True))
    assert short[:2] == [
        "21 system calls (v calls shows each): KVM_X x 20, KVM_Y",
        "KVM_Y(VM fd 7) = -1 EINVAL   [api.rst 4.1]",
    ]
    assert short[-2:] == ["... 2 more exits", "not kept: 3 x madvise"]
    whole = words(calls(told_all, 80))
    assert len([line for line in whole if line.startswith("KVM_X(")]) == 20
    assert whole.count("EXIT of vCPU 0: Hlt()") == 12


def test_an_attacker_s_view_and_the_guest_s_console() -> None:
    got = (
        Seen(Road.PROC_MEM, 0x8000, Content.ZERO, bytes(4)),
        Seen(Road.CORE, 0x8000, Content.SECRET, b"abc\x1b", note="a core file"),
        Seen(Road.FILE_MMAP, 0x8000, Content.REFUSED, errno=errno.ENODEV),
    )
    one = moment(
        outcome(seen=got, console=b"\x1b[31mred\nline\xff\n"), act=Attack(Road.CORE, 0x8000)
    )
    text_ = told(one)
    assert "tried: attack core 0x8000" in text_
    assert "by proc-mem at 0x8000 an attacker on the host gets zeroes" in text_
    assert "by core at 0x8000 an attacker on the host gets the secret" in text_
    assert "    bytes: 61 62 63 1b  abc." in text_
    assert "by mmap at 0x8000 an attacker on the host gets nothing: closed, ENODEV" in text_
    assert "| \\x1b[31mred\n| line\\xff" in text_
    assert "\x1b" not in text_
    loud = [line for one_ in parts(one, 80) for line in one_.lines if line.tone is Tone.REFUSED]
    assert [line.text for line in loud] == [
        "by core at 0x8000 an attacker on the host gets the secret"
    ]


def test_refusals_digests_designs_and_the_end() -> None:
    why = Explained("slot-overlap", "two slots overlap", "kvm_set_memory_region")
    refused = told(moment(outcome(errno=errno.EEXIST, explained=why), act=MakeVm(0)))
    assert "ANSWER: refused, EEXIST\nbecause two slots overlap [kvm_set_memory_region]" in refused
    odd = told(moment(outcome(errno=errno.EOPNOTSUPP), act=MakeVm(0)))
    assert "ANSWER: refused, EOPNOTSUPP" in odd
    assert "refused, 4095" in told(moment(outcome(errno=4095), act=MakeVm(0)))
    after = Observed(measured=b"\x01" * 48, reported=b"\x02" * 48, ended=7)
    launch = told(moment(outcome(after=after, same_digest=False), act=Boot()))
    assert "the monitor's digest: 0101" in launch
    assert "the firmware's digest: 0202" in launch
    assert "the two digests DIFFER" in launch
    assert "the digest is ANOTHER than the launch's before" in launch
    assert "the guest has ended, with status 7" in launch
    answers = (
        Answer("today", "EBADF", ("closing-is-harmless",)),
        Answer("mail", "", ("nothing-dangles",)),
    )
    both = moment(outcome(answers=answers), act=Operate("close-vm"))
    designs = told(both)
    assert "  today: EBADF\n    is not as the mail wishes, closing-is-harmless: " in designs
    assert "  mail: cannot be done in this design\n" in designs
    assert "    violates nothing-dangles: Nothing points to something freed." in designs
    lines = in_order(both, parts(both, 80), 80)
    loud = [line for line in lines if line.tone is Tone.REFUSED]
    assert [line.text.split(":")[0].strip() for line in loud] == ["violates nothing-dangles"]


def test_pins_say_what_changed_and_who_is_alive() -> None:
    before = Observed(held=("vm 0",))
    after = Observed(
        held=("vm 0", "file 0"),
        origins=(("file 0", "vm 0"),),
        alive=(("vm 0", True), ("vm 1", None)),
    )
    lines = list(pins(before, after, 80))
    assert Line(" + [file 0(1)] ==> [vm 0(1->2)]  reference", Tone.CHANGED) in lines
    assert "   changed: file 0 and inode 0 are new;" in "\n".join(words(lines))
    assert "  vm 0: exists" in words(lines)
    assert "  vm 1: nothing on this host tells whether it exists" in words(lines)
    assert words(pins(Observed(), Observed(), 80)) == ["nobody holds anything"]


def test_what_is_as_before_is_said_in_a_line() -> None:
    one = moment(outcome(after=AFTER), before=AFTER)
    assert told(one).endswith("as before: pages and pins")
    assert [shown.part for shown in parts(one, 80)] == [Part.CALLS, Part.PAGES, Part.PINS]


def test_a_stage_that_is_not_the_real_thing_says_so() -> None:
    why = Staged(StageHost.MODEL, why="there is no /dev/kvm")
    assert words(text.not_real(why, 80)) == ["on the model, because there is no /dev/kvm"]
    both = Staged(StageHost.KVM, "6.12", "the other design follows by rule")
    assert words(text.not_real(both, 80)) == [
        "on this machine's KVM, Linux 6.12: the other design follows by rule"
    ]
    assert words(text.not_real(Staged(StageHost.KVM, "6.12"), 80)) == []
    assert text.host_words(Staged(StageHost.LAB, "7.3")) == "the lab, Linux 7.3"
    assert text.host_words(Staged(StageHost.MACHINE)) == "the model of lifetimes"


@pytest.mark.parametrize("kind", StageKind)
def test_what_may_be_typed_is_an_act_once_its_arguments_are_there(kind: StageKind) -> None:
    lines = [one for one in usages(kind) if not one.startswith(" ")]
    assert len(set(lines)) == len(lines) > 5
    for line in lines:
        first, *arguments = line.split()
        if first == "operate":
            (given,) = arguments
            act = parse_act(f"operate {given.replace('[', '').replace(']', '')}")
            assert isinstance(act, Operate)
            parse_operation(act.operation)
            continue
        required = [one for one in arguments if not one.startswith("[")]
        words_ = [one.split("|")[0] if "|" in one else "0" for one in required]
        if first == "attack":
            words_[0] = Road.CORE.value
        assert act_words(parse_act(" ".join((first, *words_)))).startswith(first)


def test_words_of_which_there_are_many_are_listed_behind_their_act() -> None:
    lines = list(usages(StageKind.PRIVATE))
    at = lines.index("attack road gpa")
    assert lines[at + 1] == f"  road: {', '.join(one.value for one in Road)}"
    (changes,) = (one for one in lines if one.startswith("  change: "))
    assert lines[lines.index(changes) - 1].startswith("boot [change]")
    assert "forged-report" in changes


@pytest.mark.parametrize(
    ("road", "got"), [(Road.REGISTERS, "the registers"), (Road.EXITS, "the exits")]
)
def test_a_road_beside_memory_gives_no_bytes_of_a_page(road: Road, got: str) -> None:
    seen = replace(outcome(), seen=(Seen(road, 0x1000, Content.OTHER),))
    assert f"ANSWER: {got}\n" in told(moment(seen, act=Attack(road, 0x1000)))
    assert answer_words(seen) == f"The attacker gets {got}."
    secret = replace(outcome(), seen=(Seen(road, 0x1000, Content.SECRET),))
    assert "ANSWER: the secret\n" in told(moment(secret, act=Attack(road, 0x1000)))


def test_operations_are_named_with_their_numbers() -> None:
    lines = list(usages(StageKind.PINS))
    assert "operate create-vm[:vm=0]" in lines or "operate create-vm" in lines
    assert "operate bind[:vm=0,file=0,slot=0,page=0]" in lines


def test_a_step_that_only_shows_has_no_answer() -> None:
    assert "ANSWER" not in told(moment(outcome()))
    assert "ANSWER: it worked" in told(moment(outcome(), act=MakeVm(0)))
