# SPDX-License-Identifier: MIT
"""File operations of a guest_memfd: fallocate, mmap, and those that it always refuses.

File offsets and lengths in bytes, as the system calls take them: signed where those are.
Holding ``O_RDWR``, as every guest_memfd does; a signal can end an allocation with EINTR half way,
and it must then be asked for again (``kvm_gmem_allocate``).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pyvmm.rules.abi import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FILE_OFFSET_END,
    GUEST_MEMFD_FLAG_MMAP,
    is_page_aligned,
)
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal, Rule, judge

_PUNCH = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_VFS_MODES = frozenset(
    {0x00, 0x01, _PUNCH, 0x08, 0x10, 0x11, 0x20, 0x40, 0x41, 0x80}
)  # allocate, punch, collapse, zero, insert, unshare, write zeroes: each with what it goes with


@dataclass(frozen=True, slots=True)
class Fallocate:
    """fallocate(2) on a guest_memfd of `file_size` bytes."""

    mode: int
    offset: int
    length: int
    file_size: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """The pages of [start, end), file offsets in bytes, exist; those that did not read as zero."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Punched:
    """The pages of [start, end) are given back and no guest maps them; they read as zero anew."""

    start: int
    end: int


FALLOCATE: tuple[Rule[Fallocate], ...] = (
    Rule(
        "fallocate-range",
        "the offset is negative, or the length not positive",
        "vfs_fallocate",
        errno.EINVAL,
        lambda r, _: r.offset < 0 or r.length <= 0,
    ),
    Rule(
        "fallocate-mode",
        "no mode that any file system has",
        "vfs_fallocate",
        errno.EOPNOTSUPP,
        lambda r, _: r.mode not in _VFS_MODES,
    ),
    Rule(
        "fallocate-overflow",
        "the range ends beyond the largest file",
        "vfs_fallocate",
        errno.EFBIG,
        lambda r, _: r.offset + r.length >= FILE_OFFSET_END,
    ),
    Rule(
        "fallocate-guest-memfd-mode",
        "a guest_memfd's size is kept: allocate or punch, both with FALLOC_FL_KEEP_SIZE",
        "kvm_gmem_fallocate",
        errno.EOPNOTSUPP,
        lambda r, _: r.mode not in (FALLOC_FL_KEEP_SIZE, _PUNCH),
    ),
    Rule(
        "fallocate-alignment",
        "offset or length is no multiple of a page",
        "kvm_gmem_fallocate",
        errno.EINVAL,
        lambda r, _: not (is_page_aligned(r.offset) and is_page_aligned(r.length)),
    ),
    Rule(
        "fallocate-beyond-end",
        "an allocation beyond the end of the file",
        "kvm_gmem_allocate",
        errno.EINVAL,
        lambda r, _: r.mode == FALLOC_FL_KEEP_SIZE and r.offset + r.length > r.file_size,
    ),
)


def fallocate(request: Fallocate, profile: Profile) -> Refusal | Allocated | Punched:
    """Decide the outcome of fallocate(2). A hole beyond the file's end is empty, and no error."""
    refusal = judge(FALLOCATE, request, profile)
    if refusal is not None:
        return refusal
    end = request.offset + request.length
    if request.mode & FALLOC_FL_PUNCH_HOLE:
        start = min(request.offset, request.file_size)
        return Punched(start, min(end, request.file_size))
    return Allocated(request.offset, end)


@dataclass(frozen=True, slots=True)
class Mmap:
    """mmap(2) of [offset, offset + length) of a guest_memfd created with `flags`.

    `shared`: MAP_SHARED or MAP_SHARED_VALIDATE, as against MAP_PRIVATE. The range may lie beyond
    the end of the file: only touching it there fails.
    """

    offset: int
    length: int
    shared: bool
    flags: int


MMAP: tuple[Rule[Mmap], ...] = (
    Rule(
        "mmap-length",
        "the length is zero",
        "do_mmap",
        errno.EINVAL,
        lambda r, _: r.length == 0,
    ),
    Rule(
        "mmap-alignment",
        "the offset is no multiple of a page",
        "ksys_mmap_pgoff",
        errno.EINVAL,
        lambda r, _: not is_page_aligned(r.offset),
    ),
    Rule(
        "mmap-overflow",
        "the range ends beyond the largest file",
        "file_mmap_ok",
        errno.EOVERFLOW,
        lambda r, _: r.offset + r.length >= FILE_OFFSET_END,
    ),
    Rule(
        "mmap-flag",
        "the file was created without GUEST_MEMFD_FLAG_MMAP",
        "kvm_gmem_mmap",
        errno.ENODEV,
        lambda r, _: not r.flags & GUEST_MEMFD_FLAG_MMAP,
    ),
    Rule(
        "mmap-shared",
        "copy-on-write mappings of a guest_memfd do not exist",
        "kvm_gmem_mmap",
        errno.EINVAL,
        lambda r, _: not r.shared,
    ),
)


def mmap(request: Mmap, profile: Profile) -> Refusal | None:
    """Return the kernel's refusal to map; None where it maps."""
    return judge(MMAP, request, profile)


@dataclass(frozen=True, slots=True)
class FileCall:
    """A system call on the file as such: read, write, pread, pwrite, lseek or ftruncate."""

    name: str


FILE_CALLS: tuple[Rule[FileCall], ...] = (
    Rule(
        "file-has-no-read",
        "a guest_memfd cannot be read or written by system calls",
        "kvm_gmem_fops: no read_iter, no write_iter",
        errno.EINVAL,
        lambda r, _: r.name in ("read", "write"),
    ),
    Rule(
        "file-has-no-position",
        "a guest_memfd has no position",
        "kvm_gmem_fops: no llseek, so no FMODE_LSEEK, FMODE_PREAD, FMODE_PWRITE",
        errno.ESPIPE,
        lambda r, _: r.name in ("pread", "pwrite", "lseek"),
    ),
    Rule(
        "file-keeps-its-size",
        "a guest_memfd cannot be resized",
        "kvm_gmem_setattr; api.rst 4.142",
        errno.EINVAL,
        lambda r, _: r.name == "ftruncate",
    ),
)


def file_call(request: FileCall, profile: Profile) -> Refusal | None:
    """Return the kernel's refusal of the call: all calls that `FileCall` names are refused."""
    return judge(FILE_CALLS, request, profile)
