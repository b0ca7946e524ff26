# SPDX-License-Identifier: MIT
"""Debian's Linux with network cards: one boot in the lab, where three kinds of wire are tried."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.conftest import environment
from tests.lab.linux.guest import LinuxInLab, linux_in_lab
from tests.lab.places import HANG, PYVMM, run

pytestmark = [pytest.mark.qemu, pytest.mark.lab, pytest.mark.slow]

PORT = "5001"
LIKED = 'r=$(cat /proc/interrupts); for q in {}; do case "$r" in *$q*) ;; *) echo $q;; esac; done'
"""Says those of some words that /proc/interrupts lacks."""


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxInLab]:
    folder = tmp_path_factory.mktemp("linux")
    with linux_in_lab(folder, environment(tmp_path_factory.mktemp("lab"))) as at_hand:
        yield at_hand


def in_lab(linux: LinuxInLab, command: str) -> str:
    """What a command of the lab's shell says."""
    done = run([PYVMM, "lab", "run", "--", "sh", "-c", command], linux.env)
    assert done.code == 0, (command, done.out, done.err)
    return done.out.decode()


@contextmanager
def serving(linux: LinuxInLab) -> Iterator[None]:
    """``nettransfer serve`` in the lab, for whoever reaches it."""
    command = [PYVMM, "lab", "run", "--", str(linux.folder / "nettransfer"), "serve", PORT]
    with subprocess.Popen(
        command, env=linux.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"serving\n"
            yield
        finally:
            server.terminate()
            server.wait(HANG)


def served_by_the_kernel(linux: LinuxInLab) -> int:
    """Number of vhost-net devices that some process has open."""
    found = in_lab(linux, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c '/dev/vhost-net$' || true")
    return int(found)


def test_pings_and_transfers_by_the_kernel_and_by_this_process(linux: LinuxInLab) -> None:
    cards = [
        "--net", "tap=fast,addr=10.0.0.1/24,queues=2,vhost=on,mac=52:54:00:00:00:01",
        "--net", "tap=slow,addr=10.0.1.1/24,vhost=off,mac=52:54:00:00:00:02",
    ]  # fmt: skip
    line = "quiet net=10.0.0.2/24,10.0.0.1"
    with serving(linux), linux.boot("--cpus", "2", *cards, line=line) as guest:
        guest.shell()
        assert served_by_the_kernel(linux) == 2
        # The first card is what its words on the command line make it.
        guest.ask("ip addr add 10.0.1.2/24 dev eth1; ip link set eth1 up")
        assert "default via 10.0.0.1 dev eth0" in guest.ask("ip route")
        # Cards are in the order of the options.
        for number in (0, 1):
            address = guest.ask(f"cat /sys/class/net/eth{number}/address").strip()
            assert address == f"52:54:00:00:00:0{number + 1}"
            said = guest.ask(f"ping -c 3 -i 0.2 10.0.{number}.1")
            assert "3 packets transmitted, 3 packets received" in said
        for number, mib, streams in ((0, 8, 2), (1, 2, 1)):
            speeds = guest.ask(f"nettransfer 10.0.{number}.1 {PORT} {mib} {streams}")
            assert json.loads(speeds).keys() == {"sent", "received"}
        # Both pairs of the first card's queues, with a message each.
        words = "virtio0-input.0 virtio0-output.0 virtio0-input.1 virtio0-output.1"
        assert guest.ask(LIKED.format(words)) == ""
        counted = guest.ask("cat /sys/class/net/eth0/statistics/tx_errors").strip()
        assert counted == "0"
        # Its driver goes and comes back.
        for way in ("unbind", "bind"):
            guest.ask(f"echo virtio0 > /sys/bus/virtio/drivers/virtio_net/{way}")
        guest.ask("ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 up")
        assert re.search(r"\b2 packets received", guest.ask("ping -c 2 -i 0.2 10.0.0.1"))
        guest.ask(f"nettransfer 10.0.0.1 {PORT} 2 2")
        assert guest.ask("dmesg | grep -E 'WARNING:|BUG:|Call Trace|NETDEV WATCHDOG'", code=1) == ""
        guest.say(b"poweroff -f\n")
        assert guest.end() == 0
    assert served_by_the_kernel(linux) == 0
    assert in_lab(linux, "ls /sys/class/net").split() == ["lo"]


OUTSIDE = """
busybox ip link add outside type veth peer name router
busybox ip addr add 192.0.2.1/24 dev outside
busybox ip link set outside up && busybox ip link set router up
busybox ip route add default via 192.0.2.2
"""
"""A network for passt to take its guests' address and router from."""


@pytest.mark.passt
def test_user_network(linux: LinuxInLab) -> None:
    """An address by DHCP, transfers to the lab's own programs, and one that comes from outside."""
    in_lab(linux, OUTSIDE)
    try:
        card = ["--net", f"user,hostfwd=tcp::2222-:{PORT}"]
        with serving(linux), linux.boot(*card, line="quiet net=dhcp") as guest:
            guest.shell()
            assert "192.0.2.1/24" in guest.ask("ip -o addr show dev eth0")
            assert "default via 192.0.2.2 dev eth0" in guest.ask("ip route")
            # passt takes what is sent to the router to the lab's own loopback.
            speeds = guest.ask(f"nettransfer 192.0.2.2 {PORT} 2 1")
            assert json.loads(speeds).keys() == {"sent", "received"}
            guest.ask(f"nettransfer serve {PORT} >/tmp/served 2>&1 & sleep 1; cat /tmp/served")
            speeds = in_lab(linux, f"{linux.folder}/nettransfer 127.0.0.1 2222 1 1")
            assert json.loads(speeds).keys() == {"sent", "received"}
            guest.say(b"poweroff -f\n")
            assert guest.end() == 0
        assert in_lab(linux, "busybox ps | grep -c '[p]asst' || true") == "0\n"
    finally:
        in_lab(linux, "busybox ip link del outside")
