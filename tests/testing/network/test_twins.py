# SPDX-License-Identifier: MIT
"""Networks of trio tests and of others: two of a kind."""

from __future__ import annotations

import inspect

import pytest

from pyvmm.testing import AsyncNetwork, AsyncPort, Network, Port


@pytest.mark.parametrize(("kind", "twin"), [(Network, AsyncNetwork), (Port, AsyncPort)])
def test_both_have_the_same_methods_with_the_same_arguments(kind: type, twin: type) -> None:
    found = {name: value for name, value in vars(twin).items() if not name.startswith("_")}
    for name, value in found.items():
        if inspect.isfunction(value):
            ours = inspect.signature(getattr(kind, name)).parameters
            assert list(inspect.signature(value).parameters) == list(ours)
            assert [each.default for each in ours.values()] == [
                each.default for each in inspect.signature(value).parameters.values()
            ]
    inside = {"ask", "close", "record", "taken", "told_mtu"}
    assert {name for name in vars(kind) if not name.startswith("_")} - inside <= found.keys()
