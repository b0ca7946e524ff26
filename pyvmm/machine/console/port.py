# SPDX-License-Identifier: MIT
"""The console port: where vCPU threads and trio tasks meet, with a bounded buffer each way.

Output: vCPU threads `append`; a trio task takes. A full buffer makes the vCPU thread wait
(`wait_for_room`) after it has let go of every lock, so the guest stalls and nothing is lost.
Input: a trio task `send`s; the UART takes what fits whenever the guest has read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from pyvmm.machine.loop_calls import call_soon

OUTPUT_LIMIT = 1 << 20
"""Bytes of unread output after which the guest waits."""
INPUT_LIMIT = 1 << 16
"""Bytes of input not yet taken by the guest after which `send` waits."""


def _nobody() -> None:
    """Take notice for somebody who is not there."""


class ConsolePort:
    """Two bounded byte queues. Made in a trio task; its output side is used from any thread."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._room = threading.Condition(threading.Lock())
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self.is_full = False
        """True while the guest should wait before it writes more. A plain attribute, because vCPU
        threads look at it after every exit."""
        self.total = 0
        self._ended = False
        self._released = False
        self._output_ended = trio.Event()
        self._readable = trio.Event()
        self._taken = trio.Event()
        self._input: deque[bytes] = deque()
        self._input_size = 0
        self._input_changed = trio.Event()
        self._input_ended = False
        self._input_held = False
        self._deliver: Callable[[], None] = _nobody

    # -- output, from vCPU threads --

    def append(self, data: bytes) -> None:
        """Take output of the guest's. Never waits: the caller asks `is_full` afterwards."""
        with self._room:
            self._chunks.append(data)
            self._set_size(self._size + len(data))
            self.total += len(data)
            wake = len(self._chunks) == 1
        if wake:
            self._wake()

    def _set_size(self, size: int) -> None:
        """Under the lock."""
        self._size = size
        self.is_full = size >= OUTPUT_LIMIT

    def wait_for_room(self) -> None:
        """Wait, on a vCPU thread, until there is room or `release` was called."""
        with self._room:
            self._room.wait_for(lambda: self._released or not self.is_full)

    def release(self) -> None:
        """Let waiting vCPU threads go: the machine is stopping. What they append is still kept."""
        with self._room:
            self._released = True
            self._room.notify_all()

    def rearm(self) -> None:
        """Undo `release`, after a pause."""
        with self._room:
            self._released = False

    def end_output(self) -> None:
        """No more output will come: `receive` returns b"" once everything is taken. From trio."""
        self._ended = True
        self._output_ended.set()
        self._set_readable()

    def _wake(self) -> None:
        call_soon(self._token, self._set_readable)

    def _set_readable(self) -> None:
        self._readable.set()

    # -- output, from trio --

    async def receive(self) -> bytes:
        """Whatever the guest has said, at least a byte; b"" after the end. One reader at a time.

        When it is cancelled, nothing has been taken.
        """
        if self._size or self._ended:
            await trio.lowlevel.checkpoint()
        while True:
            # No checkpoint between taking and returning: a cancellation there would lose data.
            data = self.receive_nowait()
            if data or self._ended:
                return data
            self._readable = trio.Event()
            if self._size or self._ended:  # Appended between the look and the new event.
                continue
            await self._readable.wait()

    def receive_nowait(self) -> bytes:
        """Whatever the guest has said and nobody has taken; maybe nothing."""
        with self._room:
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._set_size(0)
            self._room.notify_all()
        self._taken.set()
        return data

    async def room(self) -> None:
        """Wait until there is room for more output."""
        await trio.lowlevel.checkpoint()
        while self.is_full:
            self._taken = trio.Event()
            await self._taken.wait()

    def put_back(self, data: bytes) -> None:
        """Return what could not be passed on, to be received again first."""
        if data:
            with self._room:
                self._chunks.appendleft(data)
                self._set_size(self._size + len(data))

    @property
    def output_ended(self) -> bool:
        """True once `end_output` was called: what is unread then is all that remains."""
        return self._ended

    async def wait_output_ended(self) -> None:
        """Wait for `end_output`."""
        await self._output_ended.wait()

    @property
    def unread(self) -> int:
        """Bytes of output that nobody has taken yet."""
        return self._size

    # -- input --

    def connect(self, deliver: Callable[[], None]) -> None:
        """`deliver` is called, from trio, when there is new input or its end."""
        self._deliver = deliver

    def disconnect(self) -> None:
        """Call nobody any more; input stays here."""
        self._deliver = _nobody

    async def send(self, data: bytes) -> None:
        """Queue `data` for the guest; waits while `INPUT_LIMIT` bytes are queued already."""
        await trio.lowlevel.checkpoint()
        while self._input_size >= INPUT_LIMIT:
            self._input_changed = trio.Event()
            if self._input_size >= INPUT_LIMIT:
                await self._input_changed.wait()
        if data:
            with self._room:
                self._input.append(data)
                self._input_size += len(data)
            self._deliver()

    def offer(self, data: bytes) -> None:
        """Queue of `data` what there is room for; the rest is lost, as in a terminal's queue."""
        data = data[: max(0, INPUT_LIMIT - self._input_size)]
        if data:
            with self._room:
                self._input.append(data)
                self._input_size += len(data)
            self._deliver()

    def end_input(self) -> None:
        """No more input will come; the guest sees the carrier drop after the last byte."""
        self._input_ended = True
        self._deliver()

    @contextmanager
    def holding_input(self) -> Iterator[None]:
        """Inside of it the UART is given nothing, and behind it what waits. No vCPU runs."""
        self._input_held = True
        try:
            yield
        finally:
            self._input_held = False
            self._deliver()

    def restore_input(self, unread: bytes, *, ended: bool) -> None:
        """Queue all of `unread` ahead of what is queued here; nothing is delivered.

        It may be more than `INPUT_LIMIT`: what `queued_input` gave can be, too. `ended`: no more
        input will come, as after `end_input`.
        """
        if unread:
            with self._room:
                self._input.appendleft(unread)
                self._input_size += len(unread)
        self._input_ended = self._input_ended or ended

    def queued_input(self) -> bytes:
        """Input that the guest's UART has not taken; it stays queued."""
        with self._room:
            return b"".join(self._input)

    @property
    def input_has_ended(self) -> bool:
        """True once `end_input` has been called."""
        return self._input_ended

    @property
    def input_ended(self) -> bool:
        """True once the input has ended and the guest has been given all of it."""
        return self._input_ended and not (self._input_size or self._input_held)

    def feed(self, receive: Callable[[bytes], int]) -> None:
        """Hand queued input to the UART while it takes it. Any thread, under the UART's guard."""
        if not self._input_size or self._input_held:
            return
        with self._room:
            while self._input:
                data = self._input.popleft()
                taken = receive(data)
                self._input_size -= taken
                if taken < len(data):
                    self._input.appendleft(data[taken:])
                    break
            below = self._input_size < INPUT_LIMIT
        if below and not self._input_changed.is_set():
            call_soon(self._token, self._set_input_changed)

    def _set_input_changed(self) -> None:
        self._input_changed.set()
