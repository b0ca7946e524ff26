# SPDX-License-Identifier: MIT
"""Interrupts of a machine's devices: made for them here, and closed with the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TypeVar

from pyvmm.errors import UsageError
from pyvmm.hosts.interface import Vm
from pyvmm.hosts.interrupts import (
    Doorbell,
    DoorbellPlace,
    InterruptLine,
    MessageInterrupt,
    Trigger,
)
from pyvmm.hosts.owner import Owned
from pyvmm.machine.ownership import StackOwner

T = TypeVar("T", bound=Owned)


class DeviceInterrupts(StackOwner):
    """Owns the lines, messages and doorbells of all devices; `owner` names a device for people.

    A line and a message need interrupt controllers, which the machine has or not. Methods raise
    `UsageError` for what another device has, and `SystemCallError`.
    """

    def __init__(self, vm: Vm, *, has_controllers: bool) -> None:
        self.has_controllers = has_controllers
        self._vm = vm
        self._pins: dict[tuple[str, int], InterruptLine | None] = {}
        self._made: dict[int, Owned] = {}
        with ExitStack() as stack:
            stack.callback(self._close_all)
            self.own(stack)

    def _owned(self, made: T) -> T:
        self._made[id(made)] = made
        return made

    def _close_all(self) -> None:
        with ExitStack() as stack:
            for made in self._made.values():
                stack.enter_context(made)
            self._made.clear()

    def give_back(self, made: Owned) -> None:
        """Close what was made here and is no longer used; a second time does nothing."""
        if self._made.pop(id(made), None) is not None:
            made.close()

    @property
    def count(self) -> int:
        """Number of those that are there."""
        return len(self._made)

    def changing_routes(self) -> AbstractContextManager[None]:
        """`VmInterrupts.changing_routes`."""
        return self._vm.changing_routes()

    def line(
        self,
        gsi: int,
        trigger: Trigger,
        owner: str,
        *,
        shared: bool = False,
        resample: bool = False,
    ) -> InterruptLine:
        """A line, as `VmInterrupts.create_line` makes it."""
        return self._owned(
            self._vm.create_line(gsi, trigger, owner, shared=shared, resample=resample)
        )

    def message(self, owner: str) -> MessageInterrupt:
        """A message, as `VmInterrupts.create_message` makes it."""
        return self._owned(self._vm.create_message(owner))

    def doorbell(self, place: DoorbellPlace, owner: str) -> Doorbell:
        """A doorbell, as `VmInterrupts.create_doorbell` makes it."""
        return self._owned(self._vm.create_doorbell(place, owner))

    def level(self, gsi: int, owner: str) -> Callable[[bool], None] | None:
        """Return the function that sets the level of a line that `owner` shares.

        None without controllers.
        """
        if not self.has_controllers:
            return None
        return partial(_set_level, self.line(gsi, Trigger.LEVEL, owner, shared=True))

    def set_pin(self, owner: str, gsi: int, level: bool) -> None:
        """Set the level of a line of the owner's to any pin that others share; others stay."""
        pin = (owner, gsi)
        if pin not in self._pins:
            if not level:
                return
            try:
                self._pins[pin] = self.line(gsi, Trigger.LEVEL, owner, shared=True)
            except UsageError:
                # A device has the pin for itself, and the guest cannot know.
                self._pins[pin] = None
        line = self._pins[pin]
        if line is not None:
            _set_level(line, level)


def _set_level(line: InterruptLine, level: bool) -> None:
    if level:
        line.raise_()
    else:
        line.lower()
