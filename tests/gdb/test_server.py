# SPDX-License-Identifier: MIT
"""The stub over real machines, by a client that speaks the protocol itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

import pyvmm
from pyvmm.gdb.packets import Signal
from pyvmm.gdb.registers import REGISTERS
from tests.gdb.client import Client, connected, debugged
from tests.machine.guests import COUNT, EXIT_42
from tests.machine.in_trio import in_trio
from tests.machine.private_machines import BOTH_BACKINGS
from tests.machine.private_machines import config as private_config
from tests.machine.test_open_machine import config, each_host

START, AGAIN = 0x7C00, 0x7C02
"""`COUNT`, and its loop."""
NUMBERS = {one.name: number for number, one in enumerate(REGISTERS)}


def runs(machine: pyvmm.Machine) -> bool:
    return machine.control.state is pyvmm.MachineState.RUNNING


async def register(client: Client, name: str) -> int:
    digits = await client.ask(b"p%x" % NUMBERS[name])
    return int.from_bytes(bytes.fromhex(digits.decode()), "little")


async def require_breakpoints(client: Client) -> None:
    """Skip where the host's KVM never stops a guest."""
    answer = await client.ask(b"Z1,0,1")
    if answer.startswith(b"E."):
        pytest.skip(answer.decode())
    assert await client.ask(b"z1,0,1") == b"OK"


@each_host
@in_trio
async def test_a_guest_is_stopped_stepped_and_changed(host: pyvmm.HostChoice) -> None:
    async with (
        debugged(config(COUNT, host, cpus=2)) as (machine, listener),
        connected(listener) as client,
    ):
        assert b"qXfer:features:read+" in await client.ask(b"qSupported:hwbreak+")
        assert await client.ask(b"?") == b"T05thread:1;"
        await require_breakpoints(client)
        assert await client.ask(b"Z1,%x,1" % AGAIN) == b"OK"
        for count in range(3):
            assert await client.ask(b"vCont;c:1") == b"T05thread:1;hwbreak:;"
            assert await register(client, "rip") == AGAIN
            assert await register(client, "rbx") == count
        # As GDB gets past one: without it, alone.
        assert await client.ask(b"z1,%x,1" % AGAIN) == b"OK"
        assert await client.ask(b"vCont;s:1") == b"T05thread:1;"
        assert await register(client, "rip") == AGAIN + 1
        assert await client.ask(b"P%x=0001000000000000" % NUMBERS["rbx"]) == b"OK"
        assert await client.ask(b"s") == b"T05thread:1;"
        assert await client.ask(b"s") == b"T05thread:1;"
        assert await register(client, "rbx") == 0x101
        assert await client.ask(b"m%x,4" % START) == COUNT[:4].hex().encode()
        assert await client.ask(b"m%x,4" % (1 << 32)) == b"E0e"
        # xor bx, bx becomes a no-operation of two bytes.
        assert await client.ask(b"M%x,2:6690" % START) == b"OK"
        assert machine.memory.read(START, 2) == bytes.fromhex("6690")
        assert not runs(machine)
        assert await client.ask(b"D") == b"OK"
        assert await client.ends()
        assert runs(machine)
        assert machine.control.breakpoints == ()


@each_host
@in_trio
async def test_code_that_is_written_is_what_is_executed(host: pyvmm.HostChoice) -> None:
    """Over code that has been executed already: of the model's translation nothing is left."""
    async with debugged(config(COUNT, host)) as (machine, listener), connected(listener) as client:
        await client.say(b"vCont;c")
        while (await machine.vcpus[0].registers()).regs.rbx < 2:
            await trio.sleep(0.01)  # Each look holds it up.
        await client.stream.send_all(b"\x03")
        assert await client.hear() == b"T02thread:1;"
        # mov al, 42; out 0xf4, al: the exit port.
        code = EXIT_42.ljust(8, b"\x90")
        assert await client.ask(b"X%x,%x:" % (START, len(code)) + code) == b"OK"
        assert (
            await client.ask(
                b"P%x=%s" % (NUMBERS["rip"], START.to_bytes(8, "little").hex().encode())
            )
            == b"OK"
        )
        assert await client.ask(b"c") == b"W2a"
        assert await client.ends()
        assert (await machine.control.wait()).ending.status == 42


@in_trio
async def test_a_guest_that_runs_is_stopped_by_the_first_packet_only() -> None:
    given = config(COUNT, pyvmm.HostChoice.MODEL)
    async with debugged(given, paused=False) as (machine, listener):
        async with connected(listener) as client:
            await client.stream.send_all(b"+")
            assert runs(machine)
            assert await client.ask(b"?") == b"T05thread:1;"
            assert not runs(machine)
            await client.ask(b"Z1,9999,1")
        # Lost: it runs on, and without the breakpoint.
        while not runs(machine):
            await trio.lowlevel.checkpoint()
        assert machine.control.breakpoints == ()


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"$" + b"x" * 0x5000, b"$vCont;c#a8$g#67", b"$}#7d"]
)
@in_trio
async def test_what_breaks_the_protocol_ends_the_connection_and_nothing_else(sent: bytes) -> None:
    given = config(COUNT, pyvmm.HostChoice.MODEL)
    async with debugged(given, paused=False) as (machine, listener):
        async with connected(listener) as client:
            await client.stream.send_all(sent)
            assert await client.ends()
        async with connected(listener) as client:
            assert await client.ask(b"?") == b"T05thread:1;"
            await client.stream.send_all(b"$g#00")
            while await client.item() is not Signal.RESEND:
                pass
            assert await client.ask(b"QStartNoAckMode") == b"OK"
            await client.stream.send_all(b"$g#00")
            assert await client.ends()
        assert not machine.control.ending


@in_trio
async def test_two_vcpus_at_one_breakpoint_are_told_one_after_the_other() -> None:
    given = private_config("selftest", cpus=2)
    given = replace(given, host=pyvmm.HostChoice.MODEL)
    async with debugged(given) as (machine, listener), connected(listener) as client:
        await client.ask(b"qSupported:hwbreak+")
        start = 0xFFFF_FFF0  # Linear: they begin in real mode.
        await client.ask(b"Z1,%x,1" % start)
        threads = {await client.ask(b"c"), await client.ask(b"c")}
        assert threads == {b"T05thread:1;hwbreak:;", b"T05thread:2;hwbreak:;"}
        assert await client.ask(b"vKill;1") == b"OK"
        ending = (await machine.control.wait()).ending
        assert ending.detail == "killed by GDB"


@in_trio
async def test_private_memory_is_neither_read_nor_written() -> None:
    for backing in BOTH_BACKINGS:
        given = replace(private_config("selftest", backing=backing), host=pyvmm.HostChoice.MODEL)
        async with debugged(given) as (machine, listener), connected(listener) as client:
            # Private memory: an error, and never zeroes. Nor is a part of a write done.
            assert await client.ask(b"m101000,4") == b"00000000"
            machine.memory.conversion.convert(0x101000, 0x1000, pyvmm.Side.PRIVATE)
            assert await client.ask(b"m100ffe,4") == b"0000"
            assert await client.ask(b"M100fff,2:9090") == b"E0e"
            assert await client.ask(b"m100fff,1") == b"00"
            assert await client.ask(b"m101000,4") == b"E0e"
            assert await client.ask(b"M101000,1:90") == b"E0e"


@in_trio
async def test_the_end_from_elsewhere_closes_an_idle_connection() -> None:
    given = config(COUNT, pyvmm.HostChoice.MODEL)
    async with debugged(given) as (machine, listener), connected(listener) as client:
        text = await client.ask(b"qRcmd," + b"info status".hex().encode())
        assert b"VM status: paused" in bytes.fromhex(text[1:].decode())
        assert await client.hear() == b"OK"
        machine.control.interrupt()
        await machine.control.wait()
        assert await client.ends()


@in_trio
async def test_the_next_client_waits_for_the_first() -> None:
    given = config(COUNT, pyvmm.HostChoice.MODEL)
    async with debugged(given) as (_machine, listener), connected(listener) as first:
        assert await first.ask(b"?") == b"T05thread:1;"
        async with connected(listener) as second:
            await second.say(b"?")
            assert await first.ask(b"D") == b"OK"
            assert await second.hear() == b"T05thread:1;"
