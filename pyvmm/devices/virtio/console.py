# SPDX-License-Identifier: MIT
"""A virtio console with several ports (virtio 1.2, section 5.3): what both sides say of them.

Port n has queues for what it receives and what it sends; the two after port 0's are for messages
about ports. Port 0 is there for drivers that know no more than one.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pyvmm.devices.virtio.port_state import PortState
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved import SavedConsole

DEVICE_ID: Final = 3
QUEUE_SIZE: Final = 128
CONTROL_RECEIVE: Final = 2
CONTROL_SEND: Final = 3
MOST_PORTS: Final = 31
"""Ports as many as QEMU's device has by default."""
MOST_NAME: Final = 127
"""Bytes of a port's name."""
MOST_WAITING: Final = 256
"""Control messages that the driver has not taken, after which none of its own are looked at."""
_MESSAGE: Final = struct.Struct("<IHH")
_CONFIG: Final = struct.Struct("<HHII")


class ConsoleFeature(enum.IntFlag):
    """Features of a console (5.3.3)."""

    MULTIPORT = 1 << 1


class Event(enum.IntEnum):
    """Kinds of control messages (5.3.6.2)."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_REMOVE = 2
    PORT_READY = 3
    PORT_OPEN = 6
    PORT_NAME = 7


class PortDescription(NamedTuple):
    """A port: its name, "" for none."""

    name: str


def receive_queue(port: int) -> int:
    """Number of the queue by which the driver receives from `port`; the one after it sends."""
    return 2 * port + 2 if port else 0


def port_of(queue: int) -> int | None:
    """Port of a queue; None of the queues for control messages."""
    if queue < CONTROL_RECEIVE:
        return 0
    return queue // 2 - 1 or None


class ConsoleModel:
    """A `DeviceModel` of a console with `ports` by number; None where there is none.

    `on_control` is called when there are messages for the driver, `on_guest_open(port)` when it has
    opened or closed one. Raises `UsageError` for names.
    """

    kind: int = DEVICE_ID

    def __init__(self, ports: Sequence[PortDescription | None]) -> None:
        _check_names([port.name for port in ports if port is not None])
        self.ports = tuple(ports)
        self.features = int(ConsoleFeature.MULTIPORT)
        self.queue_sizes = (QUEUE_SIZE,) * (2 * max(len(ports), 1) + 2)
        self.on_control: Callable[[], None] = _nothing
        self.on_guest_open: Callable[[int], None] = _to_nobody
        self._is_multiport = False
        self._states = [PortState() for _ in ports]
        self._to_driver: deque[bytes] = deque()

    def config(self) -> bytes:
        """The number of ports. No size of a terminal and no register for last words is offered."""
        return _CONFIG.pack(0, 0, len(self.ports), 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is the driver's to change."""

    def accept(self, features: int) -> bool:
        """Note whether the driver knows several ports."""
        self._is_multiport = bool(features & ConsoleFeature.MULTIPORT)
        return True

    def reset(self) -> None:
        """Every port is closed on the guest's side, and nothing waits."""
        self._is_multiport = False
        self._to_driver.clear()
        for number, state in enumerate(self._states):
            self._states[number] = PortState(host_open=state.host_open)
            if state.guest_open:
                self.on_guest_open(number)

    def save(self) -> SavedConsole:
        """State of the ports, and the messages that the driver has yet to take."""
        from pyvmm.devices.virtio.saved import SavedConsole

        return SavedConsole(tuple(self._states), tuple(self._to_driver))

    def restore(self, value: Any) -> None:
        """Be as saved, and tell the driver what has become of the host's side since."""
        self._to_driver = deque(value.to_driver)
        for number, (saved, now) in enumerate(zip(value.ports, self._states, strict=True)):
            self._states[number] = saved._replace(host_open=now.host_open)
            if saved.is_ready and saved.host_open != now.host_open:
                self._tell(number, Event.PORT_OPEN, int(now.host_open))
            self.on_guest_open(number)

    # -- the driver's messages, and those to it --

    def take_control(self, message: bytes) -> None:
        """Take a control message of the driver's; what is none, or of no port, is lost."""
        if len(message) < _MESSAGE.size:
            return
        number, event, value = _MESSAGE.unpack_from(message)
        if event == Event.DEVICE_READY and value:
            for port, description in enumerate(self.ports):
                if description is not None:
                    self._tell(port, Event.PORT_ADD, 1)
            return
        if number >= len(self.ports) or self.ports[number] is None:
            return
        if event == Event.PORT_READY and value:
            self._introduce(number)
        elif event == Event.PORT_OPEN:
            self._states[number] = self._states[number]._replace(guest_open=bool(value))
            self.on_guest_open(number)

    def _introduce(self, number: int) -> None:
        port, state = self.ports[number], self._states[number]
        assert port is not None
        self._states[number] = state._replace(is_ready=True)
        if port.name:
            self._tell(number, Event.PORT_NAME, 1, port.name.encode("utf-8", "surrogateescape"))
        if state.host_open:
            self._tell(number, Event.PORT_OPEN, 1)

    def _tell(self, port: int, event: Event, value: int, more: bytes = b"") -> None:
        self._to_driver.append(_MESSAGE.pack(port, event, value) + more)
        self.on_control()

    @property
    def waits_for_driver(self) -> bool:
        """True while so many messages wait for the driver that its own have to."""
        return len(self._to_driver) >= MOST_WAITING

    @property
    def has_control(self) -> bool:
        """True if there is a message for the driver."""
        return bool(self._to_driver)

    def next_control(self) -> bytes:
        """Take the next message for the driver; b"" if there is none."""
        try:
            return self._to_driver.popleft()
        except IndexError:  # A reset has come between.
            return b""

    # -- the host's side --

    def is_open(self, port: int) -> bool:
        """Tell whether a program of the guest's has the port open.

        Port 0 always is where the driver knows no other.
        """
        if not self._is_multiport:
            return port == 0
        return self._states[port].guest_open

    def set_host_open(self, port: int, *, is_open: bool) -> None:
        """Somebody on the host has taken the port, or left it."""
        state = self._states[port]
        if state.host_open != is_open:
            self._states[port] = state._replace(host_open=is_open)
            if state.is_ready:
                self._tell(port, Event.PORT_OPEN, int(is_open))


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MOST_PORTS:
        raise UsageError(
            f"make {len(names)} ports", f"a console has at most {MOST_PORTS}", "give fewer"
        )
    for name in names:
        data = name.encode("utf-8", "surrogateescape")
        if len(data) > MOST_NAME or b"\0" in data or b"/" in data:
            raise UsageError(
                f"make a port {name!r}",
                f"its name has at most {MOST_NAME} bytes, and no slash among them",
                "give another one",
            )
        if name and names.count(name) > 1:
            raise UsageError(
                f"make two ports {name!r}", "programs find them by their names", "rename one"
            )


def _nothing() -> None:
    """Be no callback."""


def _to_nobody(number: int) -> None:
    """Be no callback of a number."""
