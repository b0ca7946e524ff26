# SPDX-License-Identifier: MIT
"""The kernel itself has no memory for a step: afterwards page states are what the guest finds.

As `tests.machine.test_failing_steps`, but on KVM, where a system call's allocations fail from the
first on, from the second on, and so forth (`FailingAllocations`). What a page is, the guest tells:
it reads what the host has written on the shared side, or does not.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import GuestMapping, Memslot, MemslotFlag
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.replay.failing_allocations import FailingAllocations
from pyvmm.rules.abi import PAGE_SIZE
from tests.differential.guests import MMIO, RunningGuest

pytestmark = pytest.mark.kvm

MOST = 40
"""More allocations than any of the system calls makes."""
SLOT = 7
WHOLE = GpaRange(0xBE000, 0xC2000)
"""The first two pages have their attributes in another node (of 64) than the last two."""
FIRST = WHOLE.start
MARK = 0x5A


@dataclass
class Starving:
    """Have system calls fail after the first `passing` allocations of each, until one has."""

    kernel: FailingAllocations
    passing: int = -1
    """-1: none fails."""
    failed: bool = False

    def wrap(self, call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: object) -> None:
            if self.passing < 0:
                return call(*args)
            try:
                with self.kernel.after(self.passing):
                    call(*args)
            except SystemCallError:
                self.failed = True
                self.passing = -1  # So that there is a way back.
                raise

        return wrapped


class World:
    """A region of four pages, the first private, and a guest that looks at them."""

    def __init__(
        self, system: System, vm: Vm, mapping: GuestMapping, starving: Starving, call: str
    ) -> None:
        self.vm = vm
        self.starving = starving
        self._owned = ExitStack()
        file = self._owned.enter_context(vm.create_guest_memfd(WHOLE.size))
        self._view = self._owned.enter_context(mapping.view())
        self.memslot = Memslot(
            SLOT, WHOLE.start, WHOLE.size, mapping.hva, MemslotFlag.GUEST_MEMFD, file
        )
        region = MemoryRegion(SLOT, WHOLE, True, "the pages")
        self.sides = MemorySides(region, self.memslot, mapping, self._view, 0)
        self.memory = GuestMemory(vm)
        self._owned.callback(self.memory.close)
        self.guest = RunningGuest(system, vm)
        self._owned.callback(self.guest.close)
        self.add()
        self.memory.conversion.convert(FIRST, PAGE_SIZE, Side.PRIVATE)
        setattr(vm, call, starving.wrap(getattr(vm, call)))

    def close(self) -> None:
        self._owned.close()

    def add(self) -> None:
        self.vm.set_memslot(self.memslot)
        try:
            self.memory.regions.add(self.sides)
        except BaseException:
            self.vm.set_memslot(self.sides.no_memslot())
            raise

    def check(self) -> None:
        """Of each page: what the guest reads is what its state says."""
        for gpa in range(WHOLE.start, WHOLE.end, PAGE_SIZE):
            self._view[gpa - WHOLE.start] = MARK
            state, found = self.memory.states.at(gpa), self.guest.touch(gpa, None)
            expected = {PageState.SHARED: f"reads {MARK:#04x}", PageState.PRIVATE: "reads 0x00"}
            if state is None:
                assert found == MMIO
            elif state is PageState.WITHHELD:
                assert found.startswith("MEMORY_FAULT")
            else:
                assert found == expected[state]


def to_private(world: World) -> None:
    world.memory.conversion.convert(FIRST, WHOLE.size, Side.PRIVATE)


def unplug(world: World) -> None:
    world.memory.regions.unplug(SLOT)


def remove(world: World) -> None:
    world.memory.regions.remove(SLOT)


def remove_and_add(world: World) -> None:
    world.memory.regions.remove(SLOT)
    world.add()


@contextmanager
def new_world(failing: FailingAllocations, call: str) -> Iterator[World]:
    with (
        System() as system,
        system.create_vm(VmType.SW_PROTECTED) as vm,
        system.map_anonymous(WHOLE.size) as mapping,
        contextlib.closing(World(system, vm, mapping, Starving(failing), call)) as world,
    ):
        yield world


@pytest.mark.parametrize(
    ("act", "call"),
    [
        pytest.param(to_private, "set_memory_attributes", id="to-private-attributes"),
        pytest.param(unplug, "set_memory_attributes", id="unplug-attributes"),
        pytest.param(unplug, "set_memslot", id="unplug-memslot"),
        pytest.param(remove, "set_memslot", id="remove-memslot"),
        pytest.param(remove_and_add, "set_memslot", id="remove-and-add-memslot"),
    ],
)
def test_states_are_the_kernels_whichever_allocation_fails(
    allocations: FailingAllocations, act: Callable[[World], None], call: str
) -> None:
    for passing in range(MOST):
        with new_world(allocations, call) as world:
            world.check()
            world.starving.passing = passing
            try:
                act(world)
            except SystemCallError as error:
                assert error.errno == errno.ENOMEM
            world.starving.passing = -1
            world.check()
            if not world.starving.failed:
                break
    print(f"{act.__name__}: {passing} allocations")
    assert 0 < passing < MOST - 1
