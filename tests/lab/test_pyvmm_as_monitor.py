# SPDX-License-Identifier: MIT
"""A lab that pyvmm runs, on this host's KVM or, where that cannot boot Linux, in another lab."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyvmm.bundled_guests import find
from pyvmm.lab.initramfs import Folder
from pyvmm.lab.pyvmm_machine import machine_config
from pyvmm.lab.settings import LabMonitor, LabSettings, LabWishes
from tests.lab.places import HANG, PYVMM, LabAtHand, run


def image(name: str) -> str:
    guest = find(name)
    assert guest is not None
    return str(guest.path)


def test_a_lab_s_monitor_is_kept_in_its_settings(tmp_path: Path) -> None:
    settings = LabSettings("kernel", monitor=LabMonitor.PYVMM)
    assert LabSettings.from_json(settings.to_json()) == settings
    # As a lab that is up from before there was a choice says it.
    old = '{"kernel": "kernel", "cpus": 2, "memory": 2147483648, "writable": ["/srv"]}'
    assert LabSettings.from_json(old) == LabSettings("kernel", writable=("/srv",))
    wishes = LabWishes(monitor=LabMonitor.PYVMM)
    assert not wishes.any_lab_will_do
    assert wishes.are_met_by(settings)
    assert not wishes.are_met_by(LabSettings("kernel"))
    assert LabWishes(cpus=2).are_met_by(settings)


def test_the_machine_has_the_lab_s_folders_and_channel() -> None:
    folders = (Folder("w0", "/srv", writable=True), Folder("c1", "/usr", False))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        settings = LabSettings(image("exit"), cpus=2, memory=512 << 20)
        config = machine_config(settings, folders, b"initrd", theirs.fileno())
        hardware = config.hardware
        assert hardware is not None
        assert [(each.tag, str(each.path), each.read_only) for each in hardware.shares] == [
            ("root", "/", True),
            ("w0", "/srv", False),
            ("c1", "/usr", True),
        ]
        assert [(port.name, port.fd) for port in hardware.ports] == [("pyvmm.lab", theirs.fileno())]
        # Programs run on two, beside the boot CPU.
        assert (config.cpus, config.memory, config.initrd) == (3, 512 << 20, b"initrd")


@pytest.mark.kvm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "why"), [("exit", b"the guest ended with status 0"), ("panic", b"PANIC: asked to")]
)
def test_a_kernel_that_ends_is_no_lab(tmp_path: Path, kernel: str, why: bytes) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    words = ["lab", "run", "--monitor", "pyvmm", "--kernel", image(kernel), "--", "true"]
    done = run([PYVMM, *words], env)
    assert (done.code, done.out) == (71, b"")
    assert why in done.err
    assert done.err.count(b"\n") == 1


@pytest.mark.qemu
@pytest.mark.lab
@pytest.mark.slow
def test_a_lab_in_the_lab_under_pyvmm(lab: LabAtHand) -> None:
    """Three levels of kernels: the same folders, output and exit status in the innermost."""
    inner = "cat; uname -n; echo written there > /tmp/m/out/file; exit 7"
    command = f"{PYVMM} lab run --monitor pyvmm --cpus 1 --memory 512M --writable /tmp/m/out"
    script = (
        "mkdir -m 700 -p /tmp/m /tmp/m/run /tmp/m/out; export XDG_RUNTIME_DIR=/tmp/m/run;"
        f" {command} -- sh -c '{inner}'; echo $?; cat /tmp/m/out/file"
    )
    done = lab.inside(["sh", "-c", script], given=b"given\n", patience=2 * HANG)
    assert done.out == b"given\nlab\n7\nwritten there\n", done.err
