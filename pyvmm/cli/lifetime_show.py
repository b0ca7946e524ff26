# SPDX-License-Identifier: MIT
"""``pyvmm lifetime show``: who pins whom before and after each step."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.standard_output import columns, print_answer
from pyvmm.cli.story_files import check_outputs, read_stories, write_text
from pyvmm.errors import ExitCode, UsageError
from pyvmm.lifetime.adapting import DESIGNS, adapted, design_named
from pyvmm.lifetime.graph import Drawn
from pyvmm.lifetime.graph_of_scene import drawn_of
from pyvmm.lifetime.graph_text import to_text
from pyvmm.lifetime.properties import BY_NAME as PROPERTIES
from pyvmm.lifetime.scenarios import BY_NAME, SCENARIOS
from pyvmm.lifetime.story import Story


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
    known = BY_NAME.get(options.scenario)
    story = None if known is not None else _story(options.scenario)
    names = DESIGNS if options.design == "both" else (options.design,)
    drawn = []
    for name in names:
        if known is not None:
            design = design_named(name)
            drawn.append(drawn_of(adapted(known.operations, design, known.universe), design))
        elif story is not None:
            drawn.append(_drawn(story, name))
    try:
        for output in drawing_file:
            from pyvmm.lifetime.graph_places import place
            from pyvmm.lifetime.graph_svg import to_svg

            write_text(output, to_svg(place(drawn, *_titled(options.scenario, story, drawn))))
    finally:
        print_answer("\n".join(to_text(drawn, columns())))
    return ExitCode.OK


def _drawn(story: Story, base: str) -> Drawn:
    """A story under a design. One that was found with a remedy is drawn with it, to its ending."""
    own = story.design.startswith(base)
    design = design_named(story.design if own else base)
    told = adapted((step.operation for step in story.steps), design, story.universe)
    return drawn_of(replace(told, ending=story.ending) if own else told, design)


def _titled(name: str, story: Story | None, drawn: Sequence[Drawn]) -> tuple[str, str]:
    """Title of a drawing, and a sentence on it."""
    title, about = Path(name).stem, ""
    if story is None:
        title, about = name, BY_NAME[name].about
    elif story.about in PROPERTIES:
        title, about = story.about, PROPERTIES[story.about].sentence
    if len(drawn) == 1:
        title += f": {drawn[0].design}"
    return title, about


def _story(name: str) -> Story:
    if "/" not in name and "." not in name and not os.path.lexists(name):
        raise UsageError(
            f"draw {name!r}",
            "there is no such scenario, nor a file of this name",
            "`pyvmm lifetime show` lists them",
        )
    stories = read_stories(name)
    if len(stories) != 1:
        raise UsageError(f"draw {name!r}", f"it has {len(stories)} stories", "give one")
    return stories[0]
