# SPDX-License-Identifier: MIT
"""Marks of a topology's objects: by them it is found again, whatever has become of its maker. Pure.

A mark says which object of which topology something is. The `total` of objects stands in one mark
only, and is written there when all is made: a topology without it, or with fewer objects, is not
whole.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import Final

from pyvmm.net.marks import LONGEST, RUN, Mark

_ROLE: Final = re.compile(
    r"(?P<kind>[a-z]+):(?P<name>[\w.+=-]+):(?P<digest>[0-9a-f]+):(?P<total>[0-9]{1,6}):(?P<note>.*)",
    re.ASCII,
)


MASQUERADES: Final = "masquerade"
"""Note of a bridge whose subnets are masqueraded."""


class ObjectKind(enum.Enum):
    """Kind of an object that has an owner mark."""

    NAMESPACE = "namespace"
    BRIDGE = "bridge"
    TAP = "tap"
    VETH = "veth"


@dataclass(frozen=True, slots=True)
class ObjectMark:
    """The mark of an object, `name`, of the topology whose contents have this `digest`.

    `notes` are what the kernel does not know of it: a bridge's subnets, and `MASQUERADES`, a tap's
    guests, the other end of a veth.
    """

    topology: str
    digest: str
    kind: ObjectKind
    name: str
    notes: tuple[str, ...] = ()
    total: int = 0

    @property
    def mark(self) -> Mark:
        """The mark as a device's alias has it; with as many of the notes as there is room for."""
        notes = self.notes
        while True:
            role = f"{self.kind.value}:{self.name}:{self.digest}:{self.total}:{','.join(notes)}"
            mark = Mark(self.topology, role)
            if len(mark.alias) <= LONGEST or not notes:
                return mark
            notes = notes[:-1]

    def of_whole(self, total: int) -> ObjectMark:
        """The same mark where all of the topology's objects are made, so many."""
        return replace(self, total=total)


def object_mark(mark: Mark | None) -> ObjectMark | None:
    """Make an object's mark of a device's; None where it is none."""
    if mark is None or mark.owner == RUN:
        return None
    found = _ROLE.fullmatch(mark.role)
    kinds = {kind.value: kind for kind in ObjectKind}
    if found is None or found["kind"] not in kinds:
        return None
    notes = tuple(note for note in found["note"].split(",") if note)
    return ObjectMark(
        mark.owner, found["digest"], kinds[found["kind"]], found["name"], notes, int(found["total"])
    )
