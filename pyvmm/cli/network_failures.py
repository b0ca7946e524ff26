# SPDX-License-Identifier: MIT
"""Ends of networks and captures as ``pyvmm run`` tells of them: on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.cli.standard_error import say_to_user
from pyvmm.machine.events import CaptureFailed, MachineEvent, NetworkEnded
from pyvmm.machine.machine import Machine


@contextmanager
def network_failures_told(machine: Machine) -> Iterator[None]:
    """Tell of ends inside of the block, and of those before it."""
    for card in machine.network.cards:
        if card.capture_failure is not None:
            _tell(card.capture_failure)

    def hear(event: MachineEvent) -> None:
        if isinstance(event, NetworkEnded):
            say_to_user(
                f"the network of {event.card} has ended: {event.reason}; the guest has no link"
            )
        elif isinstance(event, CaptureFailed):
            _tell(event)

    with machine.events.listen(hear):
        yield


def _tell(event: CaptureFailed) -> None:
    say_to_user(
        f"cannot write the capture {event.path}: {event.reason}; {event.card} goes on without"
    )
