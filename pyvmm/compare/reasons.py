# SPDX-License-Identifier: MIT
"""Reasons that lie in the two machines and not in how they run a guest, each with its evidence.

A closed set: `ReasonKey`. Evidence is what the image is, or what the guest did under pyvmm; and it
says until where the two still have to agree, so a difference that comes earlier is a disagreement.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from pyvmm.boot.plan import BootProtocol
from pyvmm.compare.loader_values import NO_VALUES, REASON, LoaderValues
from pyvmm.compare.machines import device_at
from pyvmm.compare.observations import EndKind, FirstAccess, Inspection
from pyvmm.compare.subjects import PyvmmSubject, QemuSubject


class ReasonKey(enum.Enum):
    """Key of a reason; the values are the names in ``docs/compare.md`` and in JSON."""

    PROTOCOL = "boot-protocol"
    DEVICE = "device"
    OPEN_READ = "open-read"
    LOADER = REASON[0]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reason that holds for a pair, from pyvmm's first `said` bytes of console on."""

    key: ReasonKey
    sentence: str
    said: int


@dataclass(frozen=True, slots=True)
class GuestKnown:
    """Facts known of a guest before it runs.

    `bundled` is the bundled guest's name, None for others; `ours` and `theirs` are how pyvmm and
    QEMU enter it, `loader` what the loaders choose.
    """

    bundled: str | None
    ours: BootProtocol = BootProtocol.PVH
    theirs: BootProtocol = BootProtocol.PVH
    loader: LoaderValues = NO_VALUES


_WITHOUT_AN_ANSWER = {EndKind.RESTARTED, EndKind.HALTED, EndKind.TIME_LIMIT}
"""Endings that can follow from a write to a device which is there, or is not: a reset, no
interrupt. Otherwise a write to a device that is not there has no effect."""
_PROTOCOLS = {
    BootProtocol.PVH: "its PVH note",
    BootProtocol.MULTIBOOT: "its Multiboot header",
    BootProtocol.FLAT: "0:0x7c00",
    BootProtocol.LINUX_64: "its 64-bit entry",
    BootProtocol.LINUX_32: "its 32-bit entry",
    BootProtocol.LINUX_16: "its real-mode entry",
}


def evidence(guest: GuestKnown, reference: Inspection, other: Inspection) -> tuple[Evidence, ...]:
    """Collect the evidence for this pair: one item of each key, the earliest."""
    found: dict[ReasonKey, Evidence] = {}
    for one in _all(guest, reference, other):
        known = found.get(one.key)
        if known is None or one.said < known.said:
            found[one.key] = one
    return tuple(found.values())


def _all(guest: GuestKnown, reference: Inspection, other: Inspection) -> Iterator[Evidence]:
    pair = (reference, other)
    ours = next((one for one in pair if isinstance(one.subject, PyvmmSubject)), None)
    theirs = next((one for one in pair if isinstance(one.subject, QemuSubject)), None)
    if ours is None or theirs is None:
        return
    if guest.ours is not guest.theirs:
        yield Evidence(
            ReasonKey.PROTOCOL,
            f"pyvmm enters the image by {_PROTOCOLS[guest.ours]}, QEMU by "
            f"{_PROTOCOLS[guest.theirs]}, which it looks for first",
            0,
        )
    kinds = {ours.end.kind, theirs.end.kind}
    is_stuck = len(kinds) == 2 and not kinds.isdisjoint(_WITHOUT_AN_ANSWER)
    for access in ours.accesses:
        if not access.is_read and not is_stuck:
            continue
        found = _of_access(access, theirs)
        if found is not None:
            yield found


def _of_access(access: FirstAccess, theirs: Inspection) -> Evidence | None:
    subject = theirs.subject
    assert isinstance(subject, QemuSubject)
    where = f"{'port' if access.is_port else 'address'} {access.address:#x}"
    device = device_at(access.address, is_port=access.is_port)
    if device is not None and device.is_in(subject) != access.claimed:
        has, lacks = (subject.name, "pyvmm")
        if access.claimed:
            has, lacks = lacks, has
        return Evidence(
            ReasonKey.DEVICE,
            f"the guest uses {device.name} ({where}), which {has} has and {lacks} has not",
            access.said,
        )
    if device is None and access.is_read and not access.is_port and not access.claimed:
        return Evidence(
            ReasonKey.OPEN_READ,
            f"the guest uses {where}, where there is nothing: what a read gives is open, pyvmm "
            "gives ones and QEMU zeroes",
            access.said,
        )
    return None
