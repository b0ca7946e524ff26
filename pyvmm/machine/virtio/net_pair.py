# SPDX-License-Identifier: MIT
"""A pair of a network device's queues, and its queue of the wire: the way of each frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from pyvmm.devices.virtio.buffers import put, split
from pyvmm.devices.virtio.net import NetModel
from pyvmm.devices.virtio.net_features import NetFeature
from pyvmm.devices.virtio.net_filter import Accepts
from pyvmm.devices.virtio.net_header import (
    ETHERNET,
    HEAD,
    HEADER_SIZE,
    MOST_FRAME,
    PLAIN,
    TAG,
    checked_incoming,
    checked_outgoing,
    parse_header,
)
from pyvmm.machine.virtio.queue_handler import BoundChain, NotNowError, RingFullError
from pyvmm.net.frames import WireEndedError, WireQueue

_MOST_VIEWS: Final = 1023
"""Buffers of a chain that go into one system call, with one of ours (IOV_MAX)."""
_MOST_DROPPED: Final = 4096
"""Frames that are dropped in one go, from before there was a link."""
_MOST_UNWANTED: Final = 16
"""Frames that are dropped while a chain for the next one is leased."""
_PAUSE: Final = 0.05
"""Seconds until a wire is asked again that has failed."""


class NetPair:
    """Moves the frames of a pair; in the trio thread. `end` is called when the wire has ended."""

    def __init__(
        self, model: NetModel, line: WireQueue, end: Callable[[WireEndedError], None]
    ) -> None:
        self._model = model
        self._line = line
        self._end = end
        self.has_frame = False
        """True while there may be a frame for the driver."""
        self.has_room = True
        """True while the wire may take one of its."""
        self.received = self.sent = 0
        """Frames that were handed over."""
        self.dropped_incoming = self.dropped_outgoing = 0
        """Frames that were not: broken, unwanted, without a link, or with no room anywhere."""
        self.on_frame: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing
        self._changed = trio.Event()
        self._is_used = True
        self._has_failed = False
        self._held: bytes | None = None
        """A frame that several chains are to have, of which there are not enough yet."""
        self._scratch = memoryview(bytearray(HEADER_SIZE + MOST_FRAME))
        """For what a chain has no room for."""

    def use(self, *, used: bool) -> None:
        """Have frames of this queue of the wire waited for, or not."""
        if used != self._is_used:
            self._is_used = used
            self.has_frame = False
            self.forget()
            self._change()

    def forget(self) -> None:
        """Drop what is under way."""
        self.dropped_incoming += self._held is not None
        self._held = None

    def drop_waiting(self) -> None:
        """Drop what has come until now: there was no link."""
        self.forget()
        self.has_frame = False
        self._change()
        if not self._is_used:
            return
        for _ in range(_MOST_DROPPED):
            try:
                self._line.receive([self._scratch])
            except (OSError, WireEndedError):  # There is none, or that will be found out again.
                return
            self.dropped_incoming += 1

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- frames for the driver --

    async def receive(self, chain: BoundChain, look_again: Callable[[], None]) -> int:
        """Put the next frame for the driver into a chain, and more of them if need be. Return the
        bytes. Raises `ValueError` for a chain that is none for frames, and `NotNowError`."""
        room = sum(map(len, chain.writable))
        merges = bool(self._model.negotiated & NetFeature.MRG_RXBUF)
        if chain.readable or room + merges <= HEADER_SIZE or len(chain.writable) > _MOST_VIEWS:
            raise ValueError("it has no room for a frame, or something to be read")
        dropped = 0
        while self._model.is_link_up and self._is_used:
            if self._held is not None:
                return self._spread(chain, self._held, look_again)
            size = self._next((*chain.writable, self._scratch))
            is_wanted = (size <= room or merges) and self._is_wanted(chain.writable, size)
            if is_wanted and self._put_header(chain.writable, 1):
                if size <= room:
                    self.received += 1
                    return size
                self._held = b"".join((*chain.writable, self._scratch[: size - room]))
                continue
            self.dropped_incoming += 1
            dropped += 1
            if dropped == _MOST_UNWANTED:
                look_again()  # With the chain leased anew: somebody may wait for its memory.
                break
            await trio.lowlevel.checkpoint()  # Others have their turn.
        raise NotNowError

    def _next(self, views: Sequence[memoryview]) -> int:
        """Take the next frame from the wire. Return its bytes. Raises `NotNowError`."""
        try:
            return self._line.receive(views)
        except BlockingIOError:
            pass
        except WireEndedError as error:
            self._end(error)
        except OSError:
            self._has_failed = True
        self.has_frame = False
        self._change()
        raise NotNowError

    def _is_wanted(self, views: Sequence[memoryview], size: int) -> bool:
        """Tell it of a frame that lies in `views` and, behind that, in the scratch."""
        if size < HEADER_SIZE + ETHERNET:
            return False
        if self._model.filter.accepts & Accepts.ALL:
            return True
        head, _ = split((*views, self._scratch), HEADER_SIZE + ETHERNET + TAG)
        return self._model.filter.wants(head[HEADER_SIZE:size], self._model.mac)

    def _put_header(self, views: Sequence[memoryview], buffers: int) -> bool:
        """Write the header as it is for the driver. Return False for a frame that is not."""
        header = checked_incoming(
            parse_header(split(views, HEADER_SIZE)[0]), buffers, self._model.offloads
        )
        if header is not None:
            put(views, header)
        return header is not None

    def _spread(self, chain: BoundChain, frame: bytes, look_again: Callable[[], None]) -> int:
        """Put a frame into as many chains as it takes. Raises `NotNowError` where there are none;
        then it is kept."""
        views, buffers = list(chain.writable), 1
        room = sum(map(len, views))
        while room < len(frame):
            try:
                more = chain.another()
            except RingFullError:
                more = None
                self.forget()
                look_again()
            if more is None:
                raise NotNowError
            if more.readable:
                raise ValueError("it has something to be read")
            views += more.writable
            room += sum(map(len, more.writable))
            buffers += 1
        self._held = None
        header = checked_incoming(parse_header(frame[:HEADER_SIZE]), buffers, self._model.offloads)
        if header is None:
            self.dropped_incoming += 1
            look_again()
            raise NotNowError
        self.received += 1
        return put(views, header + frame[HEADER_SIZE:])

    async def wait_for_frames(self) -> None:
        """Tell of frames that come, until cancelled."""
        while True:
            # What is not taken is not waited for: it would be there at once, again and again.
            while self.has_frame or not self._is_used or not self._model.is_link_up:
                await self._changed.wait()
            if self._has_failed:
                self._has_failed = False
                await trio.sleep(_PAUSE)
            await trio.lowlevel.wait_readable(self._line.fileno())
            self.has_frame = True
            self.on_frame()

    # -- frames of the driver's --

    def send(self, chain: BoundChain, *, is_used: bool) -> None:
        """Send a frame of the driver's, or drop it. Raises `ValueError` for a chain that is none,
        and `NotNowError` where the wire has no room."""
        if chain.writable or len(chain.readable) > _MOST_VIEWS:
            raise ValueError("it has something to be written")
        header, frame = split(chain.readable, HEADER_SIZE)
        if len(header) < HEADER_SIZE:
            raise ValueError("it has no header")
        size = sum(map(len, frame))
        checked: bytes | None = None
        if is_used and self._model.is_link_up:
            checked = self._checked(header, frame, size)
        if checked is None:
            self.dropped_outgoing += 1
            return
        try:
            self._line.send((memoryview(checked), *frame))
        except BlockingIOError:
            self.has_room = False
            self._change()
            raise NotNowError from None
        except WireEndedError as error:
            self.dropped_outgoing += 1
            self._end(error)
        except OSError:
            self.dropped_outgoing += 1
        else:
            self.sent += 1

    def _checked(self, header: bytes, frame: Sequence[memoryview], size: int) -> bytes | None:
        head = b"" if header == PLAIN else split(frame, HEAD)[0]
        model = self._model
        return checked_outgoing(parse_header(header), head, size, model.negotiated, model.longest)

    async def wait_for_room(self) -> None:
        """Tell of room for frames of the driver's, until cancelled."""
        while True:
            while self.has_room:
                await self._changed.wait()
            await trio.lowlevel.wait_writable(self._line.fileno())
            self.has_room = True
            self.on_room()


def _nothing() -> None:
    """Be no callback."""
