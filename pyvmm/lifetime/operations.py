# SPDX-License-Identifier: MIT
"""Operations of user space and of a guest on VMs, files and slots, as values and as text."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple

from pyvmm.lifetime.universe import Feature, Universe


class Kind(enum.Enum):
    """The operations. ``_UNOWNED``: by an ioctl of /dev/kvm, for no VM."""

    CREATE_VM = "create a VM"
    JOIN_VM = "create a helper of a VM"
    MOVE_CONTEXT = "create a VM that takes another's virtual machine over"
    CREATE_VCPU = "create a vCPU"
    PRESERVE_VM = "preserve a VM"
    PRESERVE_FILE = "preserve a file"
    UNPRESERVE = "close the session"
    KEXEC = "kexec"
    RETRIEVE_VM = "retrieve a VM"
    RETRIEVE_FILE = "retrieve a file"
    FINISH = "finish the session"
    CREATE_FILE = "create a guest_memfd"
    CREATE_UNOWNED = "create a guest_memfd for no VM"
    LINK = "link a second file"
    LINK_UNOWNED = "link a second file for no VM"
    BIND = "bind"
    BIND_FAILS = "bind, where memory runs out"
    UNBIND = "delete a slot"
    MOVE = "move a slot"
    DUP_VM = "duplicate a VM's descriptor"
    DUP_FILE = "duplicate a file's descriptor"
    CLOSE_VM = "close a VM's descriptor"
    CLOSE_VCPU = "close a vCPU's descriptor"
    CLOSE_FILE = "close a file's descriptor"
    MAP = "map"
    UNMAP = "unmap"
    FORK = "fork"
    EXIT = "exit"
    GUEST_READ = "the guest reads"
    GUEST_WRITE = "the guest writes"
    HOST_READ = "the host reads"
    PUNCH = "punch a hole"
    PAGE_ERROR = "a page has a memory error"


class Operation(NamedTuple):
    """One operation; fields that its kind does not use are 0.

    `process` acts; `vm`, `file` and `slot` are numbers of the universe; `page` counts from the
    file's start. `of` is the VM whose virtual machine a new one joins or takes over. `private` is 1
    for a VM that has private memory, and for a file that is created without flags, whose memory is
    private.
    """

    kind: Kind
    process: int = 0
    vm: int = 0
    file: int = 0
    slot: int = 0
    page: int = 0
    of: int = 0
    private: int = 0

    def __str__(self) -> str:
        text = _TEXT[self.kind].format(
            p="parent" if self.process == 0 else "child",
            vm=f"vm{self.vm}",
            file=f"file{self.file}",
            slot=f"slot{self.slot}",
            page=f"page{self.page}",
            of=f"vm{self.of}",
        )
        return text + _PRIVATE[self.kind] if self.private else text

    def to_json(self) -> dict[str, object]:
        """As a JSON object: `kind` and the numbers."""
        return {"kind": self.kind.name.lower(), **{n: getattr(self, n) for n in _NUMBERS}}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> Operation:
        """The reverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for others."""
        numbers = {}
        for name in _NUMBERS:
            number = value.get(name, 0) if name in _LATER else value[name]
            if not isinstance(number, int) or not 0 <= number < 256:
                raise ValueError(f"{name}: {number!r} is no number of a universe")
            numbers[name] = number
        return cls(Kind[str(value["kind"]).upper()], **numbers)


_LATER = ("of", "private")
"""Numbers that stories saved earlier lack."""
_NUMBERS = ("process", "vm", "file", "slot", "page", *_LATER)

_TEXT = {
    Kind.CREATE_VM: "{p}: create {vm}",
    Kind.JOIN_VM: "{p}: create {vm}, a helper of {of} in its virtual machine",
    Kind.MOVE_CONTEXT: "{p}: create {vm}, which takes over the virtual machine of {of}",
    Kind.CREATE_VCPU: "{p}: create a vCPU of {vm}",
    Kind.PRESERVE_VM: "agent: preserve {vm}",
    Kind.PRESERVE_FILE: "agent: preserve {file}",
    Kind.UNPRESERVE: "agent: close the session, preserve nothing",
    Kind.KEXEC: "agent: kexec into the next kernel",
    Kind.RETRIEVE_VM: "{p}: retrieve {vm}",
    Kind.RETRIEVE_FILE: "{p}: retrieve {file}",
    Kind.FINISH: "agent: finish the session",
    Kind.CREATE_FILE: "{p}: create {file} for {vm}",
    Kind.CREATE_UNOWNED: "{p}: create {file}, for no VM yet",
    Kind.LINK: "{p}: link another file to the inode of {file}, for {vm}",
    Kind.LINK_UNOWNED: "{p}: link another file to the inode of {file}",
    Kind.BIND: "{p}: bind {slot} of {vm} to {page} of {file}",
    Kind.BIND_FAILS: "{p}: bind {slot} of {vm} to {page} of {file}, and memory runs out",
    Kind.UNBIND: "{p}: delete {slot}",
    Kind.MOVE: "{p}: move {slot} to another address",
    Kind.DUP_VM: "{p}: dup the descriptor of {vm}",
    Kind.DUP_FILE: "{p}: dup the descriptor of {file}",
    Kind.CLOSE_VM: "{p}: close a descriptor of {vm}",
    Kind.CLOSE_VCPU: "{p}: close a vCPU of {vm}",
    Kind.CLOSE_FILE: "{p}: close a descriptor of {file}",
    Kind.MAP: "{p}: mmap {file}",
    Kind.UNMAP: "{p}: munmap {file}",
    Kind.FORK: "{p}: fork",
    Kind.EXIT: "{p}: exit",
    Kind.GUEST_READ: "guest: read through {slot}",
    Kind.GUEST_WRITE: "guest: write through {slot}",
    Kind.HOST_READ: "host: read {page} of {file} through a mapping",
    Kind.PUNCH: "{p}: punch {page} out of {file}",
    Kind.PAGE_ERROR: "hardware: a memory error in {page} of {file}",
}

_PRIVATE = {
    Kind.CREATE_VM: ", with private memory",
    Kind.CREATE_FILE: ", of private memory",
    Kind.CREATE_UNOWNED: ", of private memory",
}

_FIELDS = {"p": "process", **{name: name for name in ("vm", "file", "slot", "page", "of")}}
NUMBERS_OF: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(field for mark, field in _FIELDS.items() if f"{{{mark}}}" in text)
    + (("private",) if kind in _PRIVATE else ())
    for kind, text in _TEXT.items()
}
"""The numbers that an operation of each kind has, by their names."""


def operations(universe: Universe, system_creation: bool) -> Iterator[Operation]:
    """Every operation of a universe; whether it can be done now is for the machine to say.

    With `system_creation` a file is created for no VM.
    """
    creating = Kind.CREATE_UNOWNED if system_creation else Kind.CREATE_FILE
    linking = Kind.LINK_UNOWNED if system_creation else Kind.LINK
    processes, vms = range(universe.processes), range(universe.vms)
    files, slots, pages = range(universe.files), range(universe.slots), range(universe.pages)
    creators = [0] if system_creation else list(vms)
    types = range(universe.types)
    for p in processes:
        for f, v, private in product(files, creators, types):
            yield Operation(creating, p, vm=v, file=f, private=private)
        for v in vms:
            yield from _of_a_vm(universe, p, v)
        held = [Kind.DUP_FILE, Kind.CLOSE_FILE]
        held += [Kind.MAP, Kind.UNMAP] if universe.host_maps else []
        for f, kind in product(files, held):
            yield Operation(kind, p, file=f)
        yield Operation(Kind.EXIT, p)
        if universe.processes > 1:
            yield Operation(Kind.FORK, p)
        yield from _of_another(universe, p)
        if universe.links:
            for f, v in product(files, creators):
                yield Operation(linking, p, vm=v, file=f)
    binding = (Kind.BIND, Kind.BIND_FAILS) if universe.failures else (Kind.BIND,)
    for v, s, f, page, kind in product(vms, slots, files, pages, binding):
        yield Operation(kind, vm=v, slot=s, file=f, page=page)
    for s in slots:
        for kind in (Kind.UNBIND, Kind.MOVE, Kind.GUEST_READ, Kind.GUEST_WRITE):
            yield Operation(kind, slot=s)
    of_pages = [Kind.HOST_READ] if universe.host_maps else []
    of_pages += [Kind.PUNCH, Kind.PAGE_ERROR] if universe.errors else [Kind.PUNCH]
    for f, page, kind in product(files, pages, of_pages):
        yield Operation(kind, file=f, page=page)


def _of_a_vm(universe: Universe, p: int, v: int) -> Iterator[Operation]:
    for private in range(universe.types):
        yield Operation(Kind.CREATE_VM, p, vm=v, private=private)
    kinds = [Kind.DUP_VM, Kind.CLOSE_VM]
    if universe.has(Feature.VCPUS):
        kinds += [Kind.CREATE_VCPU, Kind.CLOSE_VCPU]
    for kind in kinds:
        yield Operation(kind, p, vm=v)
    if universe.updates:
        yield from _updates(universe)


def _updates(universe: Universe) -> Iterator[Operation]:
    """Operations on a session; after kexec `vm` and `file` are the numbers of its records."""
    for v in range(universe.vms):
        yield Operation(Kind.PRESERVE_VM, vm=v)
        yield Operation(Kind.RETRIEVE_VM, vm=v)
    for f in range(universe.files):
        yield Operation(Kind.PRESERVE_FILE, file=f)
        yield Operation(Kind.RETRIEVE_FILE, file=f)
    for kind in (Kind.UNPRESERVE, Kind.KEXEC, Kind.FINISH):
        yield Operation(kind)


def _of_another(universe: Universe, p: int) -> Iterator[Operation]:
    """New VMs of another's virtual machine."""
    kinds = [Kind.MOVE_CONTEXT] if universe.moves else []
    kinds += [Kind.JOIN_VM] if universe.links else []
    for kind, v, of in product(kinds, range(universe.vms), range(universe.vms)):
        if v != of:
            yield Operation(kind, p, vm=v, of=of)
