# SPDX-License-Identifier: MIT
"""Disks whose file cannot be written: the guest is told, or the machine waits for its owner."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from pyvmm.cli.main import main
from pyvmm.errors import ExitCode
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.disks.raw import RawStore
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.events import DiskFailed, MachineEvent, Paused, Resumed
from pyvmm.machine.hardware import Disk, Hardware, OnIoError
from pyvmm.machine.running import open_machine
from pyvmm.machine.steering import MachineState
from pyvmm.memory.layout import MIB
from tests.machine.guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
RECORDS = 5
SIZE = 16 * 512


@pytest.fixture
def sealed() -> Iterator[Path]:
    """A file that can be opened to be written, and of which every write fails (EPERM)."""
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    yield Path(f"/proc/self/fd/{fd}")
    os.close(fd)


def machine_with(path: Path, host: HostChoice, policy: OnIoError) -> MachineConfig:
    return MachineConfig(
        bundled("block"),
        memory=2 * MIB,
        host=host,
        command_line=b"log=%d" % RECORDS,
        hardware=Hardware(disks=(Disk(path, on_io_error=policy),)),
        timeout=120,
    )


@pytest.mark.parametrize("host", HOSTS)
def test_the_guest_is_told(sealed: Path, host: HostChoice) -> None:
    heard: list[MachineEvent] = []

    async def act() -> None:
        async with open_machine(machine_with(sealed, host, OnIoError.REPORT)) as machine:
            with machine.events.listen(heard.append):
                result = await machine.control.wait()
            assert result.ending.kind is EndingKind.PANICKED
            said = await machine.console.receive()
            assert b"ask(BLOCK_OUT, number, SECTOR_SIZE) == BLOCK_OK" in said

    trio.run(act)
    assert heard[0] == DiskFailed("disk 0", "write", errno.EPERM, stops=False)


@pytest.mark.parametrize("host", HOSTS)
def test_the_machine_waits_and_tries_again(
    sealed: Path, host: HostChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[MachineEvent] = []
    written: list[int] = []
    state = {"works": False}
    write = RawStore.write

    async def repaired(self: RawStore, offset: int, data: Sequence[memoryview]) -> None:
        if not state["works"]:
            await write(self, offset, data)
        written.append(offset // 512)

    monkeypatch.setattr(RawStore, "write", repaired)

    async def act() -> None:
        async with open_machine(machine_with(sealed, host, OnIoError.STOP)) as machine:
            with machine.events.listen(heard.append):
                for _ in range(2):
                    assert await machine.events.wait_for(Paused)
                    assert machine.control.state is MachineState.PAUSED
                    disks = machine.host.disks
                    assert disks is not None
                    assert disks.io_status(disks.disks[0]) == errno.EPERM
                    assert written == []
                    # What waits is no lease: the machine can be saved as it is.
                    await machine.control.save()
                    if len([one for one in heard if isinstance(one, DiskFailed)]) == 2:
                        state["works"] = True
                    machine.control.resume()
                result = await machine.control.wait()
            assert (result.ending.kind, result.ending.status) == (EndingKind.EXITED, 0)
            assert disks is not None
            assert disks.io_status(disks.disks[0]) == 0

    trio.run(act)
    assert written == [*range(1, RECORDS + 1)]
    failed = DiskFailed("disk 0", "write", errno.EPERM, stops=True)
    assert heard[:6] == [failed, Paused(), Resumed(), failed, Paused(), Resumed()]


def test_a_machine_that_waits_can_be_closed(sealed: Path) -> None:
    async def act() -> None:
        async with open_machine(machine_with(sealed, HostChoice.MODEL, OnIoError.STOP)) as machine:
            assert await machine.events.wait_for(Paused)

    trio.run(act)


@pytest.mark.slow
def test_the_command_says_so_once(
    sealed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = tmp_path / "said"
    command = ["run", "block", "--host", "model", "--append", f"log={RECORDS}"]
    code = main([*command, "--console", f"file:{said}", "--disk", str(sealed)])
    assert code == ExitCode.GUEST_PANICKED
    first, second = capfd.readouterr().err.splitlines()
    assert first == (
        f"pyvmm: cannot write to the disk {sealed}: Operation not permitted; "
        "the guest gets an I/O error"
    )
    assert second == "pyvmm: the guest reported a panic"
