# SPDX-License-Identifier: MIT
"""Memslots and page states of every VM, kept up by watching the system calls that make them.

So the map has what was done by whoever did it: by the objects at hand, by others, by requests that
were declared a moment ago.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyvmm.hosts.call_record import SystemCall
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.interface import MemslotFlag
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState, PageStates

_ADDRESSES = GpaRange(0, 1 << 64)
"""All that an attribute can be set of."""
_NOT_WORTH_TELLING = frozenset(
    {"process_vm_readv", "process_vm_writev", "mincore", "cachestat", "lseek"}
)
"""Calls that look at memory and change nothing; writes change bytes, which the map has not."""
_FILE = struct.Struct("<QQ")
_REGION = struct.Struct("<IIQQQ")
_REGION2 = struct.Struct("<IIQQQQI")
_ATTRIBUTES = struct.Struct("<QQQ")
"""Beginnings of ``kvm_create_guest_memfd`` and so on: what the map is made of."""
MOST_CALLS = 1000
"""The most calls that are kept of one command."""


@dataclass
class WatchedFile:
    """A guest_memfd of `size` bytes; `states` by file offset, where the file is asked for them."""

    size: int
    states: PageStates | None
    is_shared: bool
    """It began as memory that the host may map (INIT_SHARED)."""


@dataclass(frozen=True)
class WatchedSlot:
    """A memslot: [gpa, gpa + size) in bytes, its mapping, and its file from `offset` on."""

    range: GpaRange
    hva: int
    file: WatchedFile | None = None
    fd: int = -1
    offset: int = 0

    @property
    def sides(self) -> tuple[Side, ...]:
        """Sides that have memory of their own: one where the file is all there is."""
        is_all = self.file is not None and (self.file.is_shared or self.file.states is not None)
        return (Side.SHARED,) if self.file is None or is_all else (Side.SHARED, Side.PRIVATE)


@dataclass
class WatchedVm:
    """Slots by number, and the attributes of all addresses."""

    slots: dict[int, WatchedSlot] = field(default_factory=dict)
    attributes: PageStates = field(default_factory=PageStates)

    def __post_init__(self) -> None:
        self.attributes.add(_ADDRESSES, PageState.SHARED)

    def in_order(self) -> list[WatchedSlot]:
        """Slots, ascending by GPA."""
        return sorted(self.slots.values(), key=lambda slot: slot.range.start)

    def runs(self) -> Iterator[PageRun]:
        """States of the pages that are memory, ascending."""
        for slot in self.in_order():
            yield from self.runs_of(slot)

    def runs_of(self, slot: WatchedSlot) -> Iterator[PageRun]:
        """States of the pages of one of its slots, ascending."""
        if slot.file is not None and slot.file.states is not None:
            low = slot.range.start - slot.offset
            within = GpaRange(slot.offset, slot.offset + slot.range.size)
            for run in slot.file.states.runs(within):
                yield PageRun(GpaRange(low + run.range.start, low + run.range.end), run.state)
            return
        for run in self.attributes.runs(slot.range):
            withheld = run.state is PageState.PRIVATE and slot.file is None
            yield PageRun(run.range, PageState.WITHHELD) if withheld else run


class Watch:
    """A `Recorder` that knows what VMs have, and keeps the calls and exits since `take`.

    `in_place`: files keep attributes, and not VMs. Any thread may tell it.
    """

    def __init__(self) -> None:
        self.in_place = False
        self.vms: dict[str, WatchedVm] = {}
        """By the descriptor's name, such as "VM fd 7"."""
        self.files: dict[int, WatchedFile] = {}
        """By the descriptor's number."""
        self._calls: list[SystemCall] = []
        self._exits: list[tuple[int, Exit]] = []
        self.asleep = False
        """True: nothing is kept, what is at hand looks at memory for a map."""

    def call(self, made: SystemCall) -> None:
        """Note a call that was answered."""
        if made.errno == 0:
            self._note(made)
        if self.asleep or made.name in _NOT_WORTH_TELLING:
            return
        if len(self._calls) < MOST_CALLS:
            self._calls.append(made)

    def exit(self, vcpu: int, exit_: Exit) -> None:
        """Note an exit of a vCPU."""
        if len(self._exits) < MOST_CALLS:
            self._exits.append((vcpu, exit_))

    def take(self) -> tuple[tuple[SystemCall, ...], tuple[tuple[int, Exit], ...]]:
        """Calls, and exits with their vCPU, since the last time, `MOST_CALLS` of each at most."""
        calls, self._calls = self._calls, []
        exits, self._exits = self._exits, []
        return tuple(calls), tuple(exits)

    def _note(self, made: SystemCall) -> None:
        given = _argument(made)
        match made.request or made.name:
            case "KVM_CREATE_VM":
                self.vms[f"VM fd {made.result}"] = WatchedVm()
            case "KVM_CREATE_GUEST_MEMFD" if len(given) >= _FILE.size:
                self.files[made.result] = self._new_file(*_FILE.unpack_from(given))
            case "KVM_SET_USER_MEMORY_REGION" if len(given) >= _REGION.size:
                self._set_slot(made.target, *_REGION.unpack_from(given))
            case "KVM_SET_USER_MEMORY_REGION2" if len(given) >= _REGION2.size:
                self._set_slot(made.target, *_REGION2.unpack_from(given))
            case "KVM_SET_MEMORY_ATTRIBUTES" if len(given) >= _ATTRIBUTES.size:
                vm = self.vms.get(made.target)
                _set(None if vm is None else vm.attributes, *_ATTRIBUTES.unpack_from(given))
            case "KVM_SET_MEMORY_ATTRIBUTES2" if len(given) >= _ATTRIBUTES.size:
                file = self.files.get(_number(made.target))
                _set(None if file is None else file.states, *_ATTRIBUTES.unpack_from(given))
            case "close":
                self.vms.pop(made.target, None)
                if made.target.startswith("guest_memfd"):
                    self.files.pop(_number(made.target), None)

    def _new_file(self, size: int, flags: int) -> WatchedFile:
        shared = GuestMemfdFlag.INIT_SHARED in GuestMemfdFlag(flags)
        if not self.in_place:
            return WatchedFile(size, None, shared)
        states = PageStates()
        states.add(GpaRange(0, size), PageState.SHARED if shared else PageState.PRIVATE)
        return WatchedFile(size, states, shared)

    def _set_slot(  # noqa: PLR0917 - fields of a structure
        self,
        target: str,
        number: int,
        flags: int,
        start: int,
        size: int,
        hva: int,
        offset: int = 0,
        fd: int = -1,
    ) -> None:
        vm = self.vms.get(target)
        if vm is None:
            return
        if size == 0:
            vm.slots.pop(number, None)
            return
        has_file = MemslotFlag.GUEST_MEMFD in MemslotFlag(flags)
        file, fd = (self.files.get(fd), fd) if has_file else (None, -1)
        vm.slots[number] = WatchedSlot(GpaRange(start, start + size), hva, file, fd, offset)


def _number(target: str) -> int:
    last = target.rpartition(" ")[2]
    return int(last) if last.isdecimal() else -1


def _argument(made: SystemCall) -> bytes:
    """The structure that the kernel was given, whatever its fields are called."""
    whole = bytearray()
    for one in made.given:
        end = one.offset + len(one.raw)
        whole.extend(bytes(max(0, end - len(whole))))
        whole[one.offset : end] = one.raw
    return bytes(whole)


def _set(states: PageStates | None, start: int, size: int, attributes: int) -> None:
    private = MemoryAttribute.PRIVATE in MemoryAttribute(attributes)
    state = PageState.PRIVATE if private else PageState.SHARED
    if states is not None and size:
        states.set(GpaRange(start, start + size), state)
