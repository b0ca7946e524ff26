# SPDX-License-Identifier: MIT
"""Reasons that lie in the machines: what they explain, and that all else is a disagreement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.boot.plan import BootProtocol
from pyvmm.compare.machines import DEVICES, device_at
from pyvmm.compare.observations import End, EndKind, FirstAccess
from pyvmm.compare.reasons import GuestKnown, ReasonKey
from pyvmm.compare.subjects import Subject
from pyvmm.compare.verdict import Agreement, Aspect, PairVerdict, judge
from tests.compare.samples import EXITED, MODEL, OURS, STOPPED, inspection, qemu

GUEST = GuestKnown(None)
RESET = End(EndKind.RESTARTED)
FAILED = End(EndKind.EXITED, 4)


def read(
    address: int, said: int = 0, *, is_port: bool = True, claimed: bool = False
) -> FirstAccess:
    return FirstAccess(address, is_port, True, claimed, said)


def written(address: int, said: int = 0, *, claimed: bool = False) -> FirstAccess:
    return FirstAccess(address, True, False, claimed, said)


def judged(
    access: FirstAccess | None,
    *,
    consoles: tuple[bytes, bytes] = (b"a\nfrom here 1\n", b"a\nfrom here 2\n"),
    ends: tuple[End, End] = (EXITED, FAILED),
    other: Subject | None = None,
    guest: GuestKnown = GUEST,
) -> PairVerdict:
    ours = replace(
        inspection(OURS, consoles[0], ends[0]), accesses=() if access is None else (access,)
    )
    theirs = inspection(other or qemu(), consoles[1], ends[1])
    forwards = judge(ours, theirs, guest, None)
    # Whichever of them is the reference.
    assert judge(theirs, ours, guest, None).agrees == forwards.agrees
    return forwards


def keys(verdict: PairVerdict) -> set[str]:
    return {key for one in verdict.findings for key, _ in one.reasons}


@pytest.mark.parametrize(
    ("access", "other", "key"),
    [
        # Each machine has what another lacks.
        (read(0x64, claimed=True), qemu("tcg", "microvm"), ReasonKey.DEVICE),
        (read(0xCFC), qemu("tcg", "pc"), ReasonKey.DEVICE),
        (read(0x71, claimed=True), qemu("kvm", "microvm"), ReasonKey.DEVICE),
        (read(0x21), qemu("tcg", "microvm"), ReasonKey.DEVICE),
        (read(0xFEE0_0020, is_port=False), qemu("tcg", "pc"), ReasonKey.DEVICE),
        (read(0xE0, claimed=True), qemu("tcg", "pc"), ReasonKey.DEVICE),
        (read(0x608, claimed=True), qemu("tcg", "microvm"), ReasonKey.DEVICE),
        (read(0xD000_0000, is_port=False), qemu("tcg", "pc"), ReasonKey.OPEN_READ),
        # Both have it, or neither has.
        (read(0x64, claimed=True), qemu("tcg", "pc"), None),
        (read(0x71, claimed=True), qemu("tcg", "microvm"), None),
        (read(0x3F8, claimed=True), qemu("tcg", "pc"), None),
        (read(0x1234), qemu("tcg", "pc"), None),
        (read(0xCFC), qemu("tcg", "microvm"), None),
        (read(0x608, claimed=True), qemu("tcg", "pc"), None),
        (None, qemu("tcg", "microvm"), None),
        # They have the same devices.
        (read(0xCFC), MODEL, None),
        # A write to what is not there leads to nothing.
        (written(0x21), qemu("tcg", "microvm"), None),
    ],
)
def test_what_one_machine_has_and_another_has_not(
    access: FirstAccess | None, other: Subject, key: ReasonKey | None
) -> None:
    found = judged(access, other=other)
    assert found.agrees == (key is not None)
    assert keys(found) == ({key.value} if key else set())


@pytest.mark.parametrize(
    ("ends", "agrees"),
    [
        ((RESET, FAILED), True),
        ((RESET, STOPPED), True),
        ((EXITED, FAILED), False),
        ((RESET, RESET), False),
    ],
)
def test_a_write_counts_where_it_was_to_end_or_to_wake_the_guest(
    ends: tuple[End, End], agrees: bool
) -> None:
    assert judged(written(0x64, claimed=True), ends=ends).agrees is agrees


def test_what_came_before_has_to_agree() -> None:
    consoles = (b"a\n1\nend\n", b"a\n2\n")
    # Read at the first byte, within the first line, at its end: the difference came later.
    for said in (0, 1, 2):
        assert judged(read(0xCFC, said), consoles=consoles, other=qemu("tcg", "pc")).agrees
    for said in (3, 4, 8):
        found = judged(read(0xCFC, said), consoles=consoles, other=qemu("tcg", "pc"))
        assert not found.agrees
        assert keys(found) == set()


def test_the_sentence_names_device_place_and_machine() -> None:
    found = judged(written(0xCF9, claimed=True), ends=(RESET, FAILED))
    end = next(one for one in found.findings if one.aspect is Aspect.END)
    assert end.agreement is Agreement.EXPLAINED
    ((key, sentence),) = end.reasons
    assert key == "device"
    for part in ("0xcf9", "pyvmm has", "QEMU 7.2.22 tcg microvm has not"):
        assert part in sentence
    assert sentence.count("0xcf9") == 1


def test_the_boot_protocol() -> None:
    both = GuestKnown(None, BootProtocol.PVH, BootProtocol.MULTIBOOT)
    found = judged(None, consoles=(b"P\n", b"M\n"), guest=both)
    assert found.agrees
    assert keys(found) == {"boot-protocol"}
    # Under the model it is the same one.
    assert not judged(None, consoles=(b"P\n", b"M\n"), guest=both, other=MODEL).agrees
    one = GuestKnown(None, BootProtocol.MULTIBOOT, BootProtocol.MULTIBOOT)
    assert not judged(None, consoles=(b"P\n", b"M\n"), guest=one).agrees


def test_a_device_is_not_named_by_its_number() -> None:
    # The sentence has that, too.
    assert [one.name for one in DEVICES if "0x" in one.name] == []


def test_no_address_belongs_to_two_devices() -> None:
    for device in DEVICES:
        for is_port, ranges in ((True, device.ports), (False, device.gpas)):
            for first, last in ranges:
                assert first <= last
                assert device_at(first, is_port=is_port) is device
                assert device_at(last, is_port=is_port) is device
