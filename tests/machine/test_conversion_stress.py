# SPDX-License-Identifier: MIT
"""Everybody converts everything, many times; afterwards all who know of a page agree."""

from __future__ import annotations

import os
import random
import re
import struct
import threading
import time
from collections import Counter

import pytest
import trio

from pyvmm.machine.ending import RunResult
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.memory.conversion import Side
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import ram_of

from .mailbox import pattern_at
from .private_machines import Talk, config, talk

pytestmark = [pytest.mark.kvm, pytest.mark.slow, pytest.mark.usefixtures("private_host")]

CONVERSIONS = 1500
"""Of the host, of up to `LONGEST` pages; the vCPUs convert for as long as it does."""
OTHERWISE = "PYVMM_STRESS"
"""In the environment: another number of them."""
CPUS = 4
OWN_PAGES = 48
"""Pages that each vCPU converts besides the common ones."""
LONGEST = 100
"""The most pages that the host converts at once."""
MARKER = 0x5EED
"""The seed of what the host writes in the end: nobody else's."""
ENOUGH = 50
"""Conversions that the vCPUs must have made in the shortest run: far below what any host does."""


def wanted() -> int:
    return int(os.environ.get(OTHERWISE, CONVERSIONS))


class Disturber(threading.Thread):
    """Converts random ranges of [start, end) until it is told to stop.

    `enough` is set after `wanted` conversions, and where one fails.
    """

    def __init__(self, memory: GuestMemory, start: int, end: int, wanted: int) -> None:
        super().__init__(name="disturber")
        self._memory = memory
        self._span = start, end
        self._wanted = wanted
        self._stopping = threading.Event()
        self.enough = threading.Event()
        self.conversions = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        chance = random.Random(4)
        start, end = self._span
        try:
            while not self._stopping.is_set():
                gpa = chance.randrange(start, end, PAGE_SIZE)
                size = min(chance.randint(1, LONGEST) * PAGE_SIZE, end - gpa)
                self._memory.conversion.convert(
                    gpa, size, chance.choice((Side.SHARED, Side.PRIVATE))
                )
                self.conversions += 1
                if self.conversions == self._wanted:
                    self.enough.set()
                # The lock is not a fair one: without this the vCPUs would hardly ever have it.
                time.sleep(chance.random() / 500)
        except BaseException as failure:  # noqa: BLE001 - raised by stop
            self.failure = failure
            self.enough.set()

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def check_residency(guest: Talk, start: int, end: int) -> None:
    """Of no page there is memory on the side that it is not on."""
    for run in guest.memory.states.runs():
        for gpa in range(max(run.range.start, start), min(run.range.end, end), PAGE_SIZE):
            sides = guest.shared_is_there(gpa), guest.private_is_there(gpa)
            assert not sides[run.state is PageState.SHARED], f"{gpa:#x} is {run.state}: {sides}"


async def check_attributes(guest: Talk, start: int, end: int) -> dict[PageState, int]:
    """The guest's accesses go where the states say: that is, the kernel's attributes.

    The host marks the shared side of every page; the guest finds that in the shared ones, and in no
    other. Gives the number of pages in each state.
    """
    for gpa in range(start, end, PAGE_SIZE):
        assert guest.memory.read(gpa, 8) is not None or ram_of(guest.machine).read(gpa, 8) == bytes(
            8
        )
        words = (pattern_at(gpa + at, MARKER) for at in range(0, PAGE_SIZE, 8))
        ram_of(guest.machine).write(gpa, struct.pack(f"<{PAGE_SIZE // 8}Q", *words))
    pages: Counter[PageState] = Counter()
    for run in guest.memory.states.runs():
        first, last = max(run.range.start, start), min(run.range.end, end)
        if first < last:
            wrong = await guest.ask("CHECK", first, last - first, MARKER)
            expected = 0 if run.state is PageState.SHARED else (last - first) // 8
            assert wrong == expected, f"{first:#x}-{last:#x} is {run.state}: {wrong} words"
            pages[run.state] += (last - first) // PAGE_SIZE
    # What has just been read is there; what is shared was never on the other side.
    for gpa in range(start, end, PAGE_SIZE):
        is_private = guest.memory.states.at(gpa) is PageState.PRIVATE
        assert guest.private_is_there(gpa) == is_private
    return pages


async def ending_before(guest: Talk, enough: threading.Event) -> RunResult | None:
    """How the guest ended, if it did so before `enough` was set."""
    ended: list[RunResult] = []
    async with trio.open_nursery() as nursery:

        async def wait_for_it() -> None:
            ended.append(await guest.machine.control.wait())
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_for_it)
        while not enough.is_set():
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return ended[0] if ended else None


def test_states_attributes_and_residency_agree_after_many_conversions() -> None:
    pages: dict[PageState, int] = {}
    by_host = 0

    async def disturb(guest: Talk) -> None:
        nonlocal by_host
        match = re.search(rb"common ([0-9a-f]+)-[0-9a-f]+, own [0-9a-f]+-([0-9a-f]+)\n",
                          guest.console.output)  # fmt: skip
        assert match is not None
        start, end = int(match[1], 16), int(match[2], 16)
        disturber = Disturber(guest.memory, start, end, wanted())
        disturber.start()
        try:
            ended = await ending_before(guest, disturber.enough)
            if ended is not None:
                lines = [line for report in ended.reports for line in report.lines()]
                said = guest.console.output.decode(errors="replace")
                pytest.fail("\n".join([f"the guest ended: {ended.ending}", said, *lines]))
            # The first request ends the vCPUs' conversions; they wait for the second. The host goes
            # on a little, so that its conversions are the last of some pages.
            assert await guest.ask("ADD", 1, 2) == 3
        finally:
            await trio.to_thread.run_sync(disturber.stop)
        by_host = disturber.conversions
        assert not guest.memory.conversion.failures
        check_residency(guest, start, end)
        pages.update(await check_attributes(guest, start, end))
        assert await guest.ask("END", 0) == 0

    ended = talk(config("smp", f"host=1 pages={OWN_PAGES} seed=4", cpus=CPUS), disturb)
    assert ended.result.ending.exit_code == 0, ended.output
    match = re.search(r"^(\d+) conversions$", ended.output, re.MULTILINE)
    assert match is not None, ended.output
    print(f"{match[1]} conversions by {CPUS} vCPUs, {by_host} by the host, {pages}")
    assert int(match[1]) > ENOUGH
    assert by_host >= wanted()
    assert set(pages) == {PageState.SHARED, PageState.PRIVATE}
