# SPDX-License-Identifier: MIT
"""Hosts that tests of whole machines need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.machine.config import HostChoice
from pyvmm.memory.backing import PrivateBacking
from tests.conftest import REQUIRED


@pytest.fixture(scope="session")
def private_host() -> None:
    """Skips where memory cannot be private; a failure where `private` must be."""
    with System() as system:
        has = system.capabilities()
    if VmType.SW_PROTECTED in has.vm_types and MemoryAttribute.PRIVATE in has.memory_attributes:
        return
    reason = "this host's KVM has no private memory (KVM_X86_SW_PROTECTED_VM)"
    if "private" in REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kvm_in_place() -> None:
    """Skips where KVM does not convert in place; a failure where `in-place` must be."""
    with System() as system:
        has = system.capabilities()
    if MemoryAttribute.PRIVATE in has.file_attributes:
        return
    reason = "this host's KVM does not convert in place (KVM_SET_MEMORY_ATTRIBUTES2)"
    if "in-place" in REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module", params=["model", pytest.param("kvm", marks=pytest.mark.kvm)])
def in_place_host(request: pytest.FixtureRequest) -> HostChoice:
    """A host that converts in place."""
    if request.param == "kvm":
        request.getfixturevalue("kvm_in_place")
    return HostChoice(request.param)


@pytest.fixture(params=["model", pytest.param("kvm", marks=pytest.mark.kvm)])
def each_private_system(request: pytest.FixtureRequest) -> Iterator[interface.System]:
    """A host with private memory."""
    if request.param == "kvm":
        request.getfixturevalue("private_host")
        with System() as kvm:
            yield kvm
    else:
        with ModelSystem() as model:
            yield model


class Choice(NamedTuple):
    """A host that has private memory, and how it converts."""

    host: HostChoice
    backing: PrivateBacking

    @property
    def is_in_place(self) -> bool:
        return self.backing is PrivateBacking.IN_PLACE


@pytest.fixture(
    params=[
        pytest.param(
            Choice(HostChoice.KVM, PrivateBacking.TWO_SIDED), marks=pytest.mark.kvm, id="kvm"
        ),
        pytest.param(
            Choice(HostChoice.KVM, PrivateBacking.IN_PLACE),
            marks=pytest.mark.kvm,
            id="kvm-in-place",
        ),
        pytest.param(Choice(HostChoice.MODEL, PrivateBacking.TWO_SIDED), id="model"),
        pytest.param(Choice(HostChoice.MODEL, PrivateBacking.IN_PLACE), id="model-in-place"),
    ]
)
def private_choice(request: pytest.FixtureRequest) -> Choice:
    """Each way to have private memory that there is."""
    choice: Choice = request.param
    if choice.host is HostChoice.KVM:
        request.getfixturevalue("kvm_in_place" if choice.is_in_place else "private_host")
    return choice
