# SPDX-License-Identifier: MIT
"""Draws who pins whom, before and after each step of a story, in plain characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.holdings import Holding, counts, holdings
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem

_NAMES = {"process0": "parent", "process1": "child"}
_SHORT = {
    "DESCRIPTOR": "descriptor",
    "VCPU": "vCPU",
    "MAPPING": "mapping",
    "FILE_PINS_VM": "reference",
    "SLOT_PINS_FILE": "reference",
    "INODE": "its inode",
    "HELPER": "reference",
    "VM_POINTER": "pointer",
    "FILE_POINTER": "pointer",
    "SLOT_OF_VM": "its slot",
    "BINDING": "binding",
    "GUEST_MAPPING": "the guest maps it",
}
_WIDTH = 62
KEY = "==> keeps alive    --> points to, keeps nothing alive    (n) references"


@dataclass(frozen=True, slots=True)
class Scene:
    """A state in words: what was done to come here, who holds whom, and what was freed by it.

    `objects` are name and reference count; an edge in `edges` may be there more than once.
    """

    title: str
    objects: tuple[tuple[str, int], ...]
    edges: tuple[tuple[Holding, int], ...]
    freed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A story under one design: the scene before the first step, and one after each."""

    design: str
    scenes: tuple[Scene, ...]


def scenes_of(story: Story, design: Design) -> Drawn:
    """Follow a story, whose steps the design must know, and keep every scene."""
    system = TransitionSystem(design, story.universe)
    state = system.initial
    scenes = [_scene("at first", system, state, ())]
    for number, told in enumerate(story.steps, 1):
        before = counts(system.layout, state)
        step = system.step(state, told.operation)
        state = step.state
        after = counts(system.layout, state)
        outcome = "" if step.outcome == "ok" else f" -> {step.outcome}"
        gone = tuple(name for name in before if name not in after)
        scenes.append(_scene(f"{number}. {told.operation}{outcome}", system, state, gone))
    return Drawn(story.design, tuple(scenes))


def _scene(title: str, system: TransitionSystem, state: State, gone: tuple[str, ...]) -> Scene:
    edges = Counter(holdings(system.design.lifecycle, system.layout, state))
    objects = tuple(counts(system.layout, state).items())
    return Scene(title, objects, tuple(edges.items()), gone)


def shown_name(name: str) -> str:
    """An object's name as it is drawn."""
    return _NAMES.get(name, name)


def shown_reason(holding: Holding) -> str:
    """Name an edge's kind in a word or two."""
    return _SHORT[holding.why.name]


def width(stories: int) -> int:
    """Compute the columns that `stories` stories take side by side."""
    return stories * (_WIDTH + 3) - 3


def text(drawn: Sequence[Drawn]) -> list[str]:
    """Lines: the stories side by side, scene by scene; `width` of them wide."""
    rows = max(len(each.scenes) for each in drawn)
    lines = [KEY, "", _beside([each.design for each in drawn])]
    lines.append(_beside(["=" * len(each.design) for each in drawn]))
    for row in range(rows):
        columns = [
            _scene_lines(each.scenes[row]) if row < len(each.scenes) else ["(cannot be done here)"]
            for each in drawn
        ]
        height = max(map(len, columns))
        lines.append("")
        lines += [
            _beside([column[at] if at < len(column) else "" for column in columns])
            for at in range(height)
        ]
    return lines


def _beside(columns: Sequence[str]) -> str:
    return " | ".join(each.ljust(_WIDTH) for each in columns).rstrip(" |") if columns else ""


def _scene_lines(scene: Scene) -> list[str]:
    lines = [scene.title]
    number = dict(scene.objects)

    def box(name: str) -> str:
        references = f"({number[name]})" if name in number else ""
        return f"[{shown_name(name)}{references}]"

    for holding, times in scene.edges:
        arrow = "==>" if holding.why.pins else "-->"
        often = f" x{times}" if times > 1 else ""
        lines.append(
            f"   {box(holding.holder):<10} {arrow} {box(holding.held)}  "
            f"{shown_reason(holding)}{often}"
        )
    if not scene.edges:
        lines.append("   (nothing)")
    lines += [f"   freed: {name}" for name in scene.freed]
    return lines
