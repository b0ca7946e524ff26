# SPDX-License-Identifier: MIT
"""Exits that pyvmm does not know reach callbacks as the kernel's bytes, and are declared there.

KVM_EXIT_TPR_ACCESS stands for such an exit: every KVM with local APICs has it, and pyvmm does not.
It comes with an entry after the access: at once, or where the guest's code is emulated anyway, when
that has led to another exit.
"""

from __future__ import annotations

import functools
import threading
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from pyvmm import HostChoice, IrqchipPolicy, MachineConfig, open_blocking_machine
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.experiment import Declarations, RawExit, assemble, declare, guest
from pyvmm.hosts.exits import (
    Exit,
    Hlt,
    Interrupted,
    IoOut,
    MemoryFault,
    MemoryFaultFlag,
    UnknownExit,
)
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.raw_exits import is_unknown
from pyvmm.machine.board import Board
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.vcpu_thread import VcpuThread

CODE = """
    mov $0xfee00080, %ebx
    mov (%rbx), %eax        # the local APIC's task priority
    mov $0x77, %al
1:  cmpb $0, flag(%rip)
    je 1b
    out %al, $0x80
flag:
    .byte 0
"""


@functools.cache
def abi() -> Declarations:
    return declare("""
        struct kvm_tpr_access_ctl { __u32 enabled; __u32 flags; __u32 reserved[8]; };
        #define KVM_TPR_ACCESS_REPORTING _IOWR(KVMIO, 0x92, struct kvm_tpr_access_ctl)
        #define KVM_EXIT_TPR_ACCESS 12
        struct tpr_access { __u64 rip; __u32 is_write; __u32 pad; };
        """)


def report_tpr_accesses(vcpu: Vcpu) -> None:
    abi().KVM_TPR_ACCESS_REPORTING(vcpu, enabled=1)


@pytest.mark.kvm
def test_a_bare_vcpu_gives_it_as_a_value_and_to_a_callback() -> None:
    met: list[RawExit] = []

    def know(raw: RawExit) -> bool:
        met.append(raw)
        return True

    with guest(assemble(CODE), host="kvm", irqchip=True) as made:
        report_tpr_accesses(made.vcpu)
        while (reason := made.run(timeout=0.02)) == Interrupted():
            pass
        assert reason == UnknownExit(abi().KVM_EXIT_TPR_ACCESS)
        seen = abi().view("struct tpr_access", made.raw(reason).data)
        code = made.code
        assert code.at < seen.rip < code.at + len(code.content)
        assert not seen.is_write
        made.write(code.at + len(code.content) - 1, b"\1")
        made.set(rip=code.at)
        known = (one for one in made.exits(60, unknown=know))
        assert next(known) == IoOut(0x80, 1, 1, b"\x77")
        # Where the guest is emulated, the exit comes after that one.
        made.set(rip=code.at + 5)
        assert next(known) == IoOut(0x80, 1, 1, b"\x77")
        assert {(one.reason, one.vcpu) for one in met} == {(12, 0)}


@pytest.mark.kvm
def test_an_answer_reaches_the_shared_structure() -> None:
    with guest(b"\xf4", host="kvm", bits=16) as made:
        reason = made.run(timeout=60)
        assert reason == Hlt()
        raw = made.raw(reason)
        assert raw.reason == 5
        raw.answer(b"\x01\x02", 8)
        assert made.raw(reason).data[:11] == raw.data[:8] + b"\1\2" + raw.data[10:11]
        with pytest.raises(UsageError, match="run structure: it has"):
            raw.write_run(len(raw.run) - 1, b"\1\2")
        with pytest.raises(UsageError, match="run structure: it has"):
            raw.write_run(-1, b"\1")


LOAD = 0x10_0000
MULTIBOOT = f"""
    .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
    .long {LOAD:#x}, {LOAD:#x}, 0, 0, start
start:
    mov 0xfee00080, %eax
    out %al, $0x80
    mov $7, %al
    out %al, $0xf4          # the port of a guest's status
    hlt
"""
"""A raw Multiboot image, entered in flat protected mode."""


@pytest.mark.kvm
@pytest.mark.parametrize("knows", [True, False, None])
def test_a_machine_asks_its_owner_before_it_gives_up(knows: bool | None) -> None:
    met: list[RawExit] = []

    def asked(raw: RawExit) -> bool:
        met.append(raw)
        return bool(knows)

    image = assemble(MULTIBOOT, at=LOAD, bits=32).content
    config = MachineConfig(image, host=HostChoice.KVM, irqchip=IrqchipPolicy.ON, timeout=60)
    unknown = None if knows is None else asked
    with open_blocking_machine(config, unknown=unknown, paused=True) as machine:
        machine.vcpus[0].call(report_tpr_accesses)
        machine.control.resume()
        ending = machine.control.wait().ending
    if knows:
        assert (ending.kind, ending.status) == (EndingKind.EXITED, 7)
    else:
        assert ending.kind is EndingKind.UNHANDLED_EXIT
        assert "UnknownExit(reason=12)" in ending.detail
    assert [(raw.reason, raw.vcpu) for raw in met] == [(12, 0)] * (knows is not None)


def test_the_model_has_no_such_structure() -> None:
    with guest(b"\xf4", host="model", bits=16) as made:
        with pytest.raises(HostLacksError, match="its exits are values"):
            made.raw(made.run())


def test_flags_of_a_memory_fault_that_are_not_known_make_it_unknown() -> None:
    known = MemoryFault(0, 4096, MemoryFaultFlag.PRIVATE, 14)
    assert not is_unknown(known)
    assert is_unknown(MemoryFault(0, 4096, MemoryFaultFlag(1 << 4), 14))
    assert is_unknown(UnknownExit(99))
    assert not is_unknown(Hlt())


class FaultingVcpu(Owner):
    """Makes one access that ends with a flag nobody knows, and then has nothing more to do."""

    def __init__(self, control: RunControl) -> None:
        self._control = control
        self._faults = iter([MemoryFault(0x3000, 4096, MemoryFaultFlag(0x18), 14)])
        self.written: list[tuple[int, bytes]] = []

    def run(self) -> Exit:
        """The fault; a second time, the end."""
        fault = next(self._faults, None)
        if fault is not None:
            return fault
        self._control.end(Ending(EndingKind.EXITED, "by the test", 0))
        return Interrupted()

    def complete(self) -> bool:
        """Nothing is under way."""
        return False

    def kick(self) -> None:
        """Nothing runs."""

    def exit_counts(self) -> dict[str, int]:
        """None is counted."""
        return {}

    def read_run(self) -> bytes:
        """A structure of two pages, as long as one is asked for."""
        return bytes(8) + (39).to_bytes(4, "little") + bytes(8192)

    def write_run(self, offset: int, data: bytes) -> None:
        """Remember it."""
        self.written.append((offset, data))

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("knows", [True, False])
def test_a_fault_with_an_unknown_flag_is_asked_about_before_it_is_resolved(knows: bool) -> None:
    trio.run(fault_with_an_unknown_flag, knows)


async def fault_with_an_unknown_flag(knows: bool) -> None:
    control = RunControl(1, lambda: None, lambda: None)
    vcpu, resolved, done = FaultingVcpu(control), list[object](), threading.Event()

    def asked(raw: RawExit) -> bool:
        assert (raw.reason, raw.exit) == (39, MemoryFault(0x3000, 4096, MemoryFaultFlag(0x18), 14))
        raw.answer(b"\1", 4)
        return knows

    def resolve(fault: MemoryFault, *_: object) -> None:
        resolved.append(fault.flags)

    stub = SimpleNamespace(
        exits=SimpleNamespace(resolve_fault=resolve), read=None, port_out=None, is_full=False
    )
    thread = VcpuThread(
        0,
        lambda _: cast(Vcpu, vcpu),
        control=control,
        board=cast(Board, stub),
        console=cast(ConsolePort, stub),
        memory=cast(GuestMemory, stub),
        allow=lambda _: False,
        unknown=asked,
        on_done=done.set,
    )
    thread.start()
    await trio.to_thread.run_sync(done.wait)
    thread.join()
    assert control.failure is None
    assert vcpu.written == [(36, b"\1")]
    assert resolved == ([] if knows else [0x18])
