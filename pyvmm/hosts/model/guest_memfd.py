# SPDX-License-Identifier: MIT
"""The model's guest_memfd: what the host may do with it, by the rules."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.model.host_memory import HostMemory, Mapped
from pyvmm.hosts.model.mapping import ModelMapping
from pyvmm.hosts.model.private_ranges import PrivateRanges
from pyvmm.hosts.model.refusals import closed, refused
from pyvmm.hosts.model.turn import TakesTurns
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.page_held import PageHeldError
from pyvmm.hosts.page_holders import HoldKind, PageHolder
from pyvmm.rules.abi import (
    ADDRESS_END,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FILE_OFFSET_END,
    PAGE_SIZE,
)
from pyvmm.rules.access import BusError, HostAccess, host_access
from pyvmm.rules.files import Fallocate, Mmap, fallocate, mmap
from pyvmm.rules.in_place import (
    Held,
    SetFileAttributes,
    set_file_attributes,
    starts_private,
    supported_file_attributes,
)
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal


class ModelGuestMemfd(Owner):
    """A guest_memfd file of a VM: its one inode, and the flags that it was created with.

    `vm` is who it belongs to; who converts pages takes that VM's turn. The descriptor and every
    mapping hold the file; when the last of them goes it is released, and taken away from every slot
    that is bound to it.
    """

    def __init__(
        self,
        size: int,
        flags: GuestMemfdFlag,
        vm: TakesTurns,
        profile: Profile,
        mapped: Mapped,
        *,
        private_vm: bool = False,
    ) -> None:
        # Never in a core: of KVM's there are only the mappings.
        self.memory = HostMemory(size, "guest_memfd")
        self.flags = flags
        self.vm = vm
        self._private_vm = private_vm
        self._profile = profile
        self._mapped = mapped
        self._references = 1
        self._open = True
        self._maps: list[HostMemory] = []
        self._held: Counter[int] = Counter()
        self.on_convert: list[Callable[[], None]] = []
        """Called behind each conversion, by those whose guests have the file as memory."""
        self.attributes: PrivateRanges | None = None
        """File offsets that are private, where files keep that."""
        if supported_file_attributes(private_vm, profile):
            self.attributes = PrivateRanges()
            self.attributes.set(0, size, starts_private(int(flags), private_vm, profile))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size} bytes, flags {int(self.flags):#x}>"

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.memory.size

    @property
    def is_open(self) -> bool:
        """True until `close` is called: only then can it be bound."""
        return self._open

    @property
    def is_released(self) -> bool:
        """True once nothing refers to it any more, so that slots have lost it."""
        return not self.memory.is_open

    def map(self, *, in_core: bool = False) -> ModelMapping:
        """Map all of it shared; a core of this process has it only with `in_core`.

        Raises `SystemCallError` without `GuestMemfdFlag.MMAP`. A touch of a private page, as all
        are of a file without INIT_SHARED, ends the process: here by SIGSEGV, on KVM by SIGBUS.
        """
        attempt = f"map {self.size} bytes of a guest_memfd"
        self._require_open(attempt)
        refusal = mmap(Mmap(0, self.size, True, int(self.flags)), self._profile)
        if refusal is not None:
            raise refused(attempt, refusal)
        if self.attributes is None and GuestMemfdFlag.INIT_SHARED not in self.flags:
            # Not among what a memslot finds by its address: there is nothing for a guest, either.
            memory = HostMemory(self.size, "guest_memfd", self.memory, in_core=in_core)
            memory.protect(0, self.size, reachable=False)
        else:
            memory = self._mapped.map(self.size, "guest_memfd", self.memory, in_core=in_core)
            self._maps = [*(known for known in self._maps if known.is_open), memory]
            self._protect(0, self.size, (memory,))
        mapping = ModelMapping(memory, self._drop)
        self._references += 1
        return mapping

    def duplicate(self) -> Owner:
        """One more descriptor, which holds the file."""
        from pyvmm.hosts.model.duplicate import ModelDuplicate

        self._require_open("duplicate a guest_memfd's descriptor")
        self._references += 1
        return ModelDuplicate(self._drop)

    def allocate(self, offset: int, size: int) -> None:
        """fallocate(2), keeping the size. Raises `SystemCallError`."""
        outcome = self._judged(FALLOC_FL_KEEP_SIZE, offset, size, "allocate")
        self.memory.allocate(offset, outcome)

    def punch_hole(self, offset: int, size: int) -> None:
        """fallocate(2) with PUNCH_HOLE. Raises `SystemCallError`."""
        punched = self._judged(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size, "free")
        if punched:
            self.memory.discard(offset, punched)

    def _judged(self, mode: int, offset: int, size: int, verb: str) -> int:
        attempt = f"{verb} {size} bytes at offset {offset:#x} of a guest_memfd"
        self._require_open(attempt)
        # The kernel takes both for signed.
        length = (size + FILE_OFFSET_END) % ADDRESS_END - FILE_OFFSET_END
        start = (offset + FILE_OFFSET_END) % ADDRESS_END - FILE_OFFSET_END
        outcome = fallocate(Fallocate(mode, start, length, self.size), self._profile)
        if isinstance(outcome, Refusal):
            raise refused(attempt, outcome)
        return outcome.end - outcome.start

    def set_attributes(self, offset: int, size: int, attributes: MemoryAttribute) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES2. Raises as `interface.GuestMemfd` says."""
        attempt = f"convert {size} bytes at offset {offset:#x} of a guest_memfd in place"
        self._require_open(attempt)
        with self.vm.turn():
            self._convert(attempt, offset, size, attributes)

    def _convert(self, attempt: str, offset: int, size: int, attributes: MemoryAttribute) -> None:
        request = SetFileAttributes(
            offset, size, int(attributes), self.size, self._private_vm, held=tuple(self._held)
        )
        known = self.attributes
        runs = known.runs(offset, offset + size) if known is not None else ()
        changes = any(private is not request.is_private for _, _, private in runs)
        outcome = set_file_attributes(request, self._profile, changes=changes)
        if isinstance(outcome, Held):
            raise PageHeldError(attempt, outcome.error_offset)
        if outcome is not None:
            raise refused(attempt, outcome)
        if known is not None and known.set(offset, offset + size, request.is_private):
            self._protect(offset, size, self._maps)
            for tell in self.on_convert:
                tell()

    def hold_page(self, offset: int) -> Owner:
        """Keep a reference on a page, by way of a mapping; see `interface.GuestMemfd`."""
        with self.map():
            return self.hold_mapped(offset)

    def hold_mapped(self, offset: int) -> Owner:
        """Keep a reference on a page of which there is a mapping."""
        from pyvmm.hosts.model.duplicate import ModelDuplicate

        attempt = f"hold the page at offset {offset:#x} of a guest_memfd"
        private = None if self.attributes is None else self.attributes.is_private(offset)
        judged = host_access(HostAccess(offset, self.size, int(self.flags), private=private))
        if isinstance(judged, BusError):
            raise refused(attempt, Refusal(errno.EFAULT, "host-access", judged.value))
        page = offset // PAGE_SIZE * PAGE_SIZE
        self._held[page] += 1

        def drop() -> None:
            self._held -= Counter({page: 1})

        return ModelDuplicate(drop)

    def holders(self, offset: int) -> tuple[PageHolder, ...]:
        """Name who holds the page: on the model that is this process, or nobody."""
        count = self._held[offset // PAGE_SIZE * PAGE_SIZE]
        who = f"this process ({os.getpid()})"
        return tuple(
            PageHolder(HoldKind.REFERENCE, who, True, os.getpid(), "hold_page")
            for _ in range(count)
        )

    def _protect(self, offset: int, size: int, maps: Iterable[HostMemory]) -> None:
        """Let mappings of the host's reach the pages that are shared, and no others."""
        if self.attributes is None:
            return
        for memory in maps:
            if memory.is_open:
                for start, end, private in self.attributes.runs(offset, offset + size):
                    memory.protect(start, end - start, reachable=not private)

    def resident(self, offset: int, size: int) -> int:
        """Bytes that take memory of the host."""
        self._require_open(f"count what is resident of {size} bytes of a guest_memfd")
        return self.memory.resident(offset, size)

    def _require_open(self, attempt: str) -> None:
        if not self._open:
            raise closed(attempt)

    def _drop(self) -> None:
        self._references -= 1
        if not self._references:
            self.memory.close()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._open:
            self._open = False
            self._drop()
