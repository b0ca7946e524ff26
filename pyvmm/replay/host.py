# SPDX-License-Identifier: MIT
"""Behaviours to expect of this host: its features, and what one question tells."""

from __future__ import annotations

import errno
from dataclasses import replace

from pyvmm.errors import HostLacksError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.kvm.system import System
from pyvmm.replay.hands import OK, Hands
from pyvmm.replay.liveness import Liveness
from pyvmm.replay.memory_kind import MAPPABLE, PRIVATE, MemoryKind
from pyvmm.rules.profile import FIRST_MERGED, MAINLINE, SHARED_ONLY, Profile


def kinds_of(system: System) -> tuple[MemoryKind, ...]:
    """The kinds of memory that this KVM has; by default stories are replayed with the first.

    Raises `HostLacksError` where it has none.
    """
    has = system.capabilities()
    found = []
    wanted = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
    if has.guest_memfd and has.guest_memfd_flags & wanted == wanted:
        found.append(MAPPABLE)
    if (
        has.guest_memfd
        and VmType.SW_PROTECTED in has.vm_types
        and MemoryAttribute.PRIVATE in has.memory_attributes
    ):
        found.append(PRIVATE)
    if not found:
        raise HostLacksError(
            "replay lifetimes",
            "this KVM has neither a guest_memfd that the host can map (KVM_CAP_GUEST_MEMFD_FLAGS) "
            "nor software-protected VMs",
            "use Linux 6.18 or later, or the lab",
        )
    return tuple(found)


def profile_of(system: System, kind: MemoryKind | None = None) -> Profile:
    """The profile of a host's KVM, for memory of a kind (None: the first of `kinds_of`).

    No extension tells with which errno a range is refused that is bound already, so that is asked
    by doing it. Raises `HostLacksError` where there is nothing to replay with.
    """
    chosen = kind or kinds_of(system)[0]
    if chosen.is_private:
        base = FIRST_MERGED
    else:
        base = MAINLINE if system.capabilities().memory_attributes else SHARED_ONLY
    answer = _binding_twice(system, chosen)
    for known in (errno.EEXIST, errno.EINVAL):
        if answer == errno.errorcode[known]:
            return replace(base, bound_twice=known)
    return base


def _binding_twice(system: System, kind: MemoryKind) -> str:
    with Hands(system, 1, kind) as hands:
        hands.create_vm(0)
        for done in (hands.create_file(0, 0), hands.bind(0, 0, 0, 0)):
            if done != OK:
                return done
        return hands.bind(0, 1, 0, 0)


def can_name(system: System, liveness: Liveness) -> bool:
    """Tell whether debugfs names VMs as this process does: not in a PID namespace of one's own."""
    with Hands(system, pages=1) as hands:
        return liveness.has(hands.create_vm(0))
