# SPDX-License-Identifier: MIT
"""A guest's memory whose pages are converted in place: one copy, kept apart by its guest_memfd.

Without a guest: on each host that has it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyvmm.errors import ConversionRefusedError, HostLacksError, SystemCallError, UsageError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import System, Vm
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.machine.attributes import AttributeSetter, HeldPageError
from pyvmm.machine.config import HostChoice
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import SharedMemory
from pyvmm.machine.ram import GuestRam
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import PrivateBacking, RamBacking
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.memory.steps import STEP
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.profile import IN_PLACE, MAINLINE, Profile

SIZE = 16 * MIB
WINDOW = GpaRange(3 * GIB, 3 * GIB + 4 * PAGE_SIZE)
KVM_HC_PRIVATE = 1 << 4

KVM_HC_PRIVATE = 1 << 4


class World:
    """RAM of a VM of the model's, and a window that has no private side."""

    def __init__(self, vm: Vm, ram: GuestRam, window: SharedMemory) -> None:
        self.vm = vm
        self.ram = ram
        self.asked_if_wanted = 0
        self.is_vcpu_wanted = False
        self.memory = GuestMemory(vm, wanted=self.is_wanted, patience=0.01, in_place=ram.in_place)
        for sides in ram.sides():
            self.memory.regions.add(sides)
        self.memory.regions.add(window.sides)

    def is_wanted(self) -> bool:
        self.asked_if_wanted += 1
        return self.is_vcpu_wanted

    def convert(self, gpa: int, size: int, to: Side) -> None:
        self.memory.conversion.convert(gpa, size, to)

    def private(self) -> list[GpaRange]:
        """Runs of RAM that are private by its states, which are the file's."""
        found = []
        for run in self.memory.states.runs(GpaRange(0, SIZE)):
            is_private = run.state is PageState.PRIVATE
            for gpa in (run.range.start, run.range.end - PAGE_SIZE):
                assert self.is_reached(gpa) is not is_private, f"{gpa:#x} is not {run.state}"
            if is_private:
                found.append(run.range)
        return found

    def is_reached(self, gpa: int) -> bool:
        """Whether the kernel lets the host's mapping reach a page."""
        try:
            self.ram.read(gpa, 1)
        except SystemCallError as failure:
            assert failure.errno == errno.EFAULT
            return False
        return True


@pytest.fixture
def world(in_place_host: HostChoice) -> Iterator[World]:
    with ExitStack() as stack:
        system: System = (
            stack.enter_context(ModelSystem(IN_PLACE))
            if in_place_host is HostChoice.MODEL
            else stack.enter_context(KvmSystem())
        )
        vm = stack.enter_context(system.create_vm(VmType.SW_PROTECTED))
        with GuestRam(system, vm, AddressMap.of(SIZE), private=PrivateBacking.AUTO) as ram:
            region = MemoryRegion(7, WINDOW, False, "window")
            with SharedMemory(system, vm, region) as window:
                made = World(vm, ram, window)
                yield made
                made.memory.close()


def test_one_file_is_both_sides(world: World) -> None:
    assert world.ram.choice.kind is RamBacking.IN_PLACE
    (sides,) = world.ram.sides()
    assert sides.memslot().guest_memfd is world.ram.guest_memfd
    assert sides.memslot().hva == world.ram.mapping.hva
    assert sides.region.can_be_private
    assert sides.region.in_place
    assert not sides.region.two_sided


def test_contents_survive_in_both_directions(world: World) -> None:
    data = bytes(range(256)) * 48
    assert world.memory.write(PAGE_SIZE, data)
    world.convert(PAGE_SIZE, 3 * PAGE_SIZE, Side.PRIVATE)
    assert world.private() == [GpaRange(PAGE_SIZE, 4 * PAGE_SIZE)]
    assert world.memory.read(PAGE_SIZE, PAGE_SIZE) is None
    assert not world.memory.write(2 * PAGE_SIZE, b"x")
    world.convert(2 * PAGE_SIZE, PAGE_SIZE, Side.SHARED)
    assert world.private() == [
        GpaRange(PAGE_SIZE, 2 * PAGE_SIZE),
        GpaRange(3 * PAGE_SIZE, 4 * PAGE_SIZE),
    ]
    world.convert(0, SIZE, Side.SHARED)
    assert world.private() == []
    assert world.memory.read(PAGE_SIZE, len(data)) == data


def test_one_copy_is_resident(world: World) -> None:
    assert world.memory.write(0, b"x" * 4 * PAGE_SIZE)
    world.convert(PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    ram, window = world.memory.states.residency()
    assert (ram.shared_resident, ram.private_resident) == (3 * PAGE_SIZE, PAGE_SIZE)
    assert (window.shared_resident, window.private_resident) == (0, 0)


def test_held_page_refuses_the_whole_range_and_names_the_page(world: World) -> None:
    at = STEP + 5 * PAGE_SIZE
    assert world.memory.write(0, b"first step")
    world.convert(PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    file = world.ram.guest_memfd
    assert file is not None
    with file.hold_page(at):
        with pytest.raises(HeldPageError, match=f"the page at gpa {at:#x} is held") as caught:
            world.convert(0, 2 * STEP, Side.PRIVATE)
        assert isinstance(caught.value, ConversionRefusedError)
        assert (caught.value.gpa, caught.value.error_offset) == (at, at)
        # The first step was done, and undone, but for what was private before.
        assert world.private() == [GpaRange(PAGE_SIZE, 2 * PAGE_SIZE)]
        assert world.memory.read(0, 10) == b"first step"
        pages = 2 * STEP // PAGE_SIZE
        assert world.memory.exits.answer_hypercall([0, pages, KVM_HC_PRIVATE]) == -errno.EAGAIN
        assert world.private() == [GpaRange(PAGE_SIZE, 2 * PAGE_SIZE)]
        assert world.memory.exits.answer_hypercall([at + PAGE_SIZE, 1, KVM_HC_PRIVATE]) == 0
    assert world.memory.exits.answer_hypercall([0, pages, KVM_HC_PRIVATE]) == 0
    assert world.private() == [GpaRange(0, 2 * STEP)]
    assert world.memory.conversion.failures == []


def test_devices_hear_of_what_is_undone(world: World) -> None:
    heard: list[tuple[str, GpaRange]] = []

    class Listener:
        def leaving(self, range_: GpaRange) -> None:
            heard.append(("leaving", range_))

        def joined(self, range_: GpaRange) -> None:
            heard.append(("joined", range_))

    world.memory.regions.listen(Listener(), [GpaRange(0, 2 * STEP)])
    heard.clear()
    file = world.ram.guest_memfd
    assert file is not None
    with file.hold_page(STEP), pytest.raises(HeldPageError):
        world.convert(0, 2 * STEP, Side.PRIVATE)
    reached = {GpaRange(0, STEP): True, GpaRange(STEP, 2 * STEP): True}
    for what, range_ in heard:
        reached[range_] = what == "joined"
    assert heard[0] == ("leaving", GpaRange(0, STEP))
    assert reached == {GpaRange(0, STEP): True, GpaRange(STEP, 2 * STEP): True}


def test_held_page_is_no_matter_to_shared(world: World) -> None:
    file = world.ram.guest_memfd
    assert file is not None
    with file.hold_page(0):
        world.convert(0, PAGE_SIZE, Side.SHARED)
        with pytest.raises(HeldPageError):
            world.convert(0, PAGE_SIZE, Side.PRIVATE)
    assert world.private() == []


def test_what_waits_for_a_held_page_ends_with_the_run(world: World) -> None:
    file = world.ram.guest_memfd
    assert file is not None
    pauses: list[float] = []
    setter = AttributeSetter(
        world.vm,
        pauses.append,
        is_over=lambda: len(pauses) == 3,
        is_wanted=lambda: False,
        patience=3600.0,
    )
    with file.hold_page(0), pytest.raises(HeldPageError):
        setter.set_in_file(world.ram.sides()[0], GpaRange(0, PAGE_SIZE), private=True)
    assert pauses == [0.001, 0.002, 0.004]
    assert world.is_reached(0)


def test_a_vcpu_that_is_wanted_waits_no_longer_for_a_held_page(world: World) -> None:
    file = world.ram.guest_memfd
    assert file is not None
    pauses: list[float] = []
    setter = AttributeSetter(
        world.vm,
        pauses.append,
        is_over=lambda: False,
        is_wanted=lambda: len(pauses) == 3,
        patience=3600.0,
    )
    world.is_vcpu_wanted = True
    ask = world.memory.exits.answer_hypercall
    with file.hold_page(0):
        with pytest.raises(HeldPageError) as refused:
            setter.set_in_file(world.ram.sides()[0], GpaRange(0, PAGE_SIZE), private=True)
        assert refused.value.interrupted
        assert len(pauses) == 3
        assert ask((0, 2, KVM_HC_PRIVATE)) == -errno.EAGAIN
        assert world.asked_if_wanted == 1, "it has not been tried again"
        assert world.private() == []
        with pytest.raises(HeldPageError) as refused:
            world.convert(0, PAGE_SIZE, Side.PRIVATE)
        assert not refused.value.interrupted
        assert world.asked_if_wanted == 1, "the host's own conversion is no vCPU's"
    assert world.memory.conversion.failures == []
    assert ask((0, 2, KVM_HC_PRIVATE)) == 0


def test_nothing_can_be_withheld(world: World) -> None:
    with pytest.raises(ConversionRefusedError, match="without one cannot be withheld"):
        world.memory.conversion.withhold(WINDOW.start, PAGE_SIZE)
    with pytest.raises(ConversionRefusedError, match="no private side"):
        world.convert(WINDOW.start, PAGE_SIZE, Side.PRIVATE)
    world.convert(WINDOW.start, PAGE_SIZE, Side.SHARED)
    assert world.memory.states.runs(WINDOW) == (PageRun(WINDOW, PageState.SHARED),)


def test_memory_cannot_be_unplugged(world: World) -> None:
    slot = world.ram.sides()[0].region.slot
    with pytest.raises(UsageError, match="converted in place"):
        world.memory.regions.unplug(slot)


def test_memory_that_comes_back_is_shared_with_its_contents(world: World) -> None:
    (sides,) = world.ram.sides()
    assert world.memory.write(0, b"kept")
    world.convert(0, PAGE_SIZE, Side.PRIVATE)
    world.memory.regions.remove(sides.region.slot)
    assert world.ram.guest_memfd is not None
    world.memory.regions.add(sides)
    assert world.private() == []
    assert world.memory.read(0, 4) == b"kept"


@pytest.mark.parametrize(
    ("profile", "wish", "words"),
    [
        (IN_PLACE, PrivateBacking.TWO_SIDED, "lacks KVM_MEMORY_ATTRIBUTE_PRIVATE.*in_place"),
        (MAINLINE, PrivateBacking.IN_PLACE, "lacks KVM_SET_MEMORY_ATTRIBUTES2 .*two-sided"),
    ],
    ids=["two-sided", "in-place"],
)
def test_each_mode_is_refused_where_the_kernel_has_the_other(
    profile: Profile, wish: PrivateBacking, words: str
) -> None:
    with ModelSystem(profile) as system, system.create_vm(VmType.SW_PROTECTED) as vm:
        with pytest.raises(HostLacksError) as caught:
            GuestRam(system, vm, AddressMap.of(SIZE), private=wish)
    assert re.search(words, str(caught.value))
