# SPDX-License-Identifier: MIT
"""The model's memory alone: what a guest reaches after each change, and who keeps what alive."""

from __future__ import annotations

import ctypes
import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.turn import Turn
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.rules.profile import FIRST_MERGED, IN_PLACE, MAINLINE, SHARED_ONLY

PAGE = 4096
GPA = 0x10000
MAPPED = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
PRIVATE = MemoryAttribute.PRIVATE
SHARED = MemoryAttribute(0)


@pytest.fixture
def system() -> ModelSystem:
    return ModelSystem()


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    """Memory that lives to the end of the test, where the test does not end it itself."""
    with ExitStack() as owned:
        yield owned


@pytest.fixture
def vm(system: ModelSystem) -> Iterator[ModelVm]:
    with system.create_vm(VmType.SW_PROTECTED) as vm:
        yield vm


def errno_of(action: object, *args: object) -> int:
    with pytest.raises(SystemCallError) as caught:
        action(*args)  # type: ignore[operator]
    return caught.value.errno


def address(vm: ModelVm, gpa: int) -> int | None:
    """Where a guest's read ends up."""
    for span in vm.memory.spans():
        if span.gpa <= gpa < span.gpa + span.size:
            return span.address + gpa - span.gpa
    return None


def byte(vm: ModelVm, gpa: int) -> ctypes.c_ubyte:
    at = address(vm, gpa)
    assert at is not None
    return ctypes.c_ubyte.from_address(at)


def test_both_sides_keep_their_contents(system: ModelSystem, vm: ModelVm, owned: ExitStack) -> None:
    ram = owned.enter_context(system.map_anonymous(4 * PAGE))
    file = owned.enter_context(vm.create_guest_memfd(4 * PAGE))
    vm.set_memslot(Memslot(1, GPA, 4 * PAGE, ram.hva, guest_memfd=file))
    byte(vm, GPA + PAGE).value = 1
    before = vm.memory.generation
    vm.set_memory_attributes(GPA + PAGE, PAGE, PRIVATE)
    assert vm.memory.generation != before
    assert [(span.gpa, span.size) for span in vm.memory.spans()] == [
        (GPA, PAGE),
        (GPA + PAGE, PAGE),
        (GPA + 2 * PAGE, 2 * PAGE),
    ]
    byte(vm, GPA + PAGE).value = 2
    vm.set_memory_attributes(GPA, 4 * PAGE, SHARED)
    assert byte(vm, GPA + PAGE).value == 1
    vm.set_memory_attributes(GPA, 4 * PAGE, PRIVATE)
    assert byte(vm, GPA + PAGE).value == 2
    file.punch_hole(PAGE, PAGE)
    assert byte(vm, GPA + PAGE).value == 0
    with ram.view() as view:
        assert view[PAGE] == 1


def test_nothing_changes_where_nothing_changes(vm: ModelVm) -> None:
    vm.set_memory_attributes(GPA, PAGE, PRIVATE)
    before = vm.memory.generation
    vm.set_memory_attributes(GPA, PAGE, PRIVATE)
    assert vm.memory.generation == before


def test_private_without_a_private_side(system: ModelSystem, vm: ModelVm, owned: ExitStack) -> None:
    ram = owned.enter_context(system.map_anonymous(PAGE))
    vm.set_memslot(Memslot(1, GPA, PAGE, ram.hva))
    vm.set_memory_attributes(GPA, 2 * PAGE, PRIVATE)
    assert address(vm, GPA) is None
    for gpa in (GPA, GPA + PAGE):
        fault = MemoryFault(gpa, PAGE, MemoryFaultFlag.PRIVATE, errno.EFAULT)
        assert vm.memory.blocked(gpa + 8, 1, False) == fault
    assert vm.memory.blocked(GPA + 2 * PAGE, 1, True) is None


def test_a_read_only_slot(system: ModelSystem, vm: ModelVm, owned: ExitStack) -> None:
    ram = owned.enter_context(system.map_anonymous(PAGE))
    vm.set_memslot(Memslot(1, GPA, PAGE, ram.hva, MemslotFlag.READONLY))
    assert [span.writable for span in vm.memory.spans()] == [False]
    assert vm.memory.blocked(GPA, 1, True) is None


def test_unmapping_takes_the_memory_from_the_guest(
    system: ModelSystem, vm: ModelVm, owned: ExitStack
) -> None:
    ram = owned.enter_context(system.map_anonymous(PAGE))
    vm.set_memslot(Memslot(1, GPA, PAGE, ram.hva))
    late = byte(vm, GPA)
    late.value = 7
    before = vm.memory.generation
    ram.close()
    assert vm.memory.generation != before
    assert vm.memory.spans() == []
    assert late.value == 0  # a vCPU that has not seen it yet reads zeroes, and does not crash
    assert isinstance(vm.memory.blocked(GPA, 1, False), MemoryFault)
    with pytest.raises(InternalError):
        ram.view()


def test_a_file_lives_as_long_as_a_mapping(system: ModelSystem, owned: ExitStack) -> None:
    with system.create_vm() as vm:
        file = owned.enter_context(vm.create_guest_memfd(2 * PAGE, MAPPED))
        one, two = file.map(), file.map()
        assert one.hva != two.hva
        vm.set_memslot(Memslot(1, GPA, 2 * PAGE, one.hva, guest_memfd=file))
        byte(vm, GPA).value = 3
        file.close()
        one.close()
        assert byte(vm, GPA).value == 3
        with two.view() as view:
            assert view[0] == 3
        assert errno_of(file.punch_hole, 0, PAGE) == errno.EBADF
        assert errno_of(file.map) == errno.EBADF
        again = Memslot(2, 2 * GPA, PAGE, 0, guest_memfd=file)
        assert errno_of(vm.set_memslot, again) == errno.EBADF
        two.close()
        assert vm.memory.spans() == []
        assert vm.memory.blocked(GPA, 1, False) == MemoryFault(
            GPA, PAGE, MemoryFaultFlag(0), errno.EFAULT
        )
        vm.set_memslot(Memslot(1, GPA, 0, 0))


def test_a_slot_on_a_mapping_of_a_file(system: ModelSystem, owned: ExitStack) -> None:
    with system.create_vm() as vm:
        file = owned.enter_context(vm.create_guest_memfd(PAGE, MAPPED))
        mapping = file.map()
        vm.set_memslot(Memslot(1, GPA, PAGE, mapping.hva))
        byte(vm, GPA).value = 4
        mapping.close()
        assert vm.memory.spans() == []
        with file.map() as other, other.view() as view:
            assert view[0] == 4


def test_a_conversion_in_place_waits_for_its_turn() -> None:
    """No vCPU executes while its memory changes."""
    with ModelSystem(IN_PLACE).create_vm(VmType.SW_PROTECTED) as vm:
        with vm.create_guest_memfd(PAGE, MAPPED) as file, ThreadPoolExecutor(1) as thread:
            with vm.turn():
                converting = thread.submit(file.set_attributes, 0, PAGE, PRIVATE)
                while not vm.turn_wanted and not converting.done():
                    time.sleep(0.001)
                assert not converting.done()
            assert converting.result() is None


def test_a_slot_on_a_mapping_of_which_a_page_becomes_private(owned: ExitStack) -> None:
    with ModelSystem(IN_PLACE).create_vm(VmType.SW_PROTECTED) as vm:
        file = owned.enter_context(vm.create_guest_memfd(3 * PAGE, MAPPED))
        mapping = owned.enter_context(file.map())
        vm.set_memslot(Memslot(1, GPA, 2 * PAGE, mapping.hva + PAGE))
        byte(vm, GPA).value = 4
        file.set_attributes(0, 2 * PAGE, PRIVATE)
        fault = MemoryFault(GPA, PAGE, MemoryFaultFlag(0), errno.EFAULT)
        assert vm.memory.blocked(GPA, 1, False) == fault
        assert address(vm, GPA) is None
        assert address(vm, GPA + PAGE) == mapping.hva + 2 * PAGE
        file.set_attributes(PAGE, PAGE, SHARED)
        assert vm.memory.blocked(GPA, 1, False) is None
        assert byte(vm, GPA).value == 4


def test_a_mapping_of_private_memory_is_nobody_s_memory(vm: ModelVm, owned: ExitStack) -> None:
    file = owned.enter_context(vm.create_guest_memfd(PAGE, GuestMemfdFlag.MMAP))
    mapping = owned.enter_context(file.map())
    assert errno_of(mapping.peek, 0, 1) == errno_of(mapping.poke, 0, b"1") == errno.EFAULT
    vm.set_memslot(Memslot(1, GPA, PAGE, mapping.hva))
    assert vm.memory.spans() == []
    assert isinstance(vm.memory.blocked(GPA, 1, False), MemoryFault)


def test_a_closed_vm(system: ModelSystem, owned: ExitStack) -> None:
    ram = owned.enter_context(system.map_anonymous(PAGE))
    vm = system.create_vm()
    vm.set_memslot(Memslot(1, GPA, PAGE, ram.hva))
    vm.hold()
    vm.close()
    vm.close()
    assert address(vm, GPA) == ram.hva
    assert errno_of(vm.set_memslot, Memslot(1, GPA, 0, 0)) == errno.EBADF
    assert errno_of(vm.create_guest_memfd, PAGE) == errno.EBADF
    assert errno_of(vm.set_memory_attributes, GPA, PAGE, PRIVATE) == errno.EBADF
    assert errno_of(vm.create_vcpu, 0) == errno.EBADF
    vm.release()
    assert vm.memory.spans() == []


def test_discarding(system: ModelSystem) -> None:
    with system.map_anonymous(4 * PAGE) as ram:
        with ram.view() as view:
            view[::PAGE] = b"abcd"
            assert list(ram.data(PAGE, PAGE)) == [(PAGE, 2 * PAGE)]
            ram.discard(PAGE, 2 * PAGE)
            ram.discard(4 * PAGE, 0)
            assert list(ram.data(0, 4 * PAGE)) == [(0, PAGE), (3 * PAGE, 4 * PAGE)]
            assert list(ram.data(PAGE, 2 * PAGE)) == []
            assert bytes(view[::PAGE]) == b"a\0\0d"
        assert ram.resident(3 * PAGE, PAGE) == PAGE
        for offset, size in ((1, PAGE), (0, 1), (-PAGE, PAGE), (0, 5 * PAGE)):
            with pytest.raises(UsageError):
                ram.discard(offset, size)


def test_behaviours_differ_by_profile(owned: ExitStack) -> None:
    errors = {}
    for profile in (MAINLINE, SHARED_ONLY, FIRST_MERGED):
        system = ModelSystem(profile)
        kind = VmType.DEFAULT if profile is SHARED_ONLY else VmType.SW_PROTECTED
        with system.create_vm(kind) as vm:
            file = owned.enter_context(vm.create_guest_memfd(PAGE))
            vm.set_memslot(Memslot(1, GPA, PAGE, 0, guest_memfd=file))
            again = Memslot(2, 2 * GPA, PAGE, 0, guest_memfd=file)
            errors[profile.name] = errno_of(vm.set_memslot, again)
    assert list(errors.values()) == [errno.EEXIST, errno.EINVAL, errno.EINVAL]


def test_turns_are_taken_in_the_order_of_asking() -> None:
    turn, order = Turn(), []
    threads = []

    def take(number: int) -> None:
        with turn(), turn():
            order.append(number)

    with turn():
        for number in range(4):
            waiting = len(turn._waiting)
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turn._waiting) == waiting:
                pass
        assert turn.is_wanted
    with turn():  # behind all of them
        assert order == [0, 1, 2, 3]
    for thread in threads:
        thread.join()
    assert not turn.is_wanted
