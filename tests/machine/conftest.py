"""Hosts that tests of whole machines need."""

from __future__ import annotations

import pytest

from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.kvm.system import System
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
