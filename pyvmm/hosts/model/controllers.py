# SPDX-License-Identifier: MIT
"""Interrupt controllers and timer of a VM: two 8259A, and an 8254 (Intel's data sheets).

What the guest sees of them is what `create_irqchip` and `create_pit` give on KVM, without the
I/O APIC, and of the local APICs what messages need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.hosts.model.local_apic import LocalApic
from pyvmm.hosts.model.pic import Pic
from pyvmm.hosts.pit import Pit

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import ModelSavedVm, SavedApic
    from pyvmm.hosts.saved_state import Origin

_PIC_PORTS = {0x20: (0, 0), 0x21: (0, 1), 0xA0: (1, 0), 0xA1: (1, 1)}
_TRIGGER_PORTS = {0x4D0: 0, 0x4D1: 1}
_PORT_B = 0x61
_TIMER_LINE = 0
_CASCADE = 2
_ALL_APICS = 0xFF


class ModelControllers:
    """The controllers of one VM; what lines raise goes to vCPU 0, as from a PIC. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._pics = self._new_pics()
        self._apics: dict[int, LocalApic] = {}
        """By vCPU, from its first access on: until then it takes no message."""
        self._up: dict[int, set[object]] = {}
        """By line, who holds it up."""
        self._resampled: dict[int, dict[object, Callable[[], None]]] = {}
        self._pit: Pit | None = None

    def _new_pics(self) -> tuple[Pic, Pic]:
        return Pic(self._ended), Pic(lambda line: self._ended(8 + line))

    def create_pit(self) -> None:
        """Add the timer, on line 0, and port 0x61."""
        with self._changed:
            self._pit = Pit()

    def reset(self) -> None:
        """As they were made."""
        with self._changed:
            self._pics = self._new_pics()
            self._apics.clear()
            if self._pit is not None:
                self._pit = Pit()

    def save(self, origin: Origin) -> ModelSavedVm:
        """The controllers and the timer; while no vCPU runs."""
        from pyvmm.hosts.model.saved_values import ModelSavedVm

        with self._changed:
            pit = None if self._pit is None else self._pit.save(time.monotonic())
            return ModelSavedVm(origin, tuple(pic.save() for pic in self._pics), pit)

    def restore(self, saved: ModelSavedVm) -> None:
        """Take what `save` gave; while no vCPU runs. Raises `UsageError` for other controllers."""
        from pyvmm.hosts.saved_state import require_same_controllers

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
        self.hold_line(gsi, None, level)

    def hold_line(self, gsi: int, holder: object, level: bool) -> None:
        """Hold a line up, or let it go; it is up while somebody holds it up."""
        with self._changed:
            if 0 <= gsi < 16:
                self._hold(gsi, holder, level)
                self._changed.notify_all()

    def _hold(self, gsi: int, holder: object, level: bool) -> None:
        up = self._up.setdefault(gsi, set())
        if level:
            up.add(holder)
        else:
            up.discard(holder)
        self._set_line(gsi, bool(up))

    def resample(self, gsi: int, holder: object, ended: Callable[[], None]) -> None:
        """Let the guest's end of interrupt take what `holder` holds up, and tell by `ended`."""
        with self._changed:
            self._resampled.setdefault(gsi, {})[holder] = ended

    def forget_line(self, gsi: int, holder: object) -> None:
        """Let go of what it holds up, and tell it nothing more."""
        with self._changed:
            self._resampled.get(gsi, {}).pop(holder, None)
            if holder in self._up.get(gsi, ()):
                self._hold(gsi, holder, False)

    def _ended(self, gsi: int) -> None:
        """Lower the resampled lines of a pin, whose interrupt has ended. Under the lock."""
        for holder, tell in self._resampled.get(gsi, {}).items():
            self._hold(gsi, holder, False)
            tell()

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

    # -- local APICs --

    def deliver(self, destination: int, vector: int) -> None:
        """Send a message to the APIC of this number, or to all of them (255)."""
        with self._changed:
            for index, apic in self._apics.items():
                if destination in (index, _ALL_APICS):
                    apic.accept(vector)
            self._changed.notify_all()

    def takes_messages(self, vcpu: int) -> bool:
        """Tell whether this vCPU's APIC is on."""
        with self._changed:
            return vcpu in self._apics and self._apics[vcpu].is_enabled

    def save_apic(self, vcpu: int) -> SavedApic | None:
        """Return the state of this vCPU's APIC; None: as it was made."""
        with self._changed:
            return self._apics[vcpu].save() if vcpu in self._apics else None

    def restore_apic(self, vcpu: int, saved: SavedApic | None) -> None:
        """Take what `save_apic` gave."""
        with self._changed:
            self._apics.pop(vcpu, None)
            if saved is not None:
                self._apic(vcpu).restore(saved)

    def apic_read(self, vcpu: int, offset: int) -> int | None:
        """Read a register of this vCPU's APIC; None: the model has no such register."""
        with self._changed:
            return self._apic(vcpu).read(offset)

    def apic_write(self, vcpu: int, offset: int, value: int) -> bool:
        """Write one; False: the model has no such register."""
        with self._changed:
            return self._apic(vcpu).write(offset, value)

    def _apic(self, vcpu: int) -> LocalApic:
        return self._apics.setdefault(vcpu, LocalApic(vcpu))

    # -- vCPUs --

    def pending(self, vcpu: int) -> bool:
        """Tell whether an interrupt waits for this vCPU."""
        with self._changed:
            if not vcpu:
                self._run_timer()
                if self._pics[0].output:
                    return True
            return vcpu in self._apics and self._apics[vcpu].waiting is not None

    def acknowledge(self, vcpu: int) -> int | None:
        """Take the waiting interrupt: its vector; what the 8259 has comes first."""
        with self._changed:
            if vcpu or not self._pics[0].output:
                return self._apics[vcpu].acknowledge() if vcpu in self._apics else None
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
