# SPDX-License-Identifier: MIT
"""CPUID tables of vCPUs: every leaf that tells of topology agrees with the APIC ID."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.guest_cpuid import GuestCpu, guest_table, with_tsc_deadline
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.topology import MAX_CPUS, Topology

INTEL = (0x756E6547, 0x6C65746E, 0x49656E69)
AMD = (0x68747541, 0x444D4163, 0x69746E65)
ONES = 0xFFFF_FFFF


def host(
    vendor: tuple[int, int, int], *, most: int = 0x1F, topoext: bool = True
) -> tuple[CpuidEntry, ...]:
    """A host's table, with every bit set that a guest is to be told otherwise of."""
    ebx, ecx, edx = vendor
    amd = ONES if topoext else ONES & ~(1 << 22)
    return (
        CpuidEntry(0, eax=most, ebx=ebx, ecx=ecx, edx=edx),
        CpuidEntry(1, ebx=0x5A5A_0800, ecx=ONES, edx=ONES),
        # L1d, L3, none.
        CpuidEntry(4, 0, 1, eax=0xFFFF_C021),
        CpuidEntry(4, 1, 1, eax=0xFFFF_C063),
        CpuidEntry(4, 2, 1),
        CpuidEntry(7, 0, 1, ebx=ONES, ecx=ONES, edx=ONES),
        CpuidEntry(7, 1, 1, eax=ONES, edx=ONES),
        *(CpuidEntry(0xB, index, 1, eax=9, ebx=9, ecx=9, edx=77) for index in range(2)),
        CpuidEntry(0xD, 0, 1, eax=7, ebx=832, ecx=832),
        CpuidEntry(0x8000_0001, ecx=amd, edx=ONES),
        CpuidEntry(0x8000_0008, eax=0x3030, ecx=0x7007),
        CpuidEntry(0x8000_001D, 0, 1, eax=0xFFFF_C021),
        CpuidEntry(0x8000_001D, 3, 1, eax=0xFFFF_C063),
        CpuidEntry(0x8000_001E, eax=77, ebx=77, ecx=77),
        CpuidEntry(0x8000_0026, 0, 1, eax=77, edx=77),
    )  # fmt: skip


def leaf(table: tuple[CpuidEntry, ...], function: int, index: int = 0) -> CpuidEntry | None:
    found = [one for one in table if (one.function, one.index) == (function, index)]
    assert len(found) <= 1
    return found[0] if found else None


def need(table: tuple[CpuidEntry, ...], function: int, index: int = 0) -> CpuidEntry:
    one = leaf(table, function, index)
    assert one is not None, hex(function)
    return one


topologies = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4)).map(
    lambda sizes: Topology(sizes[0] * sizes[1] * sizes[2], *sizes)
)


@given(topologies, st.sampled_from([INTEL, AMD]), st.data())
def test_every_leaf_of_topology_agrees_with_the_apic_id(
    topology: Topology, vendor: tuple[int, int, int], data: st.DataObject
) -> None:
    cpu = data.draw(st.integers(0, topology.cpus - 1))
    table = guest_table(host(vendor), GuestCpu(topology), cpu)
    apic_id = topology.apic_id(cpu)
    one = need(table, 1)
    assert one.ebx >> 24 == apic_id
    assert one.ebx & 0xFFFF == 0x0800, "what has nothing to do with it stays"
    assert bool(one.edx & 1 << 28) is (topology.threads_per_package > 1)
    for function in (0xB, 0x1F):
        threads, cores, end = (need(table, function, index) for index in range(3))
        assert {threads.edx, cores.edx, end.edx} == {apic_id}
        assert (threads.ecx, cores.ecx, end.ecx) == (0x100, 0x201, 2)
        assert (threads.ebx, cores.ebx) == (topology.threads, topology.threads_per_package)
        assert (end.eax, end.ebx) == (0, 0)
        # Those with one number above a shift are those of one core, of one package.
        alike = {
            other for other in topology.apic_ids if other >> threads.eax == apic_id >> threads.eax
        }
        assert len(alike) == topology.threads
        alike = {other for other in topology.apic_ids if other >> cores.eax == apic_id >> cores.eax}
        assert len(alike) == topology.threads_per_package
    for index, bits in ((0, topology.thread_bits), (1, topology.package_bits)):
        cache = need(table, 4, index)
        assert cache.eax >> 14 & 0xFFF == (1 << bits) - 1
        assert cache.eax >> 26 == (1 << topology.package_bits - topology.thread_bits) - 1
    assert need(table, 4, 2).eax == 0
    if vendor == AMD:
        assert (
            need(table, 0x8000_0008).ecx
            == topology.threads_per_package - 1 | topology.package_bits << 12
        )
        extended = need(table, 0x8000_001E)
        assert extended.eax == apic_id
        assert extended.ebx >> 8 == topology.threads - 1
        assert extended.ecx == apic_id >> topology.package_bits
        assert need(table, 0x8000_001D, 3).eax >> 14 & 0xFFF == (1 << topology.package_bits) - 1
    else:
        assert need(table, 0x8000_0008).ecx == 0x7007
    assert leaf(table, 0x8000_0026) is None, "the host's"


def test_ids_are_different_and_ascend_up_to_the_most_vcpus() -> None:
    for cpus in range(1, MAX_CPUS + 1):
        ids = Topology(cpus).apic_ids
        assert ids == tuple(range(cpus))


def test_ids_have_gaps_where_a_number_is_no_power_of_two() -> None:
    assert Topology(6, sockets=2).apic_ids == (0, 1, 2, 4, 5, 6)
    assert Topology(12, cores=3, sockets=2, threads=2).apic_ids == (
        0,
        1,
        2,
        3,
        4,
        5,
        8,
        9,
        10,
        11,
        12,
        13,
    )


def test_amd_without_topoext_has_no_leaf_of_it() -> None:
    table = guest_table(host(AMD, topoext=False), GuestCpu(Topology(4)), 1)
    assert leaf(table, 0x8000_001E) is None


def test_a_host_that_is_older_than_the_leaf_of_topology_gets_that_one_alone() -> None:
    table = guest_table(host(INTEL, most=7), GuestCpu(Topology(2)), 1)
    assert need(table, 0).eax == 0xB
    assert need(table, 0xB, 1).edx == 1
    assert leaf(table, 0x1F) is None


def test_xsave_goes_with_all_that_lives_on_it() -> None:
    kept = guest_table(host(AMD), GuestCpu(Topology(1)), 0)
    assert need(kept, 0xD).ebx == 832
    assert need(kept, 1).ecx & 1 << 26
    table = guest_table(host(AMD), GuestCpu(Topology(1), xsave=False), 0)
    assert leaf(table, 0xD) is None
    features = need(table, 1).ecx
    for bit in (12, 26, 27, 28, 29):
        assert not features & 1 << bit, bit
    for bit in (0, 19, 20, 21, 24, 25, 30, 31):
        assert features & 1 << bit, bit
    extended = need(table, 7)
    assert not extended.ebx & (1 << 5 | 1 << 16 | 1 << 31)
    assert extended.ebx & (1 << 3 | 1 << 8) == 1 << 3 | 1 << 8, "BMI has no state of its own"
    assert extended.ecx & 1 << 8, "GFNI has a form without AVX"
    assert not need(table, 7, 1).eax & 1 << 4
    assert not need(table, 0x8000_0001).ecx & (1 << 11 | 1 << 15 | 1 << 16)


def test_the_tsc_deadline_timer_is_told_by_the_leaf_of_features_alone() -> None:
    for one in host(AMD):
        cleared = replace(one, ecx=0)
        assert bool(with_tsc_deadline(cleared).ecx & 1 << 24) is (one.function == 1)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"cpus": 0}, "at least one"),
        ({"cpus": 256}, "at most 255"),
        ({"cpus": 8, "sockets": 3}, "do not divide into sockets=3 with threads=1"),
        ({"cpus": 8, "sockets": 16}, "do not divide into sockets=16 with threads=1"),
        ({"cpus": 8, "sockets": 2, "cores": 2, "threads": 4}, "make 16"),
        ({"cpus": 8, "sockets": 0}, "cannot be"),
        ({"cpus": 8, "threads": -1}, "cannot be"),
        ({"cpus": 195, "sockets": 65, "cores": 3}, "the APIC ID 258"),
    ],
)
def test_topologies_that_cannot_be_are_refused(wrong: dict[str, int], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Topology(**wrong)


@pytest.mark.kvm
def test_kvm_takes_a_table_made_of_its_own_and_answers_by_it() -> None:
    with System() as system:
        found = system.guest_cpuid()
        topology = Topology(6, sockets=2)
        assert system.keeps_xsave() is system.keeps_xsave()
        cpu = GuestCpu(topology, xsave=system.keeps_xsave())
        with system.create_vm() as vm:
            for number in (0, 4, 5):
                with vm.create_vcpu(topology.apic_id(number)) as vcpu:
                    vcpu.set_cpuid(guest_table(found, cpu, number))
                    table = vcpu.get_cpuid()
                    assert need(table, 1).ebx >> 24 == topology.apic_id(number)
                    assert need(table, 0xB, 1).edx == topology.apic_id(number)
                    assert bool(need(table, 1).ecx & 1 << 26) is cpu.xsave


@pytest.mark.kvm
def test_a_vcpu_goes_at_the_host_s_rate_again_whatever_it_was_given() -> None:
    with System() as system, system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        rate = vcpu.get_tsc_khz()
        with suppress(KvmError):  # Refused where the host cannot scale, and kept all the same.
            vcpu.set_tsc_khz(rate // 2)
        assert vcpu.get_tsc_khz() == rate // 2
        vcpu.follow_host_tsc()
        # KVM may have been initialised at a rate that the kernel has refined since.
        assert vcpu.get_tsc_khz() == pytest.approx(rate, rel=0.01)
