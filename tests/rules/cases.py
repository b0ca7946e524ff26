# SPDX-License-Identifier: MIT
"""Requests and the answers that kernels gave to them: measured on Linux 6.18, with the exceptions
that say so, and kept in the order of the measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pyvmm.rules.abi import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from pyvmm.rules.attributes import SetAttributes
from pyvmm.rules.creation import CreateGuestMemfd, CreateVm
from pyvmm.rules.files import Fallocate, FileCall, Mmap
from pyvmm.rules.in_place import SetFileAttributes
from pyvmm.rules.memslots import GuestMemfdFile, NoGuestMemfd, SetRegion, Slot
from pyvmm.rules.profile import (
    EARLIER,
    FIRST_MERGED,
    IN_PLACE,
    MAINLINE,
    SHARED_ONLY,
    UNDER_REVIEW,
    Profile,
)

OK = ""
PAGE = 4096
G = KVM_MEM_GUEST_MEMFD
HVA = 0x7FDB_0000_0000


@dataclass(frozen=True)
class Case:
    """`answer`: the errno's name, "" for none."""

    operation: str
    request: Any
    answer: str
    profile: Profile = SHARED_ONLY


def creations() -> list[Case]:
    op = "KVM_CREATE_GUEST_MEMFD"
    cases = [
        Case(op, CreateGuestMemfd(size, 0, False), answer)
        for size, answer in (
            (0, "EINVAL"), (1, "EINVAL"), (4095, "EINVAL"), (PAGE, OK), (2**63, "EINVAL"),
            (2**63 - PAGE, OK), (2**64 - PAGE, "EINVAL"),
        )
    ]  # fmt: skip
    cases += [
        Case(op, CreateGuestMemfd(PAGE, flags, False), answer)
        for flags, answer in ((1, OK), (2, OK), (3, OK), (4, "EINVAL"), (1 << 63, "EINVAL"))
    ]
    cases += [  # measured in the lab, on 7.3
        Case(op, CreateGuestMemfd(PAGE, 1, True), OK, MAINLINE),
        Case(op, CreateGuestMemfd(PAGE, 2, True), "EINVAL", MAINLINE),
        Case(op, CreateGuestMemfd(PAGE, 3, True), "EINVAL", MAINLINE),
    ]
    cases.append(Case(op, CreateGuestMemfd(PAGE, 1, True), "EINVAL", FIRST_MERGED))  # no flags yet
    op = "KVM_CREATE_VM"
    cases += [Case(op, CreateVm(0), OK), Case(op, CreateVm(1), "EINVAL")]
    cases += [  # measured in the lab, on 7.3
        Case(op, CreateVm(1), OK, MAINLINE),
    ]
    return cases


def regions() -> list[Case]:
    file = GuestMemfdFile("vm", 2 * PAGE)
    bound = replace(file, bound=((0, PAGE),))
    slot0 = Slot(0, 0, PAGE, HVA, G)
    slot2 = Slot(2, 3 * PAGE, PAGE, HVA)
    plain = SetRegion(0, 0, PAGE, HVA, descriptor=file, vm="vm")
    binding = replace(plain, flags=G)
    with_slot0 = replace(plain, slots=(slot0,))
    second = replace(binding, slot=1, gpa=PAGE, slots=(slot0,), descriptor=bound)
    moved = replace(plain, slot=2, gpa=3 * PAGE, slots=(slot2,))
    answers: list[tuple[SetRegion, str]] = [
        (replace(plain, size=0), "EINVAL"),
        (replace(plain, size=1), "EINVAL"),
        (replace(plain, gpa=1), "EINVAL"),
        (replace(plain, hva=1), "EINVAL"),
        (replace(plain, hva=1 << 63), "EINVAL"),
        (replace(plain, flags=8), "EINVAL"),
        (replace(plain, flags=G | KVM_MEM_LOG_DIRTY_PAGES), "EINVAL"),
        (replace(plain, flags=G | KVM_MEM_READONLY), "EINVAL"),
        (replace(plain, slot=40000), "EINVAL"),
        (replace(plain, slot=1 << 16), "EINVAL"),
        (replace(plain, gpa=2**64 - PAGE, size=2 * PAGE), "EINVAL"),
        (replace(plain, gpa=2**64 - PAGE), "EINVAL"),
        (replace(plain, size=1 << 64), "EINVAL"),
        (replace(binding, offset=1), "EINVAL"),
        (replace(binding, offset=PAGE, size=2 * PAGE), "EINVAL"),
        (replace(binding, offset=2**64 - PAGE), "EINVAL"),
        (replace(binding, offset=2**64 - PAGE, size=2 * PAGE), "EINVAL"),
        (replace(binding, descriptor=NoGuestMemfd.NOT_OPEN), "EBADF"),
        (
            replace(binding, descriptor=NoGuestMemfd.NOT_OPEN, gpa=2**64 - PAGE, size=2 * PAGE),
            "EINVAL",
        ),
        (replace(binding, descriptor=NoGuestMemfd.OTHER_FILE), "EINVAL"),
        (replace(binding, descriptor=GuestMemfdFile("other", 2 * PAGE)), "EINVAL"),
        (binding, OK),
        (replace(with_slot0, flags=G), "EINVAL"),
        (with_slot0, "EINVAL"),
        (replace(with_slot0, gpa=PAGE), "EINVAL"),
        (second, "EINVAL"),
        (replace(second, gpa=0, offset=PAGE), "EEXIST"),
        (replace(second, gpa=0, offset=PAGE, descriptor=NoGuestMemfd.NOT_OPEN), "EEXIST"),
        (replace(second, gpa=0, flags=0), "EEXIST"),
        (replace(second, offset=PAGE), OK),
        (replace(with_slot0, size=0, flags=G, descriptor=NoGuestMemfd.NOT_OPEN), OK),
        (replace(moved, gpa=2 * PAGE), OK),
        (moved, OK),
        (replace(moved, flags=KVM_MEM_LOG_DIRTY_PAGES), OK),
        (replace(moved, flags=KVM_MEM_READONLY), "EINVAL"),
        (replace(moved, size=2 * PAGE), "EINVAL"),
        (replace(moved, flags=G), "EINVAL"),
        (replace(moved, hva=HVA + PAGE), "EINVAL"),
        (replace(moved, slot=3), "EEXIST"),
        (replace(moved, gpa=0x100000, size=0, flags=8), "EINVAL"),
        (replace(moved, size=0, gpa=1), "EINVAL"),
        (replace(moved, size=0, flags=1), OK),
        (replace(plain, gpa=1 << 46), OK),
        (replace(plain, gpa=1 << 52), "EINVAL"),
        (replace(plain, gpa=1 << 40, size=(1 << 31) * PAGE), "EINVAL"),
        (replace(plain, gpa=1 << 40, hva=0, size=(1 << 31) * PAGE), "EINVAL"),
        (replace(plain, gpa=1 << 40, size=((1 << 31) - 1) * PAGE), "EINVAL"),
    ]
    op = "KVM_SET_USER_MEMORY_REGION2"
    cases = [Case(op, request, answer) for request, answer in answers]
    cases += [
        Case(op, second, "EEXIST", MAINLINE),  # measured in the lab, on 7.3
        Case(op, second, "EINVAL", EARLIER),
        Case(op, binding, "EINVAL", FIRST_MERGED),  # read in 6.12's source
        Case(op, replace(binding, private_vm=True), OK, FIRST_MERGED),
        Case(  # as the mail's patch reads
            op,
            replace(binding, private_vm=True, descriptor=NoGuestMemfd.NOT_OPEN),
            "EINVAL",
            UNDER_REVIEW,
        ),
    ]
    return cases


def attributes() -> list[Case]:
    op = "KVM_SET_MEMORY_ATTRIBUTES"
    good = SetAttributes(0, PAGE, 8, True)
    answers = [
        (good, OK), (replace(good, attributes=0), OK), (replace(good, flags=1), "EINVAL"),
        (replace(good, attributes=1), "EINVAL"), (replace(good, attributes=9), "EINVAL"),
        (replace(good, private_vm=False), "EINVAL"), (replace(good, size=0), "EINVAL"),
        (replace(good, private_vm=False, attributes=0), OK),
        (replace(good, size=1), "EINVAL"), (replace(good, gpa=1), "EINVAL"),
        (replace(good, gpa=2**64 - PAGE), "EINVAL"), (replace(good, gpa=1 << 60), OK),
    ]  # fmt: skip
    cases = [Case(op, request, answer, MAINLINE) for request, answer in answers]
    return [*cases, Case(op, replace(good, private_vm=False), "ENOTTY", SHARED_ONLY)]


def attributes_of_files() -> list[Case]:
    """As the posted series reads: no kernel has answered yet."""
    op = "KVM_SET_MEMORY_ATTRIBUTES2"
    good = SetFileAttributes(PAGE, 2 * PAGE, 8, 4 * PAGE)
    answers = [
        (good, OK), (replace(good, attributes=0), OK), (replace(good, offset=2 * PAGE), OK),
        (replace(good, offset=0, size=4 * PAGE), OK), (replace(good, flags=1), "EINVAL"),
        (replace(good, attributes=1), "EINVAL"), (replace(good, attributes=9), "EINVAL"),
        (replace(good, private_vm=False), "EINVAL"), (replace(good, size=0), "EINVAL"),
        (replace(good, private_vm=False, attributes=0), OK),
        (replace(good, size=1), "EINVAL"), (replace(good, offset=1), "EINVAL"),
        (replace(good, offset=3 * PAGE), "EINVAL"), (replace(good, offset=4 * PAGE), "EINVAL"),
        (replace(good, offset=2**64 - PAGE, size=PAGE), "EINVAL"),
    ]  # fmt: skip
    cases = [Case(op, request, answer, IN_PLACE) for request, answer in answers]
    of_vm = SetAttributes(0, PAGE, 8, True)
    return [
        *cases,
        Case(op, good, "ENOTTY", MAINLINE),
        # One of the two keeps attributes.
        Case("KVM_SET_MEMORY_ATTRIBUTES", of_vm, "EINVAL", IN_PLACE),
        Case("KVM_CREATE_GUEST_MEMFD", CreateGuestMemfd(PAGE, 3, True), OK, IN_PLACE),
    ]


def file_operations() -> list[Case]:
    last = 2**63 - PAGE
    cases = [
        Case("fallocate", Fallocate(mode, offset, length, 2 * PAGE), answer)
        for mode, offset, length, answer in (
            (0, 0, PAGE, "EOPNOTSUPP"), (1, 0, 0, "EINVAL"), (1, 0, PAGE, OK),
            (1, 1, PAGE, "EINVAL"), (1, 0, 1, "EINVAL"), (1, 2 * PAGE, PAGE, "EINVAL"),
            (1, -PAGE, PAGE, "EINVAL"), (1, 0, -PAGE, "EINVAL"), (3, 2 * PAGE, PAGE, OK),
            (3, 1 << 40, PAGE, OK), (3, 0, PAGE, OK), (2, 0, PAGE, "EOPNOTSUPP"),
            (3, 1, PAGE, "EINVAL"), (0x10, 0, PAGE, "EOPNOTSUPP"), (0x11, 0, PAGE, "EOPNOTSUPP"),
            (1, last, PAGE, "EFBIG"), (3, last, PAGE, "EFBIG"), (3, last - PAGE, PAGE, OK),
            (0x41, 0, PAGE, "EOPNOTSUPP"), (8, 0, PAGE, "EOPNOTSUPP"), (9, 0, PAGE, "EOPNOTSUPP"),
            (0x20, 0, PAGE, "EOPNOTSUPP"), (0x100, 0, PAGE, "EOPNOTSUPP"),
            (1, last - PAGE, PAGE, "EINVAL"), (0, 1, 0, "EINVAL"), (0, 1, 1, "EOPNOTSUPP"),
            (0x100, last, PAGE, "EOPNOTSUPP"), (0, last, PAGE, "EFBIG"),
        )
    ]  # fmt: skip
    cases += [
        Case("mmap", Mmap(offset, length, shared, flags), answer)
        for offset, length, shared, flags, answer in (
            (0, 2 * PAGE, True, 0, "ENODEV"), (0, 2 * PAGE, False, 3, "EINVAL"),
            (0, 2 * PAGE, False, 0, "ENODEV"), (0, 0, True, 3, "EINVAL"),
            (1 << 20, 2 * PAGE, True, 3, OK), (0, 1 << 20, True, 3, OK),
            (1, PAGE, True, 3, "EINVAL"),
            (last, PAGE, True, 3, "EOVERFLOW"), (0, PAGE, True, 1, OK),
            (0, PAGE, True, 2, "ENODEV"), (last, PAGE, True, 0, "EOVERFLOW"),
            (0, 0, True, 0, "EINVAL"), (1, PAGE, True, 0, "EINVAL"),
        )
    ]  # fmt: skip
    cases += [
        Case("read, write, lseek, ftruncate", FileCall(name), answer)
        for name, answer in (
            ("read", "EINVAL"), ("write", "EINVAL"), ("pread", "ESPIPE"), ("pwrite", "ESPIPE"),
            ("lseek", "ESPIPE"), ("ftruncate", "EINVAL"),
        )
    ]  # fmt: skip
    return cases


CASES = [*creations(), *regions(), *attributes(), *attributes_of_files(), *file_operations()]
