# SPDX-License-Identifier: MIT
"""Taps of a run's cards: what is made, what is only used, what is refused, and what stays."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import (
    HostLacksError,
    NoInputError,
    NoPermissionError,
    PyvmmError,
    SystemCallError,
    UsageError,
)
from pyvmm.net import taps
from pyvmm.net.links import Links
from pyvmm.net.marks import Mark
from pyvmm.net.named_namespaces import name_namespace, unname_namespace
from pyvmm.net.namespaces import new_namespace, path_of, within
from pyvmm.net.taps import keep_tap, open_tap
from tests.net.capabilities import without_capabilities
from tests.net.namespace_work import FRAME, ipv6, links_of, opened, with_links

pytestmark = pytest.mark.net
NOBODY = 65534
FOREIGN = Mark("somebody", "else")


def make_foreign(links: Links) -> None:
    """Links of somebody else's: a bridge that is up, one that is not, and one with an address."""
    links.change(links.add_bridge("up", FOREIGN, mtu=1400), is_up=True)
    links.add_bridge("down", FOREIGN)
    links.add_address(links.add_bridge("addressed", FOREIGN), "10.9.0.1/24")


def keep(netns: int, name: str, queues: int = 1, user: int | None = None) -> None:
    """Make a persistent tap that is up, as ``ip tuntap`` does."""
    fds = within(netns, partial(open_tap, name, queues)).fds
    keep_tap(fds[0], user=user)
    for fd in fds:
        os.close(fd)
    with_links(netns, lambda links: links.change(found(links, name), is_up=True))


def found(links: Links, name: str) -> Any:
    return links.find(name)


@pytest.fixture(scope="module")
def crowd() -> Iterator[int]:
    """A namespace in which others have links."""
    netns = new_namespace()
    with_links(netns, make_foreign)
    keep(netns, "kept")
    keep(netns, "many", 2)
    yield netns
    os.close(netns)


@pytest.fixture
def crowded(crowd: int) -> Iterator[int]:
    """The same, of whose links nothing may change in a test."""
    before, descriptors = links_of(crowd), len(os.listdir("/proc/self/fd"))
    yield crowd
    assert links_of(crowd) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


REFUSED: dict[str, tuple[dict[str, Any], type[PyvmmError], str]] = {
    "a bridge of that name": (
        {"name": "up"}, UsageError, "cannot use the tap up: there is a network device of that name "
        "that is no tap; give another name",
    ),
    "a name that is taken, to be set up": (
        {"name": "kept", "bridge": "up"}, UsageError, "leave bridge= out to use it",
    ),
    "an address for one that is there": (
        {"name": "kept", "address": "10.8.0.1/24"}, UsageError, "leave addr= out to use it",
    ),
    "one queue where two are wanted": (
        {"name": "kept", "queues": 2}, UsageError, "no tap of several queues; give queues=1",
    ),
    "a bridge that is not there": (
        {"name": "new", "bridge": "none"}, UsageError, "cannot put the tap new on the bridge none: "
        "there is none; make it with ip link add none type bridge, or pyvmm net up",
    ),
    "a bridge that is a tap": ({"bridge": "kept"}, UsageError, "that is no bridge"),
    "a bridge that is down": ({"bridge": "down"}, UsageError, "down; ip link set down up"),
    "a bridge's MTU": (
        {"bridge": "up", "mtu": 1500}, UsageError, "up takes at most 1400 bytes; leave mtu= out",
    ),
    "a tap's MTU": (
        {"name": "kept", "mtu": 9000}, UsageError, "cannot use the tap kept with an MTU of 9000",
    ),
    "an address that is taken": (
        {"address": "10.9.0.1/8"}, UsageError, "use the address 10.9.0.1: addressed has it",
    ),
    "an address and a bridge": (
        {"address": "10.9.0.9/24", "bridge": "up"}, UsageError, "give it to the bridge instead",
    ),
    "no address": ({"address": "10.9.0"}, UsageError, "10.9.0 is no address with its length"),
    "a subnet's address": (
        {"address": "10.9.1.0/24"}, UsageError, "10.9.1.0/24 is the subnet's own address",
    ),
    "no queue": ({"queues": 0}, UsageError, "1 to 256 queues; not 0"),
    "too many queues": ({"queues": 257}, UsageError, "1 to 256 queues; not 257"),
    "no MTU": ({"mtu": 67}, UsageError, "68 to 65521 bytes; not 67"),
    "a pattern": ({"name": "tap%d"}, UsageError, "'tap%d' is no name of a network device"),
    "a long name": ({"name": "a" * 16}, UsageError, "at most 15 letters"),
    "a path": ({"name": "a/b"}, UsageError, "is no name"),
    "a name with a zero": ({"name": "a\0b"}, UsageError, "is no name"),
    "an empty name": ({"name": ""}, UsageError, "'' is no name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_is_touched(crowded: int, case: str) -> None:
    asked, kind, words = REFUSED[case]
    with pytest.raises(kind) as refused:
        opened(crowded, **asked)
    assert words in str(refused.value)


def test_one_that_is_there_is_used_as_it_is_by_one_at_a_time(crowded: int) -> None:
    for name, queues in (("kept", 1), ("many", 1), ("many", 2)):
        with opened(crowded, name=name, queues=queues) as wire:
            assert (wire.name, len(wire.queues), wire.mtu) == (name, queues, 1500)
            wire.queues[-1].send([memoryview(FRAME)])
            with pytest.raises(UsageError, match=f"cannot use the tap {name}: another run has it"):
                opened(crowded, name=name)


def test_another_process_has_it(crowded: int) -> None:
    attached = within(crowded, partial(taps.attach_tap, "kept"))
    assert attached.hold is not None
    os.close(attached.hold)
    with pytest.raises(UsageError, match="cannot use the tap kept: another process has it"):
        opened(crowded, name="kept")
    os.close(attached.fds[0])
    theirs = within(crowded, partial(open_tap, "theirs", 2))
    with pytest.raises(UsageError, match="cannot use the tap theirs: it is another process's"):
        opened(crowded, name="theirs")
    for fd in theirs.fds:
        os.close(fd)


def test_one_that_is_down_is_not_taken_up(netns: int) -> None:
    keep(netns, "kept")
    with_links(netns, lambda links: links.change(found(links, "kept"), is_up=False))
    with pytest.raises(UsageError, match="cannot use the tap kept: it is down; ip link set kept"):
        opened(netns, name="kept")


@ipv6
def test_what_a_run_makes_has_what_was_asked_for(netns: int) -> None:
    with opened(netns, name="mine", address="fd00::1/64", mtu=9000) as wire:
        link = links_of(netns)["mine"]
        assert (link.is_up, link.mtu, wire.mtu) == (True, 9000, 9000)
        assert link.mark == Mark("run", str(os.getpid()))
        with pytest.raises(UsageError, match="mine: another process has it"):
            opened(netns, name="mine")
        with pytest.raises(UsageError, match="fd00::1: mine has it"):
            opened(netns, address="fd00:0::1/64")
        with opened(netns) as other:
            assert other.mtu == 1500
    assert list(links_of(netns)) == ["lo"]


def test_a_namespace_that_goes_away(netns: int) -> None:
    name = f"pyvmm-test-{os.getpid()}"
    name_namespace(netns, name, Mark("t", name))
    try:
        wire = opened(name)
    finally:
        unname_namespace(path_of(name), "t", is_mounted=True)
    wire.queues[0].send([memoryview(FRAME)])
    wire.close()
    with pytest.raises(NoInputError, match=f"enter the network namespace {name}: there is no"):
        opened(name)


def test_without_capabilities(netns: int) -> None:
    keep(netns, "others", user=NOBODY)
    keep(netns, "own", user=os.getuid())

    def use(name: str | None) -> None:
        within(None, partial(taps.open_tap, name))

    for name, words in (
        (
            None,
            "cannot make a tap: it needs CAP_NET_ADMIN in its network namespace; have one made ",
        ),
        ("others", "cannot use the tap others: it is another user's; have it made for you "),
    ):
        with pytest.raises(NoPermissionError) as refused:
            within(netns, partial(without_capabilities, partial(use, name)))
        assert str(refused.value).startswith(words)
        assert "(ip tuntap add NAME mode tap user " in str(refused.value)
        assert str(refused.value).endswith("--net user needs none")
    own = within(netns, partial(without_capabilities, partial(taps.open_tap, "own")))
    assert (own.name, own.is_new) == ("own", False)
    assert own.hold is not None
    for fd in (*own.fds, own.hold):
        os.close(fd)
    with pytest.raises(NoPermissionError, match="it needs CAP_SYS_ADMIN"):
        without_capabilities(partial(opened, netns))


def bind(path: Path) -> None:
    """Make what no open(2) opens (ENXIO)."""
    with socket.socket(socket.AF_UNIX) as unopenable:
        unopenable.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda path: None, HostLacksError, "there is no .*; modprobe tun; --net user needs none"),
        (bind, HostLacksError, "tun has no driver; modprobe tun"),
        (Path.mkdir, SystemCallError, "Is a directory"),
    ],
    ids=["missing", "without a driver", "a directory"],
)
def test_without_the_device(
    make: Callable[[Path], None],
    kind: type[PyvmmError],
    words: str,
    netns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path / "tun")
    monkeypatch.setattr(taps, "DEVICE", str(tmp_path / "tun"))
    with pytest.raises(kind, match=words):
        opened(netns)


def test_without_pyroute2_no_tap_is_made_and_one_that_is_there_is_used(
    crowded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(HostLacksError, match=r"pyroute2 is not installed; pip install 'pyvmm\[net"):
        opened(crowded)
    opened(crowded, name="kept").close()
    monkeypatch.undo()
