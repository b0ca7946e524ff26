# SPDX-License-Identifier: MIT
"""The virtio console: ports of the guest's, each with a socket of the host's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import trio

from pyvmm.devices.virtio.buffers import put
from pyvmm.devices.virtio.console import (
    CONTROL_RECEIVE,
    CONTROL_SEND,
    ConsoleModel,
    PortDescription,
    port_of,
    receive_queue,
)
from pyvmm.machine.hardware import PortChoice
from pyvmm.machine.loop_calls import call_soon
from pyvmm.machine.virtio.port_end import PortEnd
from pyvmm.machine.virtio.queue_handler import BoundChain, VirtioDevice

MOST_SENT = 1 << 20
"""Bytes that a guest may send at once; Linux sends 32 KiB."""
_MOST_CONTROL = 4096


def console_device(ports: Sequence[PortChoice], stack: ExitStack) -> VirtioDevice:
    """Make a console with `ports`, numbered from 1 on; `stack` gets their host ends.

    Raises `UsageError` for names that cannot be, and what `PortEnd` raises.
    """
    model = ConsoleModel((None, *(PortDescription(port.name) for port in ports)))
    ends = {number: stack.enter_context(PortEnd(port)) for number, port in enumerate(ports, 1)}
    return VirtioDevice("virtio console", model, ConsoleHandler(model, ends))


class ConsoleHandler:
    """Moves bytes between the queues of ports and their ends on the host."""

    def __init__(self, model: ConsoleModel, ends: Mapping[int, PortEnd]) -> None:
        self._model = model
        self._ends = ends
        self._token: trio.lowlevel.TrioToken | None = None
        self.on_ready: Callable[[int], None]
        self.on_config_change: Callable[[], None]

    def is_ready(self, queue: int) -> bool:
        """Tell whether there is something for the driver, or room for what it says."""
        if queue == CONTROL_RECEIVE:
            return self._model.has_control
        if queue == CONTROL_SEND:
            return not self._model.waits_for_driver
        number = port_of(queue)
        end = self._ends.get(-1 if number is None else number)
        if queue % 2:
            return end is None or not end.is_connected or end.has_room
        return end is not None and end.has_input and self._model.is_open(number or 0)

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Fill a chain for the driver, or take one of it. Raises `ValueError` for a chain that the
        other direction has, or that is too long."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if queue % 2:
            self._take(queue, chain.readable)
            return 0
        room = sum(map(len, chain.writable))
        if not room:
            raise ValueError("it has no room")
        if queue == CONTROL_RECEIVE:
            data = self._model.next_control()
            self.on_ready(CONTROL_SEND)
        else:
            data = self._ends[port_of(queue) or 0].take(room)
        if len(data) > room:
            raise ValueError("it has no room for a control message")
        return put(chain.writable, data)

    def _take(self, queue: int, readable: Sequence[memoryview]) -> None:
        size = sum(map(len, readable))
        if size > (_MOST_CONTROL if queue == CONTROL_SEND else MOST_SENT):
            raise ValueError(f"it has {size} bytes")
        data = b"".join(readable)
        if queue == CONTROL_SEND:
            self._model.take_control(data)
            return
        end = self._ends.get(port_of(queue) or 0)
        if end is not None:
            end.put(data)

    async def serve(self) -> None:
        """Let programs connect to the ports."""
        self._token = trio.lowlevel.current_trio_token()
        self._model.on_control = partial(self._soon, self._offer_control)
        looks = [partial(self._look_at, number) for number in range(len(self._model.ports))]
        self._model.on_guest_open = lambda number: self._soon(looks[number])
        async with trio.open_nursery() as nursery:
            for number, end in self._ends.items():
                end.on_input = partial(self._wake, receive_queue(number))
                end.on_room = partial(self._wake, receive_queue(number) + 1)
                end.on_connected = partial(self._connected, number)
                nursery.start_soon(end.serve)

    def _soon(self, function: Callable[[], None]) -> None:
        """Call it in the trio thread: the driver resets, and the machine restores, in any."""
        call_soon(self._token, function)

    def _wake(self, queue: int) -> None:
        self.on_ready(queue)

    def _offer_control(self) -> None:
        self.on_ready(CONTROL_RECEIVE)

    def _connected(self, number: int) -> None:
        self._model.set_host_open(number, is_open=self._ends[number].is_connected)

    def _look_at(self, number: int) -> None:
        end = self._ends.get(number)
        if end is None:
            return
        if not self._model.is_open(number):
            end.drop_input()
        self.on_ready(receive_queue(number))
