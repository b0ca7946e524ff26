# SPDX-License-Identifier: MIT
"""Interfaces of guest memory that are newer than most kernels, recognised by what they do.

They are posted for Linux and under review, so numbers of theirs may change. What a kernel is asked
is the thing itself: a write to a guest_memfd, a memslot with a flag, the size of a page. Posted:
write() population and removal from the direct map (N. Kalyazin, P. Roy, linux-kvm, 2025 and 2026),
KVM userfault (J. Houghton, 2025), guest_memfd on huge pages (A. Tng, RFC).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.huge_pages import try_collapse
from pyvmm.hosts.kvm.extensions import KNOWN
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import map_anonymous
from pyvmm.hosts.kvm.memslot_trial import try_memslot_flags
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.userfaultfd import FaultMode, Userfaultfd
from pyvmm.machine.findings import Finding, Verdict
from pyvmm.machine.kernel_matrix import Attempt, KernelMatrix, answer, flag_names
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

_EXTENSIONS_END = 320
"""Number of an extension that is not asked about: there are some 250."""
_SIZE = 4 * MIB
_MAPPED = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


def examine_newer(system: System, matrix: KernelMatrix) -> Iterator[Finding]:
    """Yield a finding for each. Raises `SystemCallError` where the host runs short."""
    yield from _of_files(system, matrix)
    yield _memslot_flags(system)
    yield _userfaultfd(system, matrix)
    yield _huge_pages()
    yield _extensions(system)


def _of_files(system: System, matrix: KernelMatrix) -> Iterator[Finding]:
    writable: list[str] = []
    unmapped: list[str] = []
    huge: list[str] = []
    refusals: set[int] = set()
    for row in matrix.rows:
        if row.cells[Attempt.CREATE] != 0:
            continue
        kind = f"{row.vm_type.name} {flag_names(row.flags)}"
        with system.create_vm(row.vm_type) as vm, vm.create_guest_memfd(_SIZE, row.flags) as file:
            number = _errno(lambda: os.pwrite(file.fd, bytes(PAGE_SIZE), 0))
            if number:
                refusals.add(number)
            else:
                writable.append(kind)
            if _is_unmapped(file):
                unmapped.append(kind)
            size = _page_size(file)
            if size != PAGE_SIZE:
                huge.append(f"{kind}: {size >> 10} KiB")
    told = ", ".join(sorted(map(answer, refusals))) or "no file"
    yield _listed(
        "write() population", writable, told,
        "a guest_memfd is filled without a mapping", "mappings and guests fill a guest_memfd",
    )  # fmt: skip
    yield _listed(
        "no direct map", unmapped, "no such flag",
        "the kernel itself has no mapping of these files", "the kernel maps every guest_memfd",
    )  # fmt: skip
    yield _listed(
        "huge guest_memfds", huge, f"pages of {PAGE_SIZE >> 10} KiB",
        "fewer page table entries for the guest", "guest_memfds have small pages only",
    )  # fmt: skip


def _is_unmapped(file: GuestMemfd) -> bool:
    """Tell whether the host can touch a page that the kernel cannot pin (``AS_NO_DIRECT_MAP``).

    A file that is not shared and mapped cannot be asked.
    """
    if _MAPPED not in file.flags:
        return False
    with ExitStack() as owned:
        try:
            mapping = owned.enter_context(file.map())
        except SystemCallError:
            return False
        ends = os.pipe()
        owned.callback(os.close, ends[0])
        owned.callback(os.close, ends[1])
        page = (ctypes.c_char * 1).from_address(mapping.hva)
        # A copy from the mapping faults it in as a touch does, and is EFAULT where that is SIGBUS.
        touched = not _errno(lambda: os.write(ends[1], memoryview(page)))
        return touched and _errno(lambda: mapping.peek(0, 1)) == errno.EFAULT


def _page_size(file: GuestMemfd) -> int:
    """Bytes that the smallest allocation takes; a page where the kernel cannot tell."""
    try:
        file.punch_hole(0, _SIZE)
        file.allocate(0, PAGE_SIZE)
        return file.resident(0, _SIZE) or PAGE_SIZE
    except (SystemCallError, HostLacksError):
        return PAGE_SIZE


def _memslot_flags(system: System) -> Finding:
    what = "KVM userfault"
    if not system.capabilities().user_memory2:
        return Finding(what, Verdict.LACKS, "no KVM_SET_USER_MEMORY_REGION2", "no such memslots")
    with system.create_vm() as vm, map_anonymous(2 * PAGE_SIZE) as memory:
        tried = {bit: _try_flag(vm, memory.hva, bit) for bit in range(_FIRST_UNNAMED, _FLAG_BITS)}
    taken = [bit for bit, number in tried.items() if not number]
    named = ["KVM_MEM_USERFAULT" if bit == _USERFAULT else f"{1 << bit:#x}" for bit in taken]
    refusals = ", ".join(sorted({answer(number) for number in tried.values()}))
    return _listed(
        what, named, f"{refusals} for each flag without a name",
        "memslots can have flags that no release has", "no fault of a guest's is handed out",
    )  # fmt: skip


_FIRST_UNNAMED, _FLAG_BITS = 3, 32
"""Bits of a memslot's flags."""
_USERFAULT = 3
"""Bit of KVM_MEM_USERFAULT in all postings; the bitmap's address follows the guest_memfd."""


def _try_flag(vm: Vm, hva: int, bit: int) -> int:
    """Errno of making a memslot of one page with a flag; its bitmap is in the page behind it."""
    return _errno(lambda: try_memslot_flags(vm, hva, 1 << bit, hva + PAGE_SIZE))


def _userfaultfd(system: System, matrix: KernelMatrix) -> Finding:
    what = "userfaultfd"
    without = "no page of a guest can be filled at its first touch"
    try:
        faults = Userfaultfd()
    except (HostLacksError, SystemCallError) as error:
        return Finding(what, Verdict.LACKS, error.cause, without)
    with faults:
        with map_anonymous(PAGE_SIZE) as memory:
            ours = _modes(faults, memory.hva)
        theirs: list[str] = []
        for row in matrix.rows:
            if row.cells[Attempt.TOUCH] == 0:
                with (
                    system.create_vm(row.vm_type) as vm,
                    vm.create_guest_memfd(PAGE_SIZE, row.flags) as file,
                    file.map() as mapping,
                ):
                    theirs.extend(_modes(faults, mapping.hva))
    there = ", ".join(dict.fromkeys(theirs)) or "none"
    return Finding(
        what, Verdict.HAS if theirs else Verdict.PARTLY,
        f"memfd: {', '.join(ours) or 'none'}; guest_memfd: {there}",
        "pages are filled at a guest's first touch" if theirs
        else "a guest whose RAM is a memfd has its pages filled at its first touch",
    )  # fmt: skip


def _modes(faults: Userfaultfd, hva: int) -> list[str]:
    found = []
    for mode in FaultMode:
        if not _errno(lambda: faults.register(hva, PAGE_SIZE, mode)):  # noqa: B023 - called at once
            faults.unregister(hva, PAGE_SIZE)
            found.append((mode.name or "").lower().replace("_", "-"))
    return found


def _huge_pages() -> Finding:
    """Try to have a page of 2 MiB in a memfd."""
    what = "huge pages of memfds"
    number = _errno(try_collapse)
    if number:
        return Finding(
            what, Verdict.LACKS, f"MADV_COLLAPSE: {answer(number)}",
            "a guest's RAM has small pages only",
        )  # fmt: skip
    return Finding(what, Verdict.HAS, "2048 KiB by MADV_COLLAPSE", "a guest's RAM can have them")


def _extensions(system: System) -> Finding:
    known = {number for _, number, _ in KNOWN}
    last = max(known)
    found = {
        number: value
        for number in range(last + 1, _EXTENSIONS_END)
        if (value := system.check_extension(number))
    }
    told = [f"{number} = {value:#x}" for number, value in found.items()]
    return _listed(
        "newer extensions", told, f"none above {last}",
        "KVM_CHECK_EXTENSION answers for numbers that have no name here",
        "all extensions have a name here",
    )  # fmt: skip


def _listed(what: str, found: list[str], without: str, yes: str, no: str) -> Finding:
    """A finding of a list: what there is of it, or what was answered instead."""
    if found:
        return Finding(what, Verdict.HAS, ", ".join(found), yes)
    return Finding(what, Verdict.LACKS, without, no)


def _errno(attempt: Callable[[], object]) -> int:
    """Errno of an attempt; 0 where it succeeded."""
    try:
        attempt()
    except SystemCallError as error:
        return error.errno
    except OSError as error:
        return error.errno or errno.EIO
    return 0
