# SPDX-License-Identifier: MIT
"""``pyvmm lifetime show``: who pins whom before and after each step."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable
from pathlib import Path

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.standard_output import columns, print_answer
from pyvmm.cli.story_files import check_outputs, read_stories, write_text
from pyvmm.errors import ExitCode, UsageError
from pyvmm.lifetime import drawing
from pyvmm.lifetime.adapting import DESIGNS, adapted, design_named
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.scenarios import BY_NAME, SCENARIOS
from pyvmm.lifetime.universe import Universe


def command(options: argparse.Namespace) -> int:
    """Draw, or list what can be drawn."""
    if options.scenario is None:
        if options.svg is not None:
            raise UsageError("draw", "no scenario is given", "name one")
        width = max(map(len, BY_NAME))
        print_answer("\n".join(f"{each.name:<{width}}  {each.about}" for each in SCENARIOS))
        return ExitCode.OK
    drawing_file = [] if options.svg is None else [NamedFile("the drawing", Path(options.svg))]
    stories = [] if options.scenario in BY_NAME else [Path(options.scenario)]
    check_outputs(drawing_file, [NamedFile("the story", path) for path in stories])
    operations, universe, own = _operations(options.scenario)
    names = DESIGNS if options.design == "both" else (options.design,)
    drawn = []
    for name in names:
        # A story that was found with a remedy is drawn with it.
        design = design_named(own if own.startswith(name) else name)
        drawn.append(drawing.scenes_of(adapted(operations, design, universe), design))
    # Without a width there is room for everything.
    if (columns() or math.inf) < drawing.width(len(drawn)):
        lines = [line for each in drawn for line in (*drawing.text([each]), "")][:-1]
    else:
        lines = drawing.text(drawn)
    try:
        for output in drawing_file:
            from pyvmm.lifetime.svg import svg

            write_text(output, svg(drawn))
    finally:
        print_answer("\n".join(lines))
    return ExitCode.OK


def _operations(name: str) -> tuple[Iterable[Operation], Universe, str]:
    """A scenario's operations, or a story's, and whose they are."""
    scenario = BY_NAME.get(name)
    if scenario is not None:
        return scenario.operations, scenario.universe, ""
    if "/" not in name and "." not in name and not os.path.lexists(name):
        raise UsageError(
            f"draw {name!r}",
            "there is no such scenario, nor a file of this name",
            "`pyvmm lifetime show` lists them",
        )
    stories = read_stories(name)
    if len(stories) != 1:
        raise UsageError(f"draw {name!r}", f"it has {len(stories)} stories", "give one")
    story = stories[0]
    return [step.operation for step in story.steps], story.universe, story.design
