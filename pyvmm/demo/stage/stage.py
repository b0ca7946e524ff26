# SPDX-License-Identifier: MIT
"""Protocol of a stage, and the opening of one for a chapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from pyvmm.demo.stage.bare import BareStage
from pyvmm.demo.telling.acts import Act
from pyvmm.demo.telling.chapter import Need, Setup, StageKind
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost
from pyvmm.errors import HostLacksError, PyvmmError


class Stage(Protocol):
    """Real objects that acts are carried out on. Used by one task."""

    @property
    def staged(self) -> Staged:
        """The host."""
        ...

    @property
    def offers(self) -> frozenset[Need]:
        """Abilities of the stage; an act with other needs is an aside, on another one."""
        ...

    async def do(self, act: Act) -> Outcome:
        """Carry an act out: a refusal by the kernel is an outcome.

        Raises `UsageError` for what names no thing of the stage: nothing has been done then.
        """
        ...

    async def observe(self) -> Observed:
        """The state now."""
        ...


@asynccontextmanager
async def open_stage(
    setup: Setup, needs: frozenset[Need], wish: StageHost | None
) -> AsyncIterator[Stage]:
    """A stage on the host wished; without a wish on this machine's KVM if it has what is needed.

    Otherwise on the model, and the stage says why. Everything on it is freed behind the block.
    Raises `HostLacksError` and `NoPermissionError` where a wish cannot be.
    """
    match setup.kind:
        case StageKind.BARE:
            with _opened(needs, wish) as stage:
                yield stage
        case StageKind.PRIVATE:
            from pyvmm.demo.stage.private import open_private_stage  # A machine takes a while.

            with _opened(needs | {Need.PRIVATE}, wish) as bare:
                staged, offers = bare.staged, bare.offers
            async with open_private_stage(setup, staged.host, staged.why, offers) as private:
                yield private
        case StageKind.PINS:
            from pyvmm.demo.stage.pins import open_pins  # So do designs, for the other stages.

            with open_pins(setup, needs, wish) as pins:
                yield pins


def _opened(needs: frozenset[Need], wish: StageHost | None) -> BareStage:
    in_place = Need.IN_PLACE in needs
    if wish is not None:
        stage = BareStage(wish, in_place=in_place)
        lacking = _lacking(stage, needs)
        if not lacking:
            return stage
        stage.close()
        raise HostLacksError(
            f"tell this chapter on {wish.value}", f"it has no {lacking}", "use --host model"
        )
    try:
        stage = BareStage(StageHost.KVM)
    except PyvmmError as error:
        why = f"there is no KVM to be used: {error.cause}"
        return BareStage(StageHost.MODEL, why, in_place=in_place)
    lacking = _lacking(stage, needs)
    if lacking:
        stage.close()
        why = f"this machine's KVM has no {lacking}"
        return BareStage(StageHost.MODEL, why, in_place=in_place)
    return stage


def _lacking(stage: BareStage, needs: frozenset[Need]) -> str:
    return " and no ".join(sorted(one.value for one in needs - stage.offers))
