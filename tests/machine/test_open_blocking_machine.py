# SPDX-License-Identifier: MIT
"""A blocking machine from its owner's side. Made of `test_open_machine`: not to be edited."""

from __future__ import annotations

import pytest

import pyvmm
from tests.machine.guests import COUNT, EXIT_42, PRINT_AND_SPIN, SPIN
from tests.machine.in_trio import HANG

HOSTS = [
    pytest.param(pyvmm.HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"),
    pyvmm.HostChoice.MODEL,
]
each_host = pytest.mark.parametrize("host", HOSTS)


def config(image: bytes, host: pyvmm.HostChoice, **more: object) -> pyvmm.MachineConfig:
    return pyvmm.MachineConfig(
        image,
        memory=2 << 20,
        host=host,
        timeout=HANG,
        **more,  # type: ignore[arg-type]
    )


def echo(host: pyvmm.HostChoice) -> pyvmm.MachineConfig:
    return pyvmm.MachineConfig(pyvmm.guest_image("echo"), memory=16 << 20, host=host, timeout=HANG)


@each_host
def test_a_whole_machine(host: pyvmm.HostChoice) -> None:
    given = config(EXIT_42, host)
    with pyvmm.open_blocking_machine(given) as machine:
        assert machine.config is given
        assert machine.host.choice is host
        result = machine.control.wait()
        assert result.ending.status == 42
        assert machine.control.ending == result.ending
        assert machine.control.state is pyvmm.MachineState.ENDED


@each_host
def test_a_conversation(host: pyvmm.HostChoice) -> None:
    with pyvmm.open_blocking_machine(echo(host)) as machine:
        machine.console.send(b"to and ")
        assert machine.console.wait_for(b"and")
        machine.control.pause()
        assert machine.control.state is pyvmm.MachineState.PAUSED
        machine.control.resume()
        machine.console.send(b"fro")
        machine.console.end_input()
        assert machine.console.read_all() == b"to and fro"
        assert machine.console.output == b"to and fro"
        assert not machine.console.wait_for(b"never said")
        assert (machine.console.total, machine.console.unread) == (10, 0)
        assert (machine.control.wait()).ending.status == 0


def test_a_collector_takes_what_nobody_reads() -> None:
    collector = pyvmm.Collector(b"typed ahead")
    with pyvmm.open_blocking_machine(echo(pyvmm.HostChoice.MODEL), collector) as machine:
        assert machine.console.wait_for(b"ahead")
        assert machine.console.read_all() == b"typed ahead"
        with pytest.raises(pyvmm.UsageError, match="an attachment serves it"):
            machine.console.receive()
    assert machine.console.output == collector.output == b"typed ahead"


@each_host
def test_a_new_machine_waits_for_resume(host: pyvmm.HostChoice) -> None:
    with pyvmm.open_blocking_machine(config(PRINT_AND_SPIN, host), paused=True) as machine:
        assert machine.control.state is pyvmm.MachineState.NEW
        assert (machine.vcpus[0].registers()).regs.rip == 0x7C00
        assert machine.console.total == 0
        machine.control.resume()
        assert machine.console.wait_for(b"OK")
        machine.control.interrupt("enough")
        assert (machine.control.wait()).ending.detail == "enough"


@each_host
def test_vcpus_between_two_instructions(host: pyvmm.HostChoice) -> None:
    with pyvmm.open_blocking_machine(config(COUNT, host)) as machine:
        (vcpu,) = machine.vcpus
        assert vcpu.index == 0
        with machine.control.freeze():
            first = vcpu.registers()
            assert vcpu.call(lambda inner: inner.get_regs()) == first.regs
            assert vcpu.translate(0x7C00) == 0x7C00
        assert isinstance(vcpu.thread_id, int)
        while vcpu.registers() == first:
            pass
        with pytest.raises(ZeroDivisionError):
            vcpu.call(lambda _: 1 // 0)


@each_host
def test_memory_and_reset(host: pyvmm.HostChoice) -> None:
    with pyvmm.open_blocking_machine(config(SPIN, host)) as machine:
        machine.control.pause()
        assert machine.memory.write(0x10_0000, b"left over")
        assert machine.memory.read(0x10_0000, 9) == b"left over"
        assert machine.memory.read(2 << 20, 1) is None
        assert machine.memory.states.at(0x10_0000) is pyvmm.PageState.SHARED
        machine.control.reset()
        assert machine.memory.read(0x10_0000, 9) == bytes(9)
        assert machine.memory.read(0x7C00, len(SPIN)) == SPIN


def test_events_are_heard_and_waited_for() -> None:
    heard: list[pyvmm.MachineEvent] = []
    with pyvmm.open_blocking_machine(config(SPIN, pyvmm.HostChoice.MODEL)) as machine:
        with machine.events.listen(heard.append):
            machine.control.pause()
            machine.control.resume()
            machine.control.powerdown()
        machine.control.reset()
        machine.control.interrupt()
        ended = machine.events.wait_for(pyvmm.Ended)
        result = machine.control.wait()
        assert ended == pyvmm.Ended(result.ending)
        assert machine.events.wait_for(pyvmm.Ended) == ended
        assert machine.events.wait_for(pyvmm.Paused) is None
    assert heard == [pyvmm.Paused(), pyvmm.Resumed(), pyvmm.PowerdownAsked()]


@each_host
def test_leaving_the_block_ends_the_guest(host: pyvmm.HostChoice) -> None:
    with pytest.raises(ZeroDivisionError):
        with pyvmm.open_blocking_machine(config(SPIN, host)) as machine:
            raise ZeroDivisionError
    assert machine.control.state is pyvmm.MachineState.ENDED
    assert machine.memory.read(0x7C00, 1) is None
    assert not machine.memory.write(0x7C00, b"late")
    assert not machine.memory.clear(0x7C00, 4)
    assert machine.control.ending is not None
    assert machine.control.ending.kind is pyvmm.EndingKind.CLOSED


def test_two_at_once() -> None:
    given = config(PRINT_AND_SPIN, pyvmm.HostChoice.MODEL)
    with pyvmm.open_blocking_machine(given) as first, pyvmm.open_blocking_machine(given) as second:
        for machine in (second, first):
            assert machine.console.wait_for(b"OK")
            machine.control.interrupt()
            assert (machine.control.wait()).ending.kind is pyvmm.EndingKind.INTERRUPTED


def test_what_fails_before_the_guest_starts_is_raised_on_entry() -> None:
    with pytest.raises(pyvmm.ImageError):
        with pyvmm.open_blocking_machine(config(b"", pyvmm.HostChoice.MODEL)):
            raise AssertionError("it was entered")


def test_a_run_that_fails_raises_on_leaving_unless_that_was_told() -> None:
    async def broken(_port: object) -> None:
        raise pyvmm.HostLacksError("serve a console", "the test says no")

    given = config(SPIN, pyvmm.HostChoice.MODEL)
    with pytest.raises(pyvmm.HostLacksError, match="the test says no"):
        with pyvmm.open_blocking_machine(given, broken) as machine:
            assert machine.events.wait_for(pyvmm.Paused) is None
    with pyvmm.open_blocking_machine(given, broken) as machine:
        for _ in range(2):
            with pytest.raises(pyvmm.HostLacksError):
                machine.control.wait()


@each_host
def test_a_saved_machine_goes_on_as_often_as_one_likes(host: pyvmm.HostChoice) -> None:
    with pyvmm.open_blocking_machine(echo(host)) as machine:
        machine.console.send(b"first")
        assert machine.console.wait_for(b"first")
        saved = machine.control.save()
        assert saved.config is machine.config
        machine.memory.write(8 << 20, b"what was written since")
        machine.console.send(b" second")
        assert machine.console.wait_for(b"second")
        machine.control.restore(saved)
        assert machine.memory.read(8 << 20, 22) == bytes(22)
        machine.console.send(b" third")
        assert machine.console.wait_for(b"third")
        assert machine.console.output == b"first second third"
    with pyvmm.open_blocking_machine(echo(host), paused=True, saved=saved) as machine:
        assert machine.control.state is pyvmm.MachineState.NEW
        machine.control.resume()
        machine.console.send(b"elsewhere")
        machine.console.end_input()
        assert machine.console.read_all() == b"elsewhere"
        assert (machine.control.wait()).ending.status == 0
        with pytest.raises(pyvmm.InternalError, match="cannot save the machine: the guest has end"):
            machine.control.save()
        with pytest.raises(pyvmm.InternalError, match="restore the machine: the guest has ended"):
            machine.control.restore(saved)
    typed = pyvmm.Collector(b"ahead")
    with pyvmm.open_blocking_machine(echo(host), typed, saved=saved) as machine:
        assert machine.console.read_all() == b"ahead"
    other = pyvmm.MachineConfig(SPIN, memory=2 << 20, host=host)
    with pytest.raises(pyvmm.UsageError, match=r"saved with image .* this one has"):
        with pyvmm.open_blocking_machine(other, saved=saved):
            raise AssertionError("it was opened")
