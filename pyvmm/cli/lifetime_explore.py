# SPDX-License-Identifier: MIT
"""``pyvmm lifetime explore``: every state, or every order of steps, and what holds there."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.progress import Progress
from pyvmm.cli.standard_output import print_answer
from pyvmm.cli.story_files import check_outputs, save, write_text
from pyvmm.errors import ExitCode, SystemCallError, UsageError
from pyvmm.lifetime.adapting import DESIGNS, design_named, universe_named
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.explorer import Exploration, explore
from pyvmm.lifetime.locks import Protection
from pyvmm.lifetime.properties import BY_NAME, Role
from pyvmm.lifetime.race_starts import PROTECTIONS, scenarios
from pyvmm.lifetime.races import Races, run_races
from pyvmm.lifetime.steps import Locking
from pyvmm.lifetime.story import Story
from pyvmm.visible import visible


def command(options: argparse.Namespace) -> int:
    """Explore and print."""
    designs = _designs(options)
    outputs = _outputs(options)
    check_outputs(outputs)
    if options.interleave is not None:
        return _interleave(options, designs)
    if options.drop:
        raise UsageError("leave out a lock", "that is for --interleave", "add --interleave 2")
    universe = universe_named(options.universe)
    progress = Progress()
    told: list[str] = [f"universe {universe}"]
    found: list[dict[str, object]] = []
    stories: list[Story] = []
    for design in designs:
        begun = time.monotonic()

        def look(states: int, waiting: int, name: str = design.name) -> None:
            progress.tell(f"{name}: states", states - waiting, states)

        exploration = explore(design, universe, progress=look)
        seconds = time.monotonic() - begun
        told += _lines(exploration, seconds)
        found.append(_as_json(exploration, seconds))
        stories += exploration.stories.values()
    progress.done()
    answer: dict[str, object] = {"universe": str(universe), "designs": found}
    if options.save is not None:
        try:
            count = save(stories, Path(options.save), outputs)
        except SystemCallError:
            # What took so long to find out is not lost with a file.
            _answer(options, told, answer)
            raise
        told += ["", f"{count} stories saved in {visible(options.save)}"]
    _answer(options, told, answer)
    return ExitCode.OK


def _designs(options: argparse.Namespace) -> list[Design]:
    if options.design is None and options.remedy:
        return [design_named("memslot-pins-file", options.remedy)]
    return [design_named(name, options.remedy) for name in options.design or DESIGNS]


def _outputs(options: argparse.Namespace) -> list[NamedFile]:
    if options.json in (None, "-"):
        return []
    return [NamedFile("what was found", Path(options.json))]


def _answer(options: argparse.Namespace, told: Sequence[str], found: dict[str, object]) -> None:
    if options.json == "-":
        print_answer(json.dumps(found, indent=1))
        return
    try:
        for output in _outputs(options):
            write_text(output, json.dumps(found, indent=1) + "\n")
    finally:
        print_answer("\n".join(told))


def _lines(found: Exploration, seconds: float) -> list[str]:
    told = [
        "",
        f"{found.design.name}: {found.states} states, {found.transitions} transitions, "
        f"{found.depth} steps deep, {seconds:.1f} s",
    ]
    for name in found.checked:
        prop = BY_NAME[name]
        story = found.stories.get(name)
        if prop.role is Role.POSSIBILITY:
            word = "not possible" if story is None else "possible, by the shortest story:"
        else:
            word = "holds" if story is None else "does NOT hold; the shortest story:"
        told.append(f"  {name}: {word}")
        told.append(f"    ({prop.sentence})")
        if story is not None:
            told += [f"      {line}" for line in story.lines()]
    return told


def _as_json(found: Exploration, seconds: float) -> dict[str, object]:
    return {
        "design": found.design.name,
        "states": found.states,
        "transitions": found.transitions,
        "depth": found.depth,
        "seconds": round(seconds, 3),
        "operations": {
            f"{kind.name.lower()} {outcome}": times
            for (kind, outcome), times in sorted(
                found.operations.items(), key=lambda item: (item[0][0].name, item[0][1])
            )
        },
        "holds": {name: found.holds(name) for name in found.checked},
        "stories": [story.to_json() for story in found.stories.values()],
    }


# Operations at the same time


def _interleave(options: argparse.Namespace, designs: list[Design]) -> int:
    if options.interleave not in (2, 3):
        raise UsageError(f"interleave {options.interleave} operations", "it is 2 or 3")
    if options.save is not None:
        raise UsageError(
            "save interleavings", "no kernel can be made to repeat them", "leave --save out"
        )
    dropped = frozenset(_protection(name) for name in options.drop)
    progress = Progress()
    told: list[str] = []
    found: list[dict[str, object]] = []
    for locking in _lockings(designs):
        if dropped - set(PROTECTIONS[locking]):
            told += ["", f"{locking.value}", "  does not have what is to be left out"]
            continue

        def look(done: int, total: int, name: str = locking.name) -> None:
            progress.tell(f"{name}: scenarios", done, total)

        begun = time.monotonic()
        sizes = range(1, options.interleave + 1)
        races = run_races(locking, scenarios(sizes), dropped=dropped, progress=look)
        seconds = time.monotonic() - begun
        told += _race_lines(races, seconds)
        found.append(_race_as_json(races, seconds))
    progress.done()
    _answer(options, told[1:], {"lockings": found})
    return ExitCode.OK


def _lockings(designs: list[Design]) -> list[Locking]:
    """The lockings of designs: Linux's has variants; remedies change nothing about locks."""
    chosen: list[Locking] = []
    for design in designs:
        if design.system_creation:
            chosen.append(Locking.PROPOSAL)
        else:
            chosen += [each for each in Locking if each is not Locking.PROPOSAL]
    return list(dict.fromkeys(chosen))


def _protection(name: str) -> Protection:
    known = {each.name.lower().replace("_", "-"): each for each in Protection}
    if name not in known:
        raise UsageError(
            f"leave out {name!r}", "there is no such protection", f"it is one of {', '.join(known)}"
        )
    return known[name]


def _race_lines(races: Races, seconds: float) -> list[str]:
    told = ["", races.locking.value]
    if races.dropped:
        told.append("  without " + "; ".join(sorted(each.value for each in races.dropped)))
    told.append(
        f"  covered: {races.scenarios} scenarios, {races.states} states, {races.steps} steps, "
        f"{races.schedules} complete schedules, {seconds:.1f} s"
    )
    if not races.harms:
        told.append("  no harm in any order")
    for harm, schedule in races.harms.items():
        told.append(f"  {harm.value}; a shortest schedule:")
        told += [f"      {line}" for line in schedule.lines()]
    return told


def _race_as_json(races: Races, seconds: float) -> dict[str, object]:
    return {
        "locking": races.locking.name.lower(),
        "dropped": sorted(each.name.lower() for each in races.dropped),
        "scenarios": races.scenarios,
        "states": races.states,
        "steps": races.steps,
        "schedules": races.schedules,
        "seconds": round(seconds, 3),
        "harms": {
            harm.name.lower(): {
                "scenario": str(schedule.scenario),
                "steps": [[t, name] for t, name in schedule.steps],
            }
            for harm, schedule in races.harms.items()
        },
    }
