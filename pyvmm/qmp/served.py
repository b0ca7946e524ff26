# SPDX-License-Identifier: MIT
"""State that the clients of one QMP server share: the machine, its last dump."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.qmp.event_names import QmpEvent
    from pyvmm.qmp.inspected import Inspected

MonitorLine = Callable[[str, int], Awaitable[str]]
"""Carries out a line of the human monitor for a vCPU; returns its output."""


class Dump:
    """A dump: what `query-dump` tells of it. `error` is why it failed.

    `holds_guest`: the guest would run if it were not for the dump.
    """

    def __init__(self) -> None:
        self.is_active = True
        self.holds_guest = False
        self.total = 0
        self.completed = 0
        self.error: str | None = "the dump was interrupted"

    def told(self) -> Mapping[str, object]:
        """DumpQueryResult of qapi/dump.json."""
        failed = "completed" if self.error is None else "failed"
        status = "active" if self.is_active else failed
        return {"status": status, "completed": self.completed, "total": self.total}


@dataclass(slots=True)
class Served:
    """A machine as a server's commands have it.

    `tell` sends an event to every client; `beside` runs a task, which must not raise, until it
    returns or the server is closed; `execute` carries out a line of the human monitor.
    """

    machine: Inspected
    command_names: Collection[str]
    tell: Callable[[QmpEvent], None]
    beside: Callable[[Callable[[], Awaitable[None]]], object]
    execute: MonitorLine
    dump: Dump | None = None
