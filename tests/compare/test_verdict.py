# SPDX-License-Identifier: MIT
"""What agrees, what may differ, what disagrees; and that the documents list what may."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.compare.differences import INVENTORY_REASONS, KNOWN
from pyvmm.compare.observations import End, EndKind, end_of_qemu, end_of_status
from pyvmm.compare.ram import ABOVE, IMAGE, LOW, REASONS, REST, PageCounts
from pyvmm.compare.reasons import GuestKnown, ReasonKey
from pyvmm.compare.subjects import Subject, told_apart
from pyvmm.compare.verdict import Agreement, Aspect, Finding, PairVerdict, judge, steadiness
from tests.compare.samples import EXITED, MODEL, OURS, STOPPED, inspection, qemu, region, timed

DOCUMENT = Path(__file__).parents[2] / "docs" / "compare.md"


def finding(verdict: PairVerdict, aspect: Aspect) -> Finding:
    (found,) = [one for one in verdict.findings if one.aspect is aspect]
    return found


def verdict(
    ours: bytes,
    theirs: bytes,
    *,
    guest: str | None = None,
    ends: tuple[End, End] = (EXITED, EXITED),
    other: Subject | None = None,
    reference: Subject = OURS,
) -> PairVerdict:
    return judge(
        inspection(reference, ours, ends[0]),
        inspection(other or qemu(), theirs, ends[1]),
        GuestKnown(guest),
        None,
    )


def test_the_same_agrees() -> None:
    found = verdict(b"a\nb\n", b"a\nb\n")
    assert found.agrees
    assert finding(found, Aspect.CONSOLE).agreement is Agreement.EQUAL
    assert finding(found, Aspect.END).agreement is Agreement.EQUAL
    assert finding(found, Aspect.MEMORY_MAP).agreement is Agreement.UNKNOWN


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_other_text_is_a_disagreement_with_a_diff(ours: bytes, theirs: bytes) -> None:
    found = verdict(ours, theirs, other=MODEL)
    console = finding(found, Aspect.CONSOLE)
    ours_shown = ours.decode("utf-8", "backslashreplace")
    theirs_shown = theirs.decode("utf-8", "backslashreplace")
    assert found.agrees == (ours_shown == theirs_shown)
    assert bool(console.detail) == (not found.agrees)


def test_the_diff_says_which_line() -> None:
    lines = [f"line {number}" for number in range(5000)]
    ours = "\n".join(lines).encode()
    lines[4321] = "other"
    console = finding(verdict(ours, "\n".join(lines).encode()), Aspect.CONSOLE)
    assert console.agreement is Agreement.DIFFERS
    assert console.detail[0] == "from line 4319 on:"
    assert "-line 4321" in console.detail
    assert "+other" in console.detail


def test_a_long_diff_is_cut_and_says_so() -> None:
    ours = b"".join(b"a%d\n" % number for number in range(1000))
    theirs = b"".join(b"b%d\n" % number for number in range(1000))
    detail = finding(verdict(ours, theirs), Aspect.CONSOLE).detail
    assert len(detail) < 100
    assert detail[-1].endswith("more lines")


@pytest.mark.parametrize(
    "ends",
    [
        (EXITED, End(EndKind.EXITED, 1)),
        (EXITED, STOPPED),
        (EXITED, End(EndKind.PANICKED)),
        (End(EndKind.RESTARTED), End(EndKind.POWERED_OFF)),
        (End(EndKind.HALTED), EXITED),
    ],
)
def test_another_end_is_a_disagreement(ends: tuple[End, End]) -> None:
    found = verdict(b"", b"", ends=ends)
    assert not found.agrees
    assert finding(found, Aspect.END).agreement is Agreement.DIFFERS


def test_words_for_an_end_do_not_count() -> None:
    ends = End(EndKind.RESTARTED, None, "triple fault"), End(EndKind.RESTARTED, None, "guest-reset")
    assert verdict(b"", b"", ends=ends).agrees


def test_guests_that_were_stopped_agree_as_far_as_both_went() -> None:
    assert verdict(b"1\n2\n3", b"1\n2\n3\n4\n5", ends=(STOPPED, STOPPED)).agrees
    assert not verdict(b"1\n2\n3", b"1\n2\nx", ends=(STOPPED, STOPPED)).agrees


def test_what_a_guest_prints_of_its_machine_is_shown_and_does_not_count() -> None:
    found = verdict(
        b"memory 0000000000-000009fc00 usable\nx\n", b"x\nmemory 0000000000-0000080000 usable\n"
    )
    assert found.agrees
    maps = finding(found, Aspect.MEMORY_MAP)
    assert maps.agreement is Agreement.EXPLAINED
    assert maps.detail == ("+ 0x0-0x80000 usable", "- 0x0-0x9fc00 usable")


# -- known differences --

RIP = b"  rip=000000000010043c cs=0008 rflags=000%d0002\n"
TESTED = b"testing 0000000000-000009f000\n%d bytes tested, no errors\n"


@pytest.mark.parametrize(
    ("key", "ours", "theirs", "guest", "other"),
    [
        ("usable-memory", b"usable memory: 1 KiB\n", b"usable memory: 2 KiB\n", None,
         qemu("tcg", "pc")),
        ("free-memory", TESTED % 5, b"testing 0000001000-000009f000\n" + TESTED % 6, "memtest",
         qemu()),
        ("resume-flag", RIP % 1, RIP % 0, None, qemu("tcg")),
        ("hypercall", b"hypercall 1: 0\n", b"EXCEPTION 6\n", "hypercall", qemu("tcg")),
    ],
)  # fmt: skip
def test_a_known_difference_is_explained_and_no_more_than_it(
    key: str, ours: bytes, theirs: bytes, guest: str | None, other: Subject
) -> None:
    found = verdict(ours, theirs, guest=guest, other=other)
    console = finding(found, Aspect.CONSOLE)
    assert console.agreement is Agreement.EXPLAINED
    assert [name for name, _ in console.reasons] == [key]
    # Whichever of them is the reference.
    assert verdict(theirs, ours, guest=guest, other=OURS, reference=other).agrees
    # Not with something else in between, unless all of it may differ.
    if key != "hypercall":
        assert not verdict(ours, b"more\n" + theirs, guest=guest, other=other).agrees
    # Not between two that have no such difference.
    assert not verdict(ours, theirs, guest=guest, other=MODEL).agrees


@pytest.mark.parametrize(
    ("key", "ends", "guest", "subjects"),
    [
        ("carrier", (EXITED, STOPPED), "echo", (OURS, qemu())),
        ("halted", (End(EndKind.HALTED), STOPPED), None, (OURS, qemu())),
        ("status-bits", (end_of_status(200), end_of_status(72)), None, (OURS, qemu())),
        ("status-bits", (end_of_status(128), end_of_status(0)), None, (OURS, qemu())),
        ("hypercall-for-ever", (STOPPED, EXITED), "hypercall", (OURS, MODEL)),
    ],
)
def test_a_known_end_is_explained(
    key: str, ends: tuple[End, End], guest: str | None, subjects: tuple[Subject, Subject]
) -> None:
    reference, other = subjects
    found = verdict(b"", b"", guest=guest, ends=ends, reference=reference, other=other)
    end = finding(found, Aspect.END)
    assert end.agreement is Agreement.EXPLAINED
    assert [name for name, _ in end.reasons] == [key]
    # Its mirror image is no known one: it was pyvmm that waited, or refused.
    mirrored = (ends[1], ends[0])
    assert (
        key == "halted"
        or not verdict(
            b"", b"", guest=guest, ends=mirrored, reference=reference, other=other
        ).agrees
    )


@pytest.mark.parametrize("guest", [None, "hello"])
def test_what_is_known_of_one_guest_is_not_of_others(guest: str | None) -> None:
    assert not verdict(b"", b"", guest=guest, ends=(EXITED, STOPPED)).agrees
    assert not verdict(b"a\n", b"b\n", guest=guest).agrees


# -- RAM, and several runs --


def test_ram_is_shown_and_does_not_count() -> None:
    ram = [region(PageCounts(500, 1, 2, 9, (0x20_0000,)))]
    found = judge(inspection(OURS), inspection(qemu()), GuestKnown(None), ram)
    shown = finding(found, Aspect.RAM)
    assert found.agrees
    assert found.ram == tuple(ram)
    assert shown.agreement is Agreement.EXPLAINED
    assert shown.summary == "12 of 512 pages differ"
    same = judge(inspection(OURS), inspection(qemu()), GuestKnown(None), [region(PageCounts(512))])
    assert finding(same, Aspect.RAM).agreement is Agreement.EQUAL


@pytest.mark.parametrize(
    ("guest", "other", "counts"),
    [
        ("hello", qemu(), True),
        ("hello", MODEL, True),
        # Its BIOS was there.
        ("hello", qemu("tcg", "pc"), False),
        # Who knows what it does.
        (None, qemu(), False),
    ],
)
def test_ram_of_bundled_guests_counts_where_nobody_else_was(
    guest: str | None, other: Subject, counts: bool
) -> None:
    def judged(name: str) -> PairVerdict:
        ram = [region(PageCounts(511, 0, 0, 1, (0x20_0000,)), name)]
        return judge(inspection(OURS), inspection(other), GuestKnown(guest), ram)

    assert judged("rest").agrees is not counts
    assert judged("above 4 GiB").agrees is not counts
    # Boot data and stacks differ everywhere.
    assert judged("image").agrees
    assert judged("below 1 MiB").agrees


@pytest.mark.parametrize(("size", "agrees"), [(5, False), (6, True)])
def test_ram_may_differ_where_the_guest_did_something_else_for_a_known_reason(
    size: int, agrees: bool
) -> None:
    ram = [region(PageCounts(511, 0, 0, 1, (0x20_0000,)))]
    ours, theirs = inspection(OURS, TESTED % 5), inspection(qemu(), TESTED % size)
    assert judge(ours, theirs, GuestKnown("memtest"), ram).agrees is agrees


def test_runs_that_differ_are_a_disagreement() -> None:
    seen = inspection(OURS)
    assert steadiness(seen, []).agreement is Agreement.UNKNOWN
    assert steadiness(seen, [timed(OURS, 1, 1.0)]).agreement is Agreement.EQUAL
    for odd in (timed(OURS, 2, 1.0, exit_code=3), timed(OURS, 2, 1.0, console=b"other\n")):
        found = steadiness(seen, [timed(OURS, 1, 1.0), odd])
        assert found.agreement is Agreement.DIFFERS
        assert "round 2" in found.detail[0]


# -- QEMU's exit codes, names --


@pytest.mark.parametrize(
    ("code", "reason", "panicked", "end"),
    [
        (1, "", False, End(EndKind.EXITED, 0)),
        (15, "", False, End(EndKind.EXITED, 7)),
        (127, "", False, End(EndKind.EXITED, 63)),
        (129, "", False, End(EndKind.BAD_STATUS, 64)),
        (15, "guest-shutdown", False, End(EndKind.EXITED, 7)),
        (0, "guest-reset", False, End(EndKind.RESTARTED)),
        (0, "guest-shutdown", False, End(EndKind.POWERED_OFF)),
        (0, "guest-panic", True, End(EndKind.PANICKED)),
        (0, "host-signal", False, End(EndKind.CRASHED)),
        (-6, "", False, End(EndKind.CRASHED)),
    ],
)
def test_qemus_exit_codes(code: int, reason: str, panicked: bool, end: End) -> None:
    assert end_of_qemu(code, reason, panicked=panicked).is_like(end)


@given(st.integers(0, 63))
def test_isa_debug_exit_is_undone(status: int) -> None:
    end = end_of_qemu((status << 1 | 1) & 0xFF, "", panicked=False)
    assert end.is_like(End(EndKind.EXITED, status))


def test_two_qemus_of_one_version_have_two_names() -> None:
    subjects = told_apart([OURS, qemu(program="/a/qemu"), qemu(program="/b/qemu"), qemu("kvm")])
    names = [one.name for one in subjects]
    assert len(set(names)) == 4
    assert names[0] == "pyvmm kvm"
    assert names[1].endswith("(/a/qemu)")
    assert names[3] == "QEMU 7.2.22 kvm microvm"


# -- the document --


def test_the_document_lists_the_known_differences_and_no_others() -> None:
    section = DOCUMENT.read_text().split("\n## Differences that are known\n")[1].split("\n## ")[0]
    table = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    keys = [one.key for one in KNOWN] + list(INVENTORY_REASONS)
    keys += [one.value for one in ReasonKey]
    assert sorted(table) == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_every_region_has_its_reason() -> None:
    assert set(REASONS) == {LOW, IMAGE, REST, ABOVE}
    text = DOCUMENT.read_text()
    for name in REASONS:
        assert f"| {name} |" in text
