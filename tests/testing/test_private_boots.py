# SPDX-License-Identifier: MIT
"""Boots that say how their private memory is converted."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.memory.backing import PrivateBacking
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.pyvmm_driver import machine_config
from pyvmm.testing.request import make_request


def test_true_and_the_names_of_both_ways() -> None:
    assert machine_config(make_request("hello")).private is None
    for said, backing in (
        (True, PrivateBacking.AUTO),
        ("two-sided", PrivateBacking.TWO_SIDED),
        ("in-place", PrivateBacking.IN_PLACE),
    ):
        private = machine_config(make_request("hello", private=said)).private
        assert private is not None
        assert private.backing is backing
    with pytest.raises(UsageError, match="private='yes': it is True, or 'auto' or 'two-sided' or"):
        make_request("hello", private="yes")


@pytest.mark.slow
@pytest.mark.parametrize(("way", "kept"), [("two-sided", False), ("in-place", True)])
def test_what_a_private_page_had_is_seen_once_it_is_shared_in_place_only(
    boot: Boots, way: str, kept: bool
) -> None:
    page = (64 << 20) - 4096
    with boot("hang", private=way, host="model", memory="64M") as vm:
        vm.console.expect("hanging")
        vm.stop()
        with pytest.raises(UsageError, match=f"the page at gpa {page:#x} is private"):
            vm.memory.read(page, 8)
        vm.convert(page, 4096, "shared")
        vm.memory.write(page, b"seen")
        vm.convert(page, 4096, "private")
        vm.convert(page, 4096, "shared")
        assert vm.memory.read(page, 4) == (b"seen" if kept else bytes(4))
