# SPDX-License-Identifier: MIT
"""The machine's life on /dev/kvm: how it ends, how it is stopped, what it leaves behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from pyvmm.errors import HostLacksError, ImageError, InternalError, SystemCallError, UsageError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.blocking import open_blocking_machine, run
from pyvmm.machine.config import IrqchipPolicy, MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.ending import EndingKind, RunResult
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import GIB, MIB
from tests.conftest import REQUIRED
from tests.machine.inside import control_of, is_paused

from .guests import COUNT, EXIT_42, HALT, PRINT_AND_SPIN, SPIN, bundled

pytestmark = pytest.mark.kvm

HANG = 240.0
"""Seconds after which something that should be instant counts as hung."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = held()
    yield
    assert held() == before


def held() -> tuple[list[str], list[str]]:
    """What this process holds: its open files by kind, its threads but those that trio keeps."""
    fds = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # The directory's own descriptor.
            fds.append(os.readlink(f"/proc/self/fd/{name}"))
    kvm = sorted(fd for fd in fds if "kvm" in fd or "memfd" in fd or "eventfd" in fd)
    names = (thread.name for thread in threading.enumerate())
    return kvm, sorted(name for name in names if not name.startswith("Trio thread"))


def small(image: bytes, **changes: object) -> MachineConfig:
    return MachineConfig(image, memory=2 * MIB, **changes)  # type: ignore[arg-type]


# -- endings --


def test_a_flat_guest_ends_with_its_status() -> None:
    completed = run(small(EXIT_42))
    assert completed.result.ending.kind is EndingKind.EXITED
    assert completed.result.ending.exit_code == 42
    assert completed.output == b""


def test_hello_says_its_command_line() -> None:
    completed = run(MachineConfig(bundled("hello"), command_line=b"one two"))
    assert completed.result.ending.exit_code == 0
    assert b"command line: one two\n" in completed.output
    assert completed.result.console_bytes == len(completed.output)


def test_memory_above_the_hole_is_in_the_guests_map() -> None:
    # Nothing of it is touched, so a machine with less memory than this can run it too; but it must
    # have as much available, because that is what pyvmm promises the guest.
    config = MachineConfig(bundled("hello"), memory=4 * GIB)
    try:
        output = run(config).output
    except HostLacksError as error:
        assert "at most" in str(error)
        return
    assert b"0100000000-0140000000 usable" in output


def test_a_triple_fault_is_reported_with_code_tables_and_exits() -> None:
    result = run(MachineConfig(bundled("triple"))).result
    assert result.ending.kind is EndingKind.TRIPLE_FAULT
    assert result.ending.exit_code == 80
    (report,) = result.reports
    text = "\n".join(report.lines())
    assert report.exits[-1].name == "SHUTDOWN"
    if not report.was_reset:
        assert report.code.startswith(b"\x0f\x0b")
        assert "64-bit mode" in text
        assert "-> gpa 0x1" in text
        assert report.code_walk is not None
        assert [step.level for step in report.code_walk.steps][:2] == ["PML4E", "PDPTE"]


def test_a_panic_is_no_crash() -> None:
    result = run(MachineConfig(bundled("panic"))).result
    assert result.ending.kind is EndingKind.PANICKED
    assert result.ending.exit_code == 81
    assert result.reports == ()


def test_a_halt_that_nothing_can_end_is_said() -> None:
    result = run(small(HALT)).result
    assert result.ending.kind is EndingKind.HALTED
    assert result.ending.exit_code == 80


def test_the_time_limit_ends_a_spinning_guest_with_a_report() -> None:
    result = run(small(SPIN, timeout=0.05)).result
    assert result.ending.kind is EndingKind.TIME_LIMIT
    assert result.ending.exit_code == 124
    (report,) = result.reports
    assert report.regs is not None
    assert report.regs.rip == 0x7C00
    assert report.code.startswith(SPIN)
    assert report.mode == "real mode"


def test_the_time_limit_ends_a_guest_that_sleeps_in_the_kernel() -> None:
    # With in-kernel interrupt controllers HLT does not come out of KVM_RUN.
    result = run(small(HALT, timeout=0.05, irqchip=IrqchipPolicy.ON)).result
    assert result.ending.kind is EndingKind.TIME_LIMIT


def test_a_status_above_63_is_no_status() -> None:
    result = run(small(bytes.fromhex("b0c8 e6f4 f4"))).result
    assert result.ending.kind is EndingKind.BAD_STATUS
    assert result.ending.exit_code == 83


@pytest.mark.parametrize(
    "code",
    ["b0fe e664 f4", "b006 baf90c ee f4", "b001 e692 f4"],
    ids=["keyboard", "0xcf9", "port 0x92"],
)
def test_a_reset_ends_the_run(code: str) -> None:
    result = run(small(bytes.fromhex(code))).result
    assert result.ending.kind is EndingKind.RESET
    assert result.ending.exit_code == 84
    assert result.resets == 0


# -- being stopped --


def in_trio(function: object) -> object:
    async def bounded() -> object:
        with trio.fail_after(HANG):
            return await function()  # type: ignore[operator]

    return trio.run(bounded)


def test_leaving_the_block_ends_a_spinning_guest() -> None:
    async def main() -> None:
        async with open_machine(small(SPIN)):
            await trio.sleep(0.01)

    in_trio(main)


def test_leaving_at_once_is_fine_too() -> None:
    async def main() -> None:
        for _ in range(20):
            async with open_machine(small(SPIN)):
                pass

    in_trio(main)


def test_cancelling_the_scope_around_it_ends_it() -> None:
    async def main() -> None:
        with trio.move_on_after(0.05) as scope:
            async with open_machine(small(SPIN)) as machine:
                await machine.control.wait()
        assert scope.cancelled_caught

    in_trio(main)


def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with open_machine(small(SPIN)):
                raise ZeroDivisionError

    in_trio(main)


def test_interrupting_ends_it_with_130() -> None:
    async def main() -> RunResult:
        async with open_machine(small(SPIN)) as machine:
            machine.control.interrupt("test")
            return await machine.control.wait()

    result = in_trio(main)
    assert isinstance(result, RunResult)
    assert result.ending.exit_code == 130


def test_a_guest_whose_output_nobody_reads_waits_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyvmm.machine.console.port.OUTPUT_LIMIT", 4096)

    # mov al, 'x'; loop: out 0xe9, al; jmp loop
    async def main() -> None:
        async with open_machine(small(bytes.fromhex("b078 e6e9 ebfc"))) as machine:
            while machine.console.unread < 4096:
                await trio.sleep(0.01)
            # More comes only as far as the ring of posted writes takes it.
            assert machine.console.unread < 4096 + (1 << 16)

    in_trio(main)


def test_a_guest_that_waits_for_its_reader_can_be_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.machine.console.port.OUTPUT_LIMIT", 4096)

    async def main() -> None:
        async with open_machine(small(bytes.fromhex("b078 e6e9 ebfc"))) as machine:
            while machine.console.unread < 4096:
                await trio.sleep(0.01)
            await machine.control.pause()
            before = machine.console.total
            machine.control.resume()
            await machine.console.receive()
            while machine.console.total <= before:
                await trio.sleep(0.01)

    in_trio(main)


@pytest.mark.parametrize("broken", [b"", b"\x7fELF"])
def test_a_broken_image_raises_and_leaves_nothing(broken: bytes) -> None:
    with pytest.raises(ImageError):
        run(MachineConfig(broken))
    with pytest.raises(ImageError), open_blocking_machine(MachineConfig(broken)):
        pass


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises(HostLacksError, match="at most"):
        run(MachineConfig(EXIT_42, memory=1 << 46))


def test_several_vcpus_need_interrupt_controllers() -> None:
    with pytest.raises(UsageError, match="second vCPU"):
        run(MachineConfig(EXIT_42, cpus=2, irqchip=IrqchipPolicy.OFF))


def test_several_vcpus_end_together() -> None:
    result = run(small(EXIT_42, cpus=4)).result
    assert result.ending.exit_code == 42


# -- a failure of the host in the middle --


def test_a_vcpu_that_cannot_be_made_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyvmm.machine.assembly import Assembly

    def refuse(self: Assembly, index: int) -> Vcpu:
        raise HostLacksError("make a vCPU", "the test says no")

    monkeypatch.setattr(Assembly, "create_vcpu", refuse)
    with pytest.raises(HostLacksError, match="the test says no"):
        run(small(EXIT_42))
    with pytest.raises(HostLacksError), open_blocking_machine(small(EXIT_42)) as machine:
        machine.control.wait(timeout=HANG)


def test_a_console_that_breaks_fails_the_run() -> None:
    async def broken(_port: object) -> None:
        raise HostLacksError("serve a console", "the test says no")

    async def main() -> None:
        async with open_machine(small(SPIN), broken) as machine:
            await machine.control.wait()

    with pytest.raises(HostLacksError, match="serve a console"):
        in_trio(main)


# -- pause, resume, looking inside --


def test_a_paused_guest_stands_still_and_goes_on() -> None:
    async def main() -> None:
        async with open_machine(small(COUNT)) as machine:
            await machine.control.pause()
            assert is_paused(machine) is True
            first = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
            await trio.sleep(0.02)
            assert await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs()) == first
            machine.control.resume()
            assert bool(is_paused(machine)) is False
            await trio.sleep(0.02)
            later = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
            assert later != first
            assert later.rip in range(0x7C00, 0x7C06)

    in_trio(main)


def test_pausing_twice_and_leaving_while_paused() -> None:
    async def main() -> None:
        async with open_machine(small(COUNT, cpus=2)) as machine:
            await machine.control.pause()
            await machine.control.pause()

    in_trio(main)


def test_pauses_that_overlap_all_return() -> None:
    async def main() -> None:
        async with open_machine(small(COUNT, cpus=2)) as machine, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(machine.control.pause)

    in_trio(main)


def test_a_pause_that_is_resumed_before_it_is_complete_returns() -> None:
    async def main() -> None:
        async with open_machine(small(COUNT)) as machine:
            for _ in range(50):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(machine.control.pause)
                    await trio.lowlevel.checkpoint()
                    machine.control.resume()
                machine.control.resume()

    in_trio(main)


def test_a_pause_returns_when_the_run_fails_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_machine(small(SPIN)) as machine:
            await trio.sleep(0.01)

            def fail_instead(*_args: object) -> bool:
                raise HostLacksError("attend", "the test says no")

            monkeypatch.setattr(control_of(machine), "attend", fail_instead)
            await machine.control.pause()
            with pytest.raises(HostLacksError, match="the test says no"):
                await machine.control.wait()

    in_trio(main)


def test_a_look_inside_a_guest_that_waits_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.machine.console.port.OUTPUT_LIMIT", 4096)

    async def main() -> None:
        async with open_machine(small(bytes.fromhex("b078 e6e9 ebfc"))) as machine:
            most = 4096 + 2 * (1 << 16)
            while machine.console.unread < 4096:
                await trio.sleep(0.01)
            for _ in range(40):
                assert (
                    await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
                ).rax & 0xFF == 0x78
                await machine.control.pause()
                machine.control.resume()
                await trio.sleep(0.005)
            assert machine.console.unread >= 4096
            assert machine.console.unread <= most

    in_trio(main)


def test_the_vcpus_are_those_of_the_configuration() -> None:
    async def main() -> None:
        async with open_machine(small(SPIN)) as machine:
            assert [vcpu.index for vcpu in machine.vcpus] == [0]

    in_trio(main)


def test_an_error_from_a_look_inside_comes_back() -> None:
    def divide(_vcpu: Vcpu) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with open_machine(small(SPIN)) as machine:
            with pytest.raises(ZeroDivisionError):
                await machine.vcpus[0].call(divide)

    in_trio(main)


def test_looking_inside_after_the_end_is_an_error() -> None:
    async def main() -> None:
        async with open_machine(small(EXIT_42)) as machine:
            await machine.control.wait()
            with pytest.raises(InternalError, match="has ended"):
                await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())

    in_trio(main)


def test_guest_memory_is_readable_and_what_the_image_said() -> None:
    async def main() -> None:
        async with open_machine(small(SPIN)) as machine:
            assert machine.memory.read(0x7C00, 2) == SPIN
            assert machine.memory.read(2 * MIB, 1) is None

    in_trio(main)


# -- from synchronous code --


@pytest.mark.slow
def test_given_input_is_read_to_its_end() -> None:
    given = bytes(byte for byte in range(256) if byte != 4) * 8
    assert run(MachineConfig(bundled("echo")), given=given).output == given


def test_a_failure_is_told_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        async with open_machine(small(SPIN, cpus=2)) as machine:
            for _ in range(2):
                with pytest.raises(SystemCallError, match="can't start new thread"):
                    await machine.control.wait()

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", refuse)
        in_trio(main)


# -- nothing left after many --


@pytest.fixture
def live_vms(tmp_path: Path) -> Iterator[Path | None]:
    """KVM's debugfs folder, which has an entry for each VM that lives; None without the right."""
    usual = Path("/sys/kernel/debug/kvm")
    if usual.exists():
        yield usual
        return
    if os.geteuid() != 0 or os.system(f"mount -t debugfs debugfs {tmp_path}") != 0:
        yield None
        return
    try:
        yield tmp_path / "kvm"
    finally:
        assert os.system(f"umount {tmp_path}") == 0


MANY = 100 if "private" in REQUIRED else 500
"""Runs that must leave nothing behind: fewer in the lab, where each takes a fifth of a second."""


@pytest.mark.slow
def test_many_runs_leave_as_much_as_one(live_vms: Path | None) -> None:
    def state() -> tuple[int, int, int, int]:
        vms = 0
        if live_vms is not None:
            vms = len(list(live_vms.glob(f"{os.getpid()}-*")))
        mappings = [
            line
            for line in Path("/proc/self/maps").read_text().splitlines()
            if ".so" not in line and ("kvm" in line or "memfd" in line)
        ]
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(mappings), vms

    def once(number: int) -> None:
        image = (EXIT_42, SPIN, HALT)[number % 3]
        timeout = 0.001 if image is SPIN else None
        result = run(small(image, timeout=timeout)).result
        assert result.ending.exit_code == (42, 124, 80)[number % 3]

    # Of tests before this one the process may keep a guest's program mapped.
    first = state()
    for number in range(3):
        once(number)
    before = state()
    for number in range(MANY):
        once(number)
    # Threads of tests before this one may still have been ending.
    assert all(now <= then for now, then in zip(state(), before, strict=True)), (state(), before)
    assert before[2:] == first[2:]


def test_collector_keeps_everything() -> None:
    collector = Collector()

    async def main() -> None:
        async with open_machine(small(PRINT_AND_SPIN), collector) as machine:
            while collector.output != b"OK":
                await trio.sleep(0.005)
            machine.control.interrupt("enough")
            await machine.control.wait()

    in_trio(main)
    assert collector.output == b"OK"
