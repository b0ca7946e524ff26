# SPDX-License-Identifier: MIT
"""Pictures of graphs: nothing overlaps, nothing moves from step to step, nothing is empty."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from xml.dom import minidom

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.lifetime.designs import STANDARD_DESIGNS, Design
from pyvmm.lifetime.graph import (
    Drawn,
    Evidence,
    Graph,
    GraphEdge,
    GraphNode,
    Mark,
    NodeKind,
)
from pyvmm.lifetime.graph_of_scene import graph_of, scene_of
from pyvmm.lifetime.graph_overlaps import overlaps
from pyvmm.lifetime.graph_places import place
from pyvmm.lifetime.graph_shapes import Arrow, Placed, Rect
from pyvmm.lifetime.graph_svg import to_svg
from pyvmm.lifetime.graph_text import to_lines, to_text
from pyvmm.lifetime.scenarios import SCENARIOS, Scenario
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import UNIVERSES, Universe
from tests.lifetime.drawn_graphs import BOUND, LINUX, MAIL, drawn, each_scenario, told


def everything_placed(scenario: Scenario) -> Iterator[Placed]:
    stories = [drawn(scenario, design) for design in STANDARD_DESIGNS]
    for story in stories:
        yield place([story], scenario.name, scenario.about)
    for beside in (True, False):
        yield place(stories[:2], scenario.name, scenario.about, beside=beside)


@pytest.mark.slow
@each_scenario
def test_nothing_overlaps_in_any_design_of_any_scenario(scenario: Scenario) -> None:
    for placed in everything_placed(scenario):
        assert overlaps(placed) == ()
        arrows = sum(len(panel.arrows) for panel in placed.panels)
        assert arrows == sum(len(panel.graph.edges) for panel in placed.panels) > 0


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(STANDARD_DESIGNS), st.sampled_from([*UNIVERSES.values()]), st.integers(0)
)  # fmt: skip
def test_nothing_overlaps_on_any_way_through_a_universe(
    design: Design, universe: Universe, seed: int
) -> None:
    chance = random.Random(seed)
    system = TransitionSystem(design, universe)
    state = system.initial
    before = scene_of(system, state, "before")
    for _ in range(chance.randrange(40)):
        _, step = chance.choice(system.steps(state))
        before, state = scene_of(system, state, "before"), step.state
    scene = scene_of(system, state, "at last", seen=(*before.edges, "vm0"))
    graphs = (graph_of(before), graph_of(scene, before))
    assert overlaps(place([Drawn(design.name, graphs)], "any way")) == ()
    for graph in graphs:
        assert all(len(line) <= 62 and line.isascii() for line in to_lines(graph))


def graph_of_anything(chance: random.Random) -> Graph:
    def words(most: int) -> str:
        return "".join(chance.choices('abc -<&"\x1f\x00\n\udc80\u4e16', k=chance.randint(0, most)))

    nodes = tuple(
        GraphNode(
            f"n{number}", chance.choice(list(NodeKind)), words(12),
            chance.choice((None, 0, 1, 1000)), tuple(words(40) for _ in range(chance.randrange(3))),
            chance.choice(list(Evidence)), chance.choice(list(Mark)), chance.choice((None, 9)),
        )
        for number in range(chance.randint(0, 9))
    )  # fmt: skip
    edges = tuple(
        GraphEdge(
            chance.choice(nodes).name, chance.choice(nodes).name, chance.choice((True, False)),
            words(24), words(9), chance.choice((1, 2, 1000)), chance.choice(list(Evidence)),
            chance.choice(list(Mark)),
        )
        for _ in range(chance.randint(0, 14) if nodes else 0)
    )  # fmt: skip
    return Graph(words(120), nodes, edges, words(120), words(120))


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.integers(0))
def test_nothing_overlaps_whatever_holds_whatever(seed: int) -> None:
    chance = random.Random(seed)
    stories = [
        Drawn("design " * chance.randrange(30), (graph_of_anything(chance),))
        for _ in range(chance.randint(1, 3))
    ]
    placed = place(stories, "title\x1f" * 9, "about " * 9, beside=chance.choice((True, False)))
    assert overlaps(placed) == ()
    minidom.parseString(to_svg(placed))
    minidom.parseString(to_svg(placed, inline=True))
    to_text(stories, 40)


def test_an_overlap_is_found() -> None:
    placed = place([drawn(SCENARIOS[3], LINUX)], "a title")
    panel = placed.panels[-1]
    arrow, other = panel.arrows[:2]

    def changed(**parts: object) -> tuple[str, ...]:
        broken = replace(panel, **parts)  # type: ignore[arg-type]
        return overlaps(replace(placed, panels=(*placed.panels[:-1], broken)))

    def with_label(x: float, y: float) -> tuple[str, ...]:
        label = replace(arrow.label, x=x, y=y)
        return changed(arrows=(replace(arrow, label=label), *panel.arrows[1:]))

    assert changed() == ()
    assert any(" on 'descriptor'" in words for words in with_label(other.label.x, other.label.y))
    assert any("on the arrow" in words for words in with_label(other.head.x - 30, other.head.y))
    box = panel.boxes[0].rect
    assert any(" on parent" in words for words in with_label(box.x, box.y + 12))
    assert any("sticks out" in words for words in with_label(placed.width - 5, other.label.y))
    assert changed(arrows=(arrow, replace(other, points=arrow.points), *panel.arrows[2:]))
    moved = replace(panel.boxes[1], rect=panel.boxes[0].rect)
    assert any("vm0 on" in words or "on vm0" in words for words in changed(
        boxes=(panel.boxes[0], moved, *panel.boxes[2:])
    ))  # fmt: skip
    assert overlaps(replace(placed, panels=(*placed.panels, panel)))
    assert overlaps(replace(placed, texts=(*placed.texts, panel.texts[0])))
    assert overlaps(replace(placed, width=100.0))


def test_objects_stay_where_they_are_from_step_to_step() -> None:
    for scenario in SCENARIOS:
        placed = place([drawn(scenario, LINUX), drawn(scenario, MAIL)], scenario.name)
        found: dict[str, set[float]] = {}
        for panel in placed.panels:
            for box in panel.boxes:
                found.setdefault(box.node.name, set()).add(box.rect.x)
        assert {len(places) for places in found.values()} == {1}


def test_moments_that_are_drawn_one_by_one_stay_where_they_are_too() -> None:
    graphs = drawn(SCENARIOS[3], MAIL).graphs
    whole = place([Drawn("", graphs)], "t").panels[-1]
    (alone,) = place([Drawn("", graphs[-1:])], "t", bare=True, among=graphs).panels
    assert [box.rect.x for box in alone.boxes] == [box.rect.x for box in whole.boxes]
    assert alone.frame.height == whole.frame.height
    (moved,) = place([Drawn("", graphs[2:3])], "t", bare=True).panels
    (kept,) = place([Drawn("", graphs[2:3])], "t", bare=True, among=graphs).panels
    assert [box.rect.x for box in moved.boxes] != [box.rect.x for box in kept.boxes]


def test_a_bare_picture_has_a_name_and_no_heading() -> None:
    placed = place([Drawn("", told(BOUND, MAIL)[-1:])], "a name", "more", bare=True)
    assert (placed.texts, placed.key) == ((), ())
    assert overlaps(placed) == ()
    assert '<title id="pins-title">a name</title>' in to_svg(placed)


def test_a_panel_is_as_high_as_what_is_in_it() -> None:
    placed = place([drawn(SCENARIOS[3], MAIL)], "a title")
    for panel in placed.panels:
        inside: list[Rect] = [text.rect for text in panel.texts]
        inside += [box.rect for box in panel.boxes]
        inside += [segment for arrow in panel.arrows for segment in arrow.segments]
        assert panel.frame.bottom - max(rect.bottom for rect in inside) < 20
    assert placed.panels[0].frame.height < 40 < placed.panels[-1].frame.height


def test_the_key_has_signs_of_what_is_drawn_and_of_nothing_else() -> None:
    graph = told(BOUND, MAIL)[-1]

    def words(*edges: GraphEdge) -> list[str]:
        placed = place([Drawn("", (replace(graph, edges=edges),))], "t")
        assert all(len(entry.sign.points) == 2 for entry in placed.key)
        return [entry.text.words for entry in placed.key]

    pin = replace(graph.edges[0], mark=Mark.SAME)
    assert words(pin) == ["keeps alive"]
    pointer = replace(pin, pins=False, mark=Mark.GONE)
    assert words(pin, pointer) == [
        "keeps alive", "points to, keeps nothing alive", "- gone in this step"
    ]  # fmt: skip
    assert words(replace(pin, evidence=Evidence.SEEN))[-1] == "dot: seen on this host"


def crossings(arrows: Sequence[Arrow]) -> int:
    return sum(
        mine.x < theirs.x < mine.right and theirs.y < mine.y < theirs.bottom
        for one, other in permutations(arrows, 2)
        for mine in one.segments
        for theirs in other.segments
    )


def test_edges_that_need_not_cross_do_not() -> None:
    vms = [GraphNode(f"vm{number}", NodeKind.VM, f"vm{number}") for number in range(4)]
    edges = [GraphEdge("process0", vm.name, True, "descriptor", "") for vm in vms]
    nodes = (GraphNode("process0", NodeKind.PROCESS, "parent"), *vms)
    for way in (edges, edges[::-1]):
        (panel,) = place([Drawn("", (Graph("", nodes, tuple(way)),))], "t").panels
        assert crossings(panel.arrows) == 0
