# SPDX-License-Identifier: MIT
"""A private stage: a machine with private memory whose guest does as it is told.

The guest is the bundled ``mailbox``. Between two acts the machine is paused.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from pyvmm.demo.stage.private_acts import Done, MachineActs
from pyvmm.demo.stage.private_launch import LaunchInputs
from pyvmm.demo.stage.private_machine import PrivateMachine
from pyvmm.demo.stage.private_observed import observed
from pyvmm.demo.stage.private_record import PrivateRecord
from pyvmm.demo.stage.secret import Secret
from pyvmm.demo.telling.acts import ATTEMPT, Act, Attack, Boot, End, Look, Until
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.machine.config import HostChoice

_OFFERS = frozenset({Need.PRIVATE, Need.GUEST_MEMFD})
_CHOICES = {StageHost.KVM: HostChoice.KVM, StageHost.MODEL: HostChoice.MODEL}


@dataclass(frozen=True, slots=True)
class _Booted:
    """Launch that was before: its inputs, and the digest that one saw of it."""

    inputs: LaunchInputs
    digest: bytes


class PrivateStage:
    """A stage with at most one machine at a time. Made by `open_private_stage`; one task."""

    def __init__(
        self,
        nursery: trio.Nursery,
        setup: Setup,
        host: StageHost,
        why: str = "",
        offers: frozenset[Need] = _OFFERS,
    ) -> None:
        """`why` it is not on the host that one would expect. Raises `HostLacksError`."""
        if host not in _CHOICES:
            raise HostLacksError(
                "open a stage", f"a stage on the {host.value} is opened inside of it"
            )
        self.staged = Staged(host, platform.release() if host is StageHost.KVM else "", why)
        self.offers = offers
        self._nursery = nursery
        self._first = LaunchInputs.of(setup)
        self._record = PrivateRecord()
        self._machine: PrivateMachine | None = None
        self._acts: MachineActs | None = None
        self._before: _Booted | None = None
        self._answered: Counter[str] = Counter()

    @property
    def machine(self) -> PrivateMachine:
        """The machine. Raises `UsageError` where there is none."""
        if self._machine is None:
            raise UsageError(ATTEMPT, "there is no machine: boot one first")
        return self._machine

    @property
    def secret(self) -> Secret | None:
        """The secret that the guest was last told to make."""
        return None if self._acts is None else self._acts.secret

    async def do(self, act: Act) -> Outcome:
        """Carry an act out. Raises `UsageError` for one that cannot be asked for here.

        And a `PyvmmError` where the machine failed: the stage is of no use then.
        """
        left_out: tuple[tuple[str, int], ...] = ()
        began = time.perf_counter()
        same_digest: bool | None = None
        done = Done()
        match act:
            case Boot():
                self._record.take()
                same_digest = await self._boot(act)
            case End():
                self._record.take()
                await self.close()
            case Look():
                self._record.take()
            case Attack():
                self._there()
                self._record.take()
                done = await self._attack(act)
            case _:
                acts = self._there()
                await acts.prepare(act)
                if before := self._record.take().total:
                    left_out = (("calls and exits until the guest listened", before),)
                began = time.perf_counter()
                done = await acts.do(act)
        seconds = time.perf_counter() - began
        kept = self._record.take()
        left_out += kept.left_out + await self._in_c()
        after = self._observed()
        self._record.take()  # Asking the kernel what is resident belongs to no act.
        return Outcome(
            kept.calls,
            kept.exits,
            done.errno,
            done.value,
            done.explained,
            after,
            seconds,
            seen=done.seen,
            console=b"" if self._machine is None else self._machine.said.take(),
            left_out=left_out,
            same_digest=same_digest,
            exited_after=kept.exited_after,
        )

    async def _in_c(self) -> tuple[tuple[str, int], ...]:
        """Count what C answered since the last call of this."""
        if self._machine is None:
            self._answered = Counter()
            return ()
        before, self._answered = self._answered, await self._machine.answered_in_c()
        return tuple((self._answered - before).items())

    async def _attack(self, act: Attack) -> Done:
        from pyvmm.demo.stage.attackers.attack import attack  # Most acts are no attacks.
        from pyvmm.demo.stage.attackers.explaining import explained
        from pyvmm.demo.stage.attackers.target import Target

        machine = self.machine
        target = Target(
            machine.inside, machine.inputs, self._record, self.secret, self._record.log()
        )
        seen = await attack(act.road, target, act.gpa)
        return Done(seen.errno, explained=explained(seen), seen=(seen,))

    async def observe(self) -> Observed:
        """The state of the stage now."""
        return self._observed()

    def _observed(self) -> Observed:
        return Observed() if self._machine is None else observed(self._machine)

    def _there(self) -> MachineActs:
        ended, acts = self.machine.ended, self._acts
        assert acts is not None
        if ended is not None:
            raise UsageError(ATTEMPT, f"the guest has ended ({ended}): boot it again first")
        return acts

    async def _boot(self, act: Boot) -> bool | None:
        before = self._before
        base = self._first if before is None else before.inputs
        inputs = base.changed(act.change)
        if act.change.value == "none":
            inputs = self._first
        await self.close()
        self._answered = Counter()
        self._record.take()
        machine = await PrivateMachine.open(
            self._nursery, inputs, _CHOICES[self.staged.host], self._record
        )
        self._machine, self._acts = machine, MachineActs(machine)
        if act.until is not Until.RESET and await machine.launch() and act.until is Until.READY:
            await machine.get_ready()
        self._before = _Booted(inputs, machine.reported or machine.measured)
        return None if before is None else before.digest == self._before.digest

    async def close(self) -> None:
        """Close the machine; a second call does nothing."""
        machine, self._machine, self._acts = self._machine, None, None
        if machine is not None:
            await machine.close()


@asynccontextmanager
async def open_private_stage(
    setup: Setup, host: StageHost, why: str = "", offers: frozenset[Need] = _OFFERS
) -> AsyncIterator[PrivateStage]:
    """A private stage; its machine ends with the block. Raises as `PrivateStage`."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            stage = PrivateStage(nursery, setup, host, why, offers)
            try:
                yield stage
            finally:
                with trio.CancelScope(shield=True):
                    await stage.close()
        except BaseException as raised:  # noqa: BLE001 - raised again, without a group
            failure = raised
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
