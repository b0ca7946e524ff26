# SPDX-License-Identifier: MIT
"""The guest `net` on network cards of QEMU's: the device by which its driver is to be judged."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.net.namespaces import new_namespace
from tests.net.station import APPEND, PATIENCE, READY, Station, does_it_all, tap_for_others

pytestmark = pytest.mark.qemu
PCI = "virtio-net-pci,disable-legacy=on,romfile=,netdev=net0"
MMIO = "virtio-net-device,netdev=net0"
MACHINES = {
    "pc": ("-M", "pc", "-device", PCI),
    "q35": ("-M", "q35", "-device", f"{PCI},modern-pio-notify=on,host_mtu=9000"),
    "microvm": ("-M", "microvm", "-global", "virtio-mmio.force-legacy=off", "-device", MMIO),
}


@contextmanager
def booted(
    images: Path, machine: str, append: str, netdev: str, *descriptors: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Have QEMU run it; its console is to be read, and its end waited for."""
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config", "-no-reboot",
        "-display", "none", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
        "-kernel", str(images / "net.img"), "-append", append, "-m", "16M",
        "-netdev", netdev, *MACHINES[machine],
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=descriptors
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Read lines up to the first with `text` in it."""
    assert process.stdout
    said = b""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it ended: {said!r}")


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "append"),
    [
        ("pc", "msix=1"),
        ("q35", "buffers=256 msix=1"),
        ("q35", "offload=0 merge=0 events=0"),
        ("microvm", "buffers=8"),
    ],
)
def test_it_is_a_host_on_the_network(images: Path, machine: str, append: str) -> None:
    namespace = new_namespace()
    try:
        station = Station(namespace)
        with (
            tap_for_others(station) as tap,
            booted(images, machine, APPEND + append, f"tap,id=net0,fd={tap}", tap) as process,
        ):
            read_until(process, READY)
            does_it_all(station, 200_000)
            rest, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0 << 1 | 1
            assert re.fullmatch(rb"frames: \d+ received, \d+ sent, 0 dropped\n", rest)
    finally:
        os.close(namespace)


def test_it_gets_its_address_by_dhcp(images: Path) -> None:
    """From QEMU's user-mode network, whose gateway answers pings, too."""
    with booted(images, "microvm", "ping=10.0.2.2 count=2", "user,id=net0") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    lines = said.decode().splitlines()
    assert lines[1:5] == [
        "at 10.0.2.15, netmask 255.255.255.0, gateway 10.0.2.2",
        "ping 1 is answered",
        "ping 2 is answered",
        "pings of 10.0.2.2: 2, answered: 2",
    ]
    assert process.returncode == 0 << 1 | 1


def test_nobody_answers(images: Path) -> None:
    append = "ip=10.0.2.15/24 ping=10.0.2.77 count=1"
    with booted(images, "microvm", append, "user,id=net0,restrict=on") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert b"ping 1 is not answered\npings of 10.0.2.77: 1, answered: 0\n" in said
    assert process.returncode == 1 << 1 | 1
