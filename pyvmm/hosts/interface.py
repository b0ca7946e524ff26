# SPDX-License-Identifier: MIT
"""Protocols that every host implements: system, VM, vCPU, guest memory.

`pyvmm.machine` is written against these and nothing else. Every object is a context manager that
owns what it stands for; `close` is idempotent. Methods raise `pyvmm.errors.SystemCallError` (on
KVM its subclass KvmError) unless they say otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from pyvmm.hosts.answers import AnsweredVcpu
from pyvmm.hosts.breakpoints import BreakableHost, BreakableVcpu
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.cpuid import CpuidHost, CpuidVcpu
from pyvmm.hosts.exits import Exit, ExitRecord
from pyvmm.hosts.held_ranges import HeldRanges
from pyvmm.hosts.interrupts import VmInterrupts
from pyvmm.hosts.owner import Owned
from pyvmm.hosts.page_holders import NamesHolders
from pyvmm.hosts.posted_ring import PostedRing
from pyvmm.hosts.registers import FurtherRegs, Regs, Sregs
from pyvmm.hosts.saveable import SaveableVcpu, SaveableVm


class MemslotFlag(enum.IntFlag):
    """``kvm_userspace_memory_region2.flags``."""

    LOG_DIRTY_PAGES = 1 << 0
    READONLY = 1 << 1
    GUEST_MEMFD = 1 << 2


NO_MEMSLOT_FLAGS = MemslotFlag(0)
NO_GUEST_MEMFD_FLAGS = GuestMemfdFlag(0)


class GuestMapping(Owned, Protocol):
    """A host mapping of guest memory: `size` bytes at host virtual address `hva`."""

    @property
    def hva(self) -> int:
        """The first byte's host virtual address."""
        ...

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def view(self) -> memoryview:
        """All of it, writable, as bytes. Release it before `close`.

        A touch of a page that its guest_memfd keeps private ends the process (SIGBUS); `peek` and
        `poke` fail there.
        """
        ...

    def discard(self, offset: int, size: int) -> None:
        """Give the pages of [offset, offset + size) back; they read as zeroes afterwards.

        Bytes from the mapping's start, page-aligned. Raises `UsageError` for any other range.
        """
        ...

    def resident(self, offset: int, size: int) -> int:
        """Count the bytes of [offset, offset + size), page-aligned, take memory of the host."""
        ...

    def peek(self, offset: int, size: int) -> bytes:
        """Copy `size` bytes at `offset` by a system call: where a touch is SIGBUS, it fails.

        Bytes from the mapping's start, any number. Raises `SystemCallError` with EFAULT then,
        `UsageError` for a range that is not in the mapping.
        """
        ...

    def poke(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset` by a system call; as `peek`."""
        ...

    def data(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [offset, offset + size), page-aligned, not surely zero: (start, end).

        Bytes from the mapping's start, ascending, whole pages; found out as it goes, so a page that
        is first written to meanwhile may be missed. What is swapped out is data. To look at the
        rest would take memory of the host for nothing. Raises as `discard`.
        """
        ...


class GuestMemfd(Owned, NamesHolders, Protocol):
    """A guest_memfd file of `size` bytes."""

    def duplicate(self) -> Owned:
        """One more descriptor of it (dup(2)): the file lives until all are closed."""
        ...

    @property
    def is_open(self) -> bool:
        """True while its descriptor is open."""
        ...

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def map(self, *, in_core: bool = False) -> GuestMapping:
        """Map all of it shared (needs `GuestMemfdFlag.MMAP`).

        A core of this process has it only with `in_core` (madvise(2), MADV_DONTDUMP).
        """
        ...

    def allocate(self, offset: int, size: int) -> None:
        """Allocate the pages of [offset, offset + size), file offsets in bytes, page-aligned."""
        ...

    def punch_hole(self, offset: int, size: int) -> None:
        """Free the pages of [offset, offset + size), file offsets in bytes, page-aligned."""
        ...

    def set_attributes(self, offset: int, size: int, attributes: MemoryAttribute) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES2, as posted: convert [offset, offset + size) in place.

        File offsets in bytes, page-aligned. Raises `HostLacksError` where files keep no attributes
        (`Capabilities.file_attributes`), `PageHeldError` where somebody holds a page that is to
        become private: then nothing has changed.
        """
        ...

    def hold_page(self, offset: int) -> Owned:
        """Keep a reference on the page at a file offset in bytes, as direct I/O does, until closed.

        Raises `SystemCallError`: with EFAULT where the host cannot touch it.
        """
        ...

    def resident(self, offset: int, size: int) -> int:
        """Count the bytes of [offset, offset + size), page-aligned, that take memory of the host.

        Raises `HostLacksError` where the host cannot tell.
        """
        ...


class Memslot(NamedTuple):
    """One memslot (api.rst 4.35, 4.140): [gpa, gpa + size) in bytes.

    `hva` is where the shared side is mapped; `guest_memfd` with the file offset of its first byte
    is the private side, or all of it where the file was made with INIT_SHARED.
    """

    slot: int
    gpa: int
    size: int
    hva: int
    flags: MemslotFlag = NO_MEMSLOT_FLAGS
    guest_memfd: GuestMemfd | None = None
    guest_memfd_offset: int = 0


class ServedSpan(NamedTuple):
    """Span where vCPU threads convert pages by themselves: [gpa, gpa + size), bytes, page-aligned.

    Its shared side is mapped at `hva`; its private side begins at the file offset
    `guest_memfd_offset` of `guest_memfd`. Without a private side, pages that the guest touches
    while their attribute is private become shared, the `touch_block` bytes around them at once: a
    power of two, at least a page. `missing`: the span's memslot, which is not there; all attributes
    are private, and the guest's first access sets it. `in_place`: both sides are the file, which
    keeps what is private and of which nothing is given back.
    """

    gpa: int
    size: int
    hva: int
    guest_memfd: GuestMemfd | None = None
    guest_memfd_offset: int = 0
    touch_block: int = 0
    missing: Memslot | None = None
    in_place: bool = False


class Converted(NamedTuple):
    """A conversion that a vCPU's thread made by itself: [gpa, gpa + size), bytes, page-aligned.

    `plugged`: that is the whole of a span, whose memslot was missing and has been set.
    """

    gpa: int
    size: int
    private: bool
    plugged: bool = False


class Vcpu(Owned, SaveableVcpu, BreakableVcpu, CpuidVcpu, AnsweredVcpu, Protocol):
    """One vCPU. Everything but `kick` is called from the one thread that created it."""

    def duplicate(self) -> Owned:
        """One more descriptor of it (dup(2)): the vCPU lives until all are closed."""
        ...

    def run(self) -> Exit:
        """Run guest code until something needs the monitor."""
        ...

    def kick(self) -> None:
        """From any thread: make the present or next `run` return `Interrupted` (once)."""
        ...

    def idle_mark(self) -> int | None:
        """A number that stays the same while it executes nothing; None: it executes. Any thread.

        Not after `close`.
        """
        ...

    def sleeps_for_good(self) -> bool:
        """Tell whether it runs nothing before an NMI, SMI or INIT, and none is on its way.

        It has halted with interrupts off, or was never started. Other vCPUs may send something, and
        so may the VM's controllers (`Vm.can_send_unmaskable`).
        """
        ...

    def complete(self) -> bool:
        """Let the kernel finish a pending exit's work without entering the guest.

        True: that gave another exit, which the next `run` returns.
        """
        ...

    def make_runnable(self) -> None:
        """Let it run at once, where in-kernel controllers would let it wait for a start-up IPI."""
        ...

    def get_regs(self) -> Regs:
        """KVM_GET_REGS."""
        ...

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        ...

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS."""
        ...

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS."""
        ...

    def get_further(self) -> FurtherRegs:
        """Debug registers, x87, SSE and more, for people and for dumps."""
        ...

    def set_entry(self, regs: Regs, sregs: Sregs) -> None:
        """All registers for a first run; `sregs.apic_base` is not taken, the vCPU's own stays."""
        ...

    def reset(self) -> None:
        """Everything as `Vm.create_vcpu` made it, but CPUID; what was pending is forgotten.

        What was saved when it was new is restored.
        """
        ...

    def translate(self, linear: int) -> int | None:
        """The GPA of a linear address under the vCPU's present page tables; None if unmapped."""
        ...

    def use_host_cpuid(self) -> None:
        """Give the guest every CPUID feature that the host can (KVM_GET_SUPPORTED_CPUID)."""
        ...

    def recent_exits(self) -> Sequence[ExitRecord]:
        """The last exits, oldest first, at most 32."""
        ...

    def exit_counts(self) -> Mapping[str, int]:
        """Exits so far by the name of their reason."""
        ...


MOST_SERVED_SPANS = 8
"""Largest number of spans that a host serves at a time."""


class FastConversions(Owned, Protocol):
    """Conversions that vCPUs' threads make without leaving for Python, and the lock of them all.

    A `Hypercall` MAP_GPA_RANGE that is valid, at most 1 GiB long and wholly in one span served is
    done and answered with 0: the attributes are set, then the stale side's pages are given back; in
    steps of 2 MiB, between which others have the lock. It ends `Vcpu.run` only where one of these
    fails or is refused for now, where somebody works on the pages, or when too many have not been
    drained yet. A `MemoryFault` in a span without a private side is answered by making what was
    touched shared.
    """

    @property
    def held(self) -> HeldRanges:
        """Ranges that somebody holds: the fast path leaves those of leases and listeners alone."""
        ...

    def serve(self, spans: Sequence[ServedSpan]) -> None:
        """From now on serve these, `MOST_SERVED_SPANS` or fewer, and no others.

        None at all: every hypercall ends `run`.

        On return no conversion of a span that is no longer served is under way. What a span names
        must stay open while it is served. Any thread; inside of `exclusive` or not. Raises
        `UsageError` for spans that cannot be.
        """
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other conversion of this VM out, from the fast path as from other threads.

        Enter and leave it in one thread, and wait for no vCPU meanwhile: its thread may be waiting
        for this. Raises `InternalError` when the thread is inside already.
        """
        ...

    def give_way(self, seconds: float = 0.0) -> bool:
        """Inside of `exclusive`, between two steps of long work: let others in.

        Every thread that waits now has had the lock once when this returns, with the lock;
        `seconds`: nobody has it because of the caller for that long. False where it was not given
        away. Whoever works in steps has what they are about held as CONVERTING or WORKING.
        """
        ...

    def await_end(self) -> None:
        """Inside of `exclusive`: let others in until a range is CONVERTING or WORKING no more.

        Any range; holds the lock when it returns.
        """
        ...

    def drain(self) -> list[Converted]:
        """Take the conversions made since the last call, in order; ones that touch are joined.

        Inside of `exclusive` what it tells is the present state.
        """
        ...


class Vm(VmInterrupts, SaveableVm, Owned, Protocol):
    """One VM. Its interrupts are in `pyvmm.hosts.interrupts`."""

    def duplicate(self) -> Owned:
        """One more descriptor of it (dup(2)): the VM lives until all are closed."""
        ...

    @property
    def posted(self) -> PostedRing:
        """The ring of posted port writes of this VM's vCPUs."""
        ...

    @property
    def conversions(self) -> FastConversions:
        """The conversions that this VM's vCPUs make by themselves; closed with the VM."""
        ...

    def create_guest_memfd(
        self, size: int, flags: GuestMemfdFlag = NO_GUEST_MEMFD_FLAGS
    ) -> GuestMemfd:
        """KVM_CREATE_GUEST_MEMFD; `size` in bytes."""
        ...

    def set_memslot(self, memslot: Memslot) -> None:
        """Create or change a memslot; a size of 0 deletes it. Any thread; vCPUs may be running."""
        ...

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES over [gpa, gpa + size) in bytes."""
        ...

    def enable_hypercall_exits(self, mask: int) -> None:
        """KVM_CAP_EXIT_HYPERCALL: a mask of 1 << hypercall number; before the first vCPU."""
        ...

    def disable_exits(self, mask: int) -> None:
        """KVM_CAP_X86_DISABLE_EXITS: 1 MWAIT, 2 HLT, 4 PAUSE, 8 C-states; before the first vCPU."""
        ...

    def create_vcpu(self, index: int) -> Vcpu:
        """The vCPU whose APIC ID is `index`, owned by the calling thread."""
        ...


class System(Owned, BreakableHost, CpuidHost, Protocol):
    """A host: where VMs are made."""

    def capabilities(self) -> Capabilities:
        """Return the capabilities of this host, asked for once."""
        ...

    def create_vm(self, vm_type: VmType = VmType.DEFAULT) -> Vm:
        """A new VM."""
        ...

    def map_anonymous(self, size: int, *, in_core: bool = False) -> GuestMapping:
        """Guest RAM from an anonymous memfd, where guest_memfd cannot be mapped.

        A core of this process has it only with `in_core`.
        """
        ...
