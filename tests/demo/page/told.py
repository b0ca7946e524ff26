# SPDX-License-Identifier: MIT
"""Chapters as the model tells them, and a moment in which everything that can be is hostile."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import trio

from pyvmm.demo.page.handout import ToldChapter
from pyvmm.demo.page.run_through import run_through
from pyvmm.demo.playing import playing
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.links import chapter_named
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import (
    Answer,
    Content,
    Explained,
    Observed,
    Resident,
    Seen,
    Staged,
    StageHost,
)
from pyvmm.demo.telling.player import Player
from pyvmm.hosts.call_record import Field, Made, SystemCall
from pyvmm.lifetime.graph_of_scene import Scene
from pyvmm.lifetime.holdings import Holding, Why
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.demo.page.own_book import OWN

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\u202e&\"'\udcff"


@cache
def told(name: str = "guest-memfd", book: Book = OWN) -> ToldChapter:
    """A chapter on the model."""
    chapter = chapter_named(name, book)

    async def main() -> list[ToldChapter]:
        async with playing(Player(book, chapter.id), StageHost.MODEL) as reader:
            await reader.begin()
            return await run_through(reader, [chapter])

    (found,) = trio.run(main)
    return found


def hostile() -> Moment:
    """A moment whose every text is hostile: a guest's, a host's, an error's."""
    moment = next(one for one in told().moments if one.outcome.explained is not None)
    call = SystemCall(
        Made.KERNEL,
        HOSTILE,
        HOSTILE,
        HOSTILE,
        HOSTILE,
        (Field(HOSTILE, b"<b>", 0, None, HOSTILE), Field(HOSTILE, bytes(8), 8, 0, HOSTILE)),
        (Field(HOSTILE, b"\xff" * 64, 0),),
        -1,
        95,
        HOSTILE,
        HOSTILE,
    )
    scene = Scene(
        HOSTILE,
        (("vm0", 1),),
        (Holding("process0", "vm0", Why.DESCRIPTOR),),
        (("vm0", HOSTILE),),
        frozenset(),
        HOSTILE,
    )
    memory = (
        (0, PageRun(GpaRange(0, 40 * PAGE_SIZE), PageState.PRIVATE)),
        (0, PageRun(GpaRange(1 << 40, (1 << 40) + PAGE_SIZE), PageState.WITHHELD)),
    )
    after = Observed(
        held=(HOSTILE,),
        memory=memory,
        resident=(Resident(0, Side.PRIVATE, GpaRange(0, PAGE_SIZE)),),
        measured=b"<" * 48,
        reported=b">" * 48,
        ended=86,
        scenes=((HOSTILE, scene),),
    )
    outcome = replace(
        moment.outcome,
        calls=(call,),
        exits=(HOSTILE,),
        explained=Explained(HOSTILE, HOSTILE, HOSTILE),
        after=after,
        seen=(
            Seen(Road.CORE, 0, Content.SECRET, b"<script>&\"'\x00\xff", 0, HOSTILE),
            Seen(Road.FILE_READ, 4096, Content.REFUSED, errno=95, note=HOSTILE),
        ),
        console=HOSTILE.encode("utf-8", "surrogateescape") + b"\r\nnext\tline\n",
        left_out=((HOSTILE, 3),),
        same_digest=False,
        answers=(Answer(HOSTILE, HOSTILE, (HOSTILE,)),),
    )
    staged = Staged(StageHost.LAB, HOSTILE, HOSTILE)
    step = replace(moment.step, says=HOSTILE, after=HOSTILE)
    return replace(moment, step=step, outcome=outcome, staged=staged, before=Observed())
