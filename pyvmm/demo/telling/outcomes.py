# SPDX-License-Identifier: MIT
"""Outcomes: what an act came to, as it was recorded on the stage."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from pyvmm.demo.telling.acts import Road
from pyvmm.hosts.call_record import SystemCall
from pyvmm.lifetime.graph_of_scene import Scene
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun
from pyvmm.rules.abi import EHWPOISON
from pyvmm.rules.rule import errno_name


def name_of(number: int) -> str:
    """``EINVAL`` and the like; the number for one without a name."""
    return errno_name(number) if number in (*errno.errorcode, EHWPOISON) else str(number)


class StageHost(enum.Enum):
    """Host that carries acts out."""

    KVM = "kvm"
    LAB = "lab"
    MODEL = "model"
    MACHINE = "state machine"
    """The model of lifetimes: for designs that the kernel at hand does not have."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Host of a stage; where that is not the one that was wished, `why` says so in a sentence.

    `kernel` is the release of the one that answers, "" on the model.
    """

    host: StageHost
    kernel: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Explained:
    """Rule that an errno comes from: its name, its cause in a line, the place in the kernel."""

    rule: str
    cause: str
    source: str


class Content(enum.Enum):
    """Content of what somebody got, as the stage that knows the secret by its marks can tell."""

    ZERO = "zeroes"
    SECRET = "the secret"
    OTHER = "other bytes"
    REFUSED = "nothing"


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes that an attacker on the host got by a road from the page at a GPA.

    `data` are at most its first 16 bytes, empty where the road was closed: with `errno`, or for
    the reason `note`. A secret's own bytes are here only where the road gave them.
    """

    road: Road
    gpa: int
    content: Content
    data: bytes = b""
    errno: int = 0
    note: str = ""

    @property
    def words(self) -> str:
        """Bytes that they got, in words; by two roads they are no page's."""
        words: str = self.content.value
        if self.content is Content.OTHER:
            words = _BESIDE_MEMORY.get(self.road, words)
        return words


_BESIDE_MEMORY = {Road.REGISTERS: "the registers", Road.EXITS: "the exits"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of one design to an operation, in the words of the model of lifetimes.

    `answer` is "ok", an errno's name, or what was read: "zeroes", "vm0's page", "a freed VM's
    page"; "" where the operation cannot be attempted in this design. `violated` are the properties
    that this step violates (`lifetime.properties`), by their names; nothing that it makes possible.
    """

    design: str
    answer: str
    violated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resident:
    """Pages of a VM that the kernel holds for one side: `range` in bytes of GPA."""

    vm: int
    side: Side
    range: GpaRange


@dataclass(frozen=True, slots=True)
class Observed:
    """State of a stage: what its process holds ("vm 0", "file 1"), and the memory of each VM.

    A thing is in `held` as often as there are descriptors of it. `origins` has pairs of names: a
    file and the VM that made it, a mapping and its file, a vCPU and its VM, also of what is held by
    nobody any more but lives on. `memory` has (VM, run) pairs, ascending; `slots` (VM, slot) of
    each memslot; `bound` (file, VM, slot) of each binding. `resident` is ascending by VM, side and
    range. `alive` says of objects that no descriptor need be left for, by their names ("vm 0",
    "inode 0"), if they exist; None: not to be seen on this host.
    `measured` and `reported` are the digests of the machine that runs, by the monitor's own
    reckoning and by its firmware; b"" without one. `ended` is the guest's status once it ended.
    `scenes` are (design, moment) of the model of lifetimes.
    """

    held: tuple[str, ...] = ()
    memory: tuple[tuple[int, PageRun], ...] = ()
    bound: tuple[tuple[int, int, int], ...] = ()
    resident: tuple[Resident, ...] = ()
    alive: tuple[tuple[str, bool | None], ...] = ()
    measured: bytes = b""
    reported: bytes = b""
    ended: int | None = None
    scenes: tuple[tuple[str, Scene], ...] = ()
    slots: tuple[tuple[int, int], ...] = ()
    origins: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one act.

    `errno` is 0 where it worked. `value` is the byte that was read; `exits` are the guest's, in
    words, and `exited_after` says of each how many of `calls` came before it; () where that was not
    noted. `after` is the stage's state then. `seen` is what an attacker got, `console` what the
    guest wrote meanwhile. `left_out` are calls and exits beyond the most that are kept, and those
    made without Python, by what they were. `same_digest` compares a launch with the one before;
    None for all else. `answers` are those of the designs to an operation; `errno` is the first's.
    """

    calls: tuple[SystemCall, ...]
    exits: tuple[str, ...]
    errno: int
    value: int | None
    explained: Explained | None
    after: Observed
    seconds: float
    seen: tuple[Seen, ...] = ()
    console: bytes = b""
    left_out: tuple[tuple[str, int], ...] = ()
    same_digest: bool | None = None
    answers: tuple[Answer, ...] = ()
    exited_after: tuple[int, ...] = ()

    @property
    def in_order(self) -> tuple[SystemCall | str, ...]:
        """Calls and exits, in the order in which they were kept; exits last where none is known."""
        found: list[SystemCall | str] = list(self.calls)
        for number, exit_ in reversed(tuple(zip(self.exited_after, self.exits, strict=False))):
            found.insert(number, exit_)
        return (*found, *self.exits[len(self.exited_after) :])

    @property
    def was_attempted(self) -> bool:
        """False for an operation that the first design had nothing for; it is no success."""
        return not self.answers or bool(self.answers[0].answer)

    @property
    def errno_name(self) -> str:
        """``EINVAL`` and the like; "" where it worked."""
        return name_of(self.errno) if self.errno else ""
