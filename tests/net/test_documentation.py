# SPDX-License-Identifier: MIT
"""The example of docs/network.md is a topology, and is drawn as it says there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.net.topology_file import parse_topology
from tests.net.place import place

PAGE = (Path(__file__).parents[2] / "docs" / "network.md").read_text(encoding="utf-8")


@pytest.mark.net
@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    example = re.search(r'```toml\n(name = "shop".*?)```', PAGE, re.DOTALL)
    drawn = re.search(r"# pyvmm net status\n(.*?)# pyvmm run", PAGE, re.DOTALL)
    assert example is not None
    assert drawn is not None
    file = tmp_path / "shop.toml"
    file.write_text(example[1], encoding="utf-8")
    count = parse_topology(example[1], "shop.toml", "shop").count
    with place() as here:
        up = here.pyvmm("net", "up", file)
        if "nftables" in up.err:
            pytest.skip(up.err)
        assert (up.err, up.out) == ("", f"the topology shop is up ({count} objects)\n")
        assert up.out in PAGE
        assert here.pyvmm("net", "status").out == drawn[1]
        down = here.pyvmm("net", "down")
        assert down.out == f"the topology shop is down ({count} objects removed)\n"
        assert down.out in PAGE
