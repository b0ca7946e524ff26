# SPDX-License-Identifier: MIT
"""The table of GSIs: what it hands out, and how often it writes routes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.hosts.gsi_table import MOST_MESSAGES, PINS, GsiTable
from pyvmm.hosts.interrupts import Msi

ONE, TWO = Msi(0xFEE0_0000, 0x31), Msi(0xFEE0_0000, 0x32)


class Written:
    """What a table has written, each time."""

    def __init__(self) -> None:
        self.times: list[Mapping[int, Msi]] = []
        self.fails = False

    def __call__(self, routes: Mapping[int, Msi]) -> None:
        if self.fails:
            raise OSError
        self.times.append(routes)


def test_messages_are_behind_the_pins_and_numbers_come_back() -> None:
    table = GsiTable()
    assert [table.take_message("disk") for _ in range(3)] == [PINS, PINS + 1, PINS + 2]
    table.give_message(PINS + 1)
    table.give_message(PINS)
    assert [table.take_message("disk") for _ in range(3)] == [PINS, PINS + 1, PINS + 3]


def test_there_is_an_end_to_them() -> None:
    table = GsiTable()
    last = [table.take_message("disk") for _ in range(MOST_MESSAGES)][-1]
    with pytest.raises(HostLacksError, match="give a message interrupt to net: all"):
        table.take_message("net")
    table.give_message(last)
    assert table.take_message("net") == last < 4096


def test_many_changes_are_written_once_and_no_change_never() -> None:
    written = Written()
    table = GsiTable(written)
    first, second = table.take_message("disk"), table.take_message("disk")
    with table.changing():
        for gsi, msi in ((first, ONE), (first, TWO), (second, ONE)):
            table.route(gsi, msi)
            table.commit()
        assert written.times == []
    assert written.times == [{first: TWO, second: ONE}]
    table.route(first, TWO)
    table.commit()
    with table.changing():
        pass
    assert len(written.times) == 1
    with table.changing():
        table.route(first, None)
        table.flush()  # somebody needs it now
        assert written.times[1:] == [{second: ONE}]
    assert len(written.times) == 2


def test_a_route_of_who_has_gone_goes_with_the_next_that_is_written() -> None:
    written = Written()
    table = GsiTable(written)
    first, second = table.take_message("disk"), table.take_message("disk")
    table.route(first, ONE)
    table.commit()
    table.give_message(first)
    table.route(second, TWO)
    table.commit()
    assert written.times == [{first: ONE}, {second: TWO}]


def test_what_could_not_be_written_is_written_the_next_time() -> None:
    written = Written()
    table = GsiTable(written)
    gsi = table.take_message("disk")
    written.fails = True
    with pytest.raises(OSError):
        with table.changing():
            table.route(gsi, ONE)
    written.fails = False
    table.commit()
    assert written.times == [{gsi: ONE}]
