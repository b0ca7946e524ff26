# SPDX-License-Identifier: MIT
"""Backing of the guest's RAM, and whether the host can give that much: decisions, not calls."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pyvmm.errors import HostLacksError
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.memory.address_map import AddressMap, memory_below
from pyvmm.memory.layout import LEAST_PHYSICAL_ADDRESS_BITS
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE, KVM_MEM_MAX_NR_PAGES, PAGE_SIZE

_SHARED_FLAGS = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


class RamBacking(enum.Enum):
    """The file that is the guest's RAM."""

    GUEST_MEMFD = "guest_memfd"
    """KVM's own file, mapped by the monitor: one file for shared and private memory."""
    MEMFD = "memfd"
    """An anonymous file of the kernel's shmem; KVM knows of it by its mapping only."""
    TWO_SIDED = "memfd and guest_memfd"
    """A memfd for what is shared, and a guest_memfd that the monitor cannot map for the rest."""
    IN_PLACE = "guest_memfd, converted in place"
    """One guest_memfd, mapped by the monitor, that keeps which of its pages are private."""


class PrivateBacking(enum.Enum):
    """The wish of who wants a guest to have private memory."""

    AUTO = "auto"
    """Whichever of the others the host offers: no kernel has both at a time."""
    TWO_SIDED = "two-sided"
    """The VM keeps attributes; a page that is converted is another page."""
    IN_PLACE = "in-place"
    """The guest_memfd keeps attributes; a page that is converted is the same page."""


class BackingChoice(NamedTuple):
    """`kind`, the `flags` to create a guest_memfd with (0 for a memfd), and why: one line."""

    kind: RamBacking
    flags: GuestMemfdFlag
    reason: str


def choose_backing(capabilities: Capabilities) -> BackingChoice:
    """A guest_memfd that the monitor can map where the host offers that, a memfd otherwise.

    It needs KVM_CREATE_GUEST_MEMFD with MMAP and INIT_SHARED (api.rst 4.142), and
    KVM_SET_USER_MEMORY_REGION2 to bind it to a slot (4.140).
    """
    missing = _missing_for_guest_memfd(capabilities)
    if not missing:
        return BackingChoice(
            RamBacking.GUEST_MEMFD,
            _SHARED_FLAGS,
            "guest_memfd: this host's KVM offers one that can be mapped and starts out shared",
        )
    return BackingChoice(
        RamBacking.MEMFD,
        GuestMemfdFlag(0),
        f"memfd: this host's KVM lacks {' and '.join(missing)}, so no guest_memfd can be mapped",
    )


def choose_private_backing(
    capabilities: Capabilities, wish: PrivateBacking = PrivateBacking.AUTO
) -> BackingChoice:
    """For a guest with private memory. Raises `HostLacksError` where the host lacks it.

    A kernel's module parameter (gmem_in_place_conversion, as posted) chooses between attributes of
    the VM (KVM_CAP_MEMORY_ATTRIBUTES) and of its guest_memfds; the other one is 0 then.
    """
    in_files = MemoryAttribute.PRIVATE in capabilities.file_attributes
    if wish is PrivateBacking.AUTO:
        wish = PrivateBacking.IN_PLACE if in_files else PrivateBacking.TWO_SIDED
    if wish is PrivateBacking.IN_PLACE:
        return _in_place_backing(capabilities)
    _require_private(
        capabilities,
        {"KVM_MEMORY_ATTRIBUTE_PRIVATE": MemoryAttribute.PRIVATE in capabilities.memory_attributes},
        "load kvm with gmem_in_place_conversion=0, or give --private-backing in-place"
        if in_files
        else "use a kernel with CONFIG_KVM_SW_PROTECTED_VM, or --host lab",
    )
    return BackingChoice(
        RamBacking.TWO_SIDED,
        GuestMemfdFlag(0),
        "memfd for what the guest shares, guest_memfd for what it keeps private",
    )


def _in_place_backing(capabilities: Capabilities) -> BackingChoice:
    in_vm = MemoryAttribute.PRIVATE in capabilities.memory_attributes
    _require_private(
        capabilities,
        {
            "KVM_CAP_USER_MEMORY2": capabilities.user_memory2,
            "KVM_SET_MEMORY_ATTRIBUTES2 of guest_memfds": MemoryAttribute.PRIVATE
            in capabilities.file_attributes,
            **{
                f"GUEST_MEMFD_FLAG_{flag.name}": flag in capabilities.guest_memfd_flags
                for flag in _SHARED_FLAGS
            },
        },
        "give --private-backing two-sided, or use a kernel with in-place conversion"
        if in_vm
        else "use a kernel with in-place conversion, or --host model",
    )
    return BackingChoice(
        RamBacking.IN_PLACE,
        _SHARED_FLAGS,
        "guest_memfd: this host's KVM converts its pages in place, so that there is one copy",
    )


def _require_private(
    capabilities: Capabilities, of_this_kind: dict[str, bool], remedy: str
) -> None:
    needed = {
        "VMs of type KVM_X86_SW_PROTECTED_VM": VmType.SW_PROTECTED in capabilities.vm_types,
        "KVM_CAP_GUEST_MEMFD": capabilities.guest_memfd,
        **of_this_kind,
        "KVM_CAP_MEMORY_FAULT_INFO": capabilities.memory_fault_info,
        "exits for KVM_HC_MAP_GPA_RANGE": bool(capabilities.hypercalls >> KVM_HC_MAP_GPA_RANGE & 1),
    }
    missing = [name for name, there in needed.items() if not there]
    if missing:
        raise HostLacksError(
            "give a guest private memory", f"this host's KVM lacks {' and '.join(missing)}", remedy
        )


def _missing_for_guest_memfd(capabilities: Capabilities) -> list[str]:
    """The names of what is not offered; flags are named only where there is a guest_memfd."""
    missing = []
    if not capabilities.user_memory2:
        missing.append("KVM_CAP_USER_MEMORY2")
    if not capabilities.guest_memfd:
        missing.append("KVM_CAP_GUEST_MEMFD")
        return missing
    missing += [
        f"GUEST_MEMFD_FLAG_{flag.name}"
        for flag in _SHARED_FLAGS
        if flag not in capabilities.guest_memfd_flags
    ]
    return missing


def check_size(address_map: AddressMap, available: int, physical_address_bits: int) -> None:
    """Refuse a guest's RAM where the host cannot give that much.

    `available` is in bytes; `physical_address_bits` is the guest's width, 0 where it is unknown.
    Raises `HostLacksError` when it exceeds what is available, ends above the physical address
    width, or a slot is larger than KVM takes.
    """
    memory = address_map.memory
    attempt = f"give the guest {memory >> 20} MiB of memory"
    if memory > available:
        most = available >> 20
        raise HostLacksError(
            attempt, f"the host can give at most {most} MiB now", f"give --memory {most}M or less"
        )
    bits = physical_address_bits or LEAST_PHYSICAL_ADDRESS_BITS
    end = address_map.end
    if end > 1 << bits:
        most = memory_below(1 << bits) >> 20
        raise HostLacksError(
            attempt,
            f"its end, {end:#x}, is beyond this processor's {bits} physical address bits",
            f"give --memory {most}M or less",
        )
    for region in address_map.ram:
        pages = region.range.size // PAGE_SIZE
        if pages > KVM_MEM_MAX_NR_PAGES:
            most = (memory - (pages - KVM_MEM_MAX_NR_PAGES) * PAGE_SIZE) >> 20
            raise HostLacksError(
                attempt,
                f"memory slot {region.slot} would have {pages} pages, "
                f"KVM takes {KVM_MEM_MAX_NR_PAGES}",
                f"give --memory {most}M or less",
            )
