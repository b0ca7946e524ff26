# SPDX-License-Identifier: MIT
"""Wires of a machine: there before it is, closed behind it, and waited for by no trio task."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.errors import UsageError
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.hardware import Hardware, NetCard, TapNet
from pyvmm.machine.network import opening
from pyvmm.machine.running import open_machine
from pyvmm.net.frames import Wire
from tests.cli.command import pyvmm
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

    def begin(card: NetCard, number: int, stack: ExitStack) -> Callable[[], Wire]:
        opened.append(threading.current_thread())
        stack.callback(lambda: closed.append(threading.current_thread()))
        return real(card, number, stack)

    real = opening._begin
    monkeypatch.setattr(opening, "_begin", begin)

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


@pytest.mark.slow
def test_a_run_says_what_its_cards_are_connected_to(netns: int) -> None:
    where = f"/proc/{os.getpid()}/fd/{netns}"
    options = ("--host", "model", "--irqchip", "on", "--net", f"tap,netns={where}", "-v")
    outcome = pyvmm("run", "exit", *options)
    assert outcome.code == 0
    assert outcome.lines[1] == f"pyvmm: net 0: type=tap,ifname=tap0,netns={where}"


def test_a_tap_is_one_card_s(netns: int) -> None:
    @in_trio
    async def run() -> None:
        async with open_machine(config(tap(netns, "one"), tap(netns, "one"))):
            pass

    with pytest.raises(UsageError, match="cannot use the tap one for two cards"):
        run()
    assert list(links_of(netns)) == ["lo"]


def test_a_capture_has_its_file_alone(netns: int, tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"

    def captured(name: str) -> NetCard:
        return NetCard(TapNet(name, netns=path(netns)), capture=file)

    with ExitStack() as stack:
        opening.open_wire(captured("one"), 0, stack)
        began = file.read_bytes()
        assert len(began) == 24
        with (
            ExitStack() as refused,
            pytest.raises(UsageError, match=r"a\.pcap: somebody writes to it already"),
        ):
            opening.open_wire(captured("two"), 1, refused)
        assert file.read_bytes() == began
        assert list(links_of(netns)) == ["lo", "one"]
    with ExitStack() as stack:
        opening.open_wire(captured("two"), 0, stack)


def test_a_capture_is_no_directory(netns: int, tmp_path: Path) -> None:
    card = NetCard(TapNet(netns=path(netns)), capture=tmp_path)
    with (
        ExitStack() as stack,
        pytest.raises(UsageError, match=r"Is a directory; name a file in it"),
    ):
        opening.open_wire(card, 0, stack)


def test_a_wire_that_is_refused_empties_no_file(netns: int, tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"
    file.write_bytes(b"of an earlier run")
    first = NetCard(TapNet("one", netns=path(netns)), capture=file)

    @in_trio
    async def run(*cards: NetCard) -> None:
        async with open_machine(config(*cards), paused=True):
            pass

    with pytest.raises(UsageError, match="no tap"):
        run(first, tap(netns, "lo"))
    assert file.read_bytes() == b"of an earlier run"
    run(first)
    assert len(file.read_bytes()) == 24
