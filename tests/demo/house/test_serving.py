# SPDX-License-Identifier: MIT
"""Asides: acts that the chapter's stage cannot give are carried out on another one, the model's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from pyvmm.demo.house import serving
from pyvmm.demo.house.lines import OpenOn
from pyvmm.demo.house.serving import Serving
from pyvmm.demo.stage.bare import BareStage
from pyvmm.demo.stage.stage import Stage
from pyvmm.demo.telling.acts import MakeVm
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.orders import ActDone, DoAct, NotDone, OpenStage, StageOpened, aside_for
from pyvmm.demo.telling.outcomes import StageHost

PRIVATE = frozenset({Need.PRIVATE})
opened: list[StageHost | None] = []


@asynccontextmanager
async def stage_of_a_kernel_without_private_memory(
    setup: Setup, needs: frozenset[Need], wish: StageHost | None
) -> AsyncIterator[Stage]:
    """In the place of KVM a stage that says it is KVM's, and has nothing that is private."""
    assert setup == Setup()
    assert not needs
    opened.append(wish)
    with BareStage(StageHost.MODEL) as stage:
        if wish is StageHost.KVM:
            stage.staged = replace(stage.staged, host=StageHost.KVM)
            stage.offers = frozenset()
        yield stage


@pytest.fixture(autouse=True)
def _stages(monkeypatch: pytest.MonkeyPatch) -> None:
    opened.clear()
    monkeypatch.setattr(serving, "open_stage", stage_of_a_kernel_without_private_memory)


def held(answer: object) -> tuple[str, ...]:
    assert isinstance(answer, ActDone)
    return answer.outcome.after.held


def test_what_will_be_an_aside_is_told_with_the_stage() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            served = Serving(nursery)
            replay = (DoAct(MakeVm(0), 1), DoAct(MakeVm(3), 1, PRIVATE))
            for host, lacks, held_here, held_aside in (
                (StageHost.KVM, frozenset(Need), ("vm 0",), ("vm 3",)),
                (StageHost.MODEL, frozenset[Need](), ("vm 0", "vm 3"), ()),
            ):
                told = await served.answer(OpenOn(host, OpenStage(Setup(), frozenset(), replay, 1)))
                assert isinstance(told, StageOpened)
                assert told.lacks == lacks
                assert (told.observed.held, told.aside.held) == (held_here, held_aside)
            await served.close()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_asides_share_a_stage_until_the_chapters_is_opened_anew() -> None:
    async def main() -> None:
        order = OpenStage(Setup(), frozenset(), (), 1)
        async with trio.open_nursery() as nursery:
            served = Serving(nursery)
            for _ in range(2):
                await served.answer(OpenOn(StageHost.KVM, order))
                here = await served.answer(DoAct(MakeVm(0), 1))
                assert isinstance(here, ActDone)
                assert (here.staged, held(here)) == (None, ("vm 0",))
                for number in (0, 1):
                    aside = await served.answer(DoAct(MakeVm(number), 1, PRIVATE))
                    assert isinstance(aside, ActDone)
                    assert aside.staged == aside_for(PRIVATE)
                    assert aside.staged.host is StageHost.MODEL
                    assert aside.staged.why.endswith("kernel has no private memory")
                    assert len(held(aside)) == number + 1
                assert isinstance(await served.answer(DoAct(MakeVm(1), 1, PRIVATE)), NotDone)
                assert held(await served.answer(DoAct(MakeVm(1), 1))) == ("vm 0", "vm 1")
            assert opened == [StageHost.KVM, StageHost.MODEL] * 2
            await served.close()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_asides_are_carried_out_again_as_asides() -> None:
    async def main() -> None:
        replay = (DoAct(MakeVm(0), 1), DoAct(MakeVm(1), 1, PRIVATE))
        async with trio.open_nursery() as nursery:
            served = Serving(nursery)
            order = OpenStage(Setup(), frozenset(), replay, 1)
            answer = await served.answer(OpenOn(StageHost.KVM, order))
            assert isinstance(answer, StageOpened)
            assert answer.observed.held == ("vm 0",)
            assert held(await served.answer(DoAct(MakeVm(2), 1, PRIVATE))) == ("vm 1", "vm 2")
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_model_has_no_asides() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            served = Serving(nursery)
            order = OpenStage(Setup(), frozenset(), (), 1)
            await served.answer(OpenOn(StageHost.MODEL, order))
            done = await served.answer(DoAct(MakeVm(0), 1, frozenset({Need.IN_PLACE})))
            assert isinstance(done, ActDone)
            assert done.staged is None
            assert opened == [StageHost.MODEL]
            nursery.cancel_scope.cancel()

    trio.run(main)
