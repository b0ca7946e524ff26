# SPDX-License-Identifier: MIT
"""The commands about the machine as a whole, without a server in between."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import trio

from pyvmm.errors import UsageError
from pyvmm.hosts.topology import Topology
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.events import Ended, MachineEvent, Paused, PowerdownAsked, Resumed, WasReset
from pyvmm.machine.hardware import Hardware, NumaNode
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.command_table import commands
from tests.machine.guests import COUNT, SPIN, bundled
from tests.machine.inside import ram_of
from tests.machine.private_machines import config as private_config
from tests.qmp.guests import HANG, HOSTS, drive, run, spinning


async def ask(machine: Machine, name: str, **arguments: Any) -> Any:
    return await run(machine, name, **arguments)


async def status(machine: Machine) -> str:
    answer = await ask(machine, "query-status")
    assert set(answer) == {"status", "singlestep", "running"}
    assert answer["running"] is (answer["status"] == "running")
    return str(answer["status"])


@pytest.mark.parametrize("host", HOSTS)
def test_status_through_a_life(host: HostChoice) -> None:
    async def main() -> None:
        config = MachineConfig(SPIN, memory=2 * MIB, host=host)
        with trio.fail_after(HANG):
            async with open_machine(config, paused=True) as machine:
                heard: list[MachineEvent] = []
                with machine.events.listen(heard.append):
                    assert await status(machine) == "prelaunch"
                    await ask(machine, "cont")
                    assert await status(machine) == "running"
                    for _ in range(2):  # The second time nothing changes, and nobody is told.
                        assert await ask(machine, "stop") == {}
                        assert await status(machine) == "paused"
                    for _ in range(2):
                        assert await ask(machine, "cont") == {}
                        assert await status(machine) == "running"
                    assert await ask(machine, "system_powerdown") == {}
                    assert await status(machine) == "running"
                    assert await ask(machine, "quit") == {}
                    assert await status(machine) == "shutdown"
                    with pytest.raises(CommandError, match="Resetting the Virtual Machine"):
                        await ask(machine, "cont")
                    assert await ask(machine, "stop") == {}
                    assert await ask(machine, "quit") == {}
                kinds = [type(event) for event in heard]
                assert kinds == [Paused, Resumed, PowerdownAsked, Ended]
                result = await machine.control.wait()
                assert result.ending.exit_code == 0

    drive(main)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("guest", "expected"),
    [("panic", "guest-panicked"), ("triple", "shutdown"), ("exit", "shutdown")],
)
def test_status_after_the_guests_end(host: HostChoice, guest: str, expected: str) -> None:
    async def main() -> None:
        config = MachineConfig(bundled(guest), memory=16 * MIB, host=host)
        with trio.fail_after(HANG):
            async with open_machine(config) as machine:
                await machine.control.wait()
                assert await status(machine) == expected

    drive(main)


@pytest.mark.parametrize("host", HOSTS)
def test_a_reset_starts_the_guest_again(host: HostChoice) -> None:
    """Memory that was written is what the image has, and vCPU 0 is at its entry."""

    async def main() -> None:
        config = MachineConfig(COUNT, memory=2 * MIB, host=host)
        with trio.fail_after(HANG):
            async with open_machine(config) as machine:
                heard: list[MachineEvent] = []
                running = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
                ram_of(machine).write(0x100000, b"left over")
                with machine.events.listen(heard.append):
                    await ask(machine, "stop")
                    assert await ask(machine, "system_reset") == {}
                assert [type(event) for event in heard] == [Paused, WasReset]
                assert ram_of(machine).read(0x100000, 9) == bytes(9)
                after = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
                assert after.rbx == 0
                assert after.rip <= running.rip
                base = await machine.vcpus[0].call(lambda vcpu: vcpu.get_sregs().cs.base)
                assert ram_of(machine).read(base + after.rip, len(COUNT)) == COUNT
                assert await status(machine) == "paused"
                await ask(machine, "cont")
                assert await status(machine) == "running"

    drive(main)


def test_a_private_machine_is_not_reset() -> None:
    async def main() -> None:
        with trio.fail_after(HANG):
            config = replace(private_config("hang"), host=HostChoice.MODEL)
            async with open_machine(config) as machine:
                with pytest.raises(UsageError, match="launched and measured once"):
                    await ask(machine, "system_reset")
                assert machine.control.ending is None

    drive(main)


@pytest.mark.parametrize("host", HOSTS)
def test_vcpus_are_threads_of_this_process(host: HostChoice) -> None:
    async def main() -> None:
        async with spinning(host, cpus=2) as machine:
            while any(vcpu.thread_id is None for vcpu in machine.vcpus):
                await trio.sleep(0.001)
            found = await ask(machine, "query-cpus-fast")
            threads = {int(name) for name in os.listdir("/proc/self/task")}
            assert [one["cpu-index"] for one in found] == [0, 1]
            assert {one["thread-id"] for one in found} <= threads - {os.getpid()}
            assert len({one["thread-id"] for one in found}) == 2
            assert {one["target"] for one in found} == {"x86_64"}
            assert len({one["qom-path"] for one in found}) == 2

    drive(main)


@pytest.mark.parametrize(
    ("topology", "places"),
    [
        # (socket, core, thread), as QEMU 7.2 has them for the same -smp.
        (None, [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0)]),
        (Topology(4, sockets=2, cores=2), [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]),
        (Topology(4, sockets=2, threads=2), [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]),
    ],
)
def test_places_of_vcpus(topology: Topology | None, places: list[tuple[int, int, int]]) -> None:
    hardware = None if topology is None else Hardware(topology=topology)

    async def main() -> None:
        async with spinning(HostChoice.MODEL, cpus=4, hardware=hardware) as machine:
            while any(vcpu.thread_id is None for vcpu in machine.vcpus):
                await trio.sleep(0.001)
            found = [one["props"] for one in await ask(machine, "query-cpus-fast")]
            names = ("socket-id", "core-id", "thread-id")
            assert [tuple(props[name] for name in names) for props in found] == places

    drive(main)


def test_places_of_vcpus_in_nodes() -> None:
    nodes = (NumaNode(4 * MIB, (2, 3)), NumaNode(4 * MIB, (0, 1)))

    async def main() -> None:
        async with spinning(
            HostChoice.MODEL, cpus=4, memory=8 * MIB, hardware=Hardware(nodes=nodes)
        ) as machine:
            while any(vcpu.thread_id is None for vcpu in machine.vcpus):
                await trio.sleep(0.001)
            found = [one["props"] for one in await ask(machine, "query-cpus-fast")]
            assert [(one["socket-id"], one["node-id"]) for one in found] == [
                (0, 1), (0, 1), (1, 0), (1, 0),
            ]  # fmt: skip

    drive(main)


@pytest.mark.parametrize("host", HOSTS)
def test_what_it_is_made_of(host: HostChoice) -> None:
    async def main() -> None:
        async with spinning(host, memory=4 * MIB) as machine:
            assert await ask(machine, "query-memory-size-summary") == {
                "base-memory": 4 * MIB,
                "plugged-memory": 0,
            }
            assert await ask(machine, "query-memory-devices") == []
            enabled = host is HostChoice.KVM
            assert await ask(machine, "query-kvm") == {"enabled": enabled, "present": True}
            version = await ask(machine, "query-version")
            assert version["qemu"] == {"major": 7, "minor": 2, "micro": 0}
            assert version["package"].startswith("pyvmm ")

    drive(main)


def test_every_command_is_listed() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            listed = [one["name"] for one in await ask(machine, "query-commands")]
            assert sorted(listed) == sorted(commands())
            assert {
                "qmp_capabilities", "query-version", "query-commands", "query-status", "stop",
                "cont", "system_reset", "system_powerdown", "quit", "query-cpus-fast",
                "query-memory-size-summary", "query-memory-devices", "query-kvm", "query-stats",
                "query-stats-schemas", "pmemsave", "memsave", "dump-guest-memory",
                "human-monitor-command",
            } <= set(listed)  # fmt: skip

    drive(main)


def test_all_but_qmps_own_names_have_our_prefix() -> None:
    qemus = {
        "qmp_capabilities", "stop", "cont", "system_reset", "system_powerdown", "quit", "pmemsave",
        "memsave", "dump-guest-memory", "human-monitor-command", "balloon", "set_link",
    }  # fmt: skip
    ours = [name for name in commands() if name.startswith("x-pyvmm-")]
    others = {name for name in commands() if not name.startswith(("x-pyvmm-", "query-"))}
    assert ours
    assert others <= qemus
