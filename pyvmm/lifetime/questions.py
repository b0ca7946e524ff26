# SPDX-License-Identifier: MIT
"""Questions of the machine to the rules, in real numbers: addresses, offsets, flags.

The same few questions come again and again, so the answers are kept.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from pyvmm.errors import InternalError
from pyvmm.rules.abi import (
    GUEST_MEMFD_FLAG_INIT_SHARED,
    GUEST_MEMFD_FLAG_MMAP,
    KVM_MEM_GUEST_MEMFD,
    PAGE_SIZE,
)
from pyvmm.rules.access import (
    FAULTS,
    Bound,
    GuestAccess,
    HostAccess,
    MemoryFault,
    PlainFault,
    ServedByGuestMemfd,
    guest_access,
    host_access,
)
from pyvmm.rules.creation import CreateGuestMemfd, create_guest_memfd
from pyvmm.rules.files import Mmap, mmap
from pyvmm.rules.memslots import (
    FLAGS_AT_BINDING,
    Change,
    GuestMemfdFile,
    SetRegion,
    Slot,
    set_region,
)
from pyvmm.rules.profile import PrivateBy, Profile
from pyvmm.rules.rule import Refusal, errno_name, judge

FILE_FLAGS = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED
"""Flags of files that the host can look into, too; those of private memory have none."""
HOST_ADDRESS = 1 << 32
"""The user address that slots name; their files serve every access, so nothing need be there."""
MOVED_BY = 1 << 30
"""Distance, in bytes of guest-physical address, by which a slot is asked to move."""


def flags_for(private: int) -> int:
    """The flags of files of private memory, and of others."""
    return 0 if private else FILE_FLAGS


class Binding(NamedTuple):
    """A slot of one page, at the GPA of its number, to be bound to `page` of a file.

    `vm` and `of` identify the VM that asks and the one that the file belongs to; `occupied` are the
    VM's slots, `bound` the file's pages that are bound. `flags` are those that the file was created
    with, and `private_vm` says that the VM has private memory. `judges_flags`: whether a file is
    refused whose flags the VM's type has not got, which no kernel does here.
    """

    slot: int
    page: int
    pages: int
    vm: int
    of: int
    occupied: tuple[int, ...]
    bound: tuple[int, ...]
    flags: int = FILE_FLAGS
    private_vm: bool = False
    judges_flags: bool = False


def slot_of(number: int) -> Slot:
    """The slot of this number: one page, at its own GPA."""
    return Slot(number, number * PAGE_SIZE, PAGE_SIZE, HOST_ADDRESS, KVM_MEM_GUEST_MEMFD)


@cache
def binding_refusal(profile: Profile, binding: Binding) -> str | None:
    """The errno's name if a kernel of this profile refuses the binding."""
    answer = why_not_bound(profile, binding)
    return None if answer is None else answer.errno_name


def why_not_bound(profile: Profile, binding: Binding) -> Refusal | None:
    """The rule by which a kernel of this profile refuses the binding; None where it does not."""
    new = slot_of(binding.slot)
    file = GuestMemfdFile(
        binding.of,
        binding.pages * PAGE_SIZE,
        binding.flags,
        tuple((page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in binding.bound),
    )
    request = SetRegion(
        new.slot,
        new.gpa,
        new.size,
        new.hva,
        new.flags,
        offset=binding.page * PAGE_SIZE,
        descriptor=file,
        vm=binding.vm,
        private_vm=binding.private_vm or not profile.default_vm_binds,
        slots=tuple(slot_of(each) for each in binding.occupied),
    )
    answer: Refusal | Change | None = set_region(request, profile)
    if binding.judges_flags and not isinstance(answer, Refusal):
        answer = judge(FLAGS_AT_BINDING, request, profile)
    return answer if isinstance(answer, Refusal) else None


@cache
def creation_refusal(profile: Profile, flags: int, private_vm: bool) -> str | None:
    """The errno's name if a kernel of this profile creates no file of such flags for such a VM."""
    answer = create_guest_memfd(CreateGuestMemfd(PAGE_SIZE, flags, private_vm), profile)
    return answer.errno_name if answer is not None else None


@cache
def moving_refusal(profile: Profile, slot: int) -> str | None:
    """The errno's name if a kernel of this profile refuses to move the slot elsewhere."""
    answer = why_not_moved(profile, slot)
    return None if answer is None else answer.errno_name


def why_not_moved(profile: Profile, slot: int) -> Refusal | None:
    """The rule by which a kernel of this profile refuses to move the slot; None: it does not."""
    old = slot_of(slot)
    request = SetRegion(
        old.slot,
        old.gpa + MOVED_BY,
        old.size,
        old.hva,
        old.flags,
        private_vm=not profile.default_vm_binds,
        slots=(old,),
    )
    answer = set_region(request, profile)
    return answer if isinstance(answer, Refusal) else None


class Serving(NamedTuple):
    """A guest's access to the page that a slot is bound to.

    `is_open`: the slot has its file. `flags` and `private_vm` are those of `Binding`; all that a VM
    with private memory has in a guest_memfd is private. `poisoned`: the page has a memory error.
    """

    is_open: bool
    page: int
    write: bool
    flags: int = FILE_FLAGS
    private_vm: bool = False
    poisoned: bool = False


@cache
def served(asked: Serving) -> int | str:
    """The file offset, in bytes, that serves a guest's access; the errno's name where it faults."""
    answer = _judged(asked)
    return answer.offset if isinstance(answer, ServedByGuestMemfd) else errno_name(answer.errno)


def why_not_served(asked: Serving) -> Refusal | None:
    """The rule by which a guest's access faults; None where it is served."""
    answer = _judged(asked)
    if isinstance(answer, ServedByGuestMemfd):
        return None
    return Refusal(answer.errno, answer.rule, FAULTS[answer.rule][0])


def _judged(asked: Serving) -> ServedByGuestMemfd | MemoryFault | PlainFault:
    bound = Bound(asked.page * PAGE_SIZE, asked.flags, asked.is_open, asked.poisoned)
    private_by = PrivateBy.ATTRIBUTES if asked.private_vm else PrivateBy.NOBODY
    access = GuestAccess(
        0, asked.write, private_by, asked.private_vm, slot_of(0), bound, host_mapped=False
    )
    answer = guest_access(access)
    if isinstance(answer, ServedByGuestMemfd | MemoryFault | PlainFault):
        return answer
    raise InternalError("serve a guest's access", f"a slot with a file gave {answer}")


@cache
def host_sees(page: int, pages: int, flags: int, poisoned: bool) -> bool:
    """Tell whether the host's access to a page of its mapping is served; SIGBUS otherwise."""
    access = HostAccess(page * PAGE_SIZE, pages * PAGE_SIZE, flags, poisoned)
    return isinstance(host_access(access), ServedByGuestMemfd)


@cache
def mapping_refusal(profile: Profile, pages: int, flags: int) -> str | None:
    """The errno's name if a kernel of this profile refuses to map all of a file."""
    answer = mmap(Mmap(0, pages * PAGE_SIZE, True, flags), profile)
    return answer.errno_name if isinstance(answer, Refusal) else None
