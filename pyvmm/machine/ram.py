"""A guest's RAM: what backs it, where it is mapped, and the memslots that show it to the guest."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pyvmm.errors import InternalError
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, MemslotFlag, System, Vm
from pyvmm.machine import host_memory
from pyvmm.memory.backing import BackingChoice, RamBacking, check_size, choose_backing
from pyvmm.memory.layout import MemoryLayout


class GuestRam:
    """Owns the backing file and its host mapping, and binds them to the VM's memslots.

    One file holds all of RAM, without the holes: `MemoryLayout.file_offset` is the arithmetic.
    Raises `HostLacksError` when the host cannot give that much.
    """

    def __init__(self, system: System, vm: Vm, layout: MemoryLayout) -> None:
        capabilities = system.capabilities()
        check_size(
            layout.memory, host_memory.available(), capabilities.physical_address_bits, layout
        )
        self.layout = layout
        self.choice: BackingChoice = choose_backing(capabilities)
        with ExitStack() as stack:
            guest_memfd: GuestMemfd | None = None
            if self.choice.kind is RamBacking.GUEST_MEMFD:
                guest_memfd = stack.enter_context(
                    vm.create_guest_memfd(layout.memory, self.choice.flags)
                )
                mapping: GuestMapping = stack.enter_context(guest_memfd.map())
            else:
                mapping = stack.enter_context(system.map_anonymous(layout.memory))
            for region in layout.regions:
                vm.set_memslot(
                    Memslot(
                        slot=region.slot,
                        gpa=region.range.start,
                        size=region.range.size,
                        hva=mapping.hva + region.file_offset,
                        flags=MemslotFlag.GUEST_MEMFD if guest_memfd else MemslotFlag(0),
                        guest_memfd=guest_memfd,
                        guest_memfd_offset=region.file_offset if guest_memfd else 0,
                    )
                )
            self._view = mapping.view()
            stack.callback(self._view.release)
            self._stack = stack.pop_all()

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes from `gpa` on; None unless one RAM region holds them all."""
        offset = self.layout.file_offset(gpa, size)
        return None if offset is None else bytes(self._view[offset : offset + size])

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Copy `data` to `gpa`. Raises `InternalError` unless one RAM region takes it all."""
        offset = self.layout.file_offset(gpa, len(data))
        if offset is None:
            raise InternalError(f"write {len(data)} bytes to gpa {gpa:#x}", "not in guest RAM")
        self._view[offset : offset + len(data)] = data

    def close(self) -> None:
        """Unmap and close. The memslots go with the VM."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
