# SPDX-License-Identifier: MIT
"""``--disk``: what may be said, and what a guest then has."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.disk_option import parse_disk
from pyvmm.cli.main import main
from pyvmm.errors import ExitCode
from pyvmm.machine.hardware import Disk, DiskFormat, OnIoError


def test_what_may_be_said() -> None:
    assert parse_disk("a,,b=c") == Disk(Path("a,b=c"))
    assert parse_disk("f,format=qcow2,readonly=on,serial=S 1") == Disk(
        Path("f"), format=DiskFormat.QCOW2, read_only=True, serial="S 1"
    )
    assert parse_disk("f,queues=16,on-io-error=stop") == Disk(
        Path("f"), queues=16, on_io_error=OnIoError.STOP
    )
    assert parse_disk("f,serial=" + "1" * 20).serial == "1" * 20


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (",readonly=on", "names no file"),
        ("f,readonly=yes", "it is on or off"),
        ("f,format=vdi", "it is raw or qcow2"),
        ("f,serial=" + "1" * 21, "at most 20"),
        ("f,serial=\u00e9", "at most 20"),
        ("f,queues=0", "it is 1 to 16"),
        ("f,queues=17", "it is 1 to 16"),
        ("f,queues=" + "1" * 5000, "it is 1 to 16"),
        ("f,on-io-error=ignore", "it is report or stop"),
        ("f,snapshot=on", "it may be format=, "),
        ("f,format=raw,format=raw", "comes twice"),
    ],
)
def test_what_may_not_be_said(text: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=why):
        parse_disk(text)


@pytest.mark.slow
def test_a_guest_writes_its_disk_and_reads_it_back(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * 512))
    command = ["run", "block", "--host", "model", "--append", "rounds=1", "--disk"]
    assert main([*command, f"{disk},serial=S1"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"virtio block: 64 sectors, id S1\n")
    assert disk.read_bytes()[:4] == bytes(range(4))


def test_the_console_is_not_written_over_a_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    code = main(["run", "block", "--disk", str(disk), "--console", f"file:{disk}"])
    assert code == ExitCode.USAGE
    assert f"it is a disk, {disk}" in capfd.readouterr().err
    assert disk.read_bytes() == bytes(512)
