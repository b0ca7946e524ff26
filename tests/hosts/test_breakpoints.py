# SPDX-License-Identifier: MIT
"""Breakpoints of one vCPU, on KVM and on the model: where they stop it, and getting past them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from pyvmm.boot.tables import protected_mode
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts import exits, interface
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm import breakpoints
from pyvmm.hosts.kvm.breakpoints import Breakpoints
from pyvmm.hosts.kvm.exits import INTERRUPTED
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu_state import VcpuState
from pyvmm.hosts.kvm.vcpu_values import DebugRegs, GuestDebug
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.registers import Regs

CODE = 0x1000
STACK = 0x8000
SIZE = 1 << 16
RUNAWAY_SECONDS = 60

each_system = pytest.mark.parametrize(
    "make", [pytest.param(System, marks=pytest.mark.kvm, id="kvm"), ModelSystem]
)
MakeSystem = Callable[[], interface.System]


@contextmanager
def guest(make: MakeSystem, code: str) -> Iterator[interface.Vcpu]:
    """A vCPU in 32-bit protected mode before `code`, which is at `CODE`."""
    with (
        make() as system,
        system.create_vm() as vm,
        system.map_anonymous(SIZE) as ram,
    ):
        if not system.most_breakpoints():
            pytest.skip("breakpoints do not stop guests on this host's KVM")
        vm.set_memslot(Memslot(0, 0, SIZE, ram.hva))
        with ram.view() as view:
            raw = bytes.fromhex(code)
            view[CODE : CODE + len(raw)] = raw
        with vm.create_vcpu(0) as vcpu:
            vcpu.set_entry(Regs(rip=CODE, rsp=STACK), protected_mode())
            watchdog = threading.Timer(RUNAWAY_SECONDS, vcpu.kick)
            watchdog.daemon = True
            watchdog.start()
            try:
                yield vcpu
            finally:
                watchdog.cancel()


def stop(vcpu: interface.Vcpu) -> exits.Exit:
    """The next exit; what is interrupted without having been kicked runs on."""
    for _ in range(100):
        reason = vcpu.run()
        if not isinstance(reason, exits.Interrupted):
            return reason
    raise AssertionError("interrupted a hundred times")


def stops_at(vcpu: interface.Vcpu) -> int:
    """Where a breakpoint has stopped it; the registers are of before the instruction there."""
    reason = stop(vcpu)
    assert isinstance(reason, exits.Debug)
    assert vcpu.get_regs().rip == reason.pc
    return reason.pc


@each_system
def test_it_stops_before_the_instruction_each_time(make: MakeSystem) -> None:
    # xor ebx, ebx; again: inc ebx; cmp ebx, 3; jne again; nop; hlt
    with guest(make, "31db 43 83fb03 75fa 90 f4") as vcpu:
        vcpu.set_breakpoints([CODE + 2, CODE + 8])
        for round_ in range(3):
            assert stops_at(vcpu) == CODE + 2
            assert vcpu.get_regs().rbx == round_
        assert stops_at(vcpu) == CODE + 8
        assert stop(vcpu) == exits.Hlt()
        assert vcpu.get_regs().rip == CODE + 10


def test_a_halt_is_got_past_too() -> None:
    """On the model; a KVM that emulates it executes one instruction more before it halts."""
    with guest(ModelSystem, "f4 90 f4") as vcpu:
        vcpu.set_breakpoints([CODE])
        assert stops_at(vcpu) == CODE
        assert stop(vcpu) == exits.Hlt()
        assert vcpu.get_regs().rip == CODE + 1


@each_system
def test_the_first_instruction_and_one_that_is_cleared(make: MakeSystem) -> None:
    with guest(make, "90 90 90 f4") as vcpu:
        vcpu.set_breakpoints([CODE, CODE + 1, CODE + 2])
        assert stops_at(vcpu) == CODE
        vcpu.set_breakpoints([CODE + 2])
        assert stops_at(vcpu) == CODE + 2
        vcpu.set_breakpoints([])
        assert stop(vcpu) == exits.Hlt()


@each_system
def test_it_is_got_past_though_the_instruction_exits(make: MakeSystem) -> None:
    # out 0xf1, al; in al, 0xf2; mov [0x100000], al; mov al, [0x100004]; hlt
    with guest(make, "e6f1 e4f2 a200001000 a004001000 f4") as vcpu:
        vcpu.set_breakpoints([CODE, CODE + 2, CODE + 4, CODE + 9])
        assert stops_at(vcpu) == CODE
        assert stop(vcpu) == exits.IoOut(0xF1, 1, 1, b"\0")
        assert stops_at(vcpu) == CODE + 2
        assert stop(vcpu) == exits.IoIn(0xF2, 1, 1)
        vcpu.answer(b"\x21")
        assert stops_at(vcpu) == CODE + 4
        assert stop(vcpu) == exits.MmioWrite(0x100000, b"\x21")
        assert stops_at(vcpu) == CODE + 9
        assert stop(vcpu) == exits.MmioRead(0x100004, 1)
        vcpu.answer(b"\x43")
        assert stop(vcpu) == exits.Hlt()
        assert vcpu.get_regs().rax & 0xFF == 0x43


@each_system
def test_one_that_repeats_itself_is_told_once(make: MakeSystem) -> None:
    # mov ecx, 9; mov edi, 0x4000; rep stosb; hlt
    with guest(make, "b909000000 bf00400000 f3aa f4") as vcpu:
        vcpu.set_breakpoints([CODE + 10])
        assert stops_at(vcpu) == CODE + 10
        assert stop(vcpu) == exits.Hlt()
        assert vcpu.get_regs().rdi == 0x4009


def step(vcpu: interface.Vcpu, breakpoints: list[int] | None = None) -> exits.Exit:
    """Have it step: the next exit."""
    vcpu.set_breakpoints(breakpoints or [], step=True)
    return stop(vcpu)


def stepped(reason: exits.Exit) -> int:
    """Where a step has ended."""
    assert isinstance(reason, exits.Debug)
    assert reason.dr6 & exits.SINGLE_STEP
    return reason.pc


@each_system
def test_a_step_is_one_instruction_whatever_it_exits_for(make: MakeSystem) -> None:
    # nop; out 0xf1, al; in al, 0xf2; mov [0x100000], al; mov al, [0x100004]; jmp $
    with guest(make, "90 e6f1 e4f2 a200001000 a004001000 ebfe") as vcpu:
        assert stepped(step(vcpu)) == CODE + 1
        assert step(vcpu) == exits.IoOut(0xF1, 1, 1, b"\0")
        assert stepped(stop(vcpu)) == CODE + 3
        assert step(vcpu) == exits.IoIn(0xF2, 1, 1)
        vcpu.answer(b"\x21")
        assert stepped(stop(vcpu)) == CODE + 5
        assert vcpu.get_regs().rax & 0xFF == 0x21
        assert step(vcpu) == exits.MmioWrite(0x100000, b"\x21")
        assert stepped(stop(vcpu)) == CODE + 10
        assert step(vcpu) == exits.MmioRead(0x100004, 1)
        vcpu.answer(b"\x43")
        assert stepped(stop(vcpu)) == CODE + 15
        for _ in range(3):
            assert stepped(step(vcpu)) == CODE + 15


@each_system
def test_a_step_goes_past_a_breakpoint_and_stops_at_the_next(make: MakeSystem) -> None:
    with guest(make, "90 90 90 90 f4") as vcpu:
        vcpu.set_breakpoints([CODE + 1, CODE + 2])
        assert stops_at(vcpu) == CODE + 1
        assert stepped(step(vcpu, [CODE + 1, CODE + 2])) == CODE + 2
        assert stop(vcpu) == exits.Hlt(), "it has been told of this place already"


@each_system
def test_a_step_that_is_taken_back_or_kicked_is_none(make: MakeSystem) -> None:
    with guest(make, "90 90 90 f4") as vcpu:
        vcpu.set_breakpoints([], step=True)
        vcpu.kick()
        assert vcpu.run() == exits.Interrupted()
        assert vcpu.get_regs().rip == CODE
        assert stepped(stop(vcpu)) == CODE + 1
        vcpu.set_breakpoints([], step=True)
        vcpu.set_breakpoints([])
        assert stop(vcpu) == exits.Hlt()


@each_system
def test_a_fault_is_stepped_into(make: MakeSystem) -> None:
    """Not over: the next instruction is the handler's. Without a handler it is a triple fault."""
    # ud2
    with guest(make, "0f0b f4") as vcpu:
        assert step(vcpu) == exits.Shutdown()


@each_system
def test_a_kick_in_between_loses_nothing(make: MakeSystem) -> None:
    with guest(make, "90 90 f4") as vcpu:
        vcpu.set_breakpoints([CODE + 1])
        assert stops_at(vcpu) == CODE + 1
        vcpu.kick()
        assert vcpu.run() == exits.Interrupted()
        assert not vcpu.complete()
        assert vcpu.get_regs().rip == CODE + 1
        assert stop(vcpu) == exits.Hlt()


@each_system
def test_who_is_put_back_stops_again(make: MakeSystem) -> None:
    with guest(make, "90 90 f4") as vcpu:
        vcpu.set_breakpoints([CODE + 1])
        assert stops_at(vcpu) == CODE + 1
        saved = vcpu.save()
        vcpu.restore(saved)
        assert stops_at(vcpu) == CODE + 1
        vcpu.set_regs(Regs(rip=CODE, rsp=STACK))
        assert stops_at(vcpu) == CODE + 1
        assert stop(vcpu) == exits.Hlt()


@each_system
def test_what_cannot_be_one(make: MakeSystem) -> None:
    with guest(make, "90 f4") as vcpu:
        vcpu.set_breakpoints([CODE])
        for address in (-1, 1 << 64, 1 << 62):
            with pytest.raises(UsageError, match=f"{address:#x}"):
                vcpu.set_breakpoints([address])
        with pytest.raises(HostLacksError, match="breakpoints at a time"):
            vcpu.set_breakpoints(range(CODE, CODE + 100))
        assert stops_at(vcpu) == CODE


@pytest.mark.kvm
def test_a_kvm_that_runs_past_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    with System() as system:
        assert breakpoints.try_one(system) == system.most_breakpoints()
        monkeypatch.setattr(VcpuState, "set_guest_debug", lambda *_: None)
        assert breakpoints.try_one(system) == 0


class Recorded:
    """A vCPU whose guest single-steps itself, as `Breakpoints` sees it."""

    def __init__(self) -> None:
        self.asked: list[GuestDebug] = []
        self.debugregs = DebugRegs((0, 0, 0, 0), 0, 0x400)
        self.run = cast(Any, self)
        self.u = self.debug = self.run
        self.dr6, self.pc = 0xFFFF_4FF0, 0x1234

    def set_guest_debug(self, control: GuestDebug, *_: object) -> None:
        self.asked.append(control)

    def get_debugregs(self) -> DebugRegs:
        return self.debugregs

    def set_debugregs(self, registers: DebugRegs) -> None:
        self.debugregs = registers


def test_debug_exceptions_of_the_guests_own_are_given_back() -> None:
    vcpu = Recorded()
    made = Breakpoints(cast(VcpuState, vcpu), vcpu.run, lambda _vcpu: 4)
    made.set([CODE])
    assert made.run(None) == INTERRUPTED
    armed = GuestDebug.ENABLE | GuestDebug.USE_HW_BP
    assert vcpu.asked == [armed, armed | GuestDebug.INJECT_DB]
    assert vcpu.debugregs.dr6 == 0xFFFF_4FF0
