# SPDX-License-Identifier: MIT
"""KVM_SET_MEMORY_ATTRIBUTES2 of a guest_memfd: conversion in place, as posted (Linux has none yet).

Source: "guest_memfd: In-place conversion", A. Tng, linux-kvm, 2026 (v7 of 22 May and later ones),
whose api.rst has it as 4.145. A page has one memory, which the guest always reaches; the attribute,
kept by the file, says if the host's mappings reach it as well. KVM leaves contents alone: on
software-protected VMs they survive in both directions; what hardware makes of them is its own.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass

from pyvmm.rules.abi import (
    GUEST_MEMFD_FLAG_INIT_SHARED,
    KVM_MEMORY_ATTRIBUTE_PRIVATE,
    PAGE_SIZE,
    is_page_aligned,
)
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal, Rule, judge


@dataclass(frozen=True, slots=True)
class SetFileAttributes:
    """A request to give [offset, offset + size) of a file, in bytes, these `attributes`.

    `private_vm`: the file's VM has private memory. `held` are offsets of pages that somebody beside
    the file has a reference on: who does direct I/O, a device.
    """

    offset: int
    size: int
    attributes: int
    file_size: int
    private_vm: bool = True
    flags: int = 0
    held: Collection[int] = ()

    @property
    def is_private(self) -> bool:
        """Tell whether the pages are to be private."""
        return bool(self.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE)


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing was changed: EAGAIN, with the file offset of the first page that somebody holds."""

    error_offset: int


def supported_file_attributes(private_vm: bool, profile: Profile) -> int:
    """Return what files of a VM may have (KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES)."""
    return (profile.file_attributes or 0) if private_vm else 0


def starts_private(flags: int, private_vm: bool, profile: Profile) -> bool:
    """Tell whether all of a file that is made with `flags` is private by its own attributes.

    ``kvm_gmem_init_inode``: what has no INIT_SHARED is private. Never where files keep none.
    """
    keeps = supported_file_attributes(private_vm, profile)
    return bool(keeps) and not flags & GUEST_MEMFD_FLAG_INIT_SHARED


SET_FILE_ATTRIBUTES: tuple[Rule[SetFileAttributes], ...] = (
    Rule(
        "in-place-offered",
        "this kernel's guest_memfds keep no attributes",
        "KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES, as posted",
        errno.ENOTTY,
        lambda _, profile: profile.file_attributes is None,
    ),
    Rule(
        "in-place-flags",
        "flags must be zero",
        "kvm_gmem_set_attributes, as posted",
        errno.EINVAL,
        lambda r, _: r.flags != 0,
    ),
    Rule(
        "in-place-known",
        "an attribute that this VM's memory cannot have",
        "kvm_gmem_set_attributes, as posted",
        errno.EINVAL,
        lambda r, profile: bool(r.attributes & ~supported_file_attributes(r.private_vm, profile)),
    ),
    Rule(
        "in-place-empty",
        "the range is empty",
        "kvm_gmem_set_attributes, as posted",
        errno.EINVAL,
        lambda r, _: r.size == 0,
    ),
    Rule(
        "in-place-alignment",
        "offset or size is no multiple of a page",
        "kvm_gmem_set_attributes, as posted",
        errno.EINVAL,
        lambda r, _: not (is_page_aligned(r.offset) and is_page_aligned(r.size)),
    ),
    Rule(
        "in-place-beyond-end",
        "the range leaves the file, or ends beyond 64 bits",
        "kvm_gmem_set_attributes, as posted",
        errno.EINVAL,
        lambda r, _: r.offset + r.size > r.file_size,
    ),
)

HELD: Rule[SetFileAttributes] = Rule(
    "in-place-held",
    "somebody holds a page of it, which could still be read or written from outside",
    "kvm_gmem_is_safe_for_conversion, as posted; api.rst 4.145 there",
    errno.EAGAIN,
    lambda r, _: r.is_private and any(r.offset <= at < r.offset + r.size for at in r.held),
)
"""Reason of `Held`: by it a conversion to private is refused as a whole."""


def set_file_attributes(
    request: SetFileAttributes, profile: Profile, *, changes: bool = True
) -> Refusal | Held | None:
    """Return the kernel's refusal; None where the whole range has the attributes afterwards.

    `changes`: some page of the range has other attributes now. Where none has, nobody's reference
    is looked at.
    """
    refusal = judge(SET_FILE_ATTRIBUTES, request, profile)
    if refusal is not None:
        return refusal
    if not changes or not HELD.refuses(request, profile):
        return None
    end = request.offset + request.size
    return Held(
        min(at for at in request.held if request.offset <= at < end) // PAGE_SIZE * PAGE_SIZE
    )
