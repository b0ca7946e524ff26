# SPDX-License-Identifier: MIT
"""Faults answered by a program: of this process, and of a guest whose memory it is."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts import exits, userfaultfd
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.mapping import map_anonymous
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.userfaultfd import FaultMode, Userfaultfd
from pyvmm.rules.abi import PAGE_SIZE

MISSING = FaultMode.MISSING
HANG = 60_000
"""Milliseconds."""


@pytest.fixture
def faults() -> Iterator[Userfaultfd]:
    try:
        made = Userfaultfd()
    except HostLacksError as error:
        pytest.skip(str(error))
    with made:
        yield made


def waited(faults: Userfaultfd) -> int:
    """The page of the one access that waits."""
    poll = select.poll()
    poll.register(faults, select.POLLIN)
    assert poll.poll(HANG), "nobody has touched it"
    (fault,) = faults.faults()
    assert not fault.is_write_protected
    assert not fault.is_minor
    return fault.address & -PAGE_SIZE


def test_an_access_of_this_process(faults: Userfaultfd) -> None:
    with map_anonymous(4 * PAGE_SIZE) as memory:
        faults.register(memory.hva, memory.size, MISSING)
        seen: list[bytes] = []
        # A system call lets go of the interpreter while it waits; a bare touch would not.
        reader = threading.Thread(target=lambda: seen.append(memory.peek(2 * PAGE_SIZE, 3)))
        reader.start()
        assert waited(faults) == memory.hva + 2 * PAGE_SIZE
        assert faults.faults() == ()
        faults.copy(memory.hva + 2 * PAGE_SIZE, b"abc".ljust(PAGE_SIZE, b"\0"))
        reader.join()
        assert seen == [b"abc"]
        with pytest.raises(SystemCallError) as caught:
            faults.copy(memory.hva + 2 * PAGE_SIZE, bytes(PAGE_SIZE))
        assert caught.value.errno == errno.EEXIST
        faults.zero(memory.hva, PAGE_SIZE)
        assert memory.peek(0, 4) == bytes(4)
        faults.unregister(memory.hva, memory.size)
        assert memory.peek(3 * PAGE_SIZE, 1) == b"\0"


@pytest.mark.kvm
def test_a_guest_waits_for_its_code(faults: Userfaultfd) -> None:
    gpa = PAGE_SIZE
    with System() as system, system.create_vm() as vm, system.map_anonymous(PAGE_SIZE) as memory:
        vm.set_memslot(Memslot(0, gpa, PAGE_SIZE, memory.hva))
        faults.register(memory.hva, PAGE_SIZE, MISSING)
        ends: list[object] = []

        def guest() -> None:
            with vm.create_vcpu(0) as vcpu:
                sregs = vcpu.get_sregs()
                code = replace(sregs.cs, base=0, selector=0)
                vcpu.set_sregs(replace(sregs, cs=code))
                vcpu.set_regs(replace(vcpu.get_regs(), rip=gpa, rflags=2))
                ends.append(vcpu.run())

        thread = threading.Thread(target=guest)
        thread.start()
        assert waited(faults) == memory.hva
        assert ends == []
        faults.copy(memory.hva, b"\xe6\xf4".ljust(PAGE_SIZE, b"\0"))  # out 0xf4, al
        thread.join()
        (end,) = ends
        assert isinstance(end, exits.IoOut)
        assert end.port == 0xF4


def test_what_cannot_be(faults: Userfaultfd) -> None:
    with map_anonymous(PAGE_SIZE) as memory:
        for hva, size in ((memory.hva + 1, PAGE_SIZE), (memory.hva, 0), (0, PAGE_SIZE)):
            with pytest.raises(SystemCallError, match=r"UFFDIO_REGISTER\(.*EINVAL") as caught:
                faults.register(hva, size, MISSING)
            assert caught.value.errno == errno.EINVAL
        faults.close()
        faults.close()
        with pytest.raises(SystemCallError) as caught:
            faults.register(memory.hva, PAGE_SIZE, MISSING)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(SystemCallError):
            faults.faults()


@pytest.mark.parametrize(
    ("module", "name", "use"),
    [
        ("fcntl", "ioctl", lambda faults: faults.wake(0, PAGE_SIZE)),
        ("os", "read", lambda faults: faults.faults()),
    ],
    ids=["an ioctl", "a read"],
)
def test_a_call_under_way_keeps_it_open(
    faults: Userfaultfd,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    use: Callable[[Userfaultfd], object],
) -> None:
    closer = threading.Thread(target=faults.close)
    within: list[int] = []

    def closed_meanwhile(fd: int, *_: object) -> bytes:
        closer.start()
        closer.join(0.2)
        within.append(os.fstat(fd).st_mode)  # It is there, and no other file can have its number.
        return b""

    monkeypatch.setattr(getattr(userfaultfd, module), name, closed_meanwhile)
    use(faults)
    monkeypatch.undo()
    closer.join()
    assert len(within) == 1
    assert faults.fileno() == -1
    with pytest.raises(SystemCallError) as caught:
        faults.wake(0, PAGE_SIZE)
    assert caught.value.errno == errno.EBADF
