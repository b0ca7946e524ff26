# SPDX-License-Identifier: MIT
"""What a conversion discards is given back: pyvmm says so, and so does the kernel elsewhere."""

from __future__ import annotations

import ctypes
import mmap
import threading
from pathlib import Path

import pytest
import trio

from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.memory.residency import Residency
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import ram_of

from .private_machines import Talk, config, talk

pytestmark = [pytest.mark.kvm, pytest.mark.slow, pytest.mark.usefixtures("private_host")]

MEMORY = 64 * MIB
BIG = 24 * MIB
NOISE = 6 * MIB
"""What the rest of the lab may take or give back meanwhile."""
_libc = ctypes.CDLL(None, use_errno=True)


def ram(guest: Talk) -> Residency:
    return guest.memory.states.residency()[0]


def in_core(guest: Talk, gpa: int, size: int) -> int:
    """mincore(2) of the shared side, in bytes."""
    flags = ctypes.create_string_buffer(size // PAGE_SIZE)
    hva = ram_of(guest.machine).mapping.hva + guest.file_offset(gpa)
    assert _libc.mincore(ctypes.c_void_p(hva), ctypes.c_size_t(size), flags) == 0
    return sum(flag & 1 for flag in flags.raw[: size // PAGE_SIZE]) * mmap.PAGESIZE


def system_memory() -> dict[str, int]:
    """/proc/meminfo, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if " kB" in line}


class Watch:
    """How much memory each side has taken since, as the whole system sees it."""

    def __init__(self) -> None:
        self._before = system_memory()

    def taken(self, name: str) -> int:
        return system_memory()[name] - self._before[name]

    def check(self, *, shared: int, private: int) -> None:
        # Shared memory is page cache of its own kind; guest_memfd's is page cache, and unevictable.
        assert abs(self.taken("Shmem") - shared) < NOISE
        assert abs(self.taken("Unevictable") - private) < NOISE
        # MemFree tells nothing: what a processor keeps for itself to hand out is not in it.


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, PAGE_SIZE), (5 * PAGE_SIZE, 3 * PAGE_SIZE), (0, 2 * MIB), (MIB, 3 * MIB + PAGE_SIZE)],
)
def test_either_side_is_given_back_to_the_page(offset: int, size: int) -> None:
    async def there_and_back(guest: Talk) -> None:
        base = await guest.take(8 * MIB)
        gpa = base + offset
        assert await guest.ask("FILL", base, 8 * MIB, 1) == 0
        before = ram(guest)
        assert in_core(guest, base, 8 * MIB) == 0

        assert await guest.ask("SHARE", gpa, size) == 0
        after = ram(guest)
        assert after.private_resident == before.private_resident - size
        assert after.shared_resident == before.shared_resident, "nobody has touched it yet"
        assert await guest.ask("FILL", gpa, size, 3) == 0
        assert ram(guest).shared_resident == before.shared_resident + size
        assert ram(guest).private_resident == before.private_resident - size
        assert in_core(guest, gpa, size) == size
        assert in_core(guest, base, 8 * MIB) == size

        guest.memory.conversion.convert(gpa, size, Side.PRIVATE)
        assert ram(guest).shared_resident == before.shared_resident
        assert ram(guest).private_resident == before.private_resident - size
        assert in_core(guest, base, 8 * MIB) == 0
        assert await guest.ask("FILL", gpa, size, 5) == 0
        assert ram(guest) == before
        await guest.ask("END", 0)

    assert talk(config("mailbox", memory=MEMORY), there_and_back).result.ending.exit_code == 0


def test_the_system_has_the_memory_back() -> None:
    async def there_and_back(guest: Talk) -> None:
        gpa = await guest.take(BIG)
        watch = Watch()
        assert await guest.ask("FILL", gpa, BIG, 1) == 0
        watch.check(shared=0, private=BIG)
        for _ in range(2):
            assert await guest.ask("SHARE", gpa, BIG) == 0
            watch.check(shared=0, private=0)
            assert await guest.ask("FILL", gpa, BIG, 3) == 0
            watch.check(shared=BIG, private=0)
            assert await guest.ask("UNSHARE", gpa, BIG) == 0
            watch.check(shared=0, private=0)
            assert await guest.ask("FILL", gpa, BIG, 5) == 0
            watch.check(shared=0, private=BIG)
        await guest.ask("END", 0)

    assert talk(config("mailbox", memory=MEMORY), there_and_back).result.ending.exit_code == 0


def test_memory_is_never_there_twice() -> None:
    """A look at any time, from a thread of its own, while the guest converts to and fro."""
    looks: list[Residency] = []

    async def convert(guest: Talk) -> None:
        size = 4 * MIB
        gpa = await guest.take(size)
        assert await guest.ask("FILL", gpa, size, 1) == 0
        base = ram(guest)
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                looks.append(ram(guest))
                done.wait(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, look)
            for step in (MIB // 2 + PAGE_SIZE, size):
                for start in range(gpa, gpa + size - step + 1, step):
                    assert await guest.ask("SHARE", start, step) == 0
                    assert await guest.ask("FILL", start, step, 3) == 0
                    assert await guest.ask("UNSHARE", start, step) == 0
                    assert await guest.ask("FILL", start, step, 5) == 0
            done.set()
        allowed = base.shared_resident + base.private_resident
        assert looks
        assert max(seen.shared_resident + seen.private_resident for seen in looks) <= allowed
        assert min(seen.private_resident for seen in looks) < base.private_resident
        await guest.ask("END", 0)

    assert talk(config("mailbox", memory=MEMORY), convert).result.ending.exit_code == 0
