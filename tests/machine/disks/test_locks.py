# SPDX-License-Identifier: MIT
"""Locks on disks: one writer or several readers, of this process and of others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.errors import ExitCode, SystemCallError
from pyvmm.machine.disks.opening import open_disk
from pyvmm.machine.hardware import Disk

_HOLD = """\
import sys
from pathlib import Path
from pyvmm.machine.disks.opening import open_disk
from pyvmm.machine.hardware import Disk
with open_disk(Disk(Path(sys.argv[1]), read_only=sys.argv[2] == "on")):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.write_bytes(bytes(1024))
    return made


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said its first line and ends when its input does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        assert made.stdout.readline(), "it said nothing"
        try:
            yield made
        finally:
            made.communicate()


def test_a_writer_has_a_disk_alone_and_readers_share_it(path: Path) -> None:
    with open_disk(Disk(path)):
        for read_only in (False, True):
            with pytest.raises(SystemCallError, match="another disk of this machine") as refused:
                open_disk(Disk(path, read_only=read_only))
            assert refused.value.exit_code is ExitCode.SYSTEM_CALL
    with open_disk(Disk(path, read_only=True)), open_disk(Disk(path, read_only=True)):
        with pytest.raises(SystemCallError, match="it is in use by"):
            open_disk(Disk(path))
    open_disk(Disk(path)).close()


@pytest.mark.slow
@pytest.mark.parametrize("theirs", ["off", "on"])
def test_another_process_is_named(path: Path, theirs: str) -> None:
    with process(sys.executable, "-c", _HOLD, str(path), theirs) as other:
        with pytest.raises(SystemCallError, match=f"in use by process {other.pid};"):
            open_disk(Disk(path))
        if theirs == "on":
            open_disk(Disk(path, read_only=True)).close()
    open_disk(Disk(path)).close()


@contextmanager
def qemu_with(path: Path, *, read_only: bool) -> Iterator[None]:
    """QEMU with the file as a disk of a device, and its locks on it."""
    options = "on" if read_only else "off"
    with process(
        "qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-S", "-display", "none", "-nodefaults",
        "-qmp", "stdio", "-drive", f"file={path},format=raw,if=none,id=d,readonly={options}",
        "-device", "virtio-blk-pci,drive=d",
    ) as made:  # fmt: skip
        assert made.stdin is not None
        assert made.stdout is not None
        # It answers when it has made its devices.
        made.stdin.write(b'{"execute": "qmp_capabilities"}\n')
        made.stdin.flush()
        try:
            assert made.stdout.readline(), "it said nothing more"
            yield
        finally:
            made.kill()


@pytest.mark.qemu
@pytest.mark.slow
def test_qemu_s_locks_count_and_ours_do_for_qemu(path: Path) -> None:
    with qemu_with(path, read_only=False):
        for read_only in (False, True):
            with pytest.raises(SystemCallError, match="it is in use by"):
                open_disk(Disk(path, read_only=read_only))
    with qemu_with(path, read_only=True):
        open_disk(Disk(path, read_only=True)).close()
        with pytest.raises(SystemCallError, match="it is in use by"):
            open_disk(Disk(path))
    for ours, theirs, works in ((False, True, False), (True, False, False), (True, True, True)):
        with open_disk(Disk(path, read_only=ours)):
            if works:
                with qemu_with(path, read_only=theirs):
                    pass
            else:
                with pytest.raises((AssertionError, BrokenPipeError)) as ended:
                    with qemu_with(path, read_only=theirs):
                        pass
                assert ended.type is BrokenPipeError or "it said nothing" in str(ended.value)
