# SPDX-License-Identifier: MIT
"""The kernel's terms, in a sentence each."""

from __future__ import annotations

GLOSSARY = (
    ("attribute", "What KVM_SET_MEMORY_ATTRIBUTES says of a range of GPAs: private, or not."),
    ("binding", "A memslot's tie to a range of a guest_memfd; a page has one slot at most."),
    ("conversion", "Making private pages shared or shared ones private."),
    ("digest", "A hash over what a private machine is started from, which tells it from others."),
    ("exit", "A vCPU leaves the guest, and KVM_RUN returns to the monitor with the reason."),
    ("firmware", "The code that a private guest starts in: it takes the image in and measures it."),
    ("GPA", "Guest-physical address: what the guest takes for an address of its memory."),
    ("gfn", "Guest frame number: a GPA divided by the size of a page."),
    ("guest_memfd", "A file for guest memory that the host need not be able to map or read."),
    ("HVA", "Host-virtual address: an address in the monitor's own process."),
    ("hypercall", "A guest's call to the host; KVM_HC_MAP_GPA_RANGE asks for a conversion."),
    ("in place", "A conversion by which a page keeps its place, and perhaps its content."),
    ("memory fault", "The exit by which KVM says that the guest touched the side that is not on."),
    ("memslot", "A range of GPAs that the monitor has given memory to."),
    ("monitor", "The process that makes the VM and answers its exits: here pyvmm."),
    ("pin", "A reference that keeps an object alive although its descriptor is closed."),
    ("private", "Of a page: the guest's accesses go to the guest_memfd, out of the host's reach."),
    ("resident", "Of a page: the kernel holds memory for it now."),
    ("shared", "Of a page: the guest's accesses go to the host's mapping, for both to see."),
    ("staging", "Shared memory that the image lies in until the firmware has taken it."),
    ("vCPU", "A processor of the guest's: a descriptor, on which KVM_RUN is called."),
    ("VM", "What KVM_CREATE_VM makes: a descriptor to which slots, files and vCPUs belong."),
)
"""In alphabetical order, without regard to case."""
