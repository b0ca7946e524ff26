# SPDX-License-Identifier: MIT
"""One test on every host: under each monitor guests do the same, and are looked at the same way."""

from __future__ import annotations

import re

import pytest

from pyvmm.bundled_guests import find
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import EventName, OutcomeKind
from pyvmm.testing.saved_boots import Booted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.pyvmm(hosts=["model", "kvm", "lab", "qemu-tcg", "qemu-kvm"]),
]


def test_a_dialogue_and_a_look_inside(boot: Boots) -> None:
    found = find("echo")
    assert found is not None
    with boot("echo") as vm:
        # Nothing between here and the guest changes a byte, or answers by itself.
        typed = bytes(byte for byte in range(256) if byte != 4)
        vm.console.send(typed)
        vm.console.expect(typed)
        vm.stop()
        registers = vm.registers()
        assert registers == vm.registers()
        gpa = vm.translate(registers.values["rip"])
        assert gpa is not None
        assert vm.memory.read(gpa, 8) in found.path.read_bytes()
        assert vm.memory.ranges[0][0] == 0
        assert sum(size for _, size in vm.memory.ranges) == vm.request.memory
        vm.memory.write(32 << 20, b"a mark")
        assert vm.memory.read(32 << 20, 6) == b"a mark"
        assert list(vm.memory.search(b"a mark")) == [32 << 20]
        vm.resume()
        vm.console.send(b"\x04")
        outcome = vm.wait()
        assert (outcome.kind, outcome.status) == (OutcomeKind.EXITED, 0)
        assert vm.console.transcript == typed
        names = [event.name for event in vm.events.all]
        assert names == [EventName.PAUSED, EventName.RESUMED, EventName.ENDED]
        assert vm.by_hand.split()[0] in {"pyvmm", "qemu-system-x86_64"}


def test_its_memory_and_its_end(boot: Boots) -> None:
    with boot("hello", memory="96M", append="a b") as vm:
        match = vm.console.expect(re.compile(rb"usable memory: (\d+) KiB"))
        assert 90 << 10 < int(match[1]) < 96 << 10
        vm.console.expect("command line: a b")
        assert vm.wait().status == 0
    with boot("exit", append="63") as vm:
        assert vm.wait().status == 63
    with boot("panic", append="as asked", crash=True) as vm:
        vm.console.expect("PANIC")
        assert vm.wait().kind is OutcomeKind.PANICKED
        assert EventName.PANICKED in [event.name for event in vm.events.all]


def test_a_reset(boot: Boots) -> None:
    with boot("hang") as vm:
        vm.console.expect("hanging")
        vm.reset()
        vm.console.expect("hanging")
        vm.powerdown()
        vm.events.wait_for("powerdown")
        assert [event.name.value for event in vm.events.all] == ["reset", "powerdown"]


def test_a_breakpoint_by_a_symbol(boot: Boots) -> None:
    with boot("echo", paused=True) as vm:
        address = vm.breakpoint("guest_main")
        vm.resume()
        event = vm.events.wait_for("breakpoint")
        assert (event.detail, event.vcpu) == (f"{address:#x}", 0)
        assert vm.registers().values["rip"] == address == vm.symbols.address("guest_main")
        vm.clear_breakpoint(address)
        vm.resume()
        vm.console.send(b"x\x04")
        assert vm.wait().status == 0
        assert vm.console.transcript == b"x"


def greeted(vm: Vm) -> None:
    vm.console.send(b"hello")
    vm.console.expect("hello")


def test_behind_a_boot(booted: Booted) -> None:
    for number in range(2):
        with booted("echo", until=greeted) as vm:
            assert vm.console.transcript == b"hello"
            vm.console.send(b"%d\x04" % number)
            assert vm.wait().status == 0
            assert vm.console.transcript == b"hello%d" % number
            assert [event.name for event in vm.events.all] == [EventName.ENDED]
