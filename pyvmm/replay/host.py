# SPDX-License-Identifier: MIT
"""Behaviours to expect of this host: its features, and what one question tells."""

from __future__ import annotations

from dataclasses import replace

from pyvmm.errors import HostLacksError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.kvm.system import System
from pyvmm.replay.hands import OK, Hands
from pyvmm.replay.liveness import Liveness
from pyvmm.rules.profile import MAINLINE, SHARED_ONLY, Profile


def profile_of(system: System) -> Profile:
    """The profile of a host's KVM.

    No extension tells with which errno a range is refused that is bound already, so that is asked
    by doing it. Raises `HostLacksError` where guest_memfd is missing or cannot be mapped.
    """
    has = system.capabilities()
    wanted = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
    if not has.guest_memfd or has.guest_memfd_flags & wanted != wanted:
        raise HostLacksError(
            "replay lifetimes",
            "this KVM has no guest_memfd that the host can map (KVM_CAP_GUEST_MEMFD_FLAGS)",
            "use Linux 6.18 or later, or the lab",
        )
    base = MAINLINE if has.memory_attributes else SHARED_ONLY
    answer = _binding_twice(system)
    for profile in (MAINLINE, SHARED_ONLY):
        if answer == _errno_name(profile.bound_twice):
            return replace(base, bound_twice=profile.bound_twice)
    return base


def _errno_name(number: int) -> str:
    import errno

    return errno.errorcode[number]


def _binding_twice(system: System) -> str:
    with Hands(system, pages=1) as hands:
        hands.create_vm(0)
        for done in (hands.create_file(0, 0), hands.bind(0, 0, 0, 0)):
            if done != OK:
                return done
        return hands.bind(0, 1, 0, 0)


def can_name(system: System, liveness: Liveness) -> bool:
    """Tell whether debugfs names VMs as this process does: not in a PID namespace of one's own."""
    with Hands(system, pages=1) as hands:
        return liveness.has(hands.create_vm(0))
