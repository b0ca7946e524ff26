# SPDX-License-Identifier: MIT
"""Who pins whom as a graph, in text and in SVG: every edge is there, and what a step changed."""

from __future__ import annotations

from collections import Counter
from xml.dom import minidom

import pytest

from pyvmm.lifetime.adapting import adapted
from pyvmm.lifetime.designs import STANDARD_DESIGNS
from pyvmm.lifetime.graph import (
    Drawn,
    Evidence,
    Mark,
    NodeKind,
    since,
)
from pyvmm.lifetime.graph_of_scene import Scene, drawn_of, graph_of, scene_of
from pyvmm.lifetime.graph_overlaps import overlaps
from pyvmm.lifetime.graph_places import place
from pyvmm.lifetime.graph_svg import DARK, LIGHT, sentences, style, to_svg
from pyvmm.lifetime.graph_text import to_lines, to_text
from pyvmm.lifetime.holdings import Holding, Why
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import Scenario
from pyvmm.lifetime.story import Story, Told
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import ERRORS, STANDARD, UPDATED, Universe
from tests.lifetime.drawn_graphs import BOUND, LINUX, MAIL, drawn, each_scenario, told


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


def test_notes_say_what_is_in_an_object() -> None:
    def notes(universe: Universe, *steps: Operation) -> dict[str, tuple[str, ...]]:
        story = Story(LINUX.name, universe, "", tuple(Told(step, "ok") for step in steps), "")
        return {node.name: node.notes for node in drawn_of(story, LINUX).graphs[-1].nodes}

    write = Operation(Kind.GUEST_WRITE)
    assert notes(STANDARD, *BOUND, write)["inode0"] == ("page0 written by vm0",)
    broken = notes(ERRORS, *BOUND, Operation(Kind.PAGE_ERROR))
    assert broken["inode0"] == ("page0 has an error",)
    preserved = (Operation(Kind.PRESERVE_VM), *BOUND[2:], write, Operation(Kind.PRESERVE_FILE))
    frozen = notes(UPDATED, *BOUND[:2], *preserved)
    assert frozen["inode0"] == ("frozen", "page0 written by vm0")
    kept = notes(UPDATED, *BOUND[:2], *preserved, Operation(Kind.KEXEC))
    assert kept["inode0"] == ("page0 written by the VM of record0",)


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
    rules = style("svg.pins").splitlines()
    assert all(line.startswith(("svg.pins", "@media")) or line == "}" for line in rules)
    assert "var(" not in "".join(rules)  # librsvg and Inkscape draw black what has variables


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

    for colours in (LIGHT, DARK):
        for under in ("paper", "box"):
            for ink in ("ink", "faint", "pin", "new", "gone", "changed"):
                dark, light = sorted(luminance(colours[name].lstrip("#")) for name in (ink, under))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, under)
