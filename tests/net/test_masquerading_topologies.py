# SPDX-License-Identifier: MIT
"""Topologies that masquerade: by which address hosts outside know those inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.place import NOTHING, Place, place

pytestmark = pytest.mark.slow

ROUTED = """
[bridge.lan]
{router}
subnet = "10.7.0.0/25"
address = "10.7.0.1"
{masquerade}
[namespace.pyvmm-guest]
[namespace.pyvmm-router]
forward = true
[namespace.pyvmm-world]
[veth.port]
ends = [
  {{ bridge = "lan" }},
  {{ namespace = "pyvmm-guest", name = "eth0", address = "10.7.0.9/25" }},
]
[veth.up]
ends = [
  {{ {router} address = "10.9.0.1/24" }},
  {{ namespace = "pyvmm-world", address = "10.9.0.2/24" }},
]
[[route]]
namespace = "pyvmm-guest"
to = "default"
via = "10.7.0.1"
[[route]]
namespace = "pyvmm-world"
to = "10.7.0.0/25"
via = "10.9.0.1"
"""


@pytest.fixture(scope="module")
def ours() -> Iterator[Place]:
    with place() as made:
        yield made


def topology(tmp_path: Path, *, router: str, masquerades: bool) -> Path:
    path = tmp_path / "routed.toml"
    inside = f'namespace = "{router}"' if router else ""
    text = ROUTED.format(router=inside, masquerade="masquerade = true" if masquerades else "")
    if router:
        text = text.replace(f"{{ {inside} address", f"{{ {inside}, address")
    path.write_text(text, encoding="utf-8")
    return path


def check_who_is_seen(ours: Place, tmp_path: Path, router: str) -> None:
    for masquerades, seen in ((False, "10.7.0.9"), (True, "10.9.0.1")):
        file = topology(tmp_path, router=router, masquerades=masquerades)
        assert ours.pyvmm("net", "up", file).err == ""
        assert ours.reach("pyvmm-guest", "pyvmm-world", "10.9.0.2") == seen
        # On the bridge itself nobody is changed.
        assert ours.reach("pyvmm-guest", router or None, "10.7.0.1") == "10.7.0.9"
        status = ours.pyvmm("net", "status", "routed").out
        assert ("masquerades" in status) is masquerades
        assert "complete" in status
        assert ours.pyvmm("net", "down").status == 0
        assert ours.left() == NOTHING


@pytest.mark.nft
def test_who_is_seen_behind_a_namespace(ours: Place, tmp_path: Path) -> None:
    check_who_is_seen(ours, tmp_path, "pyvmm-router")


@pytest.mark.net
def test_who_is_seen_behind_the_commands_own_namespace(ours: Place, tmp_path: Path) -> None:
    refused = ours.pyvmm("net", "up", topology(tmp_path, router="", masquerades=True))
    assert refused.status == 69
    assert "sysctl -w net.ipv4.ip_forward=1" in refused.err
    assert ours.left() == NOTHING
    ours.forward(True)
    done = ours.pyvmm("net", "up", topology(tmp_path, router="", masquerades=True))
    ours.pyvmm("net", "down")
    if "nftables" in done.err:
        pytest.skip(done.err)
    check_who_is_seen(ours, tmp_path, "")
    ours.forward(False)
