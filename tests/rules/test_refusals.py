# SPDX-License-Identifier: MIT
"""Every request is answered as a kernel answered it, and no rule can be left out or changed."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pyvmm.hosts import capabilities, interface
from pyvmm.rules import abi
from pyvmm.rules.attributes import SetAttributes, set_attributes
from pyvmm.rules.catalogue import REFUSALS
from pyvmm.rules.creation import CreateGuestMemfd, create_guest_memfd
from pyvmm.rules.files import (
    Allocated,
    Fallocate,
    FileCall,
    Mmap,
    Punched,
    fallocate,
    file_call,
    mmap,
)
from pyvmm.rules.memslots import (
    FLAGS_AT_BINDING,
    Change,
    GuestMemfdFile,
    NoGuestMemfd,
    SetRegion,
    Slot,
    set_region,
)
from pyvmm.rules.profile import MAINLINE, PROFILES, SHARED_ONLY
from pyvmm.rules.rule import Refusal, Rule, judge
from tests.rules.cases import CASES, Case

RULES = [(operation, rule.name) for operation, rules in REFUSALS.items() for rule in rules]


def answer(rules: Sequence[Rule[object]], case: Case) -> str:
    refusal = judge(rules, case.request, case.profile)
    return "" if refusal is None else refusal.errno_name


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.request}-{case.profile.name}")
def test_answers_as_measured(case: Case) -> None:
    assert answer(REFUSALS[case.operation], case) == case.answer


@pytest.mark.parametrize(("operation", "name"), RULES, ids=str)
def test_a_rule_left_out_gives_another_answer(operation: str, name: str) -> None:
    rules = REFUSALS[operation]
    left = tuple(rule for rule in rules if rule.name != name)
    cases = [case for case in CASES if case.operation == operation]
    assert len(left) == len(rules) - 1
    assert any(answer(left, case) != case.answer for case in cases)


@pytest.mark.parametrize(("operation", "name"), RULES, ids=str)
def test_a_rule_with_another_errno_gives_another_answer(operation: str, name: str) -> None:
    rules = tuple(
        replace(rule, errno=errno.EPERM) if rule.name == name else rule
        for rule in REFUSALS[operation]
    )
    cases = [case for case in CASES if case.operation == operation]
    assert any(answer(rules, case) == "EPERM" for case in cases)


def test_names_are_unique_and_every_rule_says_why_and_where() -> None:
    assert len({name for _, name in RULES}) == len(RULES)
    for rules in REFUSALS.values():
        for rule in rules:
            assert rule.cause
            assert rule.source
            assert all(rule.errno_for(profile) in errno.errorcode for profile in PROFILES)


def test_the_order_is_the_kernels() -> None:
    # Both a hole in the slot's range and a descriptor that is not open: EEXIST comes first.
    request = SetRegion(1, 0, 4096, 0, 4, slots=(Slot(0, 0, 4096, 0),), vm="vm")
    assert request.descriptor is NoGuestMemfd.NOT_OPEN
    assert judge(REFUSALS["KVM_SET_USER_MEMORY_REGION2"], request, MAINLINE) == Refusal(
        errno.EEXIST, "slot-overlap", "another slot has guest-physical addresses of this range"
    )


def test_what_is_not_refused_says_what_it_does() -> None:
    old = Slot(0, 0x1000, 0x1000, 0x5000)
    request = SetRegion(0, 0x1000, 0x1000, 0x5000, slots=(old,))
    for changed, change in (
        (replace(request, slots=()), Change.CREATE),
        (replace(request, size=0), Change.DELETE),
        (replace(request, gpa=0x3000), Change.MOVE),
        (replace(request, flags=1), Change.FLAGS_ONLY),
        (request, Change.NOTHING),
    ):
        assert set_region(changed, MAINLINE) is change
    assert fallocate(Fallocate(1, 0, 0x1000, 0x2000), MAINLINE) == Allocated(0, 0x1000)
    assert fallocate(Fallocate(3, 0x1000, 0x8000, 0x2000), MAINLINE) == Punched(0x1000, 0x2000)
    assert fallocate(Fallocate(3, 0x8000, 0x1000, 0x2000), MAINLINE) == Punched(0x2000, 0x2000)
    assert isinstance(fallocate(Fallocate(0, 0, 0x1000, 0x2000), MAINLINE), Refusal)
    assert create_guest_memfd(CreateGuestMemfd(0x1000, 3, False), MAINLINE) is None
    assert mmap(Mmap(0, 0x1000, True, 3), MAINLINE) is None
    assert set_attributes(SetAttributes(0, 0x1000, 8, True), MAINLINE) is None
    refusal = file_call(FileCall("pread"), MAINLINE)
    assert refusal is not None
    assert str(refusal) == "ESPIPE: a guest_memfd has no position"


def test_a_refusal_can_depend_on_the_kernel_only_through_its_profile() -> None:
    assert create_guest_memfd(CreateGuestMemfd(0x1000, 3, False), SHARED_ONLY) is None
    rules = [rule for rules in REFUSALS.values() for rule in rules if callable(rule.errno)]
    assert {rule.name for rule in rules} == {"bind-descriptor", "bind-twice"}


def test_the_numbers_are_those_of_the_host_interface() -> None:
    flags, slots = capabilities.GuestMemfdFlag, interface.MemslotFlag
    assert flags.MMAP == abi.GUEST_MEMFD_FLAG_MMAP
    assert flags.INIT_SHARED == abi.GUEST_MEMFD_FLAG_INIT_SHARED
    assert capabilities.MemoryAttribute.PRIVATE == abi.KVM_MEMORY_ATTRIBUTE_PRIVATE
    assert slots.LOG_DIRTY_PAGES == abi.KVM_MEM_LOG_DIRTY_PAGES
    assert slots.READONLY == abi.KVM_MEM_READONLY
    assert slots.GUEST_MEMFD == abi.KVM_MEM_GUEST_MEMFD


@pytest.mark.parametrize(("private_vm", "flags", "refused"), [
    (True, 3, True), (True, 1, False), (True, 0, False), (False, 3, False), (False, 4, True),
])  # fmt: skip
def test_flags_would_be_judged_at_binding_as_they_are_at_creation(
    private_vm: bool, flags: int, refused: bool
) -> None:
    request = SetRegion(
        0, 0, abi.PAGE_SIZE, 0, abi.KVM_MEM_GUEST_MEMFD, vm=1, private_vm=private_vm,
        descriptor=GuestMemfdFile(1, abi.PAGE_SIZE, flags),
    )  # fmt: skip
    assert set_region(request, MAINLINE) is Change.CREATE
    answer = judge(FLAGS_AT_BINDING, request, MAINLINE)
    assert (answer is not None) is refused
    at_creation = create_guest_memfd(CreateGuestMemfd(abi.PAGE_SIZE, flags, private_vm), MAINLINE)
    assert (at_creation is not None) is refused
    other = replace(request, descriptor=NoGuestMemfd.OTHER_FILE)
    assert judge(FLAGS_AT_BINDING, other, MAINLINE) is None
