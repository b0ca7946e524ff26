# SPDX-License-Identifier: MIT
"""A vCPU of the model: guest code on Unicorn, the exits that KVM would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.exits import Exit, ExitRecord
from pyvmm.hosts.model.address_space import VcpuServices
from pyvmm.hosts.model.cpu_state import HF_INHIBIT_IRQ
from pyvmm.hosts.model.guest_memory_access import GuestMemoryAccess
from pyvmm.hosts.model.reset_state import reset_registers
from pyvmm.hosts.model.runner import Runner
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.registers import FurtherRegs, Regs, Sregs
from pyvmm.rules.abi import APIC_DEFAULT_BASE

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import ModelSavedVcpu
    from pyvmm.hosts.saved_state import SavedVcpu

_BSP = 1 << 8
_IF = 1 << 9
_APIC_BASE = APIC_DEFAULT_BASE | 1 << 11  # enabled
_KERNEL_GS_BASE = 0xC000_0102


class ModelVcpu(Owner):
    """One vCPU, made by `Vm.create_vcpu`. Everything but `kick` belongs to one thread."""

    def __init__(
        self, index: int, services: VcpuServices, gone: Callable[[], None] = lambda: None
    ) -> None:
        """`gone` is told when it is closed. Raises `HostLacksError` without a Unicorn that fits."""
        self.index = index
        self._services = services
        self._runner = self._make_runner()
        self._memory = services.memory
        self._kept: Exit | None = None
        self._delivered: Exit | None = None
        self._cr8 = 0
        self._closed = False
        self._gone = gone
        self._references = 1
        self._as_new = self._runner.engine.state.save(), self._runner.msrs.apic_base
        """The processor and the APIC base as they were made."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index}>"

    def _make_runner(self) -> Runner:
        """A processor after reset."""
        has_apic = self._services.controllers is not None
        apic_base = _APIC_BASE | (0 if self.index else _BSP) if has_apic else 0
        runner = Runner(self.index, self._services, apic_base)
        regs, sregs = reset_registers(self.index)
        state = runner.engine.state
        state.set_sregs(sregs)
        state.regs = regs
        return runner

    # -- running --

    def run(self) -> Exit:
        """Run guest code until something needs the monitor. Raises `InternalError`."""
        self._require_open()
        self._delivered = None
        runner = self._runner
        reason: Exit
        if runner.take_kick():
            reason = exits.Interrupted()
        elif self._kept is not None:
            reason, self._kept = self._kept, None
        else:
            reason = runner.run()
        runner.history.add(reason)
        self._delivered = reason
        return reason

    def _require_open(self) -> None:
        if self._closed:
            raise InternalError(f"use vCPU {self.index}", "it has been closed")

    def set_breakpoints(self, addresses: Sequence[int], *, step: bool = False) -> None:
        """Have `run` return `Debug` before any of these linear addresses (`hosts.breakpoints`).

        Raises `UsageError` and `HostLacksError` for what cannot be one.
        """
        from pyvmm.hosts.breakpoints import require_breakpoints
        from pyvmm.hosts.model.breakpoints import MOST_BREAKPOINTS

        self._settle()
        require_breakpoints(addresses, MOST_BREAKPOINTS)
        self._runner.breakpoints.set(addresses, step=step)

    def has_stood_still(self) -> None:
        """Nothing to be told: the model has no kvmclock."""

    def code_has_changed(self) -> None:
        """Forget the code that has been translated."""
        self._settle()
        self._runner.engine.forget_code()

    def answer(self, data: bytes) -> None:
        """Answer `IoIn` or `MmioRead`. Raises `InternalError` where nothing asks for that."""
        match self._delivered:
            case exits.IoIn(size=size, count=count):
                expected = size * count
            case exits.MmioRead(size=size):
                expected = size
            case _:
                raise self._refused(f"{len(data)} bytes")
        if len(data) != expected:
            raise InternalError(
                f"answer vCPU {self.index} with {len(data)} bytes",
                "the exit asks for another number of bytes",
            )
        self._runner.answer = int.from_bytes(data, "little")
        self._delivered = None

    def answer_hypercall(self, value: int) -> None:
        """Answer `Hypercall`: what the guest finds in RAX. Raises `InternalError` as `answer`."""
        if not isinstance(self._delivered, exits.Hypercall):
            raise self._refused("a hypercall's value")
        self._runner.finish_hypercall(value)
        self._delivered = None

    def answer_msr(self, value: int, *, fault: bool) -> None:
        """No exit asks for it. Raises `InternalError`."""
        del value, fault
        raise self._refused("an MSR access")

    def _refused(self, what: str) -> InternalError:
        return InternalError(
            f"answer vCPU {self.index} with {what}",
            "the last exit asks for no such answer, or has it already",
        )

    def kick(self) -> None:
        """From any thread: make the present or next `run` return `Interrupted` (once)."""
        if not self._closed:
            self._runner.kick()

    def complete(self) -> bool:
        """Finish the access that the last exit reported; the guest stops soon after.

        The rest of the translated block is executed too. An exit in it is what the next `run`
        returns: then True.
        """
        self._require_open()
        if self._kept is None:
            self._kept = self._runner.complete()
        return self._kept is not None

    def idle_mark(self) -> int | None:
        """Count the times it has begun to execute; None while it is neither halted nor waiting."""
        runner = self._runner
        return runner.slices if runner.is_halted or runner.waits_for_startup else None

    def sleeps_for_good(self) -> bool:
        """Tell whether it waits for ever: the model has no NMIs, SMIs and INITs.

        The timer and lines interrupt the first vCPU alone, messages each whose local APIC is on.
        """
        self._settle()
        runner = self._runner
        if runner.waits_for_startup:
            return True
        if not runner.is_halted or not runner.state().rflags & _IF:
            return runner.is_halted
        controllers = self._services.controllers
        return self.index > 0 and not (controllers and controllers.takes_messages(self.index))

    def make_runnable(self) -> None:
        """Let it run at once."""
        self._runner.waits_for_startup = False

    # -- state --

    def _settle(self) -> None:
        """Registers are read and changed between two instructions only."""
        self._require_open()
        if not isinstance(self._delivered, exits.IoIn | exits.MmioRead):
            self.complete()

    def get_regs(self) -> Regs:
        """KVM_GET_REGS. The last exit's access is completed first."""
        self._settle()
        return self._runner.state().regs

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        self._settle()
        self._runner.set_regs(regs)

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS."""
        self._settle()
        return self._runner.state().sregs(self._cr8, self._runner.msrs.apic_base)

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS."""
        self._settle()
        self._cr8 = sregs.cr8
        self._runner.msrs.apic_base = sregs.apic_base
        self._runner.state().set_sregs(sregs)
        self._runner.engine.forget_translations()

    def set_entry(self, regs: Regs, sregs: Sregs) -> None:
        """All registers for a first run; `sregs.apic_base` is not taken, the vCPU's own stays."""
        self.set_sregs(replace(sregs, apic_base=self._runner.msrs.apic_base))
        self.set_regs(regs)

    def reset(self) -> None:
        """Everything as it was made, but CPUID; what was pending is forgotten."""
        from pyvmm.hosts.model.saved_values import SavedAccesses

        context, apic_base = self._as_new
        saved = replace(
            self._save(),
            context=context,
            cr8=0,
            apic_base=apic_base,
            tsc=0,
            is_halted=False,
            waits_for_startup=self._services.controllers is not None and self.index > 0,
            accesses=SavedAccesses(),
            apic=None,
        )
        self.restore(saved)

    def save(self) -> ModelSavedVcpu:
        """All its state; complete the last exit first. Raises `InternalError` else."""
        self._require_open()
        if self._kept is not None or self._runner.is_suspended:
            raise InternalError(f"save vCPU {self.index}", "an exit of it waits to be answered")
        return self._save()

    def _save(self) -> ModelSavedVcpu:
        from pyvmm.hosts.model.origin import origin
        from pyvmm.hosts.model.saved_values import ModelSavedVcpu

        runner = self._runner
        controllers = self._services.controllers
        return ModelSavedVcpu(
            origin(),
            self.index,
            runner.engine.state.save(),
            self._cr8,
            runner.msrs.apic_base,
            runner.msrs.tsc,
            runner.has_cpuid,
            controllers is not None,
            runner.is_halted,
            runner.waits_for_startup,
            runner.save_accesses(),
            None if controllers is None else controllers.save_apic(self.index),
        )

    def restore(self, saved: SavedVcpu) -> None:
        """Take a state that `save` gave; an exit under way is forgotten.

        Raises `HostLacksError` and `UsageError` as `interface.Vcpu.restore`.
        """
        from pyvmm.hosts.model.origin import origin
        from pyvmm.hosts.model.saved_values import ModelSavedVcpu
        from pyvmm.hosts.saved_state import require_same_origin, require_same_vcpu

        self._require_open()
        require_same_origin(saved.origin, origin())
        if not isinstance(saved, ModelSavedVcpu):
            attempt = f"restore vCPU {self.index}"
            raise InternalError(attempt, f"a {type(saved).__name__} is not the model's")
        controllers = self._services.controllers
        require_same_vcpu(
            saved, self.index, saved_apic=saved.has_controllers, has_apic=controllers is not None
        )
        if len(saved.context) != len(self._as_new[0]):
            raise UsageError(f"restore vCPU {self.index}", "its context has not the right size")
        self._kept = self._delivered = None
        self._runner.drop()
        self._runner.restore(saved)
        if controllers is not None:
            controllers.restore_apic(self.index, saved.apic)
        self._cr8 = saved.cr8

    def get_further(self) -> FurtherRegs:
        """Debug registers and what it waits for; x87 and SSE stay in the engine: None."""
        self._settle()
        state = self._runner.state()
        return FurtherRegs(
            kernel_gs_base=state.msr(_KERNEL_GS_BASE) or 0,
            halted=self._runner.is_halted,
            interrupt_shadow=bool(state.hflags & HF_INHIBIT_IRQ),
            dr=(state.dr(0), state.dr(1), state.dr(2), state.dr(3), state.dr(6), state.dr(7)),
        )

    def translate(self, linear: int) -> int | None:
        """The GPA of a linear address under the present page tables; None if unmapped."""
        self._settle()
        return GuestMemoryAccess(self._memory, self._runner.state()).translate(linear)

    def use_host_cpuid(self) -> None:
        """Let CPUID tell what the model's processor has; until then it is all zeroes."""
        self._runner.has_cpuid = True

    def set_cpuid(self, entries: tuple[CpuidEntry, ...]) -> None:
        """Raises `HostLacksError`: the model's processors tell of themselves alone."""
        del entries
        cause = "its processor is the model's, and tells what that has"
        raise HostLacksError(f"give vCPU {self.index} a CPUID table", cause, "use --host kvm")

    def follow_host_tsc(self) -> None:
        """Do nothing: the model's counter has no other rate."""

    def recent_exits(self) -> Sequence[ExitRecord]:
        """The last exits, oldest first, at most 32; adjacent ones of one kind and place folded."""
        return self._runner.history.recent()

    def exit_counts(self) -> Mapping[str, int]:
        """Exits so far by the name of their reason."""
        return self._runner.history.counts()

    def read_run(self) -> bytes:
        """Raises `HostLacksError`: the model shares no structure, and knows all of its exits."""
        raise self._no_run_structure()

    def write_run(self, offset: int, data: bytes) -> None:
        """Raises `HostLacksError` as `read_run`."""
        del offset, data
        raise self._no_run_structure()

    def _no_run_structure(self) -> HostLacksError:
        cause = "the model has none: its exits are values from the start"
        return HostLacksError(f"look at the kvm_run of vCPU {self.index}", cause, "use --host kvm")

    # -- life --

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._runner.close()
            self._drop()

    def duplicate(self) -> Owner:
        """One more descriptor, which holds the vCPU's VM."""
        from pyvmm.hosts.model.duplicate import ModelDuplicate

        self._references += 1
        return ModelDuplicate(self._drop)

    def _drop(self) -> None:
        self._references -= 1
        if not self._references:
            self._gone()
