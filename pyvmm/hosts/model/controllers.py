# SPDX-License-Identifier: MIT
"""Interrupt controllers and timer of a VM: two 8259A, and an 8254 (Intel's data sheets).

What the guest sees of them is what `create_irqchip` and `create_pit` give on KVM, without the
local APICs and the I/O APIC.
"""

from __future__ import annotations

import threading
import time

from pyvmm.hosts.model.pic import Pic
from pyvmm.hosts.model.saved_values import ModelSavedVm
from pyvmm.hosts.pit import Pit
from pyvmm.hosts.saved_state import Origin, require_same_controllers

_PIC_PORTS = {0x20: (0, 0), 0x21: (0, 1), 0xA0: (1, 0), 0xA1: (1, 1)}
_TRIGGER_PORTS = {0x4D0: 0, 0x4D1: 1}
_PORT_B = 0x61
_TIMER_LINE = 0
_CASCADE = 2


class ModelControllers:
    """The controllers of one VM; interrupts go to vCPU 0, as from a PIC. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._pics = (Pic(), Pic())
        self._pit: Pit | None = None

    def create_pit(self) -> None:
        """Add the timer, on line 0, and port 0x61."""
        with self._changed:
            self._pit = Pit()

    def reset(self) -> None:
        """As they were made."""
        with self._changed:
            self._pics = (Pic(), Pic())
            if self._pit is not None:
                self._pit = Pit()

    def save(self, origin: Origin) -> ModelSavedVm:
        """The controllers and the timer; while no vCPU runs."""
        with self._changed:
            pit = None if self._pit is None else self._pit.save(time.monotonic())
            return ModelSavedVm(origin, tuple(pic.save() for pic in self._pics), pit)

    def restore(self, saved: ModelSavedVm) -> None:
        """Take what `save` gave; while no vCPU runs. Raises `UsageError` for other controllers."""
        with self._changed:
            has_pit = saved.pit is not None
            require_same_controllers("a VM", saved=bool(saved.pics), here=True)
            require_same_controllers("a VM's timer", saved=has_pit, here=self._pit is not None)
            for pic, registers in zip(self._pics, saved.pics, strict=True):
                pic.restore(registers)
            if self._pit is not None and saved.pit is not None:
                self._pit.restore(saved.pit, time.monotonic())
            self._changed.notify_all()

    # -- lines --

    def raise_line(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line, 0 to 15; others lead nowhere."""
        with self._changed:
            if 0 <= gsi < 16:
                self._set_line(gsi, level)
                self._changed.notify_all()

    def _set_line(self, line: int, level: bool) -> None:
        self._pics[line >> 3].set_line(line & 7, level)
        self._update_cascade()

    def _update_cascade(self) -> None:
        self._pics[0].set_line(_CASCADE, self._pics[1].output)

    def _run_timer(self) -> None:
        """Raise line 0 if the timer has, but no tick before the guest is done with the last one."""
        if self._pit is None or self._pics[0].is_busy(_TIMER_LINE):
            return
        if self._pit.expire(time.monotonic()):
            self._set_line(_TIMER_LINE, False)
            self._set_line(_TIMER_LINE, True)

    # -- ports --

    def port_read(self, port: int, size: int) -> int | None:
        """Read a port; None: the port is not theirs."""
        with self._changed:
            if size != 1:
                return None
            if port in _PIC_PORTS:
                chip, offset = _PIC_PORTS[port]
                return self._pics[chip].read(offset)
            if port in _TRIGGER_PORTS:
                return self._pics[_TRIGGER_PORTS[port]].level_triggered
            if self._pit is not None and 0x40 <= port <= 0x43:
                return self._pit.read(port - 0x40, time.monotonic())
            if self._pit is not None and port == _PORT_B:
                return self._pit.read_port_b(time.monotonic())
            return None

    def port_write(self, port: int, size: int, value: int) -> bool:
        """Take a write; False: not theirs."""
        with self._changed:
            if size != 1:
                return False
            if port in _PIC_PORTS:
                chip, offset = _PIC_PORTS[port]
                self._pics[chip].write(offset, value)
                self._update_cascade()
            elif port in _TRIGGER_PORTS:
                self._pics[_TRIGGER_PORTS[port]].level_triggered = value
            elif self._pit is not None and 0x40 <= port <= 0x43:
                self._pit.write(port - 0x40, value, time.monotonic())
            elif self._pit is not None and port == _PORT_B:
                self._pit.write_port_b(value, time.monotonic())
            else:
                return False
            return True

    # -- vCPUs --

    def pending(self, vcpu: int) -> bool:
        """Tell whether an interrupt waits for this vCPU."""
        if vcpu:
            return False
        with self._changed:
            self._run_timer()
            return self._pics[0].output

    def acknowledge(self, vcpu: int) -> int | None:
        """Take the waiting interrupt: its vector."""
        with self._changed:
            if vcpu or not self._pics[0].output:
                return None
            line = self._pics[0].acknowledge()
            if line != _CASCADE:
                return self._pics[0].base + line
            vector = self._pics[1].base + self._pics[1].acknowledge()
            self._update_cascade()
            return vector

    def next_event(self) -> float | None:
        """In how many seconds the timer raises its line next; None: it does not."""
        with self._changed:
            if self._pit is None:
                return None
            due = self._pit.due
            return None if due is None else max(0.0, due - time.monotonic())

    def wait(self, seconds: float | None) -> None:
        """Until a line changes, `wake` is called, or the time is over."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """End all `wait`."""
        with self._changed:
            self._changed.notify_all()
