"""Which host runs a guest."""

from __future__ import annotations

from pyvmm.hosts.interface import System
from pyvmm.machine.config import HostChoice


def open_host(choice: HostChoice) -> System:
    """Open the host asked for. `HostChoice.AUTO` is /dev/kvm, the one host there is so far.

    Raises `HostLacksError` or `NoPermissionError` when it cannot be used.
    """
    from pyvmm.hosts.kvm.system import System as KvmSystem

    match choice:
        case HostChoice.AUTO | HostChoice.KVM:
            return KvmSystem()
