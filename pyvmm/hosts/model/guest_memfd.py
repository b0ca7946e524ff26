# SPDX-License-Identifier: MIT
"""The model's guest_memfd: what the host may do with it, by the rules."""

from __future__ import annotations

from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.model.host_memory import HostMemory, Mapped
from pyvmm.hosts.model.mapping import ModelMapping
from pyvmm.hosts.model.refusals import closed, refused
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from pyvmm.rules.files import Fallocate, Mmap, fallocate, mmap
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal


class ModelGuestMemfd(Owner):
    """A guest_memfd file of a VM: its one inode, and the flags that it was created with.

    `vm` is who it belongs to. The descriptor and every mapping hold the file; when the last of
    them goes it is released, and taken away from every slot that is bound to it.
    """

    def __init__(
        self, size: int, flags: GuestMemfdFlag, vm: object, profile: Profile, mapped: Mapped
    ) -> None:
        # Never in a core: of KVM's there are only the mappings.
        self.memory = HostMemory(size, "guest_memfd")
        self.flags = flags
        self.vm = vm
        self._profile = profile
        self._mapped = mapped
        self._references = 1
        self._open = True

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

        Raises `SystemCallError` without `GuestMemfdFlag.MMAP`. The kernel maps a file without
        INIT_SHARED, but a touch of it ends the process (SIGBUS): here it is refused.
        """
        attempt = f"map {self.size} bytes of a guest_memfd"
        self._require_open(attempt)
        refusal = mmap(Mmap(0, self.size, True, int(self.flags)), self._profile)
        if refusal is not None:
            raise refused(attempt, refusal)
        if GuestMemfdFlag.INIT_SHARED not in self.flags:
            raise refused(attempt, _WOULD_BUS)
        memory = self._mapped.map(self.size, "guest_memfd", self.memory, in_core=in_core)
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
        outcome = fallocate(Fallocate(mode, offset, size, self.size), self._profile)
        if isinstance(outcome, Refusal):
            raise refused(attempt, outcome)
        return outcome.end - outcome.start

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


_WOULD_BUS = Refusal(14, "host-access-private", "touching the memory would raise SIGBUS")
