# SPDX-License-Identifier: MIT
"""The demo's chapters on a kernel with private memory, and a lab that dies while one is read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.house.houses import open_houses
from pyvmm.demo.playing import Playing, playing, playing_in
from pyvmm.demo.telling.chapter import Need, is_true
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Outcome, StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player
from tests.lab.places import LabAtHand, qemus_of

pytestmark = [pytest.mark.lab, pytest.mark.slow]

OTHERWISE: dict[str, str] = {}
"""Links of steps of whose question no answer comes true in the lab, and why that is so."""
OF_THE_LAB = frozenset(Need) - {Need.IN_PLACE}


async def told(reader: Playing) -> tuple[Moment, ...]:
    await reader.begin()
    while reader.player.view.phase not in {Phase.ENDED, Phase.LOST}:
        await reader.move(Plain.NEXT)
    assert reader.player.view.phase is Phase.ENDED, reader.player.view.notice
    return reader.player.moments


def true_ones(moment: Moment) -> list[str]:
    outcome: Outcome = moment.outcome
    question = moment.step.question
    assert question is not None
    return [one.key for one in question.choices if is_true(one.fact, outcome, moment.before)]


def test_every_question_has_one_answer_in_the_lab(
    lab: LabAtHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All chapters, through one lab, with a reader each; what it lacks is done on the model."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", lab.env["XDG_RUNTIME_DIR"])
    found: dict[str, list[str]] = {}

    async def main() -> None:
        async with open_houses(StageHost.LAB) as houses:
            for chapter in BOOK.chapters:
                async with playing_in(houses, Player(BOOK, chapter.id)) as reader:
                    moments = await told(reader)
                assert [one.step for one in moments] == list(chapter.steps)
                for moment in moments:
                    needs = chapter.needs | moment.step.needs
                    is_there = needs <= OF_THE_LAB and chapter.setup.host_side
                    link = f"{chapter.id}/{moment.step.id}"
                    assert is_there == (moment.staged.host is StageHost.LAB), link
                    assert is_there or moment.staged.why, link
                    if moment.step.question is not None:
                        found[link] = true_ones(moment)

    trio.run(main)
    assert len(found) > len(BOOK.chapters)
    assert {link for link, keys in found.items() if len(keys) != 1} == set(OTHERWISE)


def kill_qemu(folder: Path) -> None:
    for pid in qemus_of(folder):
        if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def test_a_lab_that_dies_in_a_chapter(no_lab: LabAtHand, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(no_lab.env["XDG_RUNTIME_DIR"])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    heard: list[str] = []

    async def main() -> None:
        player = Player(BOOK, BOOK.chapters[0].id)
        async with playing(player, StageHost.LAB, heard.append) as reader:
            await reader.begin()
            staged = [player.view.staged]
            assert heard == [
                "starting a lab, which takes some seconds",
                "the lab is up; now the stage is loaded there",
            ]
            kill_qemu(folder)
            await reader.move(Plain.NEXT)
            phases = [player.view.phase]
            assert player.view.notice.startswith("the lab was lost (")
            await reader.move(Plain.RESTART)
            assert [*phases, player.view.phase] == [Phase.LOST, Phase.ASKING]
            staged.append(player.view.staged)
            assert [one and one.host for one in staged] == [StageHost.LAB, StageHost.MODEL]
            assert staged[1] is not None
            assert staged[1].why.startswith("not in the lab: the lab was lost (")

    trio.run(main)
