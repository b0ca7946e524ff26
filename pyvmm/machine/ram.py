# SPDX-License-Identifier: MIT
"""A guest's RAM: what backs it, where it is mapped, and the memslots that show it to the guest."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError, InternalError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, MemslotFlag, System, Vm
from pyvmm.machine import host_memory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.ownership import StackOwner
from pyvmm.machine.raw_flags import NO_RAW_FLAGS, RawFlags
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import (
    BackingChoice,
    PrivateBacking,
    RamBacking,
    check_size,
    choose_backing,
    choose_private_backing,
)
from pyvmm.memory.regions import MemoryRegion

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.machine.hardware import NumaNode


class GuestRam(StackOwner):
    """Owns what backs RAM and its host mapping, and binds them to the VM's memslots.

    One file holds all of RAM, without the holes: `AddressMap.file_offset` is the arithmetic. With
    `private` there may be two: what is shared is mapped from a memfd, what is private lies in a
    guest_memfd at the same offset. A core of this process has what is mapped only with `in_core`.
    Memory of `nodes` follows their policies, if any has one; file and memslots have `raw_flags`
    beside their own; `recorder` is told of these calls.
    Raises `HostLacksError` when the host cannot give that much.
    """

    def __init__(
        self,
        system: System,
        vm: Vm,
        address_map: AddressMap,
        *,
        private: PrivateBacking | None = None,
        in_core: bool = False,
        nodes: tuple[NumaNode, ...] = (),
        raw_flags: RawFlags = NO_RAW_FLAGS,
        recorder: Recorder | None = None,
    ) -> None:
        capabilities = system.capabilities()
        check_size(address_map, host_memory.available(), capabilities.physical_address_bits)
        self.address_map = address_map
        self.choice: BackingChoice = (
            choose_backing(capabilities)
            if private is None
            else choose_private_backing(capabilities, private)
        )
        if any(node.policy for node in nodes) and self.choice.kind is RamBacking.GUEST_MEMFD:
            from pyvmm.machine.node_memory import choose_for_policies  # Few nodes have policies.

            self.choice = choose_for_policies(vm, self.choice, recorder)
        self._memslot_flags = MemslotFlag(raw_flags.memslot)
        self.guest_memfd: GuestMemfd | None = None
        with ExitStack() as stack:
            if self.choice.kind is not RamBacking.MEMFD:
                flags = self.choice.flags | GuestMemfdFlag(raw_flags.guest_memfd)
                self.guest_memfd = stack.enter_context(
                    vm.create_guest_memfd(address_map.memory, flags)
                )
            elif raw_flags.guest_memfd:
                raise HostLacksError(
                    f"make guest RAM's guest_memfd with the flags {raw_flags.guest_memfd:#x}",
                    "guest RAM is no guest_memfd on this host, which cannot map one",
                    "use --host lab, or another kernel; pyvmm doctor tells what one has",
                )
            self.mapping: GuestMapping = stack.enter_context(self._map(system, in_core))
            if any(node.policy for node in nodes):
                from pyvmm.machine.node_memory import place_nodes

                place_nodes(self.mapping.hva, nodes, recorder)
            for region in address_map.ram:
                vm.set_memslot(self.memslot(region.slot))
            self._view = self.mapping.view()
            stack.callback(self._view.release)
            self.own(stack)

    def _map(self, system: System, in_core: bool) -> GuestMapping:
        if self.guest_memfd is not None and self.choice.kind is not RamBacking.TWO_SIDED:
            return self.guest_memfd.map(in_core=in_core)
        return system.map_anonymous(self.address_map.memory, in_core=in_core)

    def memslot(self, slot: int) -> Memslot:
        """The memslot of RAM with that number."""
        region = next(one for one in self.address_map.ram if one.slot == slot)
        guest_memfd = self.guest_memfd
        flags = MemslotFlag.GUEST_MEMFD if guest_memfd else MemslotFlag(0)
        return Memslot(
            slot=region.slot,
            gpa=region.range.start,
            size=region.range.size,
            hva=self.mapping.hva + region.file_offset,
            flags=flags | self._memslot_flags,
            guest_memfd=guest_memfd,
            guest_memfd_offset=region.file_offset if guest_memfd else 0,
        )

    def sides(self) -> tuple[MemorySides, ...]:
        """RAM, region by region."""
        kind = self.choice.kind
        can_be_private = kind in {RamBacking.TWO_SIDED, RamBacking.IN_PLACE}
        in_place = kind is RamBacking.IN_PLACE
        return tuple(
            MemorySides(
                MemoryRegion(region.slot, region.range, can_be_private, "RAM", in_place),
                self.memslot(region.slot),
                self.mapping,
                self._view,
                region.file_offset,
            )
            for region in self.address_map.ram
        )

    @property
    def in_place(self) -> bool:
        """Pages are converted in place, by the guest_memfd's own attributes."""
        return self.choice.kind is RamBacking.IN_PLACE

    def clear(self) -> None:
        """Make all of it zero, where one side is all there is."""
        self.mapping.discard(0, self.address_map.memory)

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes of the host's mapping from `gpa` on; None unless one region holds them.

        Raises `SystemCallError` with EFAULT where a page is private and converted in place.
        """
        offset = self.address_map.file_offset(gpa, size)
        return None if offset is None else self.mapping.peek(offset, size)

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Copy `data` to `gpa`. Raises `InternalError` unless one RAM region takes it all."""
        offset = self.address_map.file_offset(gpa, len(data))
        if offset is None:
            raise InternalError(f"write {len(data)} bytes to gpa {gpa:#x}", "not in guest RAM")
        self._view[offset : offset + len(data)] = data
