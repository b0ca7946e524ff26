# SPDX-License-Identifier: MIT
"""Acts: the closed set of things that a step, or a reader who tries something, does to a stage.

Each has one line of words, which `parse_act` takes back: ``read host 0 0x1000``.
"""

from __future__ import annotations

import difflib
import enum
import re
import typing
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeAlias

from pyvmm.errors import UsageError
from pyvmm.memory.conversion import Side

_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,19}")
_WORD = re.compile(r"[a-zA-Z0-9_:,=-]{1,80}")
ATTEMPT = "try something in the demo"
"""Attempt that an error about an act names."""


class Thing(enum.Enum):
    """Kind of thing that a process holds."""

    VM = "vm"
    FILE = "file"
    MAPPING = "mapping"
    VCPU = "vcpu"


class Until(enum.Enum):
    """Place where a machine that was booted stands still."""

    RESET = "reset-vector"
    """Before the firmware's first instruction: `NextExit` goes through the firmware, too."""
    GUEST = "first-instruction"
    """Before the guest's first instruction: firmware and staging area are gone."""
    READY = "mailbox"
    """The guest has shared a page, at which it waits to be told what to do."""


class Actor(enum.Enum):
    """Party that acts on memory."""

    GUEST = "guest"
    HOST = "host"


class Change(enum.Enum):
    """Change of one input of a private machine's launch, against the one before.

    Changes add up: each is made to what was booted before.
    """

    NONE = "none"
    """Back to the first machine, without any."""
    KERNEL_BYTE = "kernel-byte"
    """One bit of one byte of the guest's image."""
    APPEND = "append"
    """The command line."""
    MEMORY = "memory"
    """The size of memory."""
    INITRD = "initrd"
    STDIN = "stdin"
    """Input typed at the console, which is no input of the launch."""
    FORGED_REPORT = "forged-report"
    """The image, and a monitor that writes the digest of the right one into the report."""


class Road(enum.Enum):
    """Road on which somebody on the host tries to get at a page."""

    API = "api"
    """The monitor's own reading of guest memory."""
    MAPPING = "mapping"
    """The host's mapping behind the memslot."""
    PROC_MEM = "proc-mem"
    """/proc/self/mem at that mapping's address."""
    VM_READV = "process-vm-readv"
    FILE_READ = "pread"
    """pread(2) of the guest_memfd."""
    FILE_MMAP = "mmap"
    """mmap(2) of the guest_memfd."""
    QMP_DUMP = "qmp-dump"
    """dump-guest-memory over QMP."""
    CORE = "core"
    """A core file of the monitor's process."""
    OTHER_VM = "other-vm"
    """A slot of another VM, bound to the file."""
    SEARCH = "search"
    """A search of everything that the process has mapped."""
    REGISTERS = "registers"
    """The vCPU's registers."""
    EXITS = "exit-log"
    """The record of the guest's exits."""


@dataclass(frozen=True, slots=True)
class MakeVm:
    """KVM_CREATE_VM: VM number `vm` of the stage, with private memory or without."""

    vm: int
    private: bool = False


@dataclass(frozen=True, slots=True)
class MakeFile:
    """KVM_CREATE_GUEST_MEMFD of `size` bytes; `flags` as api.rst 4.142 has them."""

    vm: int
    file: int
    size: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class SetSlot:
    """Set a memslot of `size` bytes at a GPA; `file` -1: none. Offsets and sizes are in bytes.

    `host_side`: it has memory of the host's, which stays the slot's on later calls; without it is
    0. `flags` beside KVM_MEM_GUEST_MEMFD, which a file implies.
    """

    vm: int
    slot: int
    gpa: int
    size: int
    file: int = -1
    file_offset: int = 0
    flags: int = 0
    host_side: bool = True


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """KVM_SET_MEMORY_ATTRIBUTES of `size` bytes at a GPA to a side."""

    vm: int
    gpa: int
    size: int
    side: Side


@dataclass(frozen=True, slots=True)
class Close:
    """Close a descriptor, or unmap."""

    what: Thing
    number: int


@dataclass(frozen=True, slots=True)
class MapFile:
    """mmap(2) of a file, shared."""

    file: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Punch a hole into a file: `size` bytes at a file offset."""

    file: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Read:
    """One byte of guest memory at a GPA, as guest or host sees it."""

    who: Actor
    vm: int
    gpa: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write a byte of guest memory at a GPA."""

    who: Actor
    vm: int
    gpa: int
    value: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """dup(2) of a descriptor; the new one is one more of the same thing."""

    what: Thing
    number: int


@dataclass(frozen=True, slots=True)
class Boot:
    """Make a machine with private memory, one input changed, and let it run `until` then.

    The machine that there was is closed before.
    """

    change: Change = Change.NONE
    until: Until = Until.GUEST


@dataclass(frozen=True, slots=True)
class NextExit:
    """Let vCPU 0 go on to its next exit of `kind`, a class of `hosts.exits`; "any": the next."""

    kind: str = "any"


@dataclass(frozen=True, slots=True)
class HideSecret:
    """The guest writes a secret of 16 bytes to private memory at a GPA.

    Neither host nor demo has its bytes anywhere: it is known by what is told of it alone.
    """

    gpa: int


@dataclass(frozen=True, slots=True)
class Convert:
    """Convert `size` bytes at a GPA: by the guest's hypercall, or by the host alone."""

    who: Actor
    gpa: int
    size: int
    side: Side


@dataclass(frozen=True, slots=True)
class Touch:
    """The guest writes to a page as one of `side`, unannounced, and changes nothing in it.

    `honour`: the monitor converts it, where KVM asks.
    """

    gpa: int
    side: Side
    honour: bool = True


@dataclass(frozen=True, slots=True)
class Attack:
    """Try to get at the page at a GPA by a road."""

    road: Road
    gpa: int


@dataclass(frozen=True, slots=True)
class Operate:
    """One operation of the model of lifetimes (`lifetime.operations`), on the stage's designs.

    As `Kind`'s name and numbers: ``close-vm``, ``bind:vm=1,slot=1``.
    """

    operation: str


@dataclass(frozen=True, slots=True)
class ConvertInPlace:
    """Convert `size` bytes at a file offset by the guest_memfd's descriptor, in place."""

    file: int
    offset: int
    size: int
    side: Side


@dataclass(frozen=True, slots=True)
class HoldPage:
    """Take a reference on the page of a file at an offset, as a driver does for DMA, or drop it."""

    file: int
    offset: int
    held: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """Close the machine, and all that the stage has."""


@dataclass(frozen=True, slots=True)
class Look:
    """Do nothing: a step that only shows."""


Act: TypeAlias = (
    MakeVm
    | MakeFile
    | SetSlot
    | SetAttributes
    | Close
    | Duplicate
    | MapFile
    | Hole
    | Read
    | Write
    | Boot
    | NextExit
    | HideSecret
    | Convert
    | Touch
    | Attack
    | Operate
    | ConvertInPlace
    | HoldPage
    | End
    | Look
)

NAMES: dict[str, type[Any]] = {
    "make-vm": MakeVm,
    "make-file": MakeFile,
    "set-slot": SetSlot,
    "set-attributes": SetAttributes,
    "close": Close,
    "dup": Duplicate,
    "map-file": MapFile,
    "hole": Hole,
    "read": Read,
    "write": Write,
    "boot": Boot,
    "next-exit": NextExit,
    "hide-secret": HideSecret,
    "convert": Convert,
    "touch": Touch,
    "attack": Attack,
    "operate": Operate,
    "convert-in-place": ConvertInPlace,
    "hold-page": HoldPage,
    "end": End,
    "look": Look,
}
"""Acts by the first of their words."""
_WORDS = {kind: name for name, kind in NAMES.items()}


def act_words(act: Act) -> str:
    """The act's line: `parse_act` gives the act for it. Arguments at their defaults are left out.

    Those at the end alone: an argument has no name.
    """
    given = [(field, getattr(act, field.name)) for field in fields(act)]
    while given and given[-1][0].default == given[-1][1]:
        given.pop()
    return " ".join((_WORDS[type(act)], *(_word(value) for _, value in given)))


def parse_act(words: str) -> Act:
    """The act for a line. Raises `UsageError`, which names the nearest one or the arguments."""
    first, *rest = words.split() or [""]
    kind = NAMES.get(first)
    if kind is None:
        near = difflib.get_close_matches(first, NAMES, 1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise UsageError(ATTEMPT, f"there is no {first!r:.40}", remedy)
    arguments = _arguments(kind)
    usage = " ".join((first, *arguments))
    if len(rest) > len(arguments):
        raise UsageError(ATTEMPT, f"{first} has {len(arguments)} arguments", usage)
    values = {}
    for (name, (hint, has_default)), word in zip(arguments.items(), _padded(rest), strict=False):
        if word is None:
            if not has_default:
                raise UsageError(ATTEMPT, f"{first} lacks its {name}", usage)
            continue
        values[name] = _value(hint, name, word)
    made: Act = kind(**values)
    return made


def _padded(words: list[str]) -> typing.Iterator[str | None]:
    yield from words
    while True:
        yield None


def _arguments(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(kind)
    declared = fields(kind)
    return {one.name: (hints[one.name], one.default is not MISSING) for one in declared}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, int):
        return f"{value:#x}" if value >= 1024 else str(value)
    return str(value)


def _value(hint: Any, name: str, word: str) -> Any:
    if hint is str:
        if _WORD.fullmatch(word) is None:
            raise UsageError(ATTEMPT, f"{word!r:.40} is no {name}")
        return word
    if hint is bool:
        choices = {"yes": True, "no": False}
    elif hint is int:
        if word == "-1":
            return -1
        if _NUMBER.fullmatch(word) is None:
            raise UsageError(ATTEMPT, f"{word!r:.40} is no number for {name}", "as 4096 or 0x1000")
        return int(word, 0) if word.startswith("0x") else int(word, 10)
    else:
        choices = {one.value: one for one in hint}
    if word not in choices:
        raise UsageError(ATTEMPT, f"{word!r:.40} is no {name}", f"one of {', '.join(choices)}")
    return choices[word]
