# SPDX-License-Identifier: MIT
"""A machine that is saved, closed and restored in a new one goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.kvm import vm as kvm_vm
from pyvmm.hosts.kvm.posted import PostedRing
from pyvmm.hosts.kvm.vcpu import Vcpu as KvmVcpu
from pyvmm.hosts.model import posted as model_posted
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.machine.board import Board
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.console import port
from pyvmm.machine.ending import Ending
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.saved_machine import SavedMachine, SavedMemory
from pyvmm.memory.layout import MIB
from tests.hosts.model.small_guest import assemble
from tests.machine.inside import control_of, is_paused, ram_of

from .guests import HALT, SPIN, bundled

T = TypeVar("T")
HANG = 240.0
OFTEN = int(os.environ.get("PYVMM_MOVES", "100"))
"""Moves of each guest; fewer in the lab, where each takes seconds."""
HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]


class Stop:
    """Pauses a machine from a vCPU's thread, behind its n-th exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = 0
        self._pause: Callable[[], None] = lambda: None
        self.exits = 0

    def after(self, left: int, pause: Callable[[], None]) -> None:
        with self._lock:
            self._left, self._pause, self.exits = left, pause, 0

    def count(self) -> None:
        with self._lock:
            self.exits += 1
            self._left -= 1
            if not self._left:
                self._pause()


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Counts exits; every byte of a console is one, because there is no fast path."""
    made = Stop()
    monkeypatch.setattr(Board, "attach_fast_path", lambda _board, _ring: None)
    for kind in (KvmVcpu, ModelVcpu):
        original = kind.run

        def run(self, original=original):  # type: ignore[no-untyped-def]
            reason = original(self)
            if not isinstance(reason, exits.Interrupted):
                made.count()
            return reason

        monkeypatch.setattr(kind, "run", run)
    return made


@dataclass(frozen=True)
class Lived:
    """What a guest has said in all its machines, how it ended, and exits in the last one."""

    said: bytes
    ending: Ending
    exits: int
    moves: int


async def live(config: MachineConfig, stop: Stop, stops: Sequence[int]) -> Lived:
    """Run a guest, which moves to a new machine after each of these numbers of exits."""
    saved: SavedMachine | None = None
    said = b""
    moves = 0
    for left in [*stops, 0]:
        async with open_machine(config, paused=True) as machine:
            if saved is not None:
                await machine.control.restore(saved)
            stopped = trio.Event()
            control = control_of(machine)
            token = trio.lowlevel.current_trio_token()

            def pause(control=control, stopped=stopped, token=token) -> None:  # type: ignore[no-untyped-def]
                with control._condition:
                    control._paused = True
                    control._stop()
                token.run_sync_soon(stopped.set)

            stop.after(left, pause)
            machine.control.resume()
            async with trio.open_nursery() as nursery:

                async def ended(machine: Machine = machine, stopped: trio.Event = stopped) -> None:
                    await machine.control._outcome.stopped.wait()
                    stopped.set()

                nursery.start_soon(ended)
                await stopped.wait()
                nursery.cancel_scope.cancel()
            if machine.control.ending is None:
                await machine.control.pause()
                saved = await machine.control.save()
                said += machine.console._port.receive_nowait()
                moves += 1
                continue
            while data := await machine.console.receive():
                said += data
            return Lived(said, (await machine.control.wait()).ending, stop.exits, moves)
    raise AssertionError("it has not ended")


def lived(config: MachineConfig, stop: Stop, stops: Sequence[int] = ()) -> Lived:
    async def main() -> Lived:
        with trio.fail_after(HANG):
            return await live(config, stop, stops)

    return trio.run(main)


TURNS = """
    .code16
    cli
    lgdt pointer
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $protected
    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
pointer:
    .word pointer - gdt - 1
    .long gdt
    .code32
protected:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $turn, %esi
    cmpl $0, second
    jne other
    movl $1, second
    movl $0x7c00, %eax
    mov $0x8000, %edi
    /* The other one begins at 0x8000: jmp 0:0x7c00 */
    movl $0x007c00ea, (%edi)
    movb $0, 4(%edi)
    mov $0xfee00000, %ebx
    orl $0x100, 0xf0(%ebx)
    movl $0x01000000, 0x310(%ebx)
    movl $0x00004500, 0x300(%ebx)
    movl $0x01000000, 0x310(%ebx)
    movl $0x00004608, 0x300(%ebx)
    mov $0, %ecx
first:
    cmpl $0, (%esi)
    jne first
    mov %ecx, %eax
    and $15, %eax
    add $'A', %eax
    out %al, $0xe9
    movl $1, (%esi)
    inc %ecx
    cmp $60, %ecx
    jne first
last:
    cmpl $0, (%esi)
    jne last
    mov $5, %eax
    out %al, $0xf4
    hlt
other:
    mov $0, %ecx
again:
    cmpl $1, (%esi)
    jne again
    mov %ecx, %eax
    and $7, %eax
    add $'a', %eax
    out %al, $0xe9
    inc %ecx
    movl $0, (%esi)
    jmp again
turn:
    .long 0
second:
    .long 0
    .org 510
    .word 0xaa55
"""
"""Two vCPUs take turns; the second one is started by INIT and SIPI."""


def turns() -> MachineConfig:
    return MachineConfig(
        assemble(TURNS, 16, 0x7C00), memory=2 * MIB, cpus=2, irqchip=IrqchipPolicy.ON
    )


GUESTS = {
    "hello": lambda: MachineConfig(bundled("hello"), command_line=b"some words"),
    "exit": lambda: MachineConfig(bundled("exit"), command_line=b"7"),
    "timer": lambda: MachineConfig(bundled("timer"), command_line=b"ticks=30"),
    "ring3": lambda: MachineConfig(bundled("ring3"), command_line=b"loops=100000"),
    "selftest": lambda: MachineConfig(bundled("selftest")),
    "panic": lambda: MachineConfig(bundled("panic")),
    "memtest": lambda: MachineConfig(bundled("memtest")),
    "turns": turns,
}


def points(name: str, total: int, count: int) -> list[int]:
    """Numbers of exits from one stop to the next: a random one in each part of the run."""
    count = min(count, total - 1)
    ends = [1 + (total - 1) * part // count for part in range(count + 1)]
    choosing = random.Random(name)
    chosen = [choosing.randrange(start, end) for start, end in pairwise(ends)]
    return [at - before for before, at in zip([0, *chosen], chosen, strict=False)]


QUICK = ("hello", "ring3")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GUESTS]


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_that_moves(host: HostChoice, name: str, stop: Stop) -> None:
    moves(host, name, 3, stop)


@pytest.mark.slow
@pytest.mark.parametrize("name", GUESTS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_that_moves_often(host: HostChoice, name: str, stop: Stop) -> None:
    moves(host, name, OFTEN, stop)


def moves(host: HostChoice, name: str, count: int, stop: Stop) -> None:
    if name == "turns" and host is HostChoice.MODEL:
        pytest.skip("the model cannot start a second vCPU: it has no local APIC")
    made = GUESTS[name]()
    config = replace(made, host=host, memory=min(made.memory, 8 * MIB), timeout=HANG)
    straight = lived(config, stop)
    moved = lived(config, stop, points(name, straight.exits, count))
    assert moved.said == straight.said
    assert moved.ending == straight.ending
    assert moved.moves >= min(count, straight.exits - 1) - 10


def within(config: MachineConfig, act: Callable[[Machine], Awaitable[T]]) -> T:
    """What `act` makes of a machine that has not run yet."""

    async def main() -> T:
        with trio.fail_after(HANG):
            async with open_machine(config, paused=True) as machine:
                return await act(machine)

    return trio.run(main)


async def hear(machine: Machine, wanted: bytes) -> None:
    heard = b""
    while wanted not in heard:
        data = await machine.console.receive()
        assert data, f"the guest ended after {heard!r}"
        heard += data


async def saved_now(machine: Machine) -> SavedMachine:
    return await machine.control.save()


@pytest.mark.parametrize("host", HOSTS)
def test_a_machine_that_was_saved_goes_on_and_so_does_its_copy(host: HostChoice) -> None:
    config = MachineConfig(bundled("echo"), host=host)

    async def first(machine: Machine) -> SavedMachine:
        machine.control.resume()
        await machine.console.send(b"one")
        await hear(machine, b"one")
        ram_of(machine).write(64 * MIB, b"a page far away")
        kept = await machine.control.save()
        await machine.console.send(b"two")
        await hear(machine, b"two")
        await machine.control.pause()
        await machine.console.send(b"x" * 40)
        machine.console.end_input()
        again = await machine.control.save()
        assert again.console.said > kept.console.said
        assert is_paused(machine)
        return again

    again = within(config, first)
    # What the UART has no room for waits in the console.
    assert again.console.unread == b"x" * len(again.console.unread) != b""
    assert again.console.input_ended
    assert again.memory[-1] == SavedMemory(64 * MIB, b"a page far away".ljust(4096, b"\0"))
    gpas = [(part.gpa, part.gpa + len(part.data)) for part in again.memory]
    assert all(end < start for (_, end), (start, _) in pairwise(gpas))
    assert not any(bytes(4096) == part.data[:4096] for part in again.memory)

    async def second(machine: Machine) -> None:
        ram_of(machine).write(32 * MIB, b"of this machine")
        await machine.control.restore(again)
        assert ram_of(machine).read(32 * MIB, 15) == bytes(15)
        assert ram_of(machine).read(64 * MIB, 15) == b"a page far away"
        machine.control.resume()
        await hear(machine, b"x" * 40)
        result = await machine.control.wait()
        assert result.ending.status == 0

    within(config, second)


@pytest.mark.parametrize("host", HOSTS)
def test_reading_memory_to_save_it_takes_none(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        before = machine.memory.states.residency()
        saved = await machine.control.save()
        assert sum(len(part.data) for part in saved.memory) < MIB
        assert machine.memory.states.residency() == before

    within(MachineConfig(SPIN, host=host), act)


@pytest.mark.parametrize("host", HOSTS)
def test_another_machine_is_refused_and_both_are_named(host: HostChoice) -> None:
    config = MachineConfig(SPIN, memory=2 * MIB, host=host)
    saved = within(config, saved_now)

    def refused(here: MachineConfig, state: SavedMachine = saved) -> str:
        async def act(machine: Machine) -> str:
            with pytest.raises((UsageError, HostLacksError)) as caught:
                await machine.control.restore(state)
            # Nothing has changed: it still runs.
            before = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
            assert before.rip == 0x7C00
            assert machine.control.ending is None
            assert "\n" not in str(caught.value)
            return str(caught.value)

        return within(here, act)

    assert "memory 2097152: this one has 4194304" in refused(replace(config, memory=4 * MIB))
    assert "irqchip auto: this one has on" in refused(replace(config, irqchip=IrqchipPolicy.ON))
    assert f"image {SPIN!r}: this one has {HALT!r}" in refused(replace(config, image=HALT))
    long = refused(replace(config, image=SPIN + bytes(2000)))
    assert "(2002 bytes)" in long
    assert len(long) < 400
    elsewhere = replace(saved.vm.origin, processor="another one")
    state = replace(saved, vm=replace(saved.vm, origin=elsewhere))
    said = refused(config, state)
    assert str(elsewhere) in said
    assert str(saved.vm.origin) in said
    lacking = refused(config, replace(saved, devices=saved.devices[1:]))
    assert saved.devices[0][0] in lacking
    within(replace(config, timeout=5.0), lambda machine: machine.control.restore(saved))


def test_private_memory_is_refused() -> None:
    config = MachineConfig(
        bundled("hello"),
        memory=8 * MIB,
        host=HostChoice.MODEL,
        private=PrivateConfig(bundled_guests.firmware()),
    )

    async def act(machine: Machine) -> None:
        with pytest.raises(UsageError, match="private memory, which the host can neither read"):
            await machine.control.save()

    within(config, act)


def test_a_machine_that_is_being_reset_is_not_saved() -> None:
    async def act(machine: Machine) -> None:
        control_of(machine)._reset_asked = True
        with pytest.raises(InternalError, match="just reset it"):
            await machine.control.save()

    within(MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL), act)


def test_a_machine_that_is_being_reset_is_not_restored() -> None:
    async def act(machine: Machine) -> None:
        saved = await machine.control.save()
        control_of(machine)._reset_asked = True
        with pytest.raises(InternalError, match="just reset it; restore it a moment later"):
            await machine.control.restore(saved)

    within(MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL), act)


@pytest.mark.kvm
def test_a_state_of_one_host_is_not_the_others() -> None:
    kvm = MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.KVM)
    saved = within(kvm, saved_now)

    async def act(machine: Machine) -> None:
        with pytest.raises(HostLacksError, match=r"saved by KVM.* this is the model"):
            await machine.control.restore(saved)

    within(replace(kvm, host=HostChoice.MODEL), act)


@pytest.mark.parametrize("host", HOSTS)
def test_a_machine_is_made_of_what_was_saved(host: HostChoice) -> None:
    config = MachineConfig(bundled("echo"), host=host)

    async def first(machine: Machine) -> SavedMachine:
        machine.control.resume()
        await machine.console.send(b"one")
        await hear(machine, b"one")
        return await machine.control.save()

    saved = within(config, first)

    async def main() -> None:
        with trio.fail_after(HANG):
            async with open_machine(config, saved=saved) as machine:
                await machine.console.send(b"two")
                await hear(machine, b"two")
            short = replace(config, timeout=HANG)
            async with open_machine(short, paused=True, saved=saved) as machine:
                before = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
                assert before == await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
                machine.control.resume()
                await machine.console.send(b"three")
                await hear(machine, b"three")
            with pytest.raises(UsageError, match="memory"):
                async with open_machine(replace(config, memory=64 * MIB), saved=saved):
                    raise AssertionError("it was made")
            with pytest.raises(UsageError, match="the state has 0 vCPUs, and this one has 1"):
                async with open_machine(config, saved=replace(saved, vcpus=())):
                    raise AssertionError("it was made")

    trio.run(main)


COUNT_TO_CONSOLE = bytes.fromhex("31c0 e6e9 fec0 ebfa")
"""xor ax, ax; l: out 0xe9, al; inc al; jmp l"""


@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_that_waits_for_its_reader_is_saved_and_nothing_is_lost(
    host: HostChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few bytes fill the console and then the ring: the guest waits in the middle of a write.
    monkeypatch.setattr(port, "OUTPUT_LIMIT", 100)
    monkeypatch.setattr(model_posted, "CAPACITY", 8)
    small = partial(PostedRing, 8)
    monkeypatch.setattr(kvm_vm, "PostedRing", lambda _capacity: small())
    config = MachineConfig(COUNT_TO_CONSOLE, memory=2 * MIB, host=host)
    said = b""

    async def stopped(machine: Machine) -> SavedMachine:
        nonlocal said
        machine.control.resume()
        while not machine.console._port.is_full:
            await trio.sleep(0.001)
        # Most often it has filled the ring as well then, and always the state is one to be saved.
        await trio.sleep(0.01)
        await machine.control.pause()
        saved = await machine.control.save()
        said += machine.console._port.receive_nowait()
        assert saved.console.said == len(said) - before
        return saved

    before = 0
    saved = within(config, stopped)
    for _ in range(5):
        before = len(said)

        async def again(machine: Machine, state: SavedMachine = saved) -> SavedMachine:
            await machine.control.restore(state)
            return await stopped(machine)

        saved = within(config, again)
    assert len(said) >= 600
    assert said == bytes(number & 0xFF for number in range(len(said)))
