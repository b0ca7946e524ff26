# SPDX-License-Identifier: MIT
"""The kernel's terms, as the key ``g`` and docs/demo/glossary.md explain them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Term:
    """A term: `name` as it is written here, `also` other spellings, `says` a sentence or three.

    `source` says where it is defined: a document of the kernel's, a manual, a function. `step` is
    the link of the step that explains it, and no step before has it; "": the chapters do without.
    """

    name: str
    says: str
    source: str = ""
    also: tuple[str, ...] = ()
    step: str = ""

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        return f"{self.name}: {self.says}{source}"


TERMS = (
    Term(
        "attestation",
        "Proof to somebody far away of what runs: a digest and a nonce of theirs, signed by a key "
        "that only genuine hardware has. The demo's digest is signed by nobody.",
        "AMD 56860; Intel TDX module specification",
        ("attest",),
        step="hardware/signer",
    ),
    Term(
        "attribute",
        "A bit that KVM keeps for each page of guest memory. There is one, PRIVATE: it picks the "
        "memory that the guest gets at that address.",
        "api.rst 4.141, KVM_SET_MEMORY_ATTRIBUTES",
        ("memory attribute", "attributes"),
        step="slots/private-side",
    ),
    Term(
        "bind",
        "To configure a memslot with a guest_memfd and an offset in it. A page of the file is in "
        "one slot at most.",
        "kvm_gmem_bind",
        ("binding", "binds", "bound"),
        step="guest-memfd/bind",
    ),
    Term(
        "conversion",
        "A page's change from one side to the other: the attribute is changed, and the page of the "
        "side that was left is given back. Nothing is copied.",
        "api.rst, KVM_HC_MAP_GPA_RANGE",
        ("convert", "implicit conversion"),
        step="conversion/ask",
    ),
    Term(
        "descriptor",
        "A process's number for something that the kernel keeps for it: a file, a VM, a vCPU. As "
        "long as one is open it is a reference.",
        "open(2)",
        ("file descriptor", "fd"),
        step="slots/create",
    ),
    Term(
        "digest",
        "A hash over what was loaded, page by page with its address, and where it starts: here "
        "SHA-384, chained. Who knows the inputs can compute it beforehand.",
        "firmware/README.md; SNP_LAUNCH_UPDATE, TDH.MR.EXTEND",
        ("launch digest", "measurement"),
        step="launch/digest",
    ),
    Term(
        "EFAULT",
        "Bad address. From KVM_RUN with KVM_EXIT_MEMORY_FAULT it is a message: the guest touched "
        "a page that is not there on the side it touched.",
        "api.rst 6, KVM_EXIT_MEMORY_FAULT",
        step="conversion/touch",
    ),
    Term(
        "exit",
        "A vCPU's leaving the guest for the monitor, with a reason: an I/O port, a "
        "hypercall, a fault.",
        "api.rst 5, struct kvm_run",
        ("KVM_EXIT",),
        step="launch/first-exit",
    ),
    Term(
        "firmware",
        "The code that a VM begins with. Here a loader of this project's, which copies the kernel "
        "into private memory and measures it.",
        "firmware/README.md",
        step="launch/boot",
    ),
    Term("gfn", "Guest frame number: a GPA divided by the size of a page.", "kvm_types.h"),
    Term(
        "GPA",
        "Guest-physical address: what the guest takes for an address of its RAM. Memslots say "
        "which memory is behind it.",
        "kvm_types.h",
        ("guest-physical address", "guest-physical addresses"),
        step="slots/slot",
    ),
    Term(
        "guest",
        "What runs inside of a VM: a kernel and its programs.",
        "",
        ("guests",),
        step="slots/slot",
    ),
    Term(
        "guest_memfd",
        "A file for the memory of one VM's guest. It has no name, cannot be read or written, and "
        "is mapped only if it was made for that.",
        "api.rst 4.142, KVM_CREATE_GUEST_MEMFD",
        ("guest_memfds",),
        step="slots/private-file",
    ),
    Term(
        "hole",
        "A part of a file, or of an address space, with nothing behind it. Punching one into a "
        "file frees its pages; they read as zeroes then.",
        "fallocate(2), FALLOC_FL_PUNCH_HOLE",
        ("holes", "punch"),
        step="destroys/hole",
    ),
    Term(
        "host",
        "All that is outside of the VM: the machine's kernel, its root, the monitor.",
        step="slots/read-back",
    ),
    Term(
        "HVA",
        "Host-virtual address: an address in the monitor's process. A memslot has one, for what is "
        "shared.",
        "kvm_types.h; userspace_addr",
    ),
    Term(
        "hypercall",
        "A call from the guest to KVM, by the instruction VMCALL or VMMCALL. KVM_HC_MAP_GPA_RANGE "
        "asks for a conversion and leaves for the monitor.",
        "hypercalls.rst",
        step="launch/first-exit",
    ),
    Term(
        "in-place conversion",
        "A conversion in which the page stays where it is, in the guest_memfd, and only changes "
        "who may have it. Under review, in no release.",
        "KVM_SET_MEMORY_ATTRIBUTES2, as posted",
        ("in place",),
        step="in-place/guest-reads",
    ),
    Term(
        "inode",
        "What a file is, apart from who has it open: it has the pages. It lives as long as a file "
        "refers to it.",
        "vfs.rst",
    ),
    Term(
        "KVM",
        "The part of Linux that runs VMs by the processor's support for them.",
        "Documentation/virt/kvm/api.rst",
        step="slots/create",
    ),
    Term(
        "mapping",
        "A range of a process's addresses at which a file's bytes can be read and written like "
        "memory. It is a reference on the file.",
        "mmap(2)",
        ("map", "mmap", "mapped"),
        step="guest-memfd/map",
    ),
    Term(
        "memslot",
        "A rule of a VM's: these GPAs are that memory, from here on, so long. None overlap.",
        "api.rst 4.35 and 4.140, KVM_SET_USER_MEMORY_REGION2",
        ("slot", "slots", "memslots"),
        step="slots/slot",
    ),
    Term(
        "model",
        "KVM's rules for guest memory as a program, with an emulated processor. It stands in where "
        "this machine has no kernel that can, and hides nothing from its own process.",
        "docs/model.md",
        step="slots/private-vm",
    ),
    Term(
        "monitor",
        "The process that makes a VM, gives it memory and answers its exits: QEMU is one, pyvmm "
        "another. Also VMM, virtual machine monitor.",
        "",
        ("VMM",),
        step="slots/create",
    ),
    Term(
        "page",
        "A piece of memory of 4096 bytes, at a multiple of 4096: the unit in which memory is "
        "given, converted and taken.",
        "",
        ("pages",),
        step="slots/slot",
    ),
    Term(
        "pin",
        "To hold a reference on an object, so that it cannot be freed. Also to hold one on a page, "
        "as a driver does whose device writes to it.",
        "pin_user_pages.rst",
        ("pins", "pinned"),
        step="pins/vm",
    ),
    Term(
        "private memory",
        "Pages for the guest alone: they lie in a guest_memfd that no process has mapped, and on "
        "SEV-SNP and TDX they are encrypted besides.",
        "api.rst 4.141",
        ("private",),
        step="slots/private-vm",
    ),
    Term(
        "reference",
        "A holder's claim on an object of the kernel. The object lives until the last one is "
        "dropped; a mere pointer is none.",
        "kref.rst",
        ("references",),
        step="pins/vm",
    ),
    Term(
        "resident",
        "Said of a page for which the kernel holds memory at this moment, as opposed to one that "
        "would be made when touched.",
        "mincore(2), cachestat(2)",
        ("residency",),
        step="destroys/back",
    ),
    Term(
        "SEV-SNP",
        "AMD's confidential VMs: memory encrypted with a key for each VM, a table (RMP) of who "
        "owns each page, reports signed by a secure processor.",
        "AMD APM volume 2, 15.36",
        ("SNP", "SEV"),
        step="hardware/signer",
    ),
    Term(
        "shared memory",
        "Pages that guest and host both have: the host's mapping behind the memslot. All that "
        "goes in or out of a VM passes through such pages.",
        "",
        ("shared",),
        step="slots/private-slot",
    ),
    Term(
        "side",
        "One of the two memories behind an address of a VM with private memory: the private one, "
        "or the shared one.",
        "",
        ("sides",),
        step="slots/private-slot",
    ),
    Term(
        "staging area",
        "Shared memory in which the monitor lays down what the firmware is to copy into private "
        "memory.",
        "firmware/README.md",
        step="launch/boot",
    ),
    Term(
        "SW_PROTECTED_VM",
        "A type of VM with private memory on any processor, without encryption: for development "
        "and tests. What the demo runs.",
        "api.rst 4.2, KVM_X86_SW_PROTECTED_VM",
        ("KVM_X86_SW_PROTECTED_VM",),
        step="hardware/boot",
    ),
    Term(
        "TDX",
        "Intel's confidential VMs (trust domains): memory encrypted, page tables of private memory "
        "kept by a signed module, quotes signed for attestation.",
        "Documentation/arch/x86/tdx.rst",
        step="hardware/signer",
    ),
    Term(
        "vCPU",
        "A VM's processor: a descriptor of its own, and a thread of the monitor's that calls "
        "KVM_RUN.",
        "api.rst 4.7, KVM_CREATE_VCPU",
        ("vCPUs",),
        step="slots/guest-writes",
    ),
    Term(
        "VM",
        "Virtual machine: memory slots, vCPUs, devices. For KVM a file descriptor.",
        "api.rst 4.2, KVM_CREATE_VM",
        ("virtual machine", "VMs"),
        step="slots/create",
    ),
    Term(
        "withheld",
        "Said here of pages that are marked private and have no guest_memfd behind them: an access "
        "leaves for the monitor with EFAULT.",
        "docs/private-memory.md",
        step="conversion/touch",
    ),
)
"""All terms, in the order of the alphabet."""


@cache
def _pattern(term: Term) -> re.Pattern[str]:
    words = "|".join(re.escape(word) for word in (term.name, *term.also))
    return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")


def terms_in(text: str) -> tuple[Term, ...]:
    """Terms that a text has, in the glossary's order."""
    return tuple(term for term in TERMS if _pattern(term).search(text))


GLOSSARY = tuple((term.name, term.says) for term in TERMS)
"""The terms as a book has them."""
