# SPDX-License-Identifier: MIT
"""A card's queue as a hostile driver leaves it: Python and the engine do the same with it.

Where the driver merges, a chain that is none in the middle of a frame ends it in other ways: then
the engine alone has it, and only has to come to an end with nothing leased.
"""

from __future__ import annotations

from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.net_features import NetFeature
from pyvmm.devices.virtio.net_header import FrameHeader
from pyvmm.hosts.queue_engine import Stopped
from pyvmm.net.frames import NO_OFFLOADS
from tests.machine.virtio.socket_wire import SocketWire
from tests.machine.virtio.split_driver import (
    ANY_BYTES,
    DEVICE,
    PRIVATE,
    SIZE,
    TABLES,
    forget_notifications,
    lay_out,
)
from tests.machine.virtio.test_net_engine import (
    CUTS,
    DATA,
    FEATURES,
    FRAME,
    MERGES,
    RX,
    STRIDE,
    TAKES_CUT,
    TX,
    Case,
    Side,
)

from .target import Target

_PLACES = (
    DATA, DATA + 12, DATA + 8, DATA + STRIDE, DATA + STRIDE + 12, DATA + 100, PRIVATE, PRIVATE - 8,
    TABLES, TABLES + 256, 1 << 40, (1 << 64) - 4,
)  # fmt: skip
_LENGTHS = (12, 126, 114, 1, 8, 0, 500, 26, 4096, 16, 32, 48, 11, 13, 0xFFFF_FFFF)
_NUMBERS = (0, 34, 16, 1448, 6, 54, 13, 0xFFFF)
_HEADER = 7
_START = 3
_LENGTH = _START + 2 * _HEADER + ANY_BYTES
_MERGES = 0x10


def _header(data: bytes) -> bytes:
    flags, kind, *rest = data
    numbers = (_NUMBERS[value % len(_NUMBERS)] for value in rest)
    return FrameHeader(flags, kind, *numbers).encoded()


def _lay_out(side: Side, data: bytes) -> None:
    """Headers, then the available ring, then descriptors: the ring's, and those of two tables."""
    count, flags = data[1], data[2]
    at = _START
    for number in range(2):
        header = _header(data[at : at + _HEADER])
        if side.case.queue == TX:
            side.pages.put(DATA + STRIDE * number, header + FRAME)
        else:
            side.wire.peers[0].send(header + FRAME * (1 + number))
        at += _HEADER
    lay_out(
        side.pages,
        data[at:],
        _PLACES,
        _LENGTHS,
        count=count,
        flags=flags,
        event_index=Feature.EVENT_INDEX in side.features,
    )


def _same(python: Side, engine: Side) -> None:
    is_broken = engine.by_engine()[-1] is Stopped.BROKEN
    python.by_python()
    assert is_broken == python.core.needs_reset
    if is_broken:
        for side in (python, engine):
            forget_notifications(side.pages)
    queue = engine.case.queue
    assert engine.core.position(queue) == python.core.position(queue)
    if queue == TX:
        assert engine.pages.bytes == python.pages.bytes
    else:
        # Chains that were not given back may have been written to.
        used = slice(DEVICE, DEVICE + 4 + 8 * SIZE)
        assert engine.pages.bytes[used] == python.pages.bytes[used]
    assert engine.sent() == python.sent()
    assert engine.left() == python.left()
    if not is_broken:
        assert bool(engine.interrupts) == bool(python.interrupts)


def one(data: bytes) -> None:
    """Have both serve it, and compare."""
    data = data[:_LENGTH].ljust(_LENGTH, b"\0")
    queue = TX if data[0] & 0x80 else RX
    merges = queue == RX and data[0] & _MERGES
    device = CUTS if queue == TX else TAKES_CUT | (MERGES if merges else NetFeature(0))
    case = Case(queue, (), (), FEATURES[data[0] % len(FEATURES)], device)
    with (
        SocketWire(offloads=~NO_OFFLOADS) as one_wire,
        SocketWire(offloads=~NO_OFFLOADS) as other_wire,
    ):
        python, engine = Side(case, one_wire), Side(case, other_wire)
        for side in (python, engine):
            _lay_out(side, data)
        if merges:
            engine.by_engine()
        else:
            _same(python, engine)


_CUT = (1, 1, 5, 3, 1, 2, 0)
_PLAIN = (0, 0, 0, 0, 0, 0, 0)
_NONE = (0, 0, 0, 0)


def _input(head: tuple[int, ...], *descriptors: tuple[int, int, int, int]) -> bytes:
    """An input of two headers: `head` is features, count and flags."""
    flat = bytes(value for each in descriptors for value in each)
    return bytes((*head, *_CUT, *_PLAIN, 0, 2, *[0] * (SIZE - 2))) + flat


_SENT = ((0, 0, 1, 1), (1, 2, 0, 0), (3, 1, 0, 0))
_COMES = ((0, 6, 2, 0), _NONE, (3, 6, 2, 0))
TARGET = Target(
    one,
    [
        _input((0x80, 2, 0), *_SENT),
        _input((0x81, 2, 0), *_SENT),
        _input((0x83, 1, 0), (8, 10, 4, 0), *[_NONE] * 7, *_SENT),
        _input((0, 2, 0), *_COMES),
        _input((0x10, 2, 0), *_COMES),
        _input((0x11, 2, 2), (0, 1, 2, 0), _NONE, (3, 1, 2, 0)),
        _input((0, SIZE + 1, 0)),
    ],
    most=_LENGTH,
)
INSTRUMENTED = (
    "pyvmm.devices.virtio.split_ring",
    "pyvmm.devices.virtio.descriptors",
    "pyvmm.devices.virtio.net_header",
    "pyvmm.machine.virtio.net_pair",
    "pyvmm.machine.virtio.queue_worker",
)
