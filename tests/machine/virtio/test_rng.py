# SPDX-License-Identifier: MIT
"""An entropy device on buffers of the guest's."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from pyvmm.machine.virtio.queue_handler import BoundChain
from pyvmm.machine.virtio.rng import MOST_BYTES, random_bytes, rng_device


def views(*sizes: int) -> tuple[memoryview, ...]:
    return tuple(memoryview(bytearray(size)) for size in sizes)


def test_each_buffer_is_filled_in_order() -> None:
    device = rng_device(source=lambda count: bytes(range(1, count + 1)))
    room = views(3, 1, 4)
    assert trio.run(device.handler.handle, 0, BoundChain((), room)) == 8
    assert [bytes(view) for view in room] == [b"\1\2\3", b"\4", b"\5\6\7\x08"]


def test_a_request_gets_64_kib_at_the_most() -> None:
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count

    room = views(MOST_BYTES - 1, 5, 9)
    device = rng_device(source=source)
    assert trio.run(device.handler.handle, 0, BoundChain((), room)) == asked[0] == 64 << 10
    assert [bytes(view) for view in room[1:]] == [b"\xff\0\0\0\0", bytes(9)]


def test_a_source_may_give_less_than_it_is_asked_for() -> None:
    room = views(4, 4)
    device = rng_device(source=lambda count: b"\7" * (count - 3))
    assert trio.run(device.handler.handle, 0, BoundChain((), room)) == 5
    assert bytes(room[1]) == b"\7\0\0\0"


def test_a_source_that_is_not_ready_is_asked_again() -> None:
    not_ready = [BlockingIOError()] * 3

    def source(count: int) -> bytes:
        if not_ready:
            raise not_ready.pop()
        return b"\1" * count

    device = rng_device(source=source)
    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(device.handler.handle, 0, BoundChain((), views(2)), clock=clock) == 2


def test_a_request_has_no_buffers_to_read() -> None:
    device = rng_device()
    for chain in (BoundChain(views(1), views(1)), BoundChain(views(1), ()), BoundChain((), ())):
        with pytest.raises(ValueError, match="buffers to write, and no others"):
            trio.run(device.handler.handle, 0, chain)


def test_the_kernel_gives_random_bytes() -> None:
    assert len(random_bytes(MOST_BYTES)) == MOST_BYTES
    assert random_bytes(32) != random_bytes(32)
