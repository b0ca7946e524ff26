# SPDX-License-Identifier: MIT
"""The graph of who pins whom, made of a stage's state."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.stage.bare import BareStage
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.outcomes import Observed, StageHost
from pyvmm.demo.telling.pins_picture import changed_words, graph_of_stage, pins_of
from pyvmm.lifetime.designs import file_pins_vm, memslot_pins_file
from pyvmm.lifetime.graph import Evidence, Graph, Mark
from pyvmm.lifetime.graph_of_scene import scene_of
from pyvmm.lifetime.graph_overlaps import overlaps
from pyvmm.lifetime.graph_places import place
from pyvmm.lifetime.graph_text import to_lines
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import STANDARD

BOUND = Observed(
    held=("file 0", "mapping 0", "vm 0"),
    bound=((0, 0, 3),),
    slots=((0, 3), (0, 4)),
    origins=(("file 0", "vm 0"), ("mapping 0", "file 0")),
)
numbers = st.integers(0, 7)


def named(*kinds: str) -> st.SearchStrategy[str]:
    return st.builds("{} {}".format, st.sampled_from(kinds), numbers)


states = st.builds(
    Observed,
    held=st.lists(named("vm", "file", "mapping", "vcpu"), max_size=9).map(tuple),
    bound=st.lists(st.tuples(numbers, numbers, numbers), max_size=5).map(tuple),
    slots=st.lists(st.tuples(numbers, numbers), max_size=5).map(tuple),
    origins=st.lists(
        st.tuples(named("file"), named("vm"))
        | st.tuples(named("mapping"), named("file"))
        | st.tuples(named("vcpu"), named("vm")),
        max_size=9,
    ).map(tuple),
    alive=st.lists(
        st.tuples(named("vm", "inode"), st.sampled_from((True, False, None))), max_size=3
    ).map(tuple),
)


def edges(graph: Graph) -> set[tuple[str, str, bool, int]]:
    return {
        (edge.holder, edge.held, edge.pins, edge.times)
        for edge in graph.edges
        if edge.mark is not Mark.GONE
    }


def test_descriptors_are_seen_and_references_follow_by_rule() -> None:
    graph = graph_of_stage(BOUND)
    assert edges(graph) == {
        ("process", "vm 0", True, 1),
        ("process", "file 0", True, 1),
        ("file 0", "vm 0", True, 1),
        ("file 0", "inode 0", True, 1),
        ("vm 0", "slot 0 3", False, 1),
        ("vm 0", "slot 0 4", False, 1),
        ("slot 0 3", "file 0", False, 1),
        ("file 0", "slot 0 3", False, 1),
    }
    for edge in graph.edges:
        assert (edge.evidence is Evidence.SEEN) is (edge.holder == "process")
    assert {n.name: n.references for n in graph.nodes if n.references is not None} == {
        "vm 0": 2, "file 0": 2, "inode 0": 1,
    }  # fmt: skip


def test_a_mapping_keeps_its_file_and_the_file_its_vm() -> None:
    held = Observed(held=("mapping 0",), origins=BOUND.origins, bound=BOUND.bound)
    graph = graph_of_stage(held)
    assert ("process", "file 0", True, 1) in edges(graph)
    assert ("file 0", "vm 0", True, 1) in edges(graph)
    assert not graph_of_stage(Observed(origins=BOUND.origins, bound=BOUND.bound)).nodes


def test_a_step_says_in_words_what_it_changed() -> None:
    closed = Observed(held=("vm 0",), slots=BOUND.slots)
    (drawn,) = pins_of(closed, BOUND)
    (graph,) = drawn.graphs
    assert {node.name for node in graph.nodes if node.mark is Mark.GONE} == {"file 0", "inode 0"}
    said = changed_words((drawn,))
    assert "file 0 and inode 0 are freed" in said
    assert "references on vm 0: 2 -> 1" in said
    assert changed_words(pins_of(closed, closed)) == ""
    assert pins_of(Observed()) == ()
    assert len(pins_of(Observed(), closed)) == 1


def test_descriptors_of_one_thing_are_counted() -> None:
    graph = graph_of_stage(Observed(held=("vm 1", "vm 1", "vcpu 4"), origins=(("vcpu 4", "vm 1"),)))
    assert edges(graph) == {("process", "vm 1", True, 2), ("process", "vm 1", True, 1)}


def test_an_observation_that_contradicts_the_rules_is_a_finding() -> None:
    kept = graph_of_stage(Observed(alive=(("vm 0", True),)))
    assert kept.finding == "vm 0 is still there, though by the rules nobody holds it"
    lost = graph_of_stage(Observed(held=("vm 0",), alive=(("vm 0", False),)))
    assert lost.finding == "vm 0 is gone, though by the rules it is held"
    agreed = graph_of_stage(Observed(held=("vm 0",), alive=(("vm 0", True), ("vm 1", None))))
    assert not agreed.finding


@pytest.mark.slow
@given(states, states)
def test_any_state_is_drawn_without_overlaps(before: Observed, now: Observed) -> None:
    drawn = pins_of(now, before)
    assert overlaps(place(drawn, "a step")) == ()
    for each in drawn:
        assert all(len(line) <= 80 for line in to_lines(each.graphs[0], 80))


def test_designs_are_drawn_each_for_itself() -> None:
    systems = [TransitionSystem(make(), STANDARD) for make in (file_pins_vm, memslot_pins_file)]
    scenes = tuple((s.design.name, scene_of(s, s.initial, "at first")) for s in systems)
    drawn = pins_of(Observed(scenes=scenes), Observed(scenes=scenes))
    assert [each.design for each in drawn] == [s.design.name for s in systems]
    assert overlaps(place(drawn, "a step")) == ()


@pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)
def test_the_graph_of_a_stage(host: StageHost) -> None:
    async def main() -> list[Observed]:
        lines = ("make-vm 0", "make-file 0 0 0x4000 3", "map-file 0", "close file 0")
        with BareStage(host) as stage:
            return [(await stage.do(parse_act(line))).after for line in lines]

    *_, mapped, closed = trio.run(main)
    assert ("process", "file 0", True, 1) in edges(graph_of_stage(mapped))
    assert ("file 0", "vm 0", True, 1) in edges(graph_of_stage(closed))
    assert changed_words(pins_of(closed, mapped)) == (
        "process no longer pins file 0 (descriptor); references on file 0: 2 -> 1"
    )
