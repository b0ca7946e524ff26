# SPDX-License-Identifier: MIT
"""A run without a reader: every step of some chapters, kept for a hand-out."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.demo.page.handout import ToldChapter
from pyvmm.demo.playing import Playing
from pyvmm.demo.telling.chapter import Chapter
from pyvmm.demo.telling.player import Jump, Phase, Plain


async def run_through(playing: Playing, chapters: Sequence[Chapter]) -> list[ToldChapter]:
    """Carry out all steps of `chapters`; `playing` has begun with the first one.

    A chapter whose stage is lost, or cannot be had, is kept as far as it came, and why.
    """
    told = []
    for number, chapter in enumerate(chapters):
        if number:
            await playing.move(Jump(chapter.id))
        told.append(await _chapter(playing, chapter))
    return told


async def _chapter(playing: Playing, chapter: Chapter) -> ToldChapter:
    player = playing.player
    while player.view.phase not in {Phase.ENDED, Phase.LOST}:
        await playing.move(Plain.NEXT)
        if player.view.notice:
            break
    return ToldChapter(chapter, player.moments, player.view.notice)
