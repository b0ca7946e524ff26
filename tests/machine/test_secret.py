# SPDX-License-Identifier: MIT
"""A guest's secret, and every road by which the monitor could come to it."""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyvmm.demo.stage.attackers.process_memory import map_file, proc_self_mem, process_vm_read
from pyvmm.demo.stage.attackers.searching import Searcher
from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import ram_of

from .private_machines import Talk, config, talk

pytestmark = [pytest.mark.kvm, pytest.mark.slow, pytest.mark.usefixtures("private_host")]

MEMORY = 4 * MIB
KEY = 0x5EC2E7
"""The seed of the secret; other tests have others, for what they read may still be lying about."""
SHARED, TAKEN = KEY + 2, KEY + 4
WORDS = tuple(range(0, PAGE_SIZE, 1040))
"""Words that are looked for, all over the page."""
ZEROES = bytes(PAGE_SIZE)


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, caught.value


def file_of(guest: Talk) -> GuestMemfd:
    file = ram_of(guest.machine).guest_memfd
    assert isinstance(file, GuestMemfd)
    return file


def try_the_file(guest: Talk, gpa: int) -> None:
    """No system call that reads a file reads a guest_memfd."""
    fd, offset = file_of(guest).fd, guest.file_offset(gpa)
    with refused(errno.ESPIPE, errno.EINVAL):
        os.pread(fd, PAGE_SIZE, offset)
    with refused(errno.ESPIPE, errno.EINVAL):
        os.preadv(fd, [bytearray(PAGE_SIZE)], offset)
    with refused(errno.EINVAL):
        os.read(fd, PAGE_SIZE)
    with refused(errno.ENXIO, errno.EACCES):
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
    into = os.memfd_create("into", os.MFD_CLOEXEC)
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with refused(errno.EINVAL, errno.ESPIPE):
            os.sendfile(into, fd, offset, PAGE_SIZE)
        with refused(errno.EINVAL, errno.ESPIPE):
            os.splice(fd, ends[1], PAGE_SIZE, offset_src=offset)
        with refused(errno.EINVAL, errno.EXDEV):
            os.copy_file_range(fd, into, PAGE_SIZE, offset_src=offset)
        assert os.fstat(into).st_size == 0
    finally:
        for each in (into, *ends):
            os.close(each)


def try_to_map(guest: Talk, gpa: int) -> None:
    fd, offset = file_of(guest).fd, guest.file_offset(gpa)
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
            with refused(errno.ENODEV):
                map_file(fd, PAGE_SIZE, protection, flags, offset)


def try_other_machines(guest: Talk, gpa: int) -> None:
    """A guest_memfd belongs to one VM, and each page of it to one memslot."""
    file, offset = file_of(guest), guest.file_offset(gpa)
    with System() as system, system.map_anonymous(PAGE_SIZE) as shared:
        slot = Memslot(7, 1 << 40, PAGE_SIZE, shared.hva, MemslotFlag.GUEST_MEMFD, file, offset)
        with system.create_vm(VmType.SW_PROTECTED) as other, pytest.raises(SystemCallError) as no:
            other.set_memslot(slot)
        assert no.value.errno == errno.EINVAL
        with pytest.raises(SystemCallError) as no:
            guest.memory._tracked.vm.set_memslot(slot)
        assert no.value.errno in {errno.EEXIST, errno.EINVAL}


def roads(guest: Talk, gpa: int) -> dict[str, Callable[[], bytes | None]]:
    """What reads where the page would be, if it were anywhere."""
    hva = ram_of(guest.machine).mapping.hva + guest.file_offset(gpa)
    return {
        "machine.memory": lambda: guest.memory.read(gpa, PAGE_SIZE),
        "the mapping": lambda: ram_of(guest.machine).read(gpa, PAGE_SIZE),
        "/proc/self/mem": lambda: proc_self_mem(hva, PAGE_SIZE),
        "process_vm_readv": lambda: process_vm_read(hva, PAGE_SIZE),
    }


def try_everything(guest: Talk, gpa: int, seed: int) -> None:
    search = Searcher(gpa, seed, WORDS)
    assert guest.memory.states.at(gpa) is PageState.PRIVATE
    for name, road in roads(guest, gpa).items():
        expected = None if name == "machine.memory" else ZEROES
        assert road() == expected, name
    try_the_file(guest, gpa)
    try_to_map(guest, gpa)
    try_other_machines(guest, gpa)
    assert search.in_process() == []


async def pre_fault(guest: Talk, gpa: int) -> None:
    """Have KVM map the page (api.rst 4.143): for the guest, not for us."""

    def map_it(vcpu: object) -> None:
        assert isinstance(vcpu, Vcpu)
        vcpu.pre_fault(gpa, PAGE_SIZE)

    await guest.machine.vcpus[0].call(map_it)


def test_no_road_leads_to_the_secret() -> None:
    async def look(guest: Talk) -> None:
        gpa, size = await guest.mailbox.asked("LOOK")
        assert size == PAGE_SIZE
        assert guest.private_is_there(gpa)
        try_everything(guest, gpa, KEY)
        await pre_fault(guest, gpa)
        try_everything(guest, gpa, KEY)
        guest.mailbox.answer(0)

    ended = talk(config("secret", f"key={KEY}", memory=MEMORY), look)
    assert ended.result.ending.exit_code == 0, ended.output
    assert re.search(r"^the secret is unchanged\nshared, it is empty\n", ended.output, re.MULTILINE)


def test_the_same_search_finds_what_the_guest_shares() -> None:
    # Otherwise the test above would prove nothing.
    async def look(guest: Talk) -> None:
        gpa = await guest.take(PAGE_SIZE)
        assert await guest.ask("FILL", gpa, PAGE_SIZE, SHARED) == 0
        try_everything(guest, gpa, SHARED)
        # The page that was secret is empty once it is shared.
        assert await guest.ask("SHARE", gpa, PAGE_SIZE) == 0
        assert [road() for road in roads(guest, gpa).values()] == [ZEROES] * 4
        assert await guest.ask("FILL", gpa, PAGE_SIZE, SHARED) == 0
        search = Searcher(gpa, SHARED, WORDS)
        found = search.in_process()
        assert len([line for line in found if "memfd:pyvmm-guest" in line.line]) == len(WORDS)
        for name, road in roads(guest, gpa).items():
            assert search.in_bytes(road() or b"") == list(WORDS), name
        # The file shows nothing even so: what is shared is elsewhere.
        try_the_file(guest, gpa)
        try_to_map(guest, gpa)
        await guest.ask("END", 0)

    assert talk(config("mailbox", memory=MEMORY), look).result.ending.exit_code == 0


def test_a_secret_that_the_host_takes_is_gone_for_both() -> None:
    async def take(guest: Talk) -> None:
        gpa = await guest.take(PAGE_SIZE)
        assert await guest.ask("FILL", gpa, PAGE_SIZE, TAKEN) == 0
        file_of(guest).punch_hole(guest.file_offset(gpa), PAGE_SIZE)
        assert not guest.private_is_there(gpa)
        assert Searcher(gpa, TAKEN, WORDS).in_process() == []
        assert await guest.ask("CHECK_ZERO", gpa, PAGE_SIZE) == 0
        await guest.ask("END", 0)

    assert talk(config("mailbox", memory=MEMORY), take).result.ending.exit_code == 0
