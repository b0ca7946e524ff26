# SPDX-License-Identifier: MIT
"""Topology files: what they say, and that nothing else is taken for one."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.net.topology import Bridge, Namespace, Route, Tap, Topology, Veth, VethEnd
from pyvmm.net.topology_file import MOST_OBJECTS, parse_topology

SHOP = """
name = "shop"

[namespace.inside]
forward = true
[namespace.outside]

[bridge.lan]
namespace = "inside"
subnet = ["10.7.0.0/24", "fd00:7::/64"]
address = ["10.7.0.1", "fd00:7::1"]
mtu = 1400

[tap.web]
bridge = "lan"
guest = "10.7.0.10"
user = 1000

[veth.up]
ends = [
  { namespace = "inside", address = "10.9.0.1/30" },
  { namespace = "outside", name = "eth0", address = "10.9.0.2/30" },
]

[[route]]
namespace = "outside"
to = "default"
via = "10.9.0.1"
"""


def parsed(text: str, stem: str = "file") -> Topology:
    return parse_topology(text, f"{stem}.toml", stem)


def test_all_that_a_file_can_say() -> None:
    v4, v6 = ip_network("10.7.0.0/24"), ip_network("fd00:7::/64")
    assert parsed(SHOP) == Topology(
        "shop",
        (Namespace("inside", forward=True), Namespace("outside")),
        (
            Bridge(
                "lan", "inside", (v4, v6),
                (ip_interface("10.7.0.1/24"), ip_interface("fd00:7::1/64")), 1400,
            ),
        ),
        (Tap("web", "inside", "lan", (), (ip_interface("10.7.0.10/24"),), 1400, "1000"),),
        (
            Veth(
                "up",
                (
                    VethEnd("up", "inside", None, (ip_interface("10.9.0.1/30"),)),
                    VethEnd("eth0", "outside", None, (ip_interface("10.9.0.2/30"),)),
                ),
            ),
        ),
        (Route(ip_network("0.0.0.0/0"), ip_interface("10.9.0.1/32"), "eth0", "outside"),),
    )  # fmt: skip
    assert parsed(SHOP).count == 6


def test_the_name_is_the_files_unless_it_says_one_and_comments_change_nothing() -> None:
    text = "[bridge.b]\n"
    assert parsed(text, "one").name == "one"
    assert parsed(text + "# a comment\nmtu = 1500\n").digest == parsed(text).digest
    assert parsed(text + "mtu = 1501\n").digest != parsed(text).digest


B = '[bridge.b]\nsubnet = "10.1.0.0/24"\n'
MISTAKES = {
    "no TOML": ("[", "it is no TOML"),
    "nested too deeply": ("a = " + "[" * 100_000, "nested too deeply"),
    "a number without end": ("a = " + "9" * 10_000, "it is no TOML"),
    "nothing": ("", "it has nothing in it"),
    "an unknown table": ("[bridges.b]", "is bridge meant?"),
    "no table": ("bridge = 1", "bridge is no table of tables"),
    "no table in it": ("bridge.b = 1", "bridge is no table of tables"),
    "an unknown key": ("[bridge.b]\nsubnets = 1", "is subnet meant?"),
    "its name is a run's": ('name = "run"\n[bridge.b]', "cannot be a topology's name"),
    "its name has a colon": ('name = "a:b"\n[bridge.b]', "cannot be a topology's name"),
    "its name has a slash": ('name = "../a"\n[bridge.b]', "cannot be a topology's name"),
    "its name is a number": ("name = 1\n[bridge.b]", "is no text"),
    "a name that is too long": (f"[bridge.{'b' * 16}]", "cannot be the name of a bridge"),
    "a name of a folder": ('[namespace.".."]', "cannot be the name of a namespace"),
    "an empty name": ('[tap.""]', "cannot be the name of a tap"),
    "a name with a pattern": ('[tap."tap%d"]', "cannot be the name of a tap"),
    "a name with a new line": ('[tap."a\\nb"]', "cannot be the name of a tap"),
    "lo": ("[bridge.lo]", "cannot be the name of a bridge"),
    "a namespace that is not there": ('[bridge.b]\nnamespace = "c"', "is not there, 'c'"),
    "a bridge that is not there": (B + '[tap.t]\nbridge = "bb"', "is b meant?"),
    "a bridge somewhere else": (
        B + '[namespace.n]\n[tap.t]\nbridge = "b"\nnamespace = "n"', "not in the namespace 'n'",
    ),
    "two of a name": (B + "[tap.b]", "are called b"),
    "two ends of a name": ("[veth.v]\nends = [{}, {}]", "are called v"),
    "three ends": ("[veth.v]\nends = [{}, {}, {}]", "has 3 ends"),
    "no ends": ("[veth.v]", "has 0 ends"),
    "no subnet": ('[bridge.b]\nsubnet = "10.1.0.0"', "is no subnet"),
    "an address for a subnet": ('[bridge.b]\nsubnet = "10.1.0.1/24"', "the subnet is 10.1.0.0/24"),
    "no address": ('[bridge.b]\naddress = "10.1.0/24"', "is no address"),
    "an address without a length": ('[bridge.b]\naddress = "10.1.0.1"', "give its length"),
    "a subnet's own address": (B + 'address = "10.1.0.0"', "the subnet's own address"),
    "a broadcast address": (B + 'address = "10.1.0.255"', "broadcast address"),
    "an address of many": (B + 'address = "224.0.0.1/24"', "that a host can have"),
    "an address with a zone": ('[bridge.b]\naddress = "fe80::1%eth0/64"', "is no address"),
    "an address elsewhere": (B + 'address = "10.2.0.1/24"', "in no subnet of the bridge b"),
    "an address of another length": (B + 'address = "10.1.0.1/16"', "in no subnet of the bridge b"),
    "an address twice": (
        B + 'address = "10.1.0.1"\n[tap.t]\naddress = "10.1.0.1/24"', "the same address, 10.1.0.1",
    ),
    "a guest with the bridge's address": (
        B + 'address = "10.1.0.1"\n[tap.t]\nbridge = "b"\nguest = "10.1.0.1"',
        "has the address of b, 10.1.0.1",
    ),
    "a guest elsewhere": (B + '[tap.t]\nbridge = "b"\nguest = "10.2.0.1/24"', "in no subnet"),
    "subnets that overlap": (B + '[bridge.c]\nsubnet = "10.1.0.128/25"', "overlap"),
    "no MTU": (B + "mtu = 67", "is no MTU"),
    "an MTU that is true": (B + "mtu = true", "is no MTU"),
    "MTUs that differ": (B + '[tap.t]\nbridge = "b"\nmtu = 9000', "make them the same"),
    "an MTU too small for IPv6": (
        '[bridge.b]\naddress = "fd00::1/64"\nmtu = 1279', "IPv6 needs 1280",
    ),
    "no user": ('[tap.t]\nuser = "a b"', "no user's name or number"),
    "nobody to masquerade": ("[bridge.b]\nmasquerade = true", "masquerades, but has no subnet"),
    "a route without a way": (B + '[[route]]\nto = "default"', "has no via"),
    "a route nowhere": (B + '[[route]]\nvia = "10.1.0.1"', "has no to"),
    "a route by a host out of reach": (
        B + '[[route]]\nto = "default"\nvia = "10.1.0.1"', "reaches 10.1.0.1",
    ),
    "a route by oneself": (
        B + 'address = "10.1.0.1"\n[[route]]\nto = "default"\nvia = "10.1.0.1"', "itself",
    ),
    "a route between two IPs": (
        B + '[[route]]\nto = "fd00::/64"\nvia = "10.1.0.1"', "make them the same",
    ),
    "too much": (
        "".join(f"[tap.t{number}]\n" for number in range(MOST_OBJECTS + 1)), "it has 4097 objects",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_told(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)) as caught:
        parsed(text)
    assert str(caught.value).startswith("cannot read the topology file.toml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


PARTS = [
    "[bridge.b]", "[tap.t]", "[namespace.n]", "[veth.v]", "[[route]]", 'bridge = "b"',
    'namespace = "n"', "ends = [{}, {namespace = 'n'}]", 'subnet = "10.1.0.0/24"',
    'address = "10.1.0.1/24"', 'address = ["fd00::1/64", 1]', "mtu = 1500", 'guest = "10.1.0.2"',
    'to = "default"', 'via = "10.1.0.2"', "masquerade = true", "forward = 1", "a.b.c = 1",
    "mtu = 1e400", "address = 2000-01-01", "user = -1",
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=20), max_size=12))
def test_whatever_is_in_a_file_it_is_a_topology_or_refused_in_one_line(lines: list[str]) -> None:
    try:
        topology = parsed("\n".join(lines))
    except UsageError as error:
        assert "\n" not in str(error.cause)
    else:
        assert topology.count
