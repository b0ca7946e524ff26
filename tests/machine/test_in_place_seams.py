# SPDX-License-Identifier: MIT
"""What else works on memory that is converted in place: holders, leases, reading much of it."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm.hosts.page_holders import HoldKind, PageHolder
from pyvmm.machine.attributes import HeldPageError
from pyvmm.machine.leases import LeaseHeldError, LeaseRefusedError
from pyvmm.machine.memory_reading import NotReadableError, contents
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE

from .test_in_place import World, world

__all__ = ["world"]


def certain_holders(world: World, gpa: int) -> list[PageHolder]:
    """Those who hold a page for certain; possible is, on KVM, that who maps it does direct I/O."""
    found = world.memory.conversion.holders(gpa)
    possible = {(one.kind, one.pid) for one in found if not one.is_certain}
    assert possible <= {(HoldKind.MAPPED, os.getpid())}
    return [one for one in found if one.is_certain]


def test_who_holds_a_page_is_named_where_it_can_be_told(world: World) -> None:
    file = world.ram.guest_memfd
    assert file is not None
    with file.hold_page(PAGE_SIZE):
        (holder,) = certain_holders(world, PAGE_SIZE + 8)
        assert (holder.kind, holder.pid) == (HoldKind.REFERENCE, os.getpid())
        assert certain_holders(world, 0) == []
        words = rf"page at gpa 0x1000 is held: this process \({os.getpid()}\) has taken a reference"
        with pytest.raises(HeldPageError, match=words) as caught:
            world.convert(0, 4 * PAGE_SIZE, Side.PRIVATE)
        assert "\n" not in str(caught.value)
        assert "maps it" not in str(caught.value)
    with world.memory.lease([(0, 16)], holder="the disk"):
        (holder,) = certain_holders(world, 8)
        assert str(holder) == "the disk has leased it"
    assert world.memory.conversion.holders(1 << 40) == ()


def test_what_is_leased_does_not_become_private(world: World) -> None:
    with world.memory.lease([(PAGE_SIZE, PAGE_SIZE)], writable=True, holder="the disk") as lease:
        lease.views[0][:4] = b"data"
        with pytest.raises(LeaseHeldError, match="the disk"):
            world.convert(0, 4 * PAGE_SIZE, Side.PRIVATE)
        assert world.private() == []
        world.convert(2 * PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
        lease.views[0][:4] = b"DATA"
    world.convert(0, 4 * PAGE_SIZE, Side.PRIVATE)
    with pytest.raises(LeaseRefusedError, match="private"):
        world.memory.lease([(PAGE_SIZE, 4)])
    world.convert(PAGE_SIZE, PAGE_SIZE, Side.SHARED)
    assert world.memory.read(PAGE_SIZE, 4) == b"DATA"


def test_a_conversion_waits_for_the_lease_and_keeps_what_the_device_wrote(world: World) -> None:
    world.memory.leases.patience = 60.0
    with world.memory.lease([(0, PAGE_SIZE)], writable=True) as lease:
        converting = threading.Thread(target=world.convert, args=(0, PAGE_SIZE, Side.PRIVATE))
        converting.start()
        view = lease.views[0]
        view[:5] = b"later"
        assert world.private() == []
        view.release()
    converting.join()
    assert world.private() == [GpaRange(0, PAGE_SIZE)]
    world.convert(0, PAGE_SIZE, Side.SHARED)
    assert world.memory.read(0, 5) == b"later"


def test_reading_much_leaves_out_what_is_private_and_touches_none_of_it(world: World) -> None:
    assert world.memory.write(0, b"x" * 4 * PAGE_SIZE)
    world.convert(PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE)
    whole = GpaRange(0, 8 * PAGE_SIZE)
    with pytest.raises(NotReadableError, match="0x1000-0x2fff private"):
        [*contents(world.memory, whole)]
    left_out: list[PageRun] = []
    found = {one.gpa: bytes(one.data) for one in contents(world.memory, whole, left_out)}
    assert found == {0: b"x" * PAGE_SIZE, 3 * PAGE_SIZE: b"x" * PAGE_SIZE}
    private = PageRun(GpaRange(PAGE_SIZE, 3 * PAGE_SIZE), PageState.PRIVATE)
    assert set(left_out) == {private}
    world.convert(0, 4 * PAGE_SIZE, Side.SHARED)
    assert b"".join(bytes(one.data) for one in contents(world.memory, whole)) == (
        b"x" * 4 * PAGE_SIZE
    )
