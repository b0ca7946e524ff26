# SPDX-License-Identifier: MIT
"""Topologies put up, drawn and taken down, in a place of the module's own."""

from __future__ import annotations

import json
import os
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
EVERY = int(os.environ.get("PYVMM_KILL_EVERY", "8"))
"""Steps from one at which a command is killed to the next one: 1 for all of them."""


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
    up, down = ("net", "up", small), ("net", "down", "small")
    # From its second time on a place has the folder of names.
    for _ in range(2):
        made, removed = ours.pyvmm(*up), ours.pyvmm(*down)
    assert len(made.steps) > 60
    assert len(removed.steps) > 20
    for words, steps in ((up, made.steps[::EVERY]), (down, removed.steps[::EVERY])):
        for number, step in enumerate(steps):
            if words is down:
                assert ours.pyvmm(*up).status == 0
            assert ours.pyvmm(*words, kill_at=step).was_killed
            if number % 2:
                assert ours.pyvmm(*up).status == 0
                assert ours.pyvmm("net", "status").out == DRAWN
            assert ours.pyvmm(*down).status == 0
            assert ours.left() == NOTHING


def test_names_that_a_killed_process_was_giving(ours: Place, small: Path) -> None:
    assert ours.pyvmm("net", "up", small).status == 0
    assert ours.pyvmm("net", "down").status == 0
    ours.touch("strange")
    ours.touch("stranger", "pyvmm:other:namespace:x:12:0:\n")
    for name, text in (
        (".pyvmm:small:7", ""),
        (".pyvmm:small:7", "pyvmm:sma"),
        ("pyvmm-in", "pyvmm:small:namespace:pyvmm-in:12:0:\n"),
    ):
        for words, out in (
            (("up", small), "made anew: what was there of it had not been finished"),
            (("down", "small"), "is down"),
        ):
            ours.touch(name, text)
            assert f"/run/netns/{name}" in ours.pyvmm("net", "status", "small").out
            done = ours.pyvmm("net", *words)
            assert (done.status, done.err) == (0, "")
            assert out in done.out
            assert ours.pyvmm("net", "down", "small").status == 0
            assert ours.left() == {**NOTHING, "names": ["strange", "stranger"]}
    assert ours.pyvmm("net", "down", "other").status == 0
    assert ours.left() == {**NOTHING, "names": ["strange"]}
    ours.remove("name", "strange")


def test_names_of_somebody_elses_are_refused_and_nothing_of_it_is_made(
    ours: Place, small: Path
) -> None:
    taken = {"br": "bridge", "cable": "bridge", "near": "tap", "pyvmm-in": "namespace"}
    for name, kind in taken.items():
        ours.add(kind, name)
        before = ours.left()
        done = ours.pyvmm("net", "up", small)
        assert (done.status, done.out) == (64, "")
        assert f"{name}: there is one of that name, which is not the topology's" in done.err
        assert ours.pyvmm("net", "down", "small").out == "no topology small is up\n"
        assert ours.left() == before
        ours.remove(kind, name)
    assert ours.left() == NOTHING


def test_what_fails_in_the_middle_is_undone(ours: Place, tmp_path: Path, small: Path) -> None:
    # A route that the kernel refuses, once all the rest is made.
    text = SMALL + '[[route]]\nnamespace = "pyvmm-in"\nto = "default"\nvia = "10.8.0.2"\n'
    small.write_text(text, encoding="utf-8")
    done = ours.pyvmm("net", "up", small)
    assert (done.status, done.out) == (64, "")
    assert done.err.startswith("pyvmm: cannot add a route to 0.0.0.0/0 by way of 10.8.0.2: ")
    assert ours.left() == NOTHING


def test_another_file_of_the_same_name_is_refused(ours: Place, small: Path) -> None:
    assert ours.pyvmm("net", "up", small).status == 0
    small.write_text(SMALL.replace("10.8.0.2", "10.8.0.4"), encoding="utf-8")
    done = ours.pyvmm("net", "up", small)
    assert (done.status, done.out) == (64, "")
    assert "made of a file that said something else; first, pyvmm net down small" in done.err
    assert ours.pyvmm("net", "status").out == DRAWN
    assert ours.pyvmm("net", "down", small).status == 0


def test_an_object_that_somebody_has_removed(ours: Place, small: Path) -> None:
    assert ours.pyvmm("net", "up", small).status == 0
    ours.remove("device", "cable")
    assert ours.pyvmm("net", "status").out.startswith("topology small  4 objects, 2 more are gone")
    done = ours.pyvmm("net", "up", small)
    assert done.status == 64
    assert "it is up, but 2 of its 6 objects are gone" in done.err
    ours.remove("namespace", "pyvmm-in")
    assert ours.pyvmm("net", "down").out == "the topology small is down (2 objects removed)\n"
    assert ours.left() == NOTHING


def test_taps_in_use(ours: Place, small: Path) -> None:
    assert ours.pyvmm("net", "up", small).status == 0
    for tap, netns in (("near", None), ("far", "pyvmm-in")):
        ours.open_tap(tap, netns)
        assert ours.pyvmm("net", "status").out.count("in use") == 1
        done = ours.pyvmm("net", "down")
        assert (done.status, done.out) == (64, "")
        assert f"taps of it are in use ({tap})" in done.err
        ours.close_taps()
    assert ours.pyvmm("net", "status").out == DRAWN
    ours.open_tap("near")
    ours.open_tap("far", "pyvmm-in")
    assert ours.removed_taps() == 0
    assert ours.pyvmm("net", "down", "--force").status == 0
    assert ours.removed_taps() == 2
    assert ours.left() == NOTHING
    ours.close_taps()


def test_several_in_any_order(ours: Place, tmp_path: Path, small: Path) -> None:
    names = ["one", "two", "three"]
    for name in names:
        (tmp_path / f"{name}.toml").write_text(f"[bridge.b-{name}]\n", encoding="utf-8")
        assert ours.pyvmm("net", "up", tmp_path / f"{name}.toml").status == 0
    assert ours.pyvmm("net", "up", small).status == 0
    done = ours.pyvmm("net", "down")
    assert (done.status, done.out) == (64, "")
    assert "there are one, small, three, two; say which" in done.err
    told = json.loads(ours.pyvmm("net", "status", "--json").out)["topologies"]
    assert [each["name"] for each in told] == ["one", "small", "three", "two"]
    assert all(each["complete"] for each in told)
    assert told[1]["devices"][1] == {
        "name": "near", "kind": "tap", "namespace": None, "bridge": "br", "addresses": [],
        "notes": ["10.8.0.2/24"], "routes": [], "mtu": 1500, "up": True, "in_use": False,
    }  # fmt: skip
    for name in ("two", "small", "one", "three", "two"):
        assert ours.pyvmm("net", "down", name).status == 0
    assert ours.left() == NOTHING


def test_two_at_once_take_turns(ours: Place, small: Path) -> None:
    up, down = ("net", "up", small), ("net", "down", "small")
    first, second = ours.at_once(up, up)
    assert {first.status, second.status} == {0}
    assert sorted([first.out, second.out]) == [
        "the topology small is up (6 objects)\n",
        "the topology small is up already (6 objects)\n",
    ]
    done = ours.at_once(down, up, down)
    assert [each.status for each in done] == [0, 0, 0]
    assert ours.pyvmm("net", "status").out in (DRAWN, "no topology is up\n")
    assert ours.pyvmm(*down).status == 0


def test_an_interrupted_up_is_undone(ours: Place, small: Path) -> None:
    lines = ours.pyvmm("net", "up", small).lines
    assert ours.pyvmm("net", "down").status == 0
    for percent in (50, 70, 85):
        done = ours.pyvmm("net", "up", small, interrupt_at=lines * percent // 100)
        assert (done.status, done.out) == (130, "")
        assert done.err == "pyvmm: interrupted by SIGINT\n"
        assert ours.left() == NOTHING


def test_without_capabilities(ours: Place, small: Path) -> None:
    assert ours.pyvmm("net", "up", small).status == 0
    before = ours.left()
    for words in (("up", small), ("status",), ("down", "small")):
        done = ours.pyvmm("net", *words, is_bare=True)
        assert (done.status, done.out) == (77, "")
        # CAP_NET_ADMIN where there is nftables to look at, CAP_SYS_ADMIN to enter namespaces.
        assert done.err.startswith("pyvmm: cannot look for topologies of networks: it needs CAP_")
        assert done.err.endswith("do it as root, or in namespaces of your own (unshare -Urnm)\n")
    assert ours.left() == before
    assert ours.pyvmm("net", "down").status == 0
