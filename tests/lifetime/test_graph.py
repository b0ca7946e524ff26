# SPDX-License-Identifier: MIT
"""Who pins whom, drawn: every edge is there, what a step changed is said, and nothing overlaps."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from xml.dom import minidom

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.lifetime.adapting import adapted, design_named
from pyvmm.lifetime.designs import STANDARD_DESIGNS, Design, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.graph import (
    Drawn,
    Evidence,
    Graph,
    GraphEdge,
    GraphNode,
    Mark,
    NodeKind,
    since,
)
from pyvmm.lifetime.graph_of_scene import Scene, drawn_of, graph_of, scene_of
from pyvmm.lifetime.graph_overlaps import overlaps
from pyvmm.lifetime.graph_places import place
from pyvmm.lifetime.graph_shapes import Arrow, Placed, Rect
from pyvmm.lifetime.graph_svg import sentences, style, to_svg
from pyvmm.lifetime.graph_text import to_lines, to_text
from pyvmm.lifetime.holdings import Holding, Why
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import BY_NAME, SCENARIOS, Scenario
from pyvmm.lifetime.story import Story, Told
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import STANDARD, UNIVERSES, Universe

LINUX, MAIL = file_pins_vm(), memslot_pins_file()
BOUND = (Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.BIND))

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)


@cache
def _drawn(scenario: str, design: str) -> Drawn:
    of, under = BY_NAME[scenario], design_named(design)
    return drawn_of(adapted(of.operations, under, of.universe), under)


def drawn(scenario: Scenario, design: Design) -> Drawn:
    return _drawn(scenario.name, design.name)


def told(operations: tuple[Operation, ...], design: Design) -> tuple[Graph, ...]:
    return drawn_of(adapted(operations, design, STANDARD), design).graphs


@each_scenario
def test_there_is_a_graph_for_every_step_with_every_edge(scenario: Scenario) -> None:
    for design in STANDARD_DESIGNS:
        story = adapted(scenario.operations, design, scenario.universe)
        graphs = drawn(scenario, design).graphs
        assert len(graphs) == len(story.steps) + 1
        system = TransitionSystem(design, scenario.universe)
        state = system.initial
        for graph, step in zip(graphs[1:], story.steps, strict=True):
            state = system.step(state, step.operation).state
            scene = scene_of(system, state, "")
            there = [edge for edge in graph.edges if edge.mark is not Mark.GONE]
            assert sum(edge.times for edge in there) == len(scene.edges)
            assert sum(edge.pins * edge.times for edge in there) == sum(
                holding.why.pins for holding in scene.edges
            )
            alive = {node.name for node in graph.nodes if node.mark is not Mark.GONE}
            assert {name for name, _ in scene.objects} <= alive
            assert {edge.holder for edge in there} | {edge.held for edge in there} <= alive


def test_who_pins_whom_is_drawn_as_it_is() -> None:
    texts = {design.name: "\n".join(to_lines(told(BOUND, design)[-1])) for design in (LINUX, MAIL)}
    assert "   [file0(1)] ==> [vm0(2)]     reference" in texts["file-pins-vm"]
    assert " + [slot0]    --> [file0(1)]   pointer" in texts["file-pins-vm"]
    assert " + [slot0]       ==> [file0(1->2)]  reference" in texts["memslot-pins-file"]
    assert " + [file0(1->2)] --> [vm0(1)]       pointer" in texts["memslot-pins-file"]


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (Operation(Kind.GUEST_READ), "slot0 points to inode0 (guest maps page0)"),
        (
            Operation(Kind.GUEST_WRITE),
            "slot0 points to inode0 (guest maps page0); in inode0: page0 written by vm0",
        ),
        (
            Operation(Kind.DUP_VM),
            "parent now has vm0 (descriptor x2); references on vm0: 2 -> 3",
        ),
        (Operation(Kind.BIND, slot=1), "nothing"),
        (
            Operation(Kind.CLOSE_FILE),
            "file0 and inode0 are freed; file0 no longer pins vm0 (reference); "
            "references on vm0: 2 -> 1",
        ),
    ],
    ids=str,
)
def test_a_sentence_says_what_a_step_changed(step: Operation, changed: str) -> None:
    assert told((*BOUND, step), LINUX)[-1].changed == changed


def test_what_is_gone_is_drawn_once_more_and_then_no_longer() -> None:
    *_, bound, closed, after = told(
        (*BOUND, Operation(Kind.CLOSE_VM), Operation(Kind.CLOSE_FILE)), MAIL
    )
    assert {node.name for node in bound.nodes} == {"process0", "vm0", "slot0", "file0", "inode0"}
    gone = {node.name: node.counted for node in closed.nodes if node.mark is Mark.GONE}
    assert gone == {"vm0": "freed", "slot0": "deleted"}
    assert "slot0 no longer pins file0 (reference)" in closed.changed
    assert "references on file0: 2 -> 1" in closed.changed
    assert {node.name for node in after.nodes} == {"process0", "file0", "inode0"}


def test_what_broke_and_a_storys_ending_stand_where_they_belong() -> None:
    story = Story("file-pins-vm", STANDARD, "", (Told(BOUND[0], "ok"),), "vm0 lives")
    first, last = drawn_of(story, LINUX).graphs
    assert (first.finding, last.finding) == ("", "vm0 lives")
    assert "   => vm0 lives" in to_lines(last)
    assert "=&gt; vm0 lives" in to_svg(place([Drawn("", (last,))], "t"))


def everything_placed(scenario: Scenario) -> Iterator[Placed]:
    stories = [drawn(scenario, design) for design in STANDARD_DESIGNS]
    for story in stories:
        yield place([story], scenario.name, scenario.about)
    for beside in (True, False):
        yield place(stories[:2], scenario.name, scenario.about, beside=beside)
        yield place(stories, scenario.name, beside=beside)


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
@settings(deadline=None, max_examples=60)
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


def test_an_object_or_a_reason_that_nobody_foresaw_is_drawn() -> None:
    strange = Scene(
        "a step",
        (("vm0", 1), ("session0", 3), ("ghost7", 2)),
        (Holding("session0", "vm0", Why.DESCRIPTOR), Holding("ghost7", "vm0", Why.MAPPING)),
    )
    graph = graph_of(strange)
    assert {node.name: node.kind for node in graph.nodes} == {
        "session0": NodeKind.SESSION, "ghost7": NodeKind.OTHER, "vm0": NodeKind.VM
    }  # fmt: skip
    assert overlaps(place([Drawn("", (graph,))], "t")) == ()
    assert "   [ghost7(2)]   ==> [vm0(1)]  mapping" in to_lines(graph)


def test_what_was_seen_on_a_host_is_told_apart_from_what_follows_by_the_rules() -> None:
    holding = Holding("process0", "vm0", Why.DESCRIPTOR)
    pin = Holding("file0", "vm0", Why.FILE_PINS_VM)
    graph = graph_of(Scene("now", (("vm0", 2),), (holding, pin), seen=frozenset({holding, "vm0"})))
    assert [edge.evidence for edge in graph.edges] == [Evidence.SEEN, Evidence.RULE]
    svg = minidom.parseString(to_svg(place([Drawn("", (graph,))], "t")))
    assert len(svg.getElementsByTagName("circle")) == 3  # a box, an arrow, and the key's
    lines = to_text([Drawn("linux", (graph,))])
    assert "* seen on this host" in lines
    assert [line.endswith("*") for line in lines if "==> [" in line] == [True, False]


@each_scenario
def test_an_svg_has_every_edge_and_says_it_in_words(scenario: Scenario) -> None:
    stories = [drawn(scenario, LINUX), drawn(scenario, MAIL)]
    placed = place(stories, scenario.name, scenario.about)
    text = to_svg(placed)
    assert text == to_svg(place(stories, scenario.name, scenario.about))
    svg = minidom.parseString(text)
    groups = Counter(group.getAttribute("class").split()[0] for group in
                     svg.getElementsByTagName("g") if group.getAttribute("class"))  # fmt: skip
    graphs = [graph for story in stories for graph in story.graphs]
    assert groups["edge"] == sum(len(graph.edges) for graph in graphs) + len(placed.key)
    assert groups["box"] == sum(len(graph.nodes) for graph in graphs)
    assert not svg.getElementsByTagName("script")
    assert "prefers-color-scheme:dark" in text
    (described,) = svg.getElementsByTagName("desc")
    words = described.firstChild
    assert isinstance(words, minidom.Text)
    for graph in graphs:
        assert all(sentence in words.data for sentence in sentences(graph))


def test_in_a_page_every_box_and_arrow_has_a_name_and_can_be_reached() -> None:
    graph = told(BOUND, LINUX)[-1]
    text = to_svg(place([Drawn("", (graph,))], "t"), ids="left", inline=True)
    svg = minidom.parseString(text)
    reached = [g for g in svg.getElementsByTagName("g") if g.hasAttribute("tabindex")]
    names = {g.getAttribute("aria-label") for g in reached}
    assert len(reached) == len(graph.nodes) + len(graph.edges)
    assert "file0 keeps alive vm0: the file's reference on its VM" in names
    assert "slot0: new in this step" in names
    assert "<style" not in text
    assert "<?xml" not in text
    root = svg.documentElement
    assert root is not None
    assert root.getAttribute("aria-labelledby") == "left-title"


def test_the_style_concerns_pictures_only() -> None:
    rules = [line for line in style("svg.pins").splitlines() if line]
    assert all(line.startswith(("svg.pins", "@media")) for line in rules)


@each_scenario
def test_text_fits_the_width_and_is_ascii(scenario: Scenario) -> None:
    stories = [drawn(scenario, LINUX), drawn(scenario, MAIL)]
    for wide in (None, 130, 127, 126, 80, 40):
        lines = to_text(stories, wide)
        assert all(line.isascii() for line in lines)
        assert max(map(len, lines)) <= (wide or 127)
        assert (" | " in "\n".join(lines)) is (wide is None or wide >= 127)


def test_nothing_is_new_where_there_was_nothing_before() -> None:
    graph = told(BOUND, LINUX)[-1]
    assert since(None, graph) is graph


def test_every_colour_can_be_read_on_its_paper() -> None:
    def luminance(colour: str) -> float:
        letters = colour * 2 if len(colour) == 3 else colour
        parts = [int(letters[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    schemes = [
        dict(re.findall(r"--([a-z]+):#([0-9a-f]+)", rule))
        for rule in style("svg.pins").splitlines()
        if "--ink:#" in rule
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for under in ("paper", "box"):
            for ink in ("ink", "faint", "pin", "new", "gone", "changed"):
                dark, light = sorted(luminance(colours[name]) for name in (ink, under))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, under)


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
