# SPDX-License-Identifier: MIT
"""guest_memfd_conversions_test: the file has the attributes, and there is one copy of the memory.

By KVM_SET_MEMORY_ATTRIBUTES2 and nothing else, on KVM where it has that, and on the model as such.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from functools import partial

import pytest

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import System
from pyvmm.hosts.page_held import PageHeldError

from .in_place_memory import PRIVATE_FIRST, SHARED_FIRST, InPlace, in_place
from .raw_memory import forked, signal_of, signal_that_ended
from .scripted_guest import PAGE, Script
from .test_conversions import add_conversions, add_punched_holes
from .two_sided import DATA, ROOM, Ask

PRIVATE, SHARED = MemoryAttribute.PRIVATE, MemoryAttribute(0)
TO_PRIVATE = Ask.ATTRIBUTES | Ask.PRIVATE
TO_SHARED = Ask.ATTRIBUTES | Ask.SHARED
A, B, C, D = 0xAA, 0xBB, 0xCC, 0xDD


def add_there_and_back(script: Script, memory: InPlace, gpa: int, found: int) -> None:
    """A shared page of `found` goes to private and back, and each side adds to what it finds."""
    script.check(gpa, PAGE, found)
    script.host(lambda: memory.look(gpa, PAGE, found, then=A))
    memory.add_conversion(script, gpa, PAGE, TO_PRIVATE)
    script.host(lambda: memory.look_behind(gpa, PAGE, A))
    script.check(gpa, PAGE, A)
    script.fill(gpa, PAGE, B)
    memory.add_conversion(script, gpa, PAGE, TO_SHARED)
    script.host(lambda: memory.look(gpa, PAGE, B, then=C))
    script.check(gpa, PAGE, C)


def test_begins_shared_and_contents_stay(in_place_host: System, in_place_code: bytes) -> None:
    script = Script()
    with in_place(in_place_host, in_place_code) as memory:
        script.fill(DATA, PAGE, D)
        add_there_and_back(script, memory, DATA, D)
        memory.run([script])


def test_begins_private_and_contents_stay(in_place_host: System, in_place_code: bytes) -> None:
    script = Script()
    with in_place(in_place_host, in_place_code, flags=PRIVATE_FIRST) as memory:
        script.host(lambda: memory.look_behind(DATA, PAGE, 0))
        script.fill(DATA, PAGE, D)
        script.host(lambda: memory.look_behind(DATA, 2 * PAGE, 0))
        memory.add_conversion(script, DATA, PAGE, TO_SHARED)
        add_there_and_back(script, memory, DATA, D)
        script.host(lambda: memory.look_behind(DATA + PAGE, PAGE, 0))
        memory.run([script])


def test_one_of_four_pages(in_place_host: System, in_place_code: bytes) -> None:
    """Its index in the file is not another's; all four have contents of their own."""
    pages = [DATA + number * PAGE for number in range(4)]
    script = Script()
    with in_place(in_place_host, in_place_code) as memory:
        for page in pages:
            others = [(other, A + other // PAGE % 4) for other in pages if other != page]
            for other, byte in others:
                script.fill(other, PAGE, byte)
            script.fill(page, PAGE, D)
            memory.add_conversion(script, page, PAGE, TO_PRIVATE)
            script.host(partial(memory.look_behind, page, PAGE, D))
            for other, byte in others:
                script.check(other, PAGE, byte)
                script.host(partial(memory.look, other, PAGE, byte))
            script.check(page, PAGE, D)
            memory.add_conversion(script, page, PAGE, TO_SHARED)
            script.host(partial(memory.look, page, PAGE, D))
        memory.run([script])


@pytest.mark.parametrize("first", [SHARED, PRIVATE], ids=["shared", "private"])
def test_before_there_is_a_page(
    in_place_host: System, in_place_code: bytes, first: MemoryAttribute
) -> None:
    """Either way where nothing has been allocated; what is written then is written once."""
    flags = PRIVATE_FIRST if first is PRIVATE else SHARED_FIRST
    script = Script()
    with in_place(in_place_host, in_place_code, flags=flags) as m:
        there, back = (TO_SHARED, TO_PRIVATE) if first is PRIVATE else (TO_PRIVATE, TO_SHARED)
        m.add_conversion(script, DATA, PAGE, there)
        script.host(lambda: _resident(m, 0))
        if there is TO_SHARED:
            script.host(lambda: m.look(DATA, PAGE, 0, then=A))
        else:
            script.host(lambda: m.look_behind(DATA, PAGE, 0))
            script.check(DATA, PAGE, 0)
            script.fill(DATA, PAGE, A)
        script.check(DATA, PAGE, A)
        script.host(lambda: _resident(m, PAGE))
        m.add_conversion(script, DATA, PAGE, back)
        script.check(DATA, PAGE, A)
        if back is TO_SHARED:
            script.host(lambda: m.look(DATA, PAGE, A))
        else:
            script.host(lambda: m.look_behind(DATA, PAGE, A))
        m.run([script])


def _resident(memory: InPlace, size: int) -> None:
    assert memory.file.resident(0, memory.file.size) == size


def test_ranges_of_which_some_is_there(in_place_host: System, in_place_code: bytes) -> None:
    """Eight pages to private at once and back one by one, whichever two had been written."""
    count, second = 8, 4
    script = Script()
    with in_place(in_place_host, in_place_code) as memory:
        for first in range(count):
            base = DATA + first * count * PAGE
            written = {base + first * PAGE, base + second * PAGE}
            for page in sorted(written):
                script.host(partial(memory.look, page, PAGE, 0, then=A))
            memory.add_conversion(script, base, count * PAGE, TO_PRIVATE)
            script.host(partial(memory.look_behind, base, count * PAGE, A))
            for page in range(base, base + count * PAGE, PAGE):
                found = A if page in written else 0
                script.check(page, PAGE, found)
                memory.add_conversion(script, page, PAGE, TO_SHARED)
                script.host(partial(memory.look, page, PAGE, found, then=C))
                script.check(page, PAGE, C)
                if page + PAGE < base + count * PAGE:
                    script.host(partial(memory.look_behind, page + PAGE, PAGE, A))
        memory.run([script])


def test_freeing_keeps_the_attributes(in_place_host: System, in_place_code: bytes) -> None:
    script = Script()
    with in_place(in_place_host, in_place_code) as memory:
        script.fill(DATA, 2 * PAGE, A)
        memory.add_conversion(script, DATA + PAGE, PAGE, TO_PRIVATE)
        memory.add_conversion(script, DATA, 2 * PAGE, Ask.FILE | Ask.SHARED)
        script.host(lambda: memory.look(DATA, PAGE, 0, then=B))
        script.check(DATA, PAGE, B)
        script.host(lambda: memory.look_behind(DATA + PAGE, PAGE, 0))
        script.check(DATA + PAGE, PAGE, 0)
        memory.run([script])


@pytest.mark.kvm
def test_a_child_s_mapping_goes_with_the_parent_s(kvm_in_place: System, interpreter: bytes) -> None:
    """A child that has touched the page before, as it may: its next touch ends it by SIGBUS."""
    with in_place(kvm_in_place, interpreter) as memory:
        memory.look(DATA, PAGE, 0, then=A)
        told, tell = os.pipe()
        go, let_go = os.pipe()
        try:

            def touch_twice() -> None:
                assert ctypes.c_ubyte.from_address(memory.hva).value == A
                os.write(tell, b"t")
                os.read(go, 1)
                ctypes.c_ubyte.from_address(memory.hva).value = B

            child = forked(touch_twice)
            assert select.select([told], [], [], 60)[0], "the child did not get to its page"
            memory.file.set_attributes(0, PAGE, PRIVATE)
            os.write(let_go, b"g")
            ended_by = signal_that_ended(child)
        finally:
            for end in (told, tell, go, let_go):
                os.close(end)
        assert ended_by == signal.SIGBUS
        assert signal_of(lambda: ctypes.c_ubyte.from_address(memory.hva).value) == signal.SIGBUS
        memory.file.set_attributes(0, PAGE, SHARED)
        assert signal_of(lambda: ctypes.c_ubyte.from_address(memory.hva).value) == 0
        memory.look(DATA, PAGE, A)


def test_a_page_that_is_held_elsewhere(in_place_host: System, in_place_code: bytes) -> None:
    """Nothing of a range with it becomes private, and the file offset of the first one is told."""
    pages, second = 4, 2 * PAGE
    script = Script()
    with in_place(in_place_host, in_place_code) as memory:
        memory.look(DATA, pages * PAGE, 0, then=A)
        with memory.file.hold_page(second), memory.file.hold_page(second + PAGE):
            with pytest.raises(PageHeldError) as held:
                memory.file.set_attributes(0, pages * PAGE, PRIVATE)
            assert held.value.errno == errno.EAGAIN
            assert held.value.error_offset == second
            memory.look(DATA, pages * PAGE, A)
            memory.file.set_attributes(0, second, PRIVATE)
            memory.look_behind(DATA, second, A)
            # What is to be shared, or is so already, may be held.
            memory.file.set_attributes(second, 2 * PAGE, SHARED)
        memory.file.set_attributes(0, pages * PAGE, PRIVATE)
        memory.look_behind(DATA, pages * PAGE, A)
        script.check(DATA, pages * PAGE, A)
        memory.run([script])


@pytest.mark.parametrize(
    ("offset", "size", "attributes"),
    [
        (0, 0, PRIVATE),
        (1, PAGE, PRIVATE),
        (0, PAGE + 1, PRIVATE),
        (0, ROOM + PAGE, PRIVATE),
        (ROOM, PAGE, SHARED),
        ((1 << 64) - PAGE, 2 * PAGE, SHARED),
        (0, PAGE, MemoryAttribute(1)),
        (0, PAGE, PRIVATE | MemoryAttribute(1 << 4)),
    ],
    ids=["empty", "offset", "size", "beyond", "behind", "overflow", "read", "unknown"],
)
def test_requests_that_are_refused(
    in_place_host: System,
    in_place_code: bytes,
    offset: int,
    size: int,
    attributes: MemoryAttribute,
) -> None:
    with in_place(in_place_host, in_place_code) as memory:
        with pytest.raises(SystemCallError) as refused:
            memory.file.set_attributes(offset, size, attributes)
        assert refused.value.errno == errno.EINVAL
        memory.look(DATA, ROOM, 0)


def test_the_vm_has_none(in_place_host: System, in_place_code: bytes) -> None:
    """Either the file or the VM has attributes: the one's ioctl is refused with the other's."""
    assert in_place_host.capabilities().memory_attributes == SHARED
    with in_place(in_place_host, in_place_code) as memory, pytest.raises(SystemCallError):
        memory.guest.vm.set_memory_attributes(DATA, PAGE, PRIVATE)


SHAPES = pytest.mark.parametrize(
    ("in_place_host", "vcpus", "memslots"),
    [
        pytest.param("kvm", 1, 1, marks=pytest.mark.kvm),
        pytest.param("kvm", 1, 2, marks=pytest.mark.kvm),
        pytest.param("kvm", 2, 1, marks=pytest.mark.kvm),
        pytest.param("kvm", 2, 2, marks=pytest.mark.kvm),
        ("model", 1, 1),
        ("model", 1, 2),
    ],
    indirect=["in_place_host"],
)
"""Hosts, vCPUs, and memslots over the one guest_memfd."""


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("through_file", [False, True])
def test_there_and_back_in_place(
    in_place_host: System, in_place_code: bytes, vcpus: int, memslots: int, through_file: bool
) -> None:
    with in_place(in_place_host, in_place_code, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            add_conversions(script, memory, DATA + index * ROOM, through_file=through_file)
        memory.run(scripts)


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("precise", [False, True])
def test_punched_holes_in_place(
    in_place_host: System, in_place_code: bytes, vcpus: int, memslots: int, precise: bool
) -> None:
    with in_place(in_place_host, in_place_code, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            add_punched_holes(script, memory, DATA + index * ROOM, precise=precise)
        memory.run(scripts)
