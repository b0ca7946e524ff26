# SPDX-License-Identifier: MIT
"""Interrupts: a doorbell from the guest to a task, a message from a task to the guest's handler."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import trio

from benchmarks import baselines, guests, host_api
from benchmarks.figures import Sample, at_most
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm.hosts.exits import Interrupted
from pyvmm.hosts.interrupts import Doorbell, DoorbellPlace, MessageInterrupt, Msi
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Regs

NAME = "interrupts"
TITLE = "a doorbell from the guest to who waits for it, a message to the guest's handler"
RUNS = 15

_ROUNDS = 2000
_PORT = 0x61
_MAILBOX = 0x6000
_VECTOR = 0x50
_HANDLER = 0x20
"""Offset of the message's handler in the code."""
_APIC = 0xFEE0_0000

# xor ax, ax; mov ds, ax; xor bl, bl
# l: mov al, [mailbox]; cmp al, bl; je l; mov bl, al; out 0x61, al; jmp l
_RINGS = bytes.fromhex("31c0 8ed8 30db  a00060 38d8 74f9 88c3 e661 ebf3")
# xor ax, ax; mov ds, ax; sti; l: hlt; jmp l
# handler: inc byte [mailbox]; mov edi, 0xfee000b0; mov dword es:[edi], 0; iret
_TAKES = bytes.fromhex("31c0 8ed8 fb f4 ebfd").ljust(_HANDLER, b"\x90") + bytes.fromhex(
    "fe060060 66bfb000e0fe 672666c70700000000 cf"
)


def run(effort: Effort, step: Step) -> Result:
    """Measure all four, taking turns."""
    rounds = effort.scaled(_ROUNDS)
    program = baselines.compiled("interrupts")

    def in_c(what: str, code: bytes) -> Callable[[], Sample]:
        return lambda: {
            f"{what}_us": baselines.called(program, what, code.hex(), rounds)["median_us"]
        }

    subjects = (
        Subject("C, doorbell", "a thread in read() of the eventfd", in_c("doorbell", _RINGS)),
        Subject(
            "trio, doorbell",
            "a task in wait_readable(), then Doorbell.drain()",
            lambda: {"doorbell_us": trio.run(_doorbells, rounds)},
        ),
        Subject("C, message", "a write to an irqfd's eventfd", in_c("message", _TAKES)),
        Subject(
            "trio, message",
            "MessageInterrupt.signal() in a task",
            lambda: {"message_us": trio.run(_messages, rounds)},
        ),
    )
    comparisons = [
        Comparison(f"{what}_us", f"trio, {what}", f"C, {what}", at_most(2.0))
        for what in ("doorbell", "message")
    ]
    return Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), comparisons)


@contextmanager
def _running(code: bytes) -> Iterator[tuple[Vm, memoryview]]:
    """The VM and the memory of a guest that executes `code` on a thread until the end."""
    plan = host_api.planned(code)
    with ExitStack() as stack:
        system = stack.enter_context(System())
        vm = stack.enter_context(system.create_vm())
        vm.create_irqchip()
        view = stack.enter_context(host_api.ram(system, vm, plan))
        ready = threading.Event()
        kicks: list[Callable[[], None]] = []
        ends: list[object] = []

        def live() -> None:
            # A vCPU belongs to the thread that makes it.
            with vm.create_vcpu(0) as vcpu:
                vcpu.use_host_cpuid()
                entry = plan.entry.sregs
                # Its data segment reaches the local APIC, in real mode.
                far = replace(entry.es, limit=0xFFFF_FFFF, g=1)
                vcpu.set_entry(
                    Regs(rip=plan.entry.regs.rip, rsp=plan.entry.regs.rsp), replace(entry, es=far)
                )
                lapic = bytearray(vcpu.get_lapic())
                lapic[0xF0:0xF2] = b"\xff\x01"
                vcpu.set_lapic(bytes(lapic))
                kicks.append(vcpu.kick)
                ready.set()
                ends.append(vcpu.run())

        thread = threading.Thread(target=live)
        thread.start()
        try:
            if not ready.wait(30):
                raise CannotRunError("the vCPU's thread did not start")
            yield vm, view
        finally:
            for kick in kicks:
                kick()
            thread.join()
        if not isinstance(ends[0], Interrupted):
            raise CannotRunError(f"the guest stopped for {ends[0]}")


async def _doorbells(rounds: int) -> float:
    with _running(_RINGS) as (vm, view):
        place = DoorbellPlace(_PORT, 1, is_port=True)
        with vm.create_doorbell(place, "the benchmark") as bell:
            return statistics.median([await _ring(view, bell) for _ in range(rounds)])


async def _ring(view: memoryview, bell: Doorbell) -> float:
    before = view[_MAILBOX]
    started = time.perf_counter_ns()
    view[_MAILBOX] = before + 1 & 0xFF
    await trio.lowlevel.wait_readable(bell.fileno())
    bell.drain()
    return (time.perf_counter_ns() - started) / 1e3


async def _messages(rounds: int) -> float:
    with _running(_TAKES) as (vm, view):
        handler = guests.ENTRY + _HANDLER
        view[4 * _VECTOR : 4 * _VECTOR + 4] = handler.to_bytes(4, "little")
        with vm.create_message("the benchmark") as message:
            message.route(Msi(_APIC, _VECTOR))
            message.unmask()
            return statistics.median([_send(view, message) for _ in range(rounds)])


def _send(view: memoryview, message: MessageInterrupt) -> float:
    before = view[_MAILBOX]
    started = time.perf_counter_ns()
    message.signal()
    while view[_MAILBOX] == before:
        pass
    return (time.perf_counter_ns() - started) / 1e3
