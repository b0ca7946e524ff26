# SPDX-License-Identifier: MIT
"""Acts on a private machine that is there: by its guest, through the mailbox, and by the host."""

from __future__ import annotations

import errno
import secrets
import typing
from dataclasses import dataclass

from pyvmm.demo.stage.mailbox import Mail
from pyvmm.demo.stage.private_machine import GuestSilentError, PrivateMachine
from pyvmm.demo.stage.secret import SIZE, Secret
from pyvmm.demo.telling.acts import (
    ATTEMPT,
    Act,
    Actor,
    Close,
    Convert,
    HideSecret,
    Hole,
    NextExit,
    Read,
    Thing,
    Touch,
    Write,
)
from pyvmm.demo.telling.outcomes import Explained, Seen
from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import GuestMemfd
from pyvmm.hosts.model.refusals import RefusedByRuleError
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import ConversionRequest, Origin, Refusal, Side, plan
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import RegionTable
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.catalogue import REFUSALS

PATIENCE = 10.0
"""Seconds in which an exit comes, or it counts as none: a guest that waits makes none."""
_WORD = 8
_ENCRYPTED = 1 << 4
"""KVM_MAP_GPA_RANGE_ENCRYPTED: what is asked for is private memory."""
_KINDS = {one.__name__: one for one in typing.get_args(exits.Exit)}
_NO_FAULT = Explained(
    "",
    "the access goes to the side that the page's attribute names: on this type of VM it has none "
    "of its own, so nothing is missing",
    "arch/x86/kvm/mmu/mmu.c, kvm_mmu_page_fault",
)


@dataclass(frozen=True, slots=True)
class Done:
    """Answer of an act."""

    errno: int = 0
    value: int | None = None
    explained: Explained | None = None
    seen: tuple[Seen, ...] = ()


class MachineActs:
    """Acts on one machine, which stands still before and behind each."""

    def __init__(self, machine: PrivateMachine) -> None:
        self._machine = machine
        self.secret: Secret | None = None

    async def prepare(self, act: Act) -> None:
        """Check what an act asks for, and let the guest come to where it can be told to do it.

        Raises `UsageError`, and then nothing has been done.
        """
        self._check(act)
        by_guest = isinstance(act, HideSecret | Touch) or (
            isinstance(act, Read | Write | Convert) and act.who is Actor.GUEST
        )
        if by_guest and not await self._machine.get_ready():
            raise UsageError(ATTEMPT, "the guest does not come to where it listens")
        self._check(act)  # Where the mailbox is, is known by now.

    def _check(self, act: Act) -> None:
        match act:
            case Read() | Write() | HideSecret() | Convert() | Touch():
                self._check_memory(act)
            case Hole(file=file):
                self._file(file)
            case Close(what=what, number=number):
                if what is not Thing.FILE:
                    raise UsageError(
                        ATTEMPT, f"the {what.value} is the running machine's own: end it"
                    )
                self._file(number)
            case NextExit(kind=kind):
                if kind != "any" and kind not in _KINDS:
                    raise UsageError(
                        ATTEMPT, f"there is no exit {kind}", f"any, or {', '.join(_KINDS)}"
                    )
            case _:
                raise UsageError(ATTEMPT, "this stage has a running machine, and nothing else")

    def _check_memory(self, act: Read | Write | HideSecret | Convert | Touch) -> None:
        match act:
            case Convert(who=who, gpa=gpa, size=size, side=side):
                if who is Actor.GUEST and size % PAGE_SIZE:
                    raise UsageError(ATTEMPT, "the hypercall counts pages of 4096 bytes")
                if side is Side.PRIVATE:
                    self._spare_mailbox(gpa, size)
                return
            case Read(vm=vm) | Write(vm=vm):
                if vm:
                    raise UsageError(ATTEMPT, f"there is no VM {vm}")
            case HideSecret(gpa=gpa):
                if gpa % _WORD:
                    raise UsageError(ATTEMPT, "a secret lies at a multiple of 8")
                self._spare_mailbox(gpa, SIZE)
            case Touch(gpa=gpa, side=side):
                if not self._region(gpa).region.can_be_private and side is Side.PRIVATE:
                    raise UsageError(ATTEMPT, "this page has no private side")
        self._region(act.gpa)
        if isinstance(act, Write) and act.who is Actor.GUEST:
            self._check_guest_write(act)

    def _check_guest_write(self, act: Write) -> None:
        word = act.gpa // _WORD * _WORD
        self._spare_mailbox(word, _WORD)
        if self._is_secret(word):
            raise UsageError(ATTEMPT, "the guest would have to tell the secret's other bytes")

    def _is_secret(self, word: int) -> bool:
        return self.secret is not None and self.secret.gpa <= word < self.secret.gpa + SIZE

    def _spare_mailbox(self, gpa: int, size: int) -> None:
        mailbox = self._machine.mailbox
        if mailbox is not None and GpaRange(mailbox.gpa, mailbox.gpa + PAGE_SIZE).overlaps(
            GpaRange(gpa, gpa + size)
        ):
            raise UsageError(
                ATTEMPT, f"the guest is told what to do in the page at {mailbox.gpa:#x}"
            )

    def _region(self, gpa: int) -> MemorySides:
        for sides in self._machine.memory.regions.sides():
            if sides.region.range.contains(gpa, 1):
                return sides
        raise UsageError(ATTEMPT, f"there is no memory at {gpa:#x}")

    def _file(self, number: int) -> GuestMemfd:
        file = self._machine.inside.assembly.ram.guest_memfd
        if number or file is None or not file.is_open:
            raise UsageError(ATTEMPT, f"there is no file {number}")
        return file

    async def do(self, act: Act) -> Done:
        """Carry out what `prepare` has let pass. A refusal is an answer."""
        try:
            return await self._do(act)
        except GuestSilentError as silent:
            return Done(errno.ETIMEDOUT, explained=Explained("", silent.cause, ""))
        except SystemCallError as refusal:
            return Done(refusal.errno, explained=_explained(refusal))

    async def _do(self, act: Act) -> Done:
        machine = self._machine
        match act:
            case Read(who=Actor.HOST, gpa=gpa):
                return Done(value=self._region(gpa).read(gpa, 1)[0])
            case Write(who=Actor.HOST, gpa=gpa, value=value):
                self._region(gpa).write(gpa, bytes([value & 0xFF]))
            case Read(gpa=gpa):
                return await self._guest_reads(gpa)
            case Write(gpa=gpa, value=value):
                await self._guest_writes(gpa, value)
            case HideSecret(gpa=gpa):
                secret = Secret(gpa, secrets.randbits(62))
                if await machine.ask(Mail.FILL, gpa, SIZE, secret.seed) is not None:
                    self.secret = secret
            case Convert():
                return await self._convert(act)
            case Touch():
                return await self._touch(act)
            case Hole(file=number, offset=offset, size=size):
                return _punched(self._file(number), offset, size)
            case Close(number=number):
                self._file(number).close()
            case NextExit(kind=kind):
                return await self._next_exit(kind)
        return Done()

    async def _guest_reads(self, gpa: int) -> Done:
        word = gpa // _WORD * _WORD
        complement = await self._machine.ask(Mail.READ, word)
        if complement is None:
            return Done()
        # Of a secret no more than this byte is ever here.
        return Done(value=(complement >> 8 * (gpa - word)) & 0xFF ^ 0xFF)

    async def _guest_writes(self, gpa: int, value: int) -> None:
        word = gpa // _WORD * _WORD
        shift = 8 * (gpa - word)
        complement = await self._machine.ask(Mail.READ, word)
        if complement is not None:
            kept = ~complement & ~(0xFF << shift)
            await self._machine.ask(Mail.WRITE, word, kept | (value & 0xFF) << shift)

    async def _convert(self, act: Convert) -> Done:
        machine = self._machine
        by_guest = act.who is Actor.GUEST
        origin = Origin.GUEST if by_guest else Origin.HOST
        request = ConversionRequest(act.gpa, act.size, act.side, origin)
        regions = RegionTable(tuple(one.region for one in machine.memory.regions.sides()))
        planned = plan(request, regions)
        if by_guest:
            attributes = _ENCRYPTED if act.side is Side.PRIVATE else 0
            pages = act.size // PAGE_SIZE
            result = await machine.ask(Mail.CONVERT, act.gpa, pages, attributes)
            number = -result if result is not None and result < 0 else 0
        else:
            refusal = machine.memory.conversion.carry_out(request, lambda: planned)
            number = 0 if refusal is None else -refusal.hypercall_result
        explained = None
        if number and isinstance(planned, Refusal):
            source = "pyvmm/memory/conversion.py, before the kernel is asked"
            rule = f"conversion-{planned.name.lower().replace('_', '-')}"
            explained = Explained(rule, planned.cause, source)
        elif number and machine.memory.conversion.failures:
            explained = Explained("", machine.memory.conversion.failures[-1], "")
        return Done(number, explained=explained)

    async def _touch(self, act: Touch) -> Done:
        """Have the guest write to a page: what is there already, so that nothing else changes."""
        machine = self._machine
        word = act.gpa // _WORD * _WORD
        was = machine.memory.states.at(act.gpa)
        machine.honours = act.honour
        try:
            if was is PageState.WITHHELD:
                await machine.ask(Mail.WRITE, word, 0)
            else:
                complement = await machine.ask(Mail.READ, word)
                if complement is not None and not self._is_secret(word):
                    await machine.ask(Mail.WRITE, word, ~complement)
        finally:
            machine.honours = True
        return Done(explained=None if was is PageState.WITHHELD else _NO_FAULT)

    async def _next_exit(self, kind: str) -> Done:
        wanted = _KINDS.get(kind, object)
        came = await self._machine.next_exit(lambda one: isinstance(one, wanted), PATIENCE)
        if came or self._machine.ended is not None:
            return Done()
        cause = f"the guest made no such exit within {PATIENCE:g} s: it waits to be told something"
        return Done(errno.ETIMEDOUT, explained=Explained("", cause, ""))


def _punched(file: GuestMemfd, offset: int, size: int) -> Done:
    """Punch a hole. A refusal of the kernel's is explained by the model's of the same."""
    try:
        file.punch_hole(offset, size)
    except SystemCallError as refusal:
        if isinstance(refusal, RefusedByRuleError):
            return Done(refusal.errno, explained=_explained(refusal))
        try:
            with (
                ModelSystem() as system,
                system.create_vm(VmType.SW_PROTECTED) as vm,
                vm.create_guest_memfd(file.size) as same,
            ):
                same.punch_hole(offset, size)
        except SystemCallError as by_rule:
            if by_rule.errno == refusal.errno:
                return Done(refusal.errno, explained=_explained(by_rule))
        unexpected = Explained("", f"the rules say otherwise: {refusal.cause}", "")
        return Done(refusal.errno, explained=unexpected)
    return Done()


def _explained(refusal: SystemCallError) -> Explained:
    """The rule that refuses on the model; where there is none, the kernel's word alone."""
    if isinstance(refusal, RefusedByRuleError):
        found = refusal.refusal
        rules = (rule for each in REFUSALS.values() for rule in each)
        source = next((rule.source for rule in rules if rule.name == found.rule), "")
        return Explained(found.rule, found.cause, source)
    return Explained("", refusal.cause, "")
