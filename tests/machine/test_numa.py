# SPDX-License-Identifier: MIT
"""NUMA nodes of a machine: what cannot be, what tables are told, where the memory comes from."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pyvmm.errors import ExitCode, HostLacksError, NoPermissionError, UsageError
from pyvmm.hosts import memory_policy
from pyvmm.hosts.call_record import Recorder, SystemCall
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.interface import Vm
from pyvmm.hosts.kvm.mapping import Mapping, map_anonymous
from pyvmm.hosts.topology import Topology
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.hardware import Hardware, MemoryPolicy, NumaNode
from pyvmm.machine.node_memory import choose_for_policies
from pyvmm.machine.numa import MAX_NODES, told_nodes
from pyvmm.machine.running import open_machine, running
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import RamBacking
from pyvmm.memory.layout import ACPI_GPA, GIB, HOLE_START, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE
from tests.acpi.parsing import tables
from tests.machine.guests import SPIN
from tests.machine.in_trio import in_trio
from tests.machine.inside import ram_of

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
each_host = pytest.mark.parametrize("host", HOSTS)
BIND = MemoryPolicy.BIND
HALF = NumaNode(8 * MIB, (0,))
OTHER = NumaNode(8 * MIB, (1,))
"""The other half of the machine of two halves."""


def config(*nodes: NumaNode, cpus: int = 2, **hardware: Any) -> MachineConfig:
    return MachineConfig(
        SPIN, memory=16 * MIB, cpus=cpus, irqchip=IrqchipPolicy.ON,
        hardware=replace(Hardware(nodes=nodes), **hardware),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ((HALF,), "add up to 8M, and its memory is 16M; give --memory 8M"),
        ((HALF, OTHER, OTHER), "add up to 24M"),
        ((NumaNode(0), HALF, OTHER), "NUMA node 0 its memory: 0 bytes are not one page"),
        ((HALF, NumaNode(8 * MIB - 1, (1,))), "NUMA node 1 its memory"),
        ((HALF, HALF), "vCPU 0 is in two of them"),
        ((NumaNode(8 * MIB, (0, 0)), OTHER), "vCPU 0 is in two of them"),
        ((HALF, NumaNode(8 * MIB)), "vCPU 1 is in none of them"),
        ((HALF, NumaNode(8 * MIB, (1, 2))), "it has no vCPU 2, the last is 1"),
        ((HALF, replace(OTHER, policy=BIND)), "give policy= and host-nodes=, or neither"),
        ((HALF, replace(OTHER, host_nodes=(0,))), "give policy= and host-nodes=, or neither"),
        (
            (HALF, replace(OTHER, policy=MemoryPolicy.PREFERRED, host_nodes=(0, 1))),
            "one node of the host's can be preferred",
        ),
        ((HALF, replace(OTHER, policy=BIND, host_nodes=(1024,))), "from 0 to 1023"),
        ((NumaNode(4096),) * (MAX_NODES + 1), "128 are the most"),
    ],
)
def test_nodes_that_cannot_be_are_refused(nodes: tuple[NumaNode, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        config(*nodes)


def test_nodes_are_refused_where_nothing_tells_of_them() -> None:
    fine = config(HALF, OTHER)
    with pytest.raises(UsageError, match="only ACPI tables tell of them"):
        config(HALF, OTHER, acpi=False)
    with pytest.raises(UsageError, match="no ACPI tables to tell of them; leave --numa"):
        replace(fine, private=PrivateConfig(b"firmware"))


def test_a_socket_lies_in_one_node() -> None:
    assert config(HALF, OTHER).topology == Topology(2, sockets=2)
    assert config(NumaNode(16 * MIB, (0, 1))).topology == Topology(2)
    wide = (NumaNode(8 * MIB, (0, 1, 2)), NumaNode(8 * MIB, (3, 4, 5)))
    assert config(*wide, cpus=6).topology == Topology(6, sockets=2)
    uneven = (NumaNode(8 * MIB, (0, 1)), NumaNode(8 * MIB, (2, 3, 4, 5)))
    assert config(*uneven, cpus=6).topology == Topology(6, sockets=3)
    mixed = (NumaNode(8 * MIB, (0, 2)), NumaNode(8 * MIB, (1, 3)))
    assert config(*mixed, cpus=4).topology == Topology(4, sockets=4)
    # Sockets of three take four IDs each, and of 86 of them the last would have none.
    many = tuple(NumaNode(MIB // 16, tuple(range(at, at + 3))) for at in range(0, 252, 3))
    many = (*many, NumaNode(16 * MIB - 84 * MIB // 16, (252, 253, 254)))
    assert config(*many, cpus=255).topology == Topology(255, sockets=255)
    said = Topology(2, sockets=2)
    assert config(HALF, OTHER, topology=said).topology is said
    with pytest.raises(UsageError, match="vCPUs 0 and 1 are in one socket, and not in one node"):
        config(HALF, OTHER, topology=Topology(2))


def test_a_nodes_memory_goes_on_behind_the_hole() -> None:
    nodes = (NumaNode(2 * GIB, (1,)), NumaNode(2 * GIB, (0,)), NumaNode(GIB))
    told = told_nodes(nodes, AddressMap.of(5 * GIB), (0, 4))
    assert [one.apic_ids for one in told] == [(4,), (0,), ()]
    assert [one.memory for one in told] == [
        (GpaRange(0, 2 * GIB),),
        (GpaRange(2 * GIB, HOLE_START), GpaRange(4 * GIB, 5 * GIB)),
        (GpaRange(5 * GIB, 6 * GIB),),
    ]


@each_host
@in_trio
async def test_a_machine_with_nodes_has_tables_that_tell_of_them(host: HostChoice) -> None:
    async with open_machine(replace(config(HALF, OTHER), host=host)) as machine:
        content = ram_of(machine).read(ACPI_GPA, MIB - ACPI_GPA)
        assert content is not None
        srat = tables(content, ACPI_GPA)[b"SRAT"]
        assert srat.count(bytes((1, 40))) == 2


def policies_of_mappings(name: str) -> list[str]:
    lines = Path("/proc/self/numa_maps").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if name in line]


@pytest.fixture
def node() -> int:
    """A node of the host's that memory may be taken of."""
    try:
        return memory_policy.allowed_nodes()[0]
    except (HostLacksError, NoPermissionError) as error:
        pytest.skip(str(error))


@pytest.mark.kvm
@in_trio
async def test_memory_of_a_node_has_its_policy_before_it_is_touched(node: int) -> None:
    nodes = (
        replace(HALF, memory=4 * MIB, policy=BIND, host_nodes=(node,)),
        replace(OTHER, memory=4 * MIB),
        NumaNode(4 * MIB, (), MemoryPolicy.INTERLEAVE, (node, node)),
        NumaNode(4 * MIB, (), MemoryPolicy.PREFERRED, (node,)),
    )
    gc.collect()  # Mappings that earlier tests have left.
    async with open_machine(replace(config(*nodes), host=HostChoice.KVM)) as machine:
        ram = ram_of(machine)
        kept = ram.choice.kind is RamBacking.GUEST_MEMFD
        found = policies_of_mappings("guest_memfd" if kept else "/memfd:pyvmm-guest")
        mine = [f"bind:{node}", "default", f"interleave:{node}", f"prefer:{node}"]
        # Those of earlier tests that have not ended lie beside them.
        assert [one for one in found if one != "default"] == [mine[0], *mine[2:]]
        assert "default" in found
        assert kept or ram.choice.reason.startswith("memfd: this host's guest_memfd keeps no")
        assert ram.read(0x200000, 16) == bytes(16)
        ram.clear()


@in_trio
async def test_whoever_watches_is_told_of_the_policies(node: int) -> None:
    bound = replace(OTHER, policy=BIND, host_nodes=(node,))
    told: list[SystemCall] = []

    class Watching:
        def call(self, call: SystemCall) -> None:
            told.append(call)

        def exit(self, *_: object) -> None:
            pass

    made = replace(config(HALF, bound), host=HostChoice.MODEL)
    async with running(made, recorder=cast("Recorder", Watching())) as inside:
        hva = ram_of(inside.machine).mapping.hva
    # The first is the trial whether a guest_memfd keeps it.
    trial, call = (one for one in told if one.name == "mbind")
    assert (trial.request, call.request) == ("MPOL_LOCAL", "MPOL_BIND")
    assert [field.value for field in call.given] == [hva + 8 * MIB, 8 * MIB, 1 << node]
    assert call.result == 0


@each_host
@in_trio
async def test_a_node_that_the_host_has_not_is_told(host: HostChoice, node: int) -> None:
    for wanted in ((1023,), (node, 1023)):
        absent = replace(OTHER, policy=BIND, host_nodes=wanted)
        with pytest.raises(HostLacksError, match="has no memory for this process at its node 1023"):
            async with open_machine(replace(config(HALF, absent), host=host)):
                pass


@each_host
@in_trio
async def test_a_kernel_without_policies_is_told(
    host: HostChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A system call that no kernel has stands for those that this one was built without.
    monkeypatch.setattr(memory_policy, "_NUMBERS", {"x86_64": (1 << 20, 1 << 20)})
    bound = replace(OTHER, policy=BIND, host_nodes=(0,))
    with pytest.raises(HostLacksError, match="CONFIG_NUMA") as caught:
        async with open_machine(replace(config(HALF, bound), host=host)):
            pass
    assert caught.value.exit_code is ExitCode.HOST_LACKS


@each_host
@in_trio
async def test_a_saved_machine_goes_on_where_memory_is_of_another_node(
    host: HostChoice, node: int
) -> None:
    here = replace(config(HALF, OTHER), host=host)
    bound = replace(OTHER, policy=BIND, host_nodes=(node,))
    elsewhere = replace(here, hardware=Hardware(nodes=(HALF, bound)))
    async with open_machine(here) as machine, open_machine(elsewhere) as other:
        saved = await machine.control.save()
        await other.control.restore(saved)
        # A guest sees how its own memory is divided.
        moved = (NumaNode(4 * MIB, (0,)), NumaNode(12 * MIB, (1,)))
        strange = replace(saved, config=replace(here, hardware=Hardware(nodes=moved)))
        with pytest.raises(UsageError, match="restore a machine saved with hardware"):
            await other.control.restore(strange)


class Apart:
    """A VM, and a file of its own, whose mappings have no policy in common."""

    def create_guest_memfd(self, _size: int, _flags: GuestMemfdFlag) -> Apart:
        return self

    def map(self) -> Mapping:
        return map_anonymous(PAGE_SIZE)

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@in_trio
async def test_ram_is_a_guest_memfd_only_if_that_keeps_policies(node: int) -> None:
    bound = replace(OTHER, policy=BIND, host_nodes=(node,))
    # The model's lie in memfds, which keep them.
    async with open_machine(replace(config(HALF, bound), host=HostChoice.MODEL)) as machine:
        before = machine.host.backing
        assert before.kind is RamBacking.GUEST_MEMFD
    after = choose_for_policies(cast("Vm", Apart()), before)
    assert after.kind is RamBacking.MEMFD
    assert after.flags == GuestMemfdFlag(0)
