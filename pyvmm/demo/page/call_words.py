# SPDX-License-Identifier: MIT
"""Words about system calls: what a request asks for, what a field and a flag mean.

By Linux' Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h; manual pages for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

REQUESTS: Mapping[str, str] = {
    "KVM_CREATE_VM": "Makes a virtual machine without memory and vCPUs: a file descriptor.",
    "KVM_CREATE_VCPU": "Makes a virtual CPU of the VM: one more descriptor.",
    "KVM_CREATE_IRQCHIP": "Gives the VM interrupt controllers inside the kernel.",
    "KVM_CREATE_GUEST_MEMFD": "Makes a file of guest memory that belongs to this VM alone.",
    "KVM_SET_USER_MEMORY_REGION": "Sets a memslot: guest-physical addresses that are this "
    "process's memory. Size 0 deletes it.",
    "KVM_SET_USER_MEMORY_REGION2": "Sets a memslot that may have a guest_memfd beside the "
    "process's memory. Size 0 deletes it.",
    "KVM_SET_MEMORY_ATTRIBUTES": "Sets which side of a slot the guest gets at these addresses: "
    "the process's memory, or the guest_memfd.",
    "KVM_SET_MEMORY_ATTRIBUTES2": "Sets, on a guest_memfd, who may have these pages of it: "
    "host and guest, or the guest alone.",
    "KVM_PRE_FAULT_MEMORY": "Fills the guest's page tables before the guest touches the pages.",
    "KVM_GET_REGS": "Reads the vCPU's general registers.",
    "KVM_SET_REGS": "Sets the vCPU's general registers, the instruction pointer among them.",
    "KVM_GET_SREGS": "Reads the vCPU's segments and control registers.",
    "KVM_SET_SREGS": "Sets the vCPU's segments and control registers, its page tables among them.",
    "KVM_GET_SREGS2": "Reads the vCPU's segments and control registers.",
    "KVM_SET_SREGS2": "Sets the vCPU's segments and control registers.",
    "KVM_SET_CPUID2": "Sets which processor the guest sees.",
    "KVM_SET_TSS_ADDR": "Tells KVM of three pages that it may use for itself.",
    "KVM_SET_IDENTITY_MAP_ADDR": "Tells KVM of a page that it may use for itself.",
    "KVM_ENABLE_CAP": "Turns on what a VM has only if it is asked for.",
    "KVM_CHECK_EXTENSION": "Asks what this kernel can do.",
    "KVM_GET_VCPU_MMAP_SIZE": "Asks how large the memory is in which a vCPU tells its exits.",
    "KVM_RUN": "Lets the vCPU run until there is something that the monitor has to do.",
    "MADV_DONTDUMP": "Leaves these pages out of a core file.",
    "MADV_REMOVE": "Gives the pages back to the kernel; they read zeroes after that.",
    "FALLOC_FL_KEEP_SIZE": "Makes pages of the file be there, without making it longer.",
    "FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE": "Gives pages of the file back to the kernel.",
}
"""Requests, by their names; those that are missing say enough themselves."""

CALLS: Mapping[str, str] = {
    "memfd_create": "Makes a file without a name, whose pages become the host's side of memory.",
    "ftruncate": "Sets the length of a file.",
    "mmap": "Asks for an address in this process at which the memory can be read and written.",
    "munmap": "Takes an address range out of this process.",
    "close": "Gives a descriptor back. What it referred to lives as long as anything refers to it.",
    "mincore": "Asks which pages are in memory.",
    "open": "Gets a descriptor for what has a name.",
    "preadv": "Reads from a file at an offset; /proc/self/mem is the process's own memory.",
    "pread": "Reads from a file at an offset.",
    "vmsplice": "Puts pages of this process into a pipe, which holds them then.",
    "process_vm_readv": "Reads memory of a process from outside of it.",
}
"""Calls without a request, by their names."""

_REGION: Mapping[str, str] = {
    "slot": "Number of the memslot; bits 16 and up are the address space.",
    "flags": "What is special about the slot.",
    "guest_phys_addr": "Where the guest sees it: the first guest-physical address.",
    "memory_size": "How many bytes; 0 deletes the slot.",
    "userspace_addr": "Where this process has the memory: an ordinary address, the shared side.",
    "guest_memfd_offset": "First byte of the guest_memfd that the slot gets.",
    "guest_memfd": "Descriptor of the file that is the private side.",
}
FIELDS: Mapping[str, Mapping[str, str]] = {
    "struct kvm_userspace_memory_region": _REGION,
    "struct kvm_userspace_memory_region2": _REGION,
    "struct kvm_create_guest_memfd": {
        "size": "Size of the file in bytes, which never changes.",
        "flags": "What may be done with the file.",
        "reserved": "Has to be zero.",
    },
    "struct kvm_memory_attributes": {
        "address": "First guest-physical address.",
        "size": "How many bytes.",
        "attributes": "New attributes: 8 is private, 0 shared.",
        "flags": "Has to be zero.",
    },
    "struct kvm_memory_attributes2": {
        "offset": "First byte in the file.",
        "size": "How many bytes.",
        "attributes": "New attributes: 8 is private, 0 shared.",
        "flags": "Has to be zero.",
        "error_offset": "Given back where a page is held: that page's offset in the file.",
    },
    "struct kvm_pre_fault_memory": {
        "gpa": "First guest-physical address; the kernel moves it on.",
        "size": "How many bytes; the kernel counts it down.",
    },
}
"""Meanings of a structure's fields."""

FLAGS: Mapping[str, str] = {
    "LOG_DIRTY_PAGES": "the kernel notes which pages the guest writes",
    "READONLY": "the guest's writes leave to the monitor",
    "GUEST_MEMFD": "the slot has a guest_memfd",
    "MMAP": "the host may map the file",
    "INIT_SHARED": "its pages begin as shared",
    "PRIVATE": "the guest gets the guest_memfd's page, the host none",
    "MAP_SHARED": "writes reach everybody who has the memory",
    "MAP_NORESERVE": "no swap space is set aside",
    "MFD_CLOEXEC": "a program that is started does not get it",
}
"""Meanings of flags."""


def request_words(name: str, request: str) -> str:
    """A call in a sentence; "" where its name says it."""
    return REQUESTS.get(request) or CALLS.get(name, "")


def field_words(structure: str, name: str) -> str:
    """A field in a sentence; "" for one that is not known here."""
    if name.startswith(("pad", "reserved")):
        return "Unused; has to be zero."
    return FIELDS.get(structure, {}).get(name, "")


def flag_words(meaning: str) -> str:
    """Names of flags, joined by "|", each with its meaning; "" where none has one."""
    told = [f"{one}: {FLAGS[one]}" for one in meaning.split("|") if one in FLAGS]
    return "; ".join(told)
