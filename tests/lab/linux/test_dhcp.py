# SPDX-License-Identifier: MIT
"""The script that busybox's DHCP client calls in a guest, here with a tap and with passt."""

from __future__ import annotations

import os
import select
import subprocess
import threading
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

import pyvmm.lab.linux
from pyvmm.lab.linux.root_files import BUSYBOX
from pyvmm.net.frames import HEADER_SIZE, MOST_FRAME, WireQueue
from pyvmm.net.namespaces import new_namespace, within
from pyvmm.net.passt import open_passt
from pyvmm.net.taps import TapWire, open_tap
from tests.net.passt_outside import ADDRESS, GATEWAY, outside

pytestmark = [pytest.mark.passt, pytest.mark.slow]
SCRIPT = Path(pyvmm.lab.linux.__file__).with_name("dhcp")
CLIENT = """
mount -t tmpfs tmp /tmp
cat >/tmp/dhcp
chmod +x /tmp/dhcp
mkdir /tmp/bin
busybox --install -s /tmp/bin
export PATH=/tmp/bin
ip link set eth0 up
udhcpc -f -q -n -i eth0 -s /tmp/dhcp >&2 || exit 1
ip -o addr show dev eth0; ip route; ip link show eth0; cat /tmp/resolv.conf
"""
"""In a mount namespace of its own: the script writes to /tmp. Programs are those of a guest."""


def pump(one: WireQueue, other: WireQueue, stop: int) -> None:
    """Carry frames both ways until `stop` is readable."""
    room = memoryview(bytearray(HEADER_SIZE + MOST_FRAME))
    ways = {one.fileno(): (one, other), other.fileno(): (other, one)}
    while stop not in (ready := select.select([*ways, stop], (), ())[0]):
        for fd in ready:
            source, target = ways[fd]
            with suppress(BlockingIOError):  # A frame has come in part.
                target.send([room[: source.receive([room])]])


def test_it_sets_the_card_up() -> None:
    if not any(path.exists() for path in BUSYBOX):
        pytest.skip("this host has no busybox-static")
    with ExitStack() as stack:
        netns = stack.enter_context(outside())
        guest = new_namespace()
        stack.callback(os.close, guest)
        tap = stack.enter_context(TapWire("eth0", within(guest, partial(open_tap, "eth0")).fds))
        passt = stack.enter_context(within(netns, partial(open_passt, (), 1400)))
        stop, end = os.pipe()
        stack.callback(os.close, stop)
        carrier = threading.Thread(target=pump, args=(tap.queues[0], passt.queues[0], stop))
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(os.close, end)
        with SCRIPT.open("rb") as script:
            run = partial(
                subprocess.run, ["unshare", "-m", "sh", "-c", CLIENT], stdin=script,
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            done = within(guest, run)
    assert done.returncode == 0, done.stderr
    assert f"inet {ADDRESS}/24" in done.stdout
    assert f"default via {GATEWAY} dev eth0" in done.stdout
    assert "mtu 1400" in done.stdout
