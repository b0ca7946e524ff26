# SPDX-License-Identifier: MIT
"""``pyvmm lifetime replay``: the model and the real KVM side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.progress import Progress
from pyvmm.cli.standard_output import folding_width, print_answer
from pyvmm.cli.story_files import check_outputs, read_stories
from pyvmm.errors import ExitCode, UsageError
from pyvmm.folded import folded
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.adapting import universe_named
from pyvmm.replay import plan
from pyvmm.replay.failing_bindings import counted
from pyvmm.replay.means import IN_WORDS, RACES, Means
from pyvmm.replay.plan import Comparison, Result

DIFFERS = 1


def command(options: argparse.Namespace) -> int:
    """Replay, print, and say by the exit code whether the kernel did as the model."""
    if options.count is not None and options.count < 1:
        raise UsageError(f"replay {options.count} sequences", "that is none", "give 1 or more")
    if options.files and options.universe:
        raise UsageError("replay stories over a universe", "each story names its own")
    check_outputs([], [NamedFile("a story", Path(name)) for name in options.files])
    stories = [story for name in options.files for story in read_stories(name)]
    universes = [universe_named(name) for name in options.universe or ()] or plan.UNIVERSES
    progress = Progress()
    results: list[Result] = []
    with System() as system, Comparison(system, progress.tell) as comparison:
        if options.files:
            results += comparison.follow("stories", stories)
        else:
            for universe in universes:
                results.append(comparison.cover(universe, options.count))
            results += comparison.follow("shortest stories", plan.shortest_stories())
        progress.done()
        unseen = comparison.unseen
        profile = comparison.design.profile.name
        design = comparison.design.name
        means = comparison.means
    if options.json:
        found = {
            "host": "kvm",
            "design": design,
            "profile": profile,
            "life_of_vms": unseen or "observed",
            "results": [result.to_json() for result in results],
            "failed_bindings": {
                ending.name.lower(): count for ending, count in counted(means.failed).items()
            },
            "not_replayable": {
                **{feature.value: why for feature, why in means.why_not.items()},
                "schedules": RACES,
            },
        }
        print_answer(json.dumps(found, indent=1))
    else:
        *lines, differences = _lines(results, unseen, profile, design)
        told = [*lines, *_beside(means), differences]
        print_answer(folded(told, folding_width()))
    return DIFFERS if any(result.differences for result in results) else ExitCode.OK


def _lines(results: list[Result], unseen: str, profile: str, design: str) -> list[str]:
    told = [f"kernel: behaves as '{profile}'", f"design: {design}"]
    if unseen:
        told.append(f"whether VMs live was not observed: {unseen}")
    for result in results:
        tally = result.tally
        told.append(
            f"{result.name}: {tally.sequences} sequences, {tally.steps} steps in "
            f"{result.seconds:.1f} s ({result.per_minute:.0f} a minute)"
        )
        if result.transitions:
            told.append(
                f"  {result.taken} of {result.transitions} transitions taken"
                + (", not all sequences done" if result.cut else "")
            )
        told.append(
            f"  compared: {tally.steps} answers, {tally.lives} times whether a VM lives, "
            f"{tally.contents} pages read back"
        )
        if tally.foreign:
            told.append(
                f"  {tally.foreign} steps by a process that did not make the VM: EIO, as expected; "
                "the model lets any process use a VM"
            )
        if tally.errors_mapped:
            told.append(
                f"  {tally.errors_mapped} reads of a page punched after an error, by a mapping of "
                "before: SIGBUS, as expected; the model has no page tables of processes"
            )
        if tally.by_address:
            told.append(
                f"  {tally.by_address} bindings judged by a freed VM's address, which the model "
                "gives to the next VM and the kernel may not: the other answer; left there"
            )
        for difference in result.differences:
            told += ["", "the kernel did otherwise:", *difference.lines()]
    count = sum(len(result.differences) for result in results)
    return [*told, f"differences: {count or 'none'}"]


def _beside(means: Means) -> list[str]:
    told = []
    if means.failed:
        told.append(f"bindings that ran out of memory, at each of {len(means.failed)} allocations:")
        told += [f"  {count}: {ending.value}" for ending, count in counted(means.failed).items()]
    told.append("not replayable on this kernel:")
    told += [f"  {IN_WORDS[feature]}: {why}" for feature, why in means.why_not.items()]
    return [*told, f"  two or three things at the same time: {RACES}"]
