# SPDX-License-Identifier: MIT
"""Events that a machine sends to its listeners (`Machine.listening`): a closed set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.machine.ending import Ending
from pyvmm.machine.implicit import FaultRefused


@dataclass(frozen=True, slots=True)
class Paused:
    """Every vCPU has stopped because somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The vCPUs run on, or for the first time."""


@dataclass(frozen=True, slots=True)
class WasReset:
    """The machine has been put back to its start: from outside, or because the guest asked."""

    by_guest: bool = False


@dataclass(frozen=True, slots=True)
class PowerdownAsked:
    """Somebody pressed the power button. Our machines have none that a guest could see."""


@dataclass(frozen=True, slots=True)
class AccessRefused:
    """vCPU `vcpu` touched memory that nothing gives it; the run ends."""

    vcpu: int
    fault: FaultRefused


@dataclass(frozen=True, slots=True)
class Ended:
    """No vCPU runs any more."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class Dumped:
    """A dump of memory is over: `completed` of `total` bytes are written; `error` says why."""

    total: int
    completed: int
    error: str | None = None


MachineEvent: TypeAlias = (
    Paused | Resumed | WasReset | PowerdownAsked | AccessRefused | Dumped | Ended
)
Listener: TypeAlias = Callable[[MachineEvent], None]
"""Called in the machine's trio thread; does not wait and does not raise."""
