# SPDX-License-Identifier: MIT
"""Topologies put up, drawn and taken down, in a place of the module's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.place import NOTHING, Place, place

pytestmark = [pytest.mark.net, pytest.mark.slow]

SMALL = """
name = "small"
[namespace.pyvmm-in]
[bridge.br]
subnet = "10.8.0.0/24"
address = "10.8.0.1"
[tap.near]
bridge = "br"
guest = "10.8.0.2"
[veth.cable]
ends = [{ bridge = "br" }, { namespace = "pyvmm-in", address = "10.8.0.3/24" }]
[tap.far]
namespace = "pyvmm-in"
[[route]]
namespace = "pyvmm-in"
to = "default"
via = "10.8.0.1"
"""
DRAWN = """\
topology small  6 objects, complete
├─ in this namespace
│  └─ bridge br  10.8.0.1/24
│     ├─ tap near  guest 10.8.0.2/24  free
│     └─ veth cable  to cable in pyvmm-in
└─ namespace pyvmm-in
   ├─ tap far  free
   └─ veth cable  10.8.0.3/24  to cable in this namespace
      └─ route  default via 10.8.0.1
"""


@pytest.fixture(scope="module")
def ours() -> Iterator[Place]:
    with place() as made:
        yield made


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_up_status_down_and_all_of_it_twice(ours: Place, small: Path) -> None:
    for out in ("is up (6 objects)", "is up already (6 objects)"):
        done = ours.pyvmm("net", "up", small)
        assert (done.status, done.out, done.err) == (0, f"the topology small {out}\n", "")
    assert ours.pyvmm("net", "status").out == DRAWN
    assert ours.pyvmm("net", "status", small).out == DRAWN
    for out in ("the topology small is down (6 objects removed)", "no topology is up"):
        done = ours.pyvmm("net", "down")
        assert (done.status, done.out, done.err) == (0, f"{out}\n", "")
        assert ours.left() == NOTHING
    done = ours.pyvmm("net", "status", "small")
    assert (done.status, done.out) == (69, "no topology small is up\n")


def test_kill_at_each_step(ours: Place, small: Path) -> None:
    lines = {
        words: ours.pyvmm("net", *words).lines for words in (("up", str(small)), ("down", "small"))
    }
    for words, count in lines.items():
        for number in range(8):
            if words[0] == "down":
                assert ours.pyvmm("net", "up", small).status == 0
            killed = ours.pyvmm("net", *words, kill_at=1 + number * count // 8)
            assert killed.was_killed
            if number % 2:
                assert ours.pyvmm("net", "up", small).status == 0
                assert ours.pyvmm("net", "status").out == DRAWN
            assert ours.pyvmm("net", "down", "small").status == 0
            assert ours.left() == NOTHING
