# SPDX-License-Identifier: MIT
"""``python -m tests.lab.pins_inside MOST``: attacks and replays, with each remedy; the demo.

Run in a lab whose kernel pins files by memslots; one process, because starting Python takes seconds
there. A line of JSON for each set of remedies: `remedies`, `design` as it was found, `reached` by
attack, and of the replay of `MOST` sequences at most (0: all) `steps`, `taken`, `transitions`,
`by_address`, and `differences` as text. Then one for each of `CHAPTERS`: `chapter`, and
`refused` with the reason, or `why` of its stage and `steps`, each with what `answers` the designs
gave, those of the question that came `true`, and if `differing` from the model.
"""

from __future__ import annotations

import json
import sys

import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.playing import playing_here
from pyvmm.demo.telling.chapter import is_true
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player
from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.universe import SMALL, Universe
from pyvmm.replay.attack import Attack, attempt
from pyvmm.replay.plan import Comparison
from pyvmm.replay.remedies import design_of, only, remedies_there

MOST_VMS = 100
"""VMs that try to bind: where a freed VM's address is what is compared, one gets that sooner."""

CHAPTERS = ("pins", "teardown", "slots")
"""Chapters of the demo: about both designs, about Linux's alone, about memslots."""


def main(most: int, universe: Universe = SMALL) -> int:
    """Try each remedy alone, and none; then tell the chapters on this kernel."""
    with System() as system:
        for name in ("", *remedies_there()):
            with only(frozenset([name] if name else [])):
                print(json.dumps(_tried(system, name, most, universe)), flush=True)
    for chapter in CHAPTERS:
        print(json.dumps({"chapter": chapter, **trio.run(_told, chapter)}), flush=True)
    return 0


def _tried(system: System, name: str, most: int, universe: Universe) -> dict[str, object]:
    vms = MOST_VMS if name == "never-rebind" else 1
    reached = {each.name: attempt(system, each, most_vms=vms).reached for each in Attack}
    with Comparison(system, lambda *_: None) as comparison:
        result = comparison.cover(universe, most or None)
    return {
        "remedies": name,
        "design": design_of(system).name,
        "reached": reached,
        "steps": result.tally.steps,
        "lives": result.tally.lives,
        "taken": result.taken,
        "transitions": result.transitions,
        "by_address": result.tally.by_address,
        "differences": ["\n".join(each.lines()) for each in result.differences],
    }


async def _told(chapter: str) -> dict[str, object]:
    async with playing_here(Player(BOOK, chapter), StageHost.KVM) as reader:
        try:
            await reader.begin()
        except HostLacksError as error:
            return {"refused": str(error)}
        while reader.player.view.phase is not Phase.ENDED:
            await reader.move(Plain.NEXT)
        staged = reader.player.view.staged
        moments = reader.player.moments
        return {"why": staged and staged.why, "steps": {one.step.id: _said(one) for one in moments}}


def _said(moment: Moment) -> dict[str, object]:
    outcome, question = moment.outcome, moment.step.question
    choices = question.choices if question is not None else ()
    return {
        "answers": [[one.design, one.answer] for one in outcome.answers],
        "true": [one.key for one in choices if is_true(one.fact, outcome, moment.before)],
        "differing": "differ" in str(outcome.explained),
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
