# SPDX-License-Identifier: MIT
"""The same guest code on KVM and on the model, and what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.boot.tables import protected_mode
from pyvmm.hosts import exits, interface
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.registers import Regs
from tests.hosts.model.small_guest import CODE, SIZE, STACK, assemble

DATA = 0x10000
_MOST_EXITS = 5000
_RUNAWAY_SECONDS = 30


@dataclass(frozen=True)
class Ran:
    """The exits in order, the registers at the end, and memory from `DATA` on."""

    exits: tuple[Exit, ...]
    regs: Regs
    data: bytes


def ran(
    system: interface.System,
    source: str,
    *,
    bits: int = 32,
    data: bytes = b"",
    answer: Callable[[int], bytes] | None = None,
    complete: bool = False,
) -> Ran:
    """Run `source` until it halts or fails, with `data` at `DATA`.

    Reads get 1, 2, 3 ... 251, 1 ... byte by byte, or what `answer` says for a number of bytes;
    with `complete`, each exit is completed before the next run, as for a pause.
    """
    code = assemble(source, bits)
    given = 0
    seen: list[Exit] = []
    with system.create_vm() as vm, system.map_anonymous(SIZE) as ram:
        vm.set_memslot(Memslot(0, 0, SIZE, ram.hva))
        with ram.view() as view:
            view[CODE : CODE + len(code)] = code
            view[DATA : DATA + len(data)] = data
        with vm.create_vcpu(0) as vcpu:
            vcpu.use_host_cpuid()
            vcpu.set_entry(Regs(rip=CODE, rsp=STACK), protected_mode())
            watchdog = threading.Timer(_RUNAWAY_SECONDS, vcpu.kick)
            watchdog.start()
            try:
                while len(seen) < _MOST_EXITS:
                    reason = vcpu.run()
                    seen.append(reason)
                    match reason:
                        case exits.IoIn(_, size, count):
                            wanted = size * count
                        case exits.MmioRead(_, size):
                            wanted = size
                        case exits.IoOut() | exits.MmioWrite():
                            wanted = 0
                        case _:
                            break
                    if wanted:
                        numbers = bytes((given + at) % 251 + 1 for at in range(wanted))
                        vcpu.answer(numbers if answer is None else answer(wanted))
                        given += wanted
                    if complete:
                        vcpu.complete()
            finally:
                watchdog.cancel()
                watchdog.join()
            regs = vcpu.get_regs()
        with ram.view() as view:
            return Ran(tuple(seen), regs, bytes(view[DATA:]))


def on_kvm_and_model(
    source: str,
    *,
    data: bytes = b"",
    answer: Callable[[int], bytes] | None = None,
    complete: bool = False,
) -> tuple[Ran, Ran]:
    """`ran` on either host."""
    with System() as kvm:
        there = ran(kvm, source, data=data, answer=answer, complete=complete)
    with ModelSystem() as model:
        return there, ran(model, source, data=data, answer=answer, complete=complete)
