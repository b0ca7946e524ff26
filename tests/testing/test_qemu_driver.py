# SPDX-License-Identifier: MIT
"""Guests under QEMU, by the fixture that boots them under pyvmm: what they do, and what is left."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from pyvmm.bundled_guests import find
from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.registers import RESET_RIP
from pyvmm.qmp.peer import QemuError, QemuEvent, QemuPeer
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers import qemu_process, qemu_saving
from pyvmm.testing.drivers.driver import CannotError, Event, EventName, Feature, OutcomeKind
from pyvmm.testing.drivers.qemu_driver import open_qemu_driver
from pyvmm.testing.drivers.qemu_process import QemuProcess
from pyvmm.testing.drivers.qemu_saving import MigrationFailedError
from pyvmm.testing.failures import ExpectError
from pyvmm.testing.request import make_request

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
TCG, KVM = "qemu-tcg", "qemu-kvm"
by_both = pytest.mark.parametrize("host", [TCG, pytest.param(KVM, marks=pytest.mark.kvm)])
HANG = 60.0


def children() -> set[int]:
    """QEMUs that this process has started, whichever thread it was."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


@by_both
@pytest.mark.parametrize(
    ("guest", "append", "kind", "status"),
    [
        ("exit", "9", OutcomeKind.EXITED, 9),
        # Its QEMU ends with 1, as one does that fails.
        ("exit", "0", OutcomeKind.EXITED, 0),
        ("exit", "64", OutcomeKind.CRASHED, None),
        ("panic", "", OutcomeKind.PANICKED, None),
    ],
)
def test_ends(
    boot: Boots, host: str, guest: str, append: str, kind: OutcomeKind, status: int | None
) -> None:
    with boot(guest, append=append, host=host) as vm:
        outcome = vm.wait()
        assert (outcome.kind, outcome.status) == (kind, status)
        names = [event.name for event in vm.events.all]
        assert names[-1] is EventName.ENDED
        assert (EventName.PANICKED in names) == (kind is OutcomeKind.PANICKED)
    assert not children()


def test_who_listens_late_is_told_everything() -> None:
    events: list[Event] = []

    async def main() -> None:
        async with open_qemu_driver(make_request("panic", host=TCG)) as driver:
            await driver.wait()
            driver.listen(events.append)

    trio.run(main)
    assert [event.name for event in events] == [EventName.PANICKED, EventName.ENDED]


@by_both
@pytest.mark.parametrize(("guest", "states"), [("panic", 2), ("hang", 2), ("exit", 0)])
def test_vcpus_after_the_end_are_as_they_were_then(host: str, guest: str, states: int) -> None:
    events: list[Event] = []

    async def main() -> None:
        async with open_qemu_driver(
            make_request(guest, host=host, cpus=2, timeout=1 if guest == "hang" else 60)
        ) as driver:
            driver.listen(events.append)
            said = b""
            while data := await driver.receive():
                said += data
            await driver.wait()
            found = await driver.vcpu_states()
            assert [state.index for state in found] == list(range(states))
            if found and said:  # On a busy machine its time may be over before it is there.
                assert found[0].registers is not None
                assert found[0].mode == "64-bit mode"
                known = find(guest)
                assert known is not None
                assert found[0].code in known.path.read_bytes()

    trio.run(main)
    assert [event.name for event in events if event.name is not EventName.PANICKED] == [
        EventName.ENDED
    ]


def test_a_triple_fault_is_no_reset(boot: Boots) -> None:
    with boot("triple", host=TCG) as vm:
        outcome = vm.wait()
        assert (outcome.kind, outcome.detail) == (OutcomeKind.CRASHED, "triple fault")
        assert [event.name for event in vm.events.all] == [EventName.ENDED]


def test_under_kvm_nobody_can_tell_them_apart(boot: Boots) -> None:
    with boot("triple", host=KVM) as vm:
        outcome = vm.wait()
        assert outcome.kind is OutcomeKind.RESET
        assert "triple fault" in outcome.detail


def test_bytes_of_all_kinds_go_in_and_come_out_once(boot: Boots) -> None:
    # All but the one at which this guest ends. No echo, no line discipline, no escape character.
    typed = bytes(byte for byte in range(256) if byte != 4) * 3
    with boot("echo", host=TCG) as vm:
        vm.console.send(typed + b"\x04")
        assert vm.wait().status == 0
        assert vm.console.transcript == typed


@by_both
def test_looking_inside_and_standing_still(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send(b"ready")
        vm.console.expect("ready")
        vm.stop()
        registers = vm.registers()
        assert registers == vm.registers()
        assert registers.values["cs"] & 3 == 0
        assert registers.values["cr0"] & 1
        gpa = vm.translate(registers.values["rip"])
        assert gpa is not None
        code = vm.memory.read(gpa, 16)
        found = find("echo")
        assert found is not None
        assert code in found.path.read_bytes()
        assert vm.translate(0x7FFF_0000_0000) is None
        assert vm.memory.ranges == ((0, 64 << 20),)
        vm.memory.write((64 << 20) - 4, b"left")
        vm.console.send(b"more")
        vm.resume()
        vm.console.expect("more")
        with pytest.raises(UsageError, match="vCPU"):
            vm.registers(1)
        with pytest.raises(UsageError, match="RAM"):
            vm.memory.read((64 << 20) - 3, 4)
        vm.console.send(b"\x04")
        assert vm.wait().status == 0
        # Its memory outlives QEMU.
        assert vm.memory.read((64 << 20) - 4, 4) == b"left"
        names = [event.name for event in vm.events.all]
        assert names == [EventName.PAUSED, EventName.RESUMED, EventName.ENDED]
        with pytest.raises(ExpectError, match=r"stop the guest: the guest has ended: .*status 0"):
            vm.stop()


@by_both
def test_saved_and_restored_in_place_and_elsewhere(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send(b"one")
        vm.console.expect("one")
        vm.memory.write(32 << 20, b"before")
        saved = vm.save()
        vm.memory.write(32 << 20, b"after!")
        vm.console.send(b"two")
        vm.console.expect("two")
        vm.stop()
        assert vm.save() != saved
        standing = vm.save()
        vm.restore(saved)
        assert vm.memory.read(32 << 20, 6) == b"before"
        vm.console.send(b"three")
        vm.console.expect("three")
        vm.restore(standing)
        assert vm.memory.read(32 << 20, 6) == b"after!"
        vm.resume()
        vm.console.send(b"\x04")
        assert vm.wait().status == 0
        assert len(children()) == 0
    with boot("echo", host=host) as vm:
        vm.restore(saved)
        assert vm.memory.read(32 << 20, 6) == b"before"
        vm.console.send(b"\x04")
        assert vm.wait().status == 0
    with boot("echo", host=host, memory="32M") as vm:
        for wrong in (saved, b"something"):
            with pytest.raises(UsageError, match="not saved from a machine like this"):
                vm.restore(wrong)


def test_a_save_that_is_given_up_lets_the_guest_go_on(
    boot: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given_up(*_: object) -> None:
        raise MigrationFailedError("save", "given up")

    with boot("echo", host=TCG) as vm:
        for typed in (b"one", b"two"):
            with monkeypatch.context() as patch:
                patch.setattr(qemu_saving, "_until_done", given_up)
                with pytest.raises(MigrationFailedError, match="given up"):
                    vm.save()
            vm.console.send(typed)
            vm.console.expect(typed)
        vm.restore(vm.save())
        vm.console.send(b"\x04")
        assert vm.wait().status == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_restore_that_is_given_up_ends_the_guest(
    boot: Boots, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def never(*_: object) -> None:
        if fails:
            raise LookupError("of ours")
        await trio.sleep_forever()

    with boot("echo", host=TCG) as vm:
        saved = vm.save()
        with monkeypatch.context() as patch:
            patch.setattr(qemu_process, "load_devices", never)
            with pytest.raises(LookupError if fails else ExpectError):
                vm.restore(saved, timeout=HANG if fails else 0.2)
        with pytest.raises(MigrationFailedError, match="its restore was given up"):
            vm.wait(timeout=HANG)
        assert not children()


def test_who_looks_at_once_does_not_let_it_go_on_for_the_other() -> None:
    async def main() -> None:
        async with open_qemu_driver(make_request("echo", host=TCG)) as driver:
            process = driver._process
            events: list[Event] = []
            driver.listen(events.append)

            async def save() -> None:
                assert await driver.save()

            async with process.standing_still("look") as ran:
                assert ran
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(driver.registers, 0)
                        nursery.start_soon(save)
                assert not await process.is_running("look")
                with trio.move_on_after(0.01):
                    await driver.resume()
                assert not await process.is_running("look")
            assert await process.is_running("look")
            assert events == []
            async with process.standing_still("look"):
                await driver.stop()
            assert not await process.is_running("look")
            await driver.resume()
            assert await process.is_running("look")
            assert [one.name for one in events] == [EventName.PAUSED, EventName.RESUMED]

    trio.run(main)


def test_no_descriptors_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        request = make_request("exit", host=TCG)
        async with open_qemu_driver(request) as driver:
            await driver.wait()
        for module, name, refused in (
            (qemu_process, "memory_file", no_files),
            (socket, "socketpair", no_more),
            (os, "dup", no_more),
            (os, "pidfd_open", no_more),
            (asyncio, "new_event_loop", no_more),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, refused)
                with pytest.raises(SystemCallError, match="Too many open files"):
                    async with open_qemu_driver(request):
                        pass
            assert not children()

    def no_files(*_: object, **__: object) -> None:
        raise SystemCallError("keep it in memory", errno.EMFILE, "Too many open files")

    trio.run(main)


@by_both
def test_reset_and_the_power_button(boot: Boots, host: str) -> None:
    with boot("hang", host=host) as vm:
        vm.console.expect("hanging")
        vm.reset()
        vm.console.expect("hanging")
        vm.powerdown()
        vm.events.wait_for("powerdown")
        vm.stop()
        vm.reset()
        vm.resume()
        vm.console.expect("hanging")
        names = [event.name.value for event in vm.events.all]
        assert names == ["reset", "powerdown", "paused", "reset", "resumed"]


def test_one_that_waits_before_its_first_instruction(boot: Boots) -> None:
    with boot("hang", host=TCG, paused=True) as vm:
        assert vm.registers().values["rip"] == RESET_RIP
        assert vm.registers().values["rip"] == RESET_RIP
        vm.resume()
        vm.console.expect("hanging")


def test_a_time_limit(boot: Boots) -> None:
    with boot("hang", host=TCG, timeout=1) as vm:
        with pytest.raises(AssertionError, match="time limit"):
            vm.wait()
    assert not children()


def test_its_core_file_is_an_elf_file(tmp_path: Path) -> None:
    core = tmp_path / "core"
    events: list[Event] = []

    async def main() -> None:
        async with open_qemu_driver(make_request("hang", host=TCG, memory="4M")) as driver:
            driver.listen(events.append)
            assert await driver.receive()
            await driver.core(str(core))

    trio.run(main)
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert core.stat().st_size > 4 << 20
    assert events == []


def test_things_that_qemu_cannot_do(boot: Boots) -> None:
    with boot("hang", host=TCG) as vm:
        for feature, action in (
            (Feature.PAGE_STATES, vm.page_states),
            (Feature.PAGE_STATES, lambda: vm.convert(0, 4096, "private")),
            (Feature.END_OF_INPUT, vm.console.end_input),
        ):
            with pytest.raises(CannotError) as caught:
                action()
            assert caught.value.feature is feature
    flat = b"\xf4"
    for refused in (
        boot("hello", host=TCG, private=True),
        boot(flat, host=TCG),
        boot("hello", host=TCG, memory=(64 << 20) + 4096),
    ):
        with pytest.raises(CannotError):
            refused.__enter__()


@pytest.mark.parametrize("known", [False, True])
def test_no_qemu_is_a_reason_to_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    async def main() -> None:
        request = make_request("exit", host=TCG)
        if known:
            async with open_qemu_driver(request) as driver:
                await driver.wait()
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(CannotError, match="qemu-tcg: it is not installed; install it"):
            async with open_qemu_driver(request):
                pass

    trio.run(main)


def test_one_that_is_killed_says_so(boot: Boots) -> None:
    with boot("hang", host=TCG) as vm:
        vm.console.expect("hanging")
        (qemu,) = children()
        os.kill(qemu, signal.SIGKILL)
        with pytest.raises(QemuError, match="SIGKILL"):
            vm.wait()


BOOTS_AND_WAITS = """
import os, sys, time
from pyvmm.machine.loop_thread import LoopThread
from pyvmm.testing.boots import Boots
from tests.testing.test_qemu_driver import children
with LoopThread("boots") as loop, Boots(loop)("hang", host="qemu-tcg") as vm:
    vm.console.expect("hanging")
    print(*children(), flush=True)
    time.sleep(600)
"""


@by_both
def test_breakpoints(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send(b"a")
        vm.console.expect("a")
        address = vm.breakpoint("console_write")
        for typed in (b"b", b"c"):
            vm.console.send(typed)
            event = vm.events.wait_for("breakpoint")
            assert (event.detail, event.vcpu) == (f"{address:#x}", 0)
            assert vm.registers().values["rip"] == address
            assert vm.console.transcript[-1:] != typed
            vm.resume()
            vm.console.expect(typed)
        vm.clear_breakpoint(address)
        vm.console.send(b"d\x04")
        assert vm.wait().status == 0
        names = [event.name.value for event in vm.events.all]
        assert names == [*("paused", "breakpoint", "resumed") * 2, "ended"]


@by_both
def test_a_stop_that_is_looked_at_late_is_told_once(
    boot: Boots, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, take = QemuPeer.query_status, QemuProcess._take
    stops = 0

    def counted(process: QemuProcess, event: QemuEvent) -> None:
        nonlocal stops
        stops += event.name == "STOP"
        take(process, event)

    async def late(peer: QemuPeer) -> str:
        # The step over the first breakpoint is looked at when the guest stands at the second.
        while stops == 2:
            await trio.sleep(0.001)
        return await query(peer)

    monkeypatch.setattr(QemuProcess, "_take", counted)
    monkeypatch.setattr(QemuPeer, "query_status", late)
    with boot("echo", host=host) as vm:
        vm.console.send(b"a")
        vm.console.expect("a")
        vm.breakpoint("console_write")
        stops = 0
        for typed in (b"b", b"c"):
            vm.console.send(typed)
            vm.events.wait_for("breakpoint")
            vm.resume()
            vm.console.expect(typed)
        vm.console.send(b"\x04")
        assert vm.wait().status == 0
        names = [event.name.value for event in vm.events.all]
        assert names == [*("paused", "breakpoint", "resumed") * 2, "ended"]


def test_past_the_instruction_that_ends_the_guest(boot: Boots) -> None:
    with boot("exit", append="9", host=TCG, paused=True) as vm:
        with pytest.raises(UsageError, match="there is none"):
            vm.clear_breakpoint(0x1234)
        with pytest.raises(UsageError, match="not canonical"):
            vm.breakpoint(1 << 60)
        function = vm.symbols.address("guest_exit")
        code = find("exit")
        assert code is not None
        vm.breakpoint(function)
        vm.resume()
        vm.events.wait_for("breakpoint")
        out = vm.memory.read(function, 64).index(b"\xe6\xf4")
        vm.breakpoint(function + out)
        vm.resume()
        vm.events.wait_for("breakpoint")
        vm.resume()
        assert vm.wait().status == 9
        for act in (vm.resume, vm.stop, partial(vm.console.send, b"x")):
            with pytest.raises(ExpectError, match="the guest has ended"):
                act()


def test_one_breakpoint_too_many_for_the_processor(boot: Boots) -> None:
    with boot("hang", host=KVM) as vm:
        vm.console.expect("hanging")
        for address in range(4):
            vm.breakpoint(0x10000 + address)
        with pytest.raises(CannotError, match="breakpoints on qemu-kvm"):
            vm.breakpoint(0x20000)
        assert vm.events.all == ()


def test_a_process_that_is_killed_leaves_no_qemu() -> None:
    with subprocess.Popen([sys.executable, "-c", BOOTS_AND_WAITS], stdout=subprocess.PIPE) as test:
        assert test.stdout is not None
        qemu = int(test.stdout.readline())
        test.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + HANG
    while Path(f"/proc/{qemu}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{qemu}").exists()
