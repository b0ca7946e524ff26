# SPDX-License-Identifier: MIT
"""Accesses to ports and devices: a doorbell's, posted, the VM's own controllers', or an exit.

They come from the engine in the middle of an instruction. Nothing may be raised through its C code:
what goes wrong stops the engine and is raised afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.errors import HostLacksError
from pyvmm.hosts import exits
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.model.address_space import VcpuServices
from pyvmm.hosts.model.engine import Engine
from pyvmm.hosts.model.guest_memory_access import GuestMemoryAccess, NotMemoryError
from pyvmm.hosts.model.history import History
from pyvmm.hosts.model.mmio_accesses import MmioAccesses
from pyvmm.hosts.model.string_input import StringInput
from pyvmm.rules.abi import APIC_DEFAULT_BASE, IOAPIC_DEFAULT_BASE, PAGE_SIZE

_IO_APIC, _LOCAL_APIC = IOAPIC_DEFAULT_BASE // PAGE_SIZE, APIC_DEFAULT_BASE // PAGE_SIZE
"""Page frames of the interrupt controllers that KVM has and the model lacks, or has in part."""


def _lacks(what: str, gpa: int) -> HostLacksError:
    """The error for a part of the interrupt controllers that the model does not have.

    An undriven bus would answer instead, and who sends an interrupt would wait for ever.
    """
    return HostLacksError(
        "run the guest on the model",
        f"it uses its {what} at {gpa:#x}; the model has an 8259 and an 8254, and of local APICs "
        "what messages need",
        "run it on a host with /dev/kvm",
    )


class DeviceAccess:
    """`engine.Devices` of one vCPU. `ask` hands an exit to the monitor and gives what it answers;
    None: the vCPU is being closed, which `is_dying` tells, too.
    """

    def __init__(
        self,
        index: int,
        services: VcpuServices,
        history: History,
        ask: Callable[[Exit], int | None],
        is_dying: Callable[[], bool],
    ) -> None:
        self._index = index
        self._services = services
        self._controllers = services.controllers
        self._history = history
        self._ask = ask
        self._is_dying = is_dying
        self._failure: BaseException | None = None

    def attach(self, engine: Engine, memory: GuestMemoryAccess) -> None:
        """The engine's part, which is made after this."""
        self._stop = engine.stop
        self._memory = memory
        self.strings = StringInput(engine, memory)
        self.accesses = MmioAccesses(engine, self._mmio)

    def raise_failure(self) -> None:
        """Raise what went wrong in the middle of an instruction, if anything did."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _fail(self, failure: BaseException) -> int:
        self._failure = failure
        self._stop()
        return 0

    def port_in(self, port: int, size: int) -> int:
        """IN."""
        try:
            return self._port_in(port, size)
        except BaseException as failure:  # noqa: BLE001 - there is C code between here and there
            return self._fail(failure)

    def _port_in(self, port: int, size: int) -> int:
        if size == 1:
            posted = self._services.posts.read_value(port)
            if posted is not None:
                self._history.posted(port, None)
                return posted
        if self._controllers is not None:
            value = self._controllers.port_read(port, size)
            if value is not None:
                return value
        batch = self.strings.batch(size)
        if batch is None:
            return self._ask(exits.IoIn(port, size, 1)) or 0
        answer = self._ask(exits.IoIn(port, size, batch.count))
        if answer is None:
            return 0
        data = answer.to_bytes(size * batch.count, "little")
        self.strings.store(batch, data)
        return int.from_bytes(data[:size], "little")

    def port_out(self, port: int, size: int, value: int) -> None:
        """OUT."""
        try:
            self._port_out(port, size, value & (1 << 8 * size) - 1)
        except BaseException as failure:  # noqa: BLE001 - as above
            self._fail(failure)

    def _port_out(self, port: int, size: int, value: int) -> None:
        if self._rings(port, size, value, is_port=True):
            return
        posts = self._services.posts
        if size == 1 and posts.takes_writes(port):
            if self._is_dying():
                return  # The rest of a block, behind the instruction that ended the guest.
            while not posts.push(self._index, port, value):
                if self._ask(exits.PostedFull()) is None:
                    return
            self._history.posted(port, value)
            return
        if self._controllers is not None and self._controllers.port_write(port, size, value):
            if self._controllers.pending(self._index):
                self._stop()
            return
        self._ask(exits.IoOut(port, size, 1, value.to_bytes(size, "little")))

    def _rings(self, address: int, size: int, value: int, *, is_port: bool) -> bool:
        if self._is_dying():
            return False  # The rest of a block, behind the instruction that ended the guest.
        return self._services.doorbells.ring(address, size, value, is_port=is_port)

    def _mmio(self, access: Exit) -> int | None:
        """Do an access once: a doorbell, the local APIC, or an exit."""
        match access:
            case exits.MmioWrite(gpa, data):
                value = int.from_bytes(data, "little")
                if self._rings(gpa, len(data), value, is_port=False):
                    return 0
                if self._is_apic(gpa):
                    self._write_apic(gpa, len(data), value)
                    return 0
            case exits.MmioRead(gpa, size) if self._is_apic(gpa):
                return self._read_apic(gpa, size)
        return self._ask(access)

    def _is_apic(self, gpa: int) -> bool:
        return self._controllers is not None and gpa // PAGE_SIZE == _LOCAL_APIC

    def _read_apic(self, gpa: int, size: int) -> int:
        """Registers are 16 bytes apart and 32 bits wide; anything else is dropped, as by KVM."""
        assert self._controllers is not None
        if size != 4 or gpa % 16:
            return 0
        value = self._controllers.apic_read(self._index, gpa % PAGE_SIZE)
        if value is None:
            raise _lacks("local APIC", gpa)
        return value

    def _write_apic(self, gpa: int, size: int, value: int) -> None:
        assert self._controllers is not None
        if size != 4 or gpa % 16:
            return
        if not self._controllers.apic_write(self._index, gpa % PAGE_SIZE, value):
            raise _lacks("local APIC", gpa)
        if self._controllers.pending(self._index):
            self._stop()

    def mmio_read(self, gpa: int, size: int) -> int:
        """A read of a page that is no memory, or is read-only and has been written to."""
        try:
            try:
                return int.from_bytes(self._memory.read_physical(gpa, size), "little")
            except NotMemoryError:
                # A read-only slot's page that has been written to, and has no memory of the host's.
                if self._services.memory.blocked(gpa, size, write=False) is not None:
                    raise
                self._require_device(gpa)
                return self.accesses.do(exits.MmioRead(gpa, size))
        except BaseException as failure:  # noqa: BLE001 - as above
            return self._fail(failure)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A write to such a page."""
        try:
            self._require_device(gpa)
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            self.accesses.do(exits.MmioWrite(gpa, data))
        except BaseException as failure:  # noqa: BLE001 - as above
            self._fail(failure)

    def _require_device(self, gpa: int) -> None:
        """Raises `HostLacksError` for the I/O APIC of a VM with controllers."""
        if self._controllers is not None and gpa // PAGE_SIZE == _IO_APIC:
            raise _lacks("I/O APIC", gpa)
