# SPDX-License-Identifier: MIT
"""Short sequences that show where the designs part: built in, to be drawn or replayed."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.universe import FAMILY, STANDARD, Universe


@dataclass(frozen=True, slots=True)
class Scenario:
    """Operations as file-pins-vm has them, over a universe; `about` is one sentence."""

    name: str
    about: str
    operations: tuple[Operation, ...]
    universe: Universe = STANDARD


_VM0 = Operation(Kind.CREATE_VM)
_VM1 = Operation(Kind.CREATE_VM, vm=1)
_FILE = Operation(Kind.CREATE_FILE)
_BIND = Operation(Kind.BIND)
_WRITE = Operation(Kind.GUEST_WRITE)
_READ = Operation(Kind.GUEST_READ)
_UNBIND = Operation(Kind.UNBIND)
_CLOSE_FILE = Operation(Kind.CLOSE_FILE)
_CLOSE_VM = Operation(Kind.CLOSE_VM)
_BOUND = (_VM0, _FILE, _BIND)

SCENARIOS = (
    Scenario(
        "close-file-while-bound",
        "The file's descriptor is closed while a slot is bound to it, and the guest goes on.",
        (*_BOUND, _WRITE, _CLOSE_FILE, _READ),
    ),
    Scenario(
        "close-vm-keep-file",
        "The VM's descriptor is closed while the file's stays open.",
        (*_BOUND, _CLOSE_VM, _CLOSE_FILE),
    ),
    Scenario(
        "mapping-keeps-vm",
        "Every descriptor is closed; a mapping of the file is left.",
        (*_BOUND, Operation(Kind.MAP), _CLOSE_FILE, _CLOSE_VM, Operation(Kind.UNMAP)),
    ),
    Scenario(
        "rebind-to-another-vm",
        "A slot is deleted, and the file with its contents bound to another VM.",
        (*_BOUND, _WRITE, _UNBIND, _VM1, Operation(Kind.BIND, vm=1), _READ),
    ),
    Scenario(
        "rebind-after-free",
        "The VM is freed, another gets its address, and the file is bound to that one.",
        (*_BOUND, _WRITE, _CLOSE_VM, _VM0, _BIND, _READ),
    ),
    Scenario(
        "slot-again",
        "A slot is deleted and made again: what layouts do in normal life.",
        (*_BOUND, _WRITE, Operation(Kind.MOVE), _UNBIND, _BIND, _READ),
    ),
    Scenario(
        "bind-twice",
        "Two slots want the same page of a file.",
        (*_BOUND, Operation(Kind.BIND, slot=1), Operation(Kind.BIND, slot=1, page=1)),
    ),
    Scenario(
        "punch-while-mapped",
        "A page that the guest has mapped is punched out.",
        (*_BOUND, _WRITE, Operation(Kind.PUNCH), _READ),
    ),
    Scenario(
        "fork-keeps-vm",
        "A child inherits the descriptors; the parent closes its own.",
        (*_BOUND, Operation(Kind.FORK), _CLOSE_VM, _CLOSE_FILE, Operation(Kind.EXIT, 1)),
        FAMILY,
    ),
    Scenario(
        "exit",
        "The process ends with everything open.",
        (*_BOUND, _WRITE, Operation(Kind.MAP), Operation(Kind.EXIT)),
    ),
)
BY_NAME = {each.name: each for each in SCENARIOS}
