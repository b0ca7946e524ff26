# SPDX-License-Identifier: MIT
"""Protocols by which a device says what it can do, and the guard that serialises it.

A device has registers and can be reset; what else it can is found by looking when a machine is put
together. Devices are pure: a backend that waits for something is an object of the machine's
that holds the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

if TYPE_CHECKING:
    from types import TracebackType

    from pyvmm.devices.posting import PortPosting


class Registers(Protocol):
    """Something with registers. Offsets are bytes from the start of its range; values are little
    endian numbers of `size` bytes (1, 2, 4 or 8, at most the width it was placed with).

    A guest can provoke any access, so neither method raises for a register that does not exist.
    Neither waits, and neither calls another device: effects go through callbacks.
    """

    def read(self, offset: int, size: int) -> int:
        """The value at `offset`: 0 <= value < 1 << 8 * size."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Take `value`, which fits `size` bytes."""
        ...


class Resettable(Protocol):
    """Every device: it can be put back to how it was made, in place."""

    def reset(self) -> None:
        """Forget everything that the guest did, and let go of interrupt lines. No vCPU runs."""
        ...


class Saveable(Protocol):
    """A device whose state can be taken out and put into another one of its kind."""

    def save(self) -> Any:
        """The state as a frozen dataclass of bytes, numbers and tuples; nothing changes."""
        ...

    def restore(self, value: Any) -> None:
        """Be as the device that `value` was saved from; its type is that of `save`'s.

        An interrupt line is set where it differs from how this device drives it now. Memory and
        controllers are restored after all devices (decision 13): what wants either waits until
        memory can be leased. Behind the controllers it is called once more with the same value.
        """
        ...


def is_saveable(device: object) -> TypeGuard[Saveable]:
    """Tell a `Saveable`, as ``isinstance`` would: that takes longer than saving one."""
    return hasattr(type(device), "save") and hasattr(type(device), "restore")


class PostingDevice(Protocol):
    """A device with accesses that need no Python (`pyvmm.devices.posting`)."""

    @property
    def posting(self) -> tuple[PortPosting, ...]:
        """Accesses that are postable at present, at most one entry for an offset."""
        ...

    def posted_write(self, data: bytes) -> None:
        """Take bytes written to the one offset whose posting said `write`, in order."""
        ...


def is_posting(registers: object) -> TypeGuard[PostingDevice]:
    """Tell a `PostingDevice`, as ``isinstance`` would: that takes longer than making a device."""
    return hasattr(type(registers), "posting") and hasattr(type(registers), "posted_write")


class Backend(Protocol):
    """The work of a device that no access of the guest's starts: input, the time."""

    async def serve(self) -> None:
        """Run in the machine's nursery until cancelled. Calls of the device are under its guard."""
        ...


class Guard(Protocol):
    """Lock around accesses to one device; ``threading.Lock`` is one."""

    def acquire(self) -> object:
        """Wait until nobody else is inside."""
        ...

    def release(self) -> None:
        """Let the next one in."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
