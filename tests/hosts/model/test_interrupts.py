# SPDX-License-Identifier: MIT
"""Controllers, timer and several vCPUs of the model."""

from __future__ import annotations

import threading
import time

from pyvmm.hosts import exits
from pyvmm.hosts.model.controllers import ModelControllers
from pyvmm.hosts.model.pic import Pic
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.hosts.pit import HZ, Pit
from tests.hosts.model.small_guest import (
    INTERRUPT_GATE,
    TO_LONG_MODE,
    Services,
    after,
    guest,
)

SET_UP = (
    TO_LONG_MODE
    + f"""
    mov $33, %edi; lea handler(%rip), %esi; mov ${INTERRUPT_GATE}, %edx; call set_gate
    mov $32, %edi; lea handler(%rip), %esi; mov ${INTERRUPT_GATE}, %edx; call set_gate
    mov $0x11, %al; out %al, $0x20; mov $32, %al; out %al, $0x21
    mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21
    mov $0xfc, %al; out %al, $0x21
    xor %ebx, %ebx
    out %al, $0x7f
"""
)
"""Ends with an exit: a line that is raised before the controller is set up is forgotten by it."""
HANDLER = "; jmp .\nhandler: inc %ebx; mov $0x20, %al; out %al, $0x20; iretq\n"


def set_up_controller(v: ModelVcpu) -> None:
    assert v.run() == exits.IoOut(0x7F, 1, 1, b"\xfc")


def with_controllers() -> tuple[Services, ModelControllers]:
    controllers = ModelControllers()
    controllers.create_pit()
    return Services(controllers), controllers


def test_an_interrupt_wakes_a_halted_guest() -> None:
    services, controllers = with_controllers()
    with guest(SET_UP + "sti; hlt; cli; out %al, $0x80;" + HANDLER, services) as v:
        set_up_controller(v)
        timer = after(0.02, lambda: controllers.raise_line(1, True))
        assert isinstance(v.run(), exits.IoOut)
        timer.join()
        assert v.get_regs().rbx == 1


def test_a_halted_guest_can_be_kicked_and_stays_halted() -> None:
    services, controllers = with_controllers()
    with guest(SET_UP + "sti; hlt; cli; out %al, $0x80;" + HANDLER, services) as v:
        set_up_controller(v)
        for _ in range(2):
            timer = after(0.01, v.kick)
            assert v.run() == exits.Interrupted()
            timer.join()
        controllers.raise_line(1, True)
        assert isinstance(v.run(), exits.IoOut)


def test_no_interrupt_where_they_are_off_or_masked() -> None:
    services, controllers = with_controllers()
    source = SET_UP + "out %al, $0x80; mov $2, %al; out %al, $0x21; sti; nop; nop; out %al, $0x81"
    with guest(source + HANDLER, services) as v:
        set_up_controller(v)
        controllers.raise_line(1, True)
        assert isinstance(v.run(), exits.IoOut)
        assert v.run() == exits.IoOut(0x81, 1, 1, b"\x02")
        assert v.get_regs().rbx == 0


def test_an_interrupt_reaches_a_guest_in_a_tight_loop() -> None:
    services, controllers = with_controllers()
    with guest(SET_UP + "sti; 1: test %ebx, %ebx; jz 1b; out %al, $0x80" + HANDLER, services) as v:
        set_up_controller(v)
        timer = after(0.02, lambda: controllers.raise_line(1, True))
        assert isinstance(v.run(), exits.IoOut)
        timer.join()


def test_the_timer_ticks() -> None:
    services, _ = with_controllers()
    source = (
        SET_UP
        + "mov $0x34, %al; out %al, $0x43; mov $0xa9, %al; out %al, $0x40\n"
        + "mov $4, %al; out %al, $0x40\n"
        + "1: sti; hlt; cli; cmp $10, %ebx; jb 1b; out %al, $0x80"
        + HANDLER
    )
    with guest(source, services) as v:
        set_up_controller(v)
        start = time.monotonic()
        assert isinstance(v.run(), exits.IoOut)
        assert time.monotonic() - start >= 10 * 1193 / HZ
        # Ticks that came late may come together.
        assert v.get_regs().rbx >= 10


def test_another_vcpu_waits_until_it_is_made_runnable() -> None:
    services, _ = with_controllers()
    with guest("out %al, $0x80", services, index=1) as v:
        v._runner.waits_for_startup = True  # as it is made
        timer = after(0.01, v.kick)
        assert v.run() == exits.Interrupted()
        timer.join()
        v.make_runnable()
        assert isinstance(v.run(), exits.IoOut)


def test_vcpus_that_spin_for_each_other_take_turns() -> None:
    services = Services()
    count = "inc %eax; mov %eax, 0x9000"
    sources = (
        f"1: mov 0x9000, %eax; test $1, %al; jnz 1b; {count}; cmp $39, %eax; jb 1b; hlt",
        f"1: pause; mov 0x9000, %eax; test $1, %al; jz 1b; {count}; cmp $40, %eax; jb 1b; hlt",
    )
    ends: list[exits.Exit] = []

    def life(index: int) -> None:
        with guest(sources[index], services, index=index, at=0x1000 * (index + 1)) as v:
            ends.append(v.run())

    threads = [threading.Thread(target=life, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ends == [exits.Hlt(), exits.Hlt()]
    assert services.memory.ram[0x9000] == 40


def set_up(pic: Pic) -> None:
    for offset, value in ((0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0)):
        pic.write(offset, value)


def test_the_controller_serves_the_lowest_line_first_and_one_at_a_time() -> None:
    pic = Pic()
    set_up(pic)
    for line in (5, 3):
        pic.set_line(line, True)
    assert pic.output
    assert pic.acknowledge() == 3
    assert not pic.output
    pic.set_line(1, True)
    assert pic.acknowledge() == 1
    pic.write(0, 0x20)
    assert not pic.output
    pic.write(0, 0x20)
    assert pic.acknowledge() == 5


def test_an_edge_counts_once_and_a_level_as_long_as_it_is_up() -> None:
    pic = Pic()
    set_up(pic)
    pic.level_triggered = 1 << 4
    for line in (3, 4):
        pic.set_line(line, True)
    assert pic.acknowledge() == 3
    pic.write(0, 0x20)
    for _ in range(2):
        assert pic.acknowledge() == 4
        pic.write(0, 0x20)
    pic.set_line(4, False)
    assert not pic.output


def test_masked_lines_wait_and_registers_can_be_read() -> None:
    pic = Pic()
    set_up(pic)
    pic.write(1, 0xF7)
    pic.set_line(2, True)
    assert not pic.output
    assert pic.read(0) == 4
    pic.write(1, 0)
    assert pic.acknowledge() == 2
    pic.write(0, 0x0B)
    assert pic.read(0) == 4
    assert pic.read(1) == 0


def test_the_timer_counts_down_from_its_reload_value() -> None:
    pit = Pit()
    pit.write(3, 0x34, 0.0)
    pit.write(0, 0x10, 0.0)
    assert pit.due is None
    pit.write(0, 0x27, 0.0)
    assert pit.due == 10000 / HZ
    pit.write(3, 0, 100.5 / HZ)
    low, high = pit.read(0, 1.0), pit.read(0, 1.0)
    assert low | high << 8 == 9900
    assert not pit.expire(9999 / HZ)
    assert pit.expire(10000 / HZ)
    assert not pit.expire(10001 / HZ)
    assert pit.expire(20001 / HZ)
