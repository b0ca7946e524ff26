# SPDX-License-Identifier: MIT
"""Breakpoints of a vCPU in the processor's debug registers, by KVM_SET_GUEST_DEBUG (api.rst 4.87).

The guest's memory is not touched, so they work in private memory, and each vCPU has its own. KVM
honours no RFLAGS.RF for them: the instruction at one is got past by a single step without them.
While there are any, debug exceptions of the guest's own come here first and are given back to it;
breakpoints that it has in its own debug registers wait.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace

from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import Memslot, System
from pyvmm.hosts.kvm.binding import CData, check, lib
from pyvmm.hosts.kvm.constants import ExitReason
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.exits import FAULT_EFAULT, FAULT_EHWPOISON, INTERRUPTED, POSTED_FULL
from pyvmm.hosts.kvm.vcpu_state import VcpuState
from pyvmm.hosts.kvm.vcpu_values import GuestDebug
from pyvmm.hosts.registers import Regs
from pyvmm.rules.abi import PAGE_SIZE

MOST = 4
"""DR0 to DR3."""
_HIT = 0xF
"""DR6: which of them."""
_DEBUG = 1
"""Vector of the debug exception."""
_LEGACY_EXACT = 1 << 10
"""DR7: always set."""
_DONE_AGAIN = frozenset({INTERRUPTED, POSTED_FULL, FAULT_EFAULT, FAULT_EHWPOISON})
"""Codes of run.c after which the instruction is still to be executed."""
_NONE = GuestDebug(0)
_NOP_HLT = b"\x90\xf4"
_OF_THE_TRIAL = 0


class Breakpoints:
    """Breakpoints of one vCPU, and its run function while there are any."""

    def __init__(
        self,
        vcpu: VcpuState,
        run_structure: CData,
        enter: Callable[[CData], int],
    ) -> None:
        """`enter` is run.c's."""
        self._vcpu = vcpu
        self._run_structure = run_structure
        self._enter = enter
        self._step = GuestDebug.ENABLE | GuestDebug.SINGLESTEP | GuestDebug.BLOCKIRQ
        self._addresses: tuple[int, ...] = ()
        self._stands_at: int | None = None
        self._stepping = False
        self._again = False
        self._is_step_asked = False
        self._step_from = 0

    def set(self, addresses: Sequence[int], *, step: bool = False) -> None:
        """Have these and no others, at most `MOST`; `step` over one instruction. `KvmError`."""
        if self._is_step_asked and self._stepping:
            self._stepping = False
        self._is_step_asked = step
        self._addresses = tuple(addresses)
        if not addresses:
            self._stands_at = None
            self._stepping = False
        if not self._stepping:
            self._arm()

    def forget(self) -> None:
        """The vCPU is about to be another: nothing is to be got past. Raises `KvmError`."""
        self._stands_at = None
        self._is_step_asked = False
        if self._stepping:
            self._stepping = False
            self._arm()

    def _arm(self, more: GuestDebug = _NONE) -> None:
        if not self._addresses:
            self._vcpu.set_guest_debug(_NONE)
            return
        # For execution, of length 1: their bits are 0.
        dr7 = _LEGACY_EXACT | sum(2 << 2 * number for number in range(len(self._addresses)))
        control = GuestDebug.ENABLE | GuestDebug.USE_HW_BP | more
        self._vcpu.set_guest_debug(control, self._addresses, dr7)

    def run(self, vcpu: CData) -> int:
        """Run as run.c does; KVM_EXIT_DEBUG for breakpoints and steps only. Raises `KvmError`."""
        if self._is_step_asked:
            return self._run_one(vcpu)
        if self._stands_at is not None and not self._stepping:
            if self._pc() == self._stands_at:
                self._begin_step()
            else:
                self._stands_at = None
        code = self._enter(vcpu)
        if code != ExitReason.DEBUG:
            if self._stepping and code not in _DONE_AGAIN:
                self.forget()
            return code
        debug = self._run_structure.u.debug
        if self._stepping:
            # Where it is still the next one it repeats: now interrupts may come in between.
            again, self._again = self._stands_at, self._stands_at == debug.pc
            self.forget()
            if self._again:
                self._stands_at = again
            return INTERRUPTED
        if debug.dr6 & _HIT and debug.pc in self._addresses:
            self._stands_at = int(debug.pc)
            self._again = False
            return code
        self._give_back(int(debug.dr6))
        return INTERRUPTED

    def _run_one(self, vcpu: CData) -> int:
        """Make the step that is asked for: KVM_EXIT_DEBUG after what it exits for.

        Where KVM emulates an instruction whose access user space completes it enters the guest
        again without that exit (x86_emulate_instruction): so it is completed here first.
        """
        debug = self._run_structure.u.debug
        if not self._stepping:
            self._again = False
            self._step_from = self._pc()
            self._begin_step()
        else:
            check(lib.pyvmm_vcpu_complete(vcpu), "complete the last exit before a step ends")
            if not lib.pyvmm_vcpu_keeps_exit(vcpu) and (pc := self._pc()) != self._step_from:
                debug.exception, debug.pc, debug.dr6, debug.dr7 = _DEBUG, pc, 0, _LEGACY_EXACT
                return self._end_step(debug)
        code = lib.pyvmm_vcpu_run_once(vcpu)
        return self._end_step(debug) if code == ExitReason.DEBUG else int(code)

    def _end_step(self, debug: CData) -> int:
        debug.dr6 |= exits.SINGLE_STEP
        self.forget()
        if debug.pc in self._addresses:
            # Who goes on from here has been told of the place.
            self._stands_at = int(debug.pc)
        return ExitReason.DEBUG

    def _begin_step(self) -> None:
        step = self._step & ~GuestDebug.BLOCKIRQ if self._again else self._step
        try:
            self._vcpu.set_guest_debug(step)
        except KvmError as error:
            if error.errno != errno.EINVAL or not step & GuestDebug.BLOCKIRQ:
                raise
            # KVM cannot keep interrupts out: one may come first, and the guest is stopped again
            # when it returns.
            self._step &= ~GuestDebug.BLOCKIRQ
            self._vcpu.set_guest_debug(self._step)
        self._stepping = True

    def _pc(self) -> int:
        rip, sregs = self._vcpu.get_regs().rip, self._vcpu.get_sregs()
        return rip if sregs.cs.l else rip + sregs.cs.base & 0xFFFF_FFFF

    def _give_back(self, dr6: int) -> None:
        """Let the guest have the debug exception that is its own."""
        self._vcpu.set_debugregs(replace(self._vcpu.get_debugregs(), dr6=dr6))
        self._arm(GuestDebug.INJECT_DB)


def try_one(system: System) -> int:
    """Run a guest of two instructions with a breakpoint at the first: `MOST`, or 0 if it runs past.

    A KVM that is itself emulated may take breakpoints and never stop. Raises `KvmError`.
    """
    return MOST if _stops(system, [PAGE_SIZE], step=False) else 0


def try_step(system: System) -> bool:
    """Have a guest of two instructions step over the first. Raises `KvmError`."""
    return _stops(system, (), step=True)


def _stops(system: System, addresses: Sequence[int], *, step: bool) -> bool:
    """Tell whether a guest of NOP and HLT, the first at `PAGE_SIZE`, is stopped before the HLT."""
    with (
        system.create_vm(VmType.DEFAULT) as vm,
        system.map_anonymous(PAGE_SIZE) as ram,
    ):
        with ram.view() as view:
            view[: len(_NOP_HLT)] = _NOP_HLT
        vm.set_memslot(Memslot(_OF_THE_TRIAL, PAGE_SIZE, PAGE_SIZE, ram.hva))
        with vm.create_vcpu(0) as vcpu:
            sregs = vcpu.get_sregs()
            vcpu.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
            vcpu.set_regs(Regs(rip=PAGE_SIZE))
            vcpu.set_breakpoints(addresses, step=step)
            return isinstance(vcpu.run(), exits.Debug)
