# SPDX-License-Identifier: MIT
"""Accesses to ports and devices: posted, the VM's own controllers', or an exit.

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

_MISSING = {IOAPIC_DEFAULT_BASE: "I/O APIC", APIC_DEFAULT_BASE: "local APIC"}
"""By the page's GPA: what KVM's interrupt controllers have beside those of the model."""


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
        self.accesses = MmioAccesses(engine, self._ask)

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
        """Raises `HostLacksError` where a VM with controllers has one that the model lacks.

        An undriven bus would answer instead, and who sends an interrupt would wait for ever.
        """
        missing = None if self._controllers is None else _MISSING.get(gpa // PAGE_SIZE * PAGE_SIZE)
        if missing is not None:
            raise HostLacksError(
                "run the guest on the model",
                f"it uses its {missing} at {gpa:#x}; the model has an 8259 and an 8254 only",
                "run it on a host with /dev/kvm",
            )
