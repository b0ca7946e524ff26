# SPDX-License-Identifier: MIT
"""Guests at a network of their test's."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.testing import Booted, Boots
from pyvmm.testing.network.networks import Network

pytestmark = [pytest.mark.slow, pytest.mark.net]


def test_a_guest_with_a_card_cannot_start_behind_a_boot(network: Network, booted: Booted) -> None:
    with pytest.raises(UsageError, match="a saved boot is all tests'"):
        booted("echo", until="x", net=network.port())


@pytest.mark.parametrize("net", ["port1", 1, [None]])
def test_what_is_no_port_is_refused(boot: Boots, net: Any) -> None:
    with pytest.raises(UsageError, match=r"it is a port of a network, .*give network\.port\(\)"):
        boot("hello", net=net)


def test_two_cards_have_two_ports(boot: Boots, network: Network) -> None:
    port = network.port()
    with pytest.raises(UsageError, match="two cards cannot have the same port"):
        boot("hello", net=[port, port])
