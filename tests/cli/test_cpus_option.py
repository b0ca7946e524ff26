# SPDX-License-Identifier: MIT
"""The option for the number of vCPUs, and for what a topology they have."""

from __future__ import annotations

import argparse

import pytest

from pyvmm.cli.hardware_options import add_cpus_argument, hardware_of
from pyvmm.cli.main import main
from pyvmm.errors import ExitCode, UsageError
from pyvmm.hosts.topology import Topology
from pyvmm.machine.config import MachineConfig, PrivateConfig
from pyvmm.machine.hardware import Hardware


@pytest.mark.parametrize("option", ["--cpus", "-smp"])
def test_the_last_one_counts_with_its_topology_or_without(option: str) -> None:
    parser = argparse.ArgumentParser()
    add_cpus_argument(parser)
    assert hardware_of(parser.parse_args([])) is None
    assert parser.parse_args([]).cpus == 1
    options = parser.parse_args([option, "8,cores=2,threads=2,sockets=2"])
    assert options.cpus == 8
    assert hardware_of(options) == Hardware(topology=Topology(8, 2, 2, 2))
    options = parser.parse_args([option, "8,cores=2,sockets=4", option, "3"])
    assert (options.cpus, hardware_of(options)) == (3, None)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("x", "'x' is no whole number"),
        ("4,core=2", "it may be sockets=, cores=, threads="),
        ("4,cores=2,cores=2", "comes twice"),
        ("4,cores=two", "'two' is no whole number"),
        ("4,cores=3", "cores=3, threads=1 make 3"),
        ("4,sockets=-1", "cannot be"),
        ("256,cores=256", "at most 255"),
        ("0", "at least one"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    value: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "hello", "--cpus", value]) == ExitCode.USAGE
    assert why in capsys.readouterr().err


def test_a_configuration_says_one_number_of_vcpus() -> None:
    topology = Topology(6, sockets=2)
    assert MachineConfig(b"", cpus=6, hardware=Hardware(topology=topology)).cpus == 6
    with pytest.raises(UsageError, match="its topology has 6"):
        MachineConfig(b"", cpus=4, hardware=Hardware(topology=topology))


def test_a_private_guest_has_no_gaps_in_its_ids() -> None:
    private = PrivateConfig(b"")
    for cpus, fine in ((4, True), (6, False)):
        hardware = Hardware(topology=Topology(cpus, sockets=2))
        if fine:
            MachineConfig(b"", cpus=cpus, private=private, hardware=hardware)
            continue
        with pytest.raises(UsageError, match="APIC IDs have gaps"):
            MachineConfig(b"", cpus=cpus, private=private, hardware=hardware)
