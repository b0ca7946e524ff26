# SPDX-License-Identifier: MIT
"""Guests with private memory, for commands that look at it."""

from __future__ import annotations

import pytest

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.memory.backing import PrivateBacking
from tests.machine.conftest import private_host
from tests.machine.private_machines import config

__all__ = ["private_choice", "private_host", "private_mailbox"]

_HOSTS = {
    "kvm": (HostChoice.KVM, PrivateBacking.AUTO),
    "model": (HostChoice.MODEL, PrivateBacking.TWO_SIDED),
    "in-place": (HostChoice.MODEL, PrivateBacking.IN_PLACE),
}


@pytest.fixture(params=[pytest.param("kvm", marks=pytest.mark.kvm), "model", "in-place"])
def private_mailbox(request: pytest.FixtureRequest) -> MachineConfig:
    """A guest on each host that has it: KVM where the kernel can (the lab), the model both ways."""
    if request.param == "kvm":
        request.getfixturevalue("private_host")
    host, backing = _HOSTS[request.param]
    return config("mailbox", host=host, backing=backing)


@pytest.fixture(params=[pytest.param(HostChoice.KVM, marks=pytest.mark.kvm), HostChoice.MODEL])
def private_choice(request: pytest.FixtureRequest) -> HostChoice:
    """A host that has it: KVM where the kernel can (the lab), and the model everywhere."""
    choice = request.param
    assert isinstance(choice, HostChoice)
    if choice is HostChoice.KVM:
        request.getfixturevalue("private_host")
    return choice
