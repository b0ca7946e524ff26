# SPDX-License-Identifier: MIT
"""The hosts and VM types that the kernel's tests are about, and guests on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.rules.profile import IN_PLACE

from .kernel_answers import KernelAnswers, read_answers
from .requirements import REQUIRED
from .scripted_guest import ScriptedGuest, assemble, not_longer_than

RUNAWAY_SECONDS = 60

MakeScripted = Callable[[VmType], ScriptedGuest]


@pytest.fixture
def system() -> Iterator[System]:
    with System() as system:
        yield system


@pytest.fixture(scope="session")
def answers() -> KernelAnswers:
    """What this host's kernel has to answer where kernels differ."""
    return read_answers()


def _private_memory(system: System) -> bool:
    offered = system.capabilities()
    return (
        VmType.SW_PROTECTED in offered.vm_types
        and MemoryAttribute.PRIVATE in offered.memory_attributes
    )


@pytest.fixture
def private_host(system: System) -> System:
    """A host where memory can be private: skipped elsewhere, a failure where `private` must be."""
    if not _private_memory(system):
        reason = "this host's KVM has no private memory (KVM_X86_SW_PROTECTED_VM)"
        if "private" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    return system


def _requiring_in_place(system: interface.System) -> interface.System:
    """A host whose files keep attributes: skipped elsewhere, a failure where they must."""
    if MemoryAttribute.PRIVATE not in system.capabilities().file_attributes:
        reason = "this host's KVM has no conversion in place (KVM_SET_MEMORY_ATTRIBUTES2)"
        if "in-place" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    return system


@pytest.fixture
def kvm_in_place(system: System) -> interface.System:
    """KVM with conversion in place."""
    return _requiring_in_place(system)


@pytest.fixture(params=[pytest.param("kvm", marks=pytest.mark.kvm), "model"])
def in_place_host(request: pytest.FixtureRequest) -> Iterator[interface.System]:
    """KVM with conversion in place, and the model, which has it as posted."""
    if request.param == "kvm":
        with System() as system:
            yield _requiring_in_place(system)
    else:
        with ModelSystem(IN_PLACE) as model:
            yield model


@pytest.fixture(scope="session")
def in_place_code(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The code of scripted guests, for the processor here and for the model's, which knows both."""
    amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return assemble(tmp_path_factory.mktemp("in-place"), amd=amd)


@pytest.fixture(params=[VmType.DEFAULT, VmType.SW_PROTECTED], ids=lambda kind: kind.name.lower())
def vm_type(request: pytest.FixtureRequest, system: System) -> VmType:
    """Each of the VM types of the kernel's tests that the host has."""
    wanted: VmType = request.param
    if wanted not in system.capabilities().vm_types:
        request.getfixturevalue("private_host")
    return wanted


@pytest.fixture
def vm(system: System, vm_type: VmType) -> Iterator[Vm]:
    """A VM of each type, without memory."""
    with system.create_vm(vm_type) as vm:
        yield vm


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The code of scripted guests."""
    with System() as system:
        vendor = next(entry.ebx for entry in system.supported_cpuid() if entry.function == 0)
    amd = vendor.to_bytes(4, "little") in {b"Auth", b"Hygo"}
    return assemble(tmp_path_factory.mktemp("interpreter"), amd=amd)


@pytest.fixture
def scripted(system: System, interpreter: bytes) -> Iterator[MakeScripted]:
    """Makes a scripted guest in a new VM of some type; one that runs away is stopped."""
    with ExitStack() as owned:

        def make(vm_type: VmType) -> ScriptedGuest:
            vm = owned.enter_context(system.create_vm(vm_type))
            guest = owned.enter_context(ScriptedGuest(system, vm, interpreter))
            owned.enter_context(not_longer_than(RUNAWAY_SECONDS, guest))
            return guest

        yield make
