# SPDX-License-Identifier: MIT
"""Every ending and event of a machine has its place in QMP's."""

from __future__ import annotations

import pytest

from pyvmm.machine.ending import Ending, EndingKind, Requester
from pyvmm.machine.events import (
    AccessRefused,
    Ended,
    MachineEvent,
    Paused,
    PowerdownAsked,
    Resumed,
    WasReset,
)
from pyvmm.machine.implicit import FaultRefused
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.qmp.event_names import QmpEvent, dump_completed, qmp_events, shutdown

CAUSES = {
    "none", "host-error", "host-qmp-quit", "host-qmp-system-reset", "host-signal", "host-ui",
    "guest-shutdown", "guest-reset", "guest-panic", "subsystem-reset",
}  # fmt: skip
"""ShutdownCause of qapi/run-state.json."""


@pytest.mark.parametrize("kind", EndingKind)
@pytest.mark.parametrize("requester", [None, *Requester])
def test_every_ending_is_a_shutdown_with_a_cause_that_qemu_knows(
    kind: EndingKind, requester: Requester | None
) -> None:
    told = shutdown(Ending(kind, "so it goes", requester=requester))
    assert told.name == "SHUTDOWN"
    assert told.data is not None
    assert set(told.data) == {"guest", "reason"}
    assert told.data["reason"] in CAUSES
    # QEMU's order: what the guest causes comes after what the host does.
    assert told.data["guest"] is str(told.data["reason"]).startswith("guest")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending(EndingKind.EXITED, "", 0), "guest-shutdown"),
        (Ending(EndingKind.RESET, ""), "guest-reset"),
        (Ending(EndingKind.TRIPLE_FAULT, ""), "guest-reset"),
        (Ending(EndingKind.PANICKED, ""), "guest-panic"),
        (Ending(EndingKind.MEMORY_REFUSED, ""), "host-error"),
        (Ending(EndingKind.INTERRUPTED, "", requester=Requester.QMP), "host-qmp-quit"),
        (Ending(EndingKind.INTERRUPTED, "", requester=Requester.SIGNAL), "host-signal"),
        (Ending(EndingKind.INTERRUPTED, "", requester=Requester.TERMINAL), "host-ui"),
        (None, "host-error"),
    ],
)
def test_causes(ending: Ending | None, reason: str) -> None:
    told = shutdown(ending)
    assert told.data is not None
    assert told.data["reason"] == reason


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Paused(), [QmpEvent("STOP")]),
        (Resumed(), [QmpEvent("RESUME")]),
        (PowerdownAsked(), [QmpEvent("POWERDOWN")]),
        (
            WasReset(),
            [QmpEvent("RESET", {"guest": False, "reason": "host-qmp-system-reset"})],
        ),
        (
            WasReset(by_guest=True),
            [QmpEvent("RESET", {"guest": True, "reason": "guest-reset"})],
        ),
        (
            Ended(Ending(EndingKind.PANICKED, "")),
            [
                QmpEvent("GUEST_PANICKED", {"action": "poweroff"}),
                QmpEvent("SHUTDOWN", {"guest": True, "reason": "guest-panic"}),
            ],
        ),
        (
            AccessRefused(
                1,
                FaultRefused(
                    0x5008,
                    8,
                    private_access=True,
                    cause="there is no memory",
                    runs=(PageRun(GpaRange(0x4000, 0x6000), PageState.SHARED),),
                ),
            ),
            [
                QmpEvent(
                    "X_PYVMM_MEMORY_REFUSED",
                    {
                        "cpu-index": 1,
                        "gpa": 0x5008,
                        "size": 8,
                        "access": "private",
                        "cause": "there is no memory",
                        "page-map": [{"start": 0x4000, "end": 0x6000, "state": "shared"}],
                    },
                )
            ],
        ),
    ],
)
def test_events(event: MachineEvent, expected: list[QmpEvent]) -> None:
    assert list(qmp_events(event)) == expected


def test_the_end_of_a_dump() -> None:
    result: dict[str, object] = {"total": 8192, "status": "completed", "completed": 8192}
    assert dump_completed(8192, 8192, None) == QmpEvent("DUMP_COMPLETED", {"result": result})
    failed = {"total": 8192, "status": "failed", "completed": 4096}
    told = {"result": failed, "error": "no space"}
    assert dump_completed(8192, 4096, "no space") == QmpEvent("DUMP_COMPLETED", told)
