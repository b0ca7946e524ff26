# SPDX-License-Identifier: MIT
"""Outcomes: what an act came to, as it was recorded on the stage."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from pyvmm.hosts.call_record import SystemCall
from pyvmm.memory.page_states import PageRun


class StageHost(enum.Enum):
    """Host that carries acts out."""

    KVM = "kvm"
    LAB = "lab"
    MODEL = "model"


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


@dataclass(frozen=True, slots=True)
class Observed:
    """State of a stage: what its process holds ("vm 0", "file 1"), and the memory of each VM.

    `memory` has (VM, run) pairs, ascending; `bound` (file, VM, slot) of each binding.
    """

    held: tuple[str, ...] = ()
    memory: tuple[tuple[int, PageRun], ...] = ()
    bound: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one act.

    `errno` is 0 where it worked. `value` is the byte that was read; `exits` are the guest's, in
    words. `after` is the stage's state then.
    """

    calls: tuple[SystemCall, ...]
    exits: tuple[str, ...]
    errno: int
    value: int | None
    explained: Explained | None
    after: Observed
    seconds: float

    @property
    def errno_name(self) -> str:
        """``EINVAL`` and the like; "" where it worked."""
        return errno.errorcode.get(self.errno, str(self.errno)) if self.errno else ""
