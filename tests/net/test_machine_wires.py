# SPDX-License-Identifier: MIT
"""Wires of a machine: there before it is, closed behind it, and waited for by no trio task."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack

import pytest

from pyvmm.errors import UsageError
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.hardware import Hardware, NetCard, TapNet
from pyvmm.machine.network import opening
from pyvmm.machine.running import open_machine
from pyvmm.net.frames import Wire
from tests.machine.in_trio import in_trio
from tests.net.namespace_work import links_of, path

pytestmark = pytest.mark.net
HALTS = bytes.fromhex("f4 ebfd")


def config(*cards: NetCard) -> MachineConfig:
    return MachineConfig(
        HALTS,
        memory=2 << 20,
        host=HostChoice.MODEL,
        irqchip=IrqchipPolicy.ON,
        hardware=Hardware(cards=cards),
    )


def tap(netns: int, name: str) -> NetCard:
    return NetCard(TapNet(name, netns=path(netns)))


def test_they_go_with_the_machine(netns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[threading.Thread] = []
    closed: list[threading.Thread] = []

    def open_wire(card: NetCard, number: int, stack: ExitStack) -> Wire:
        opened.append(threading.current_thread())
        stack.callback(lambda: closed.append(threading.current_thread()))
        return real(card, number, stack)

    real = opening.open_wire
    monkeypatch.setattr(opening, "open_wire", open_wire)

    @in_trio
    async def run() -> None:
        async with open_machine(config(tap(netns, "one"), tap(netns, "two")), paused=True):
            assert list(links_of(netns)) == ["lo", "one", "two"]
        assert list(links_of(netns)) == ["lo"]

    run()
    assert (len(opened), len(closed)) == (2, 2)
    assert threading.current_thread() not in opened + closed


@pytest.mark.slow
def test_they_go_where_no_machine_can_be_made(netns: int) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))

    @in_trio
    async def run(*cards: NetCard) -> None:
        async with open_machine(config(*cards)):
            pass

    many = [tap(netns, f"tap{number}") for number in range(33)]
    for cards in ([tap(netns, "one"), tap(netns, "lo")], many):
        with pytest.raises(UsageError):
            run(*cards)
        assert list(links_of(netns)) == ["lo"]
    assert len(os.listdir("/proc/self/fd")) == descriptors
