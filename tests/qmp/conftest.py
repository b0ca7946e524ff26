# SPDX-License-Identifier: MIT
"""Hosts with private memory, for commands that look at it."""

from __future__ import annotations

import pytest

from pyvmm.machine.config import HostChoice
from tests.machine.conftest import private_host

__all__ = ["private_choice", "private_host"]


@pytest.fixture(params=[pytest.param(HostChoice.KVM, marks=pytest.mark.kvm), HostChoice.MODEL])
def private_choice(request: pytest.FixtureRequest) -> HostChoice:
    """A host that has it: KVM where the kernel can (the lab), and the model everywhere."""
    choice = request.param
    assert isinstance(choice, HostChoice)
    if choice is HostChoice.KVM:
        request.getfixturevalue("private_host")
    return choice
