# SPDX-License-Identifier: MIT
"""Drawings of topologies: narrow, in ASCII, and of ones that are not whole."""

from __future__ import annotations

from pyvmm.cli.standard_output import encoded
from pyvmm.net.found import FoundDevice, FoundNamespace, FoundTopology
from pyvmm.net.marks import mark_of
from pyvmm.net.topology_drawing import drawn
from pyvmm.net.topology_marks import ObjectKind, ObjectMark, object_mark


def mark(kind: ObjectKind, name: str, *notes: str, total: int = 0) -> ObjectMark:
    return ObjectMark("t", "12ab", kind, name, notes, total)


BRIDGE = FoundDevice(
    "br", "in", 2, mark(ObjectKind.BRIDGE, "br", "10.0.0.0/24", "fd00::/64", "masquerade"),
    1400, is_up=True, has_carrier=True, addresses=("10.0.0.1/24",),
    routes=(("default", "10.0.0.9"),),
)  # fmt: skip
TAP = FoundDevice(
    "tap", "in", 3, mark(ObjectKind.TAP, "tap", "10.0.0.2/24"),
    1400, is_up=False, has_carrier=True, bridge="br",
)  # fmt: skip
INSIDE = FoundNamespace("in", "/run/netns/in", mark(ObjectKind.NAMESPACE, "in", total=3))
EMPTY = FoundNamespace("no", "/run/netns/no", mark(ObjectKind.NAMESPACE, "no"))
HALF = FoundDevice("half", None, 7, None, 1500, is_up=False, has_carrier=False)


def test_lines_are_broken_between_words_and_what_is_below_stays_below() -> None:
    found = FoundTopology("t", (INSIDE,), (BRIDGE, TAP))
    assert drawn(found, None) == (
        "topology t  3 objects, complete\n"
        "└─ namespace in\n"
        "   └─ bridge br  10.0.0.1/24  subnet fd00::/64  masquerades  mtu 1400\n"
        "      ├─ route  default via 10.0.0.9\n"
        "      └─ tap tap  guest 10.0.0.2/24  in use  mtu 1400  down"
    )
    assert drawn(found, 44) == (
        "topology t  3 objects, complete\n"
        "└─ namespace in\n"
        "   └─ bridge br  10.0.0.1/24\n"
        "      │    subnet fd00::/64  masquerades\n"
        "      │    mtu 1400\n"
        "      ├─ route  default via 10.0.0.9\n"
        "      └─ tap tap  guest 10.0.0.2/24  in use\n"
        "              mtu 1400  down"
    )
    assert drawn(found, 1) == drawn(found, 40)
    assert encoded(drawn(found, 44), "ascii").decode().splitlines()[3:6] == [
        "      |    subnet fd00::/64  masquerades",
        "      |    mtu 1400",
        "      +- route  default via 10.0.0.9",
    ]


def test_what_is_not_whole_says_so() -> None:
    lost = FoundTopology("t", (INSIDE,), (TAP,))
    assert drawn(lost, None).startswith("topology t  2 objects, 1 more is gone\n")
    begun = FoundTopology("t", (EMPTY,), (HALF,), files=("/run/netns/.pyvmm:t:1",))
    assert drawn(begun, None) == (
        "topology t  1 object, not complete\n"
        "├─ in this namespace\n"
        "│  └─ half  half made\n"
        "├─ namespace no  empty\n"
        "└─ name of no namespace /run/netns/.pyvmm:t:1"
    )


def test_marks_fit_into_an_alias_and_are_read_back() -> None:
    notes = tuple(f"fd00:1234:5678:9abc:def0:1234:5678:{number:x}/64" for number in range(20))
    written = mark(ObjectKind.TAP, "t" * 15, *notes, total=4096)
    alias = written.mark.alias
    assert len(alias) <= 255
    read = object_mark(mark_of(alias))
    assert read is not None
    assert 1 < len(read.notes) < len(notes)
    assert read.notes == notes[: len(read.notes)]
    assert (read.kind, read.name, read.digest, read.total) == (
        ObjectKind.TAP, "t" * 15, "12ab", 4096,
    )  # fmt: skip
    for wrong in ("run", "t:tap", "t:dog:a:12:0:", "t:tap:a b:12:0:", "t:tap:a:xy:0:"):
        assert object_mark(mark_of(f"pyvmm:{wrong}")) is None
    assert object_mark(mark_of("pyvmm:run:tap:a:12:0:")) is None
