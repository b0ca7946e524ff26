# SPDX-License-Identifier: MIT
"""The lab itself: QEMU with its channel open, ready for commands."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.lab.failures import LabError, LabLostError, LabPanicError, LabSilentError
from pyvmm.lab.initramfs import lab_archive
from pyvmm.lab.protocol import Decoder, Fact, Frame, FrameType, Hello
from pyvmm.lab.qemu_command import explain, exported_folders, qemu_command
from pyvmm.lab.settings import LabMonitor, LabSettings
from pyvmm.qmp.peer import QemuError, QemuPeer, open_qemu

BOOT_PATIENCE = 120.0
"""Seconds until a lab that says nothing is given up: a busy machine is slow."""
_RECEIVE = 128 << 10
_TAIL_BYTES = 16 << 10
_PANIC = re.compile(r"Kernel panic - not syncing: [^\r\n]*")
_SETTLE = 0.3


class KernelLog:
    """Console log of the lab's kernel: all of it in a file, the end of it at hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tail = b""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemCallError(
                f"write the lab's log to {path}", error.errno or 0, error.strerror or str(error)
            ) from error

    def add(self, data: bytes) -> None:
        """Write `data` on. A full disk costs the file, not the lab."""
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        try:
            os.write(self._fd, data)
        except OSError:
            self._tail += b"\n(the log file could not be written)\n"

    def last_lines(self, count: int = 3) -> str:
        """The last lines, in one."""
        lines = [line.strip() for line in self._tail.decode("utf-8", "replace").splitlines()]
        return " | ".join([line for line in lines if line][-count:])

    def panic(self) -> str | None:
        """The kernel's own word for why it panicked, if it did."""
        found = _PANIC.search(self._tail.decode("utf-8", "replace"))
        return found.group(0) if found else None

    def close(self) -> None:
        """No more is written."""
        os.close(self._fd)


class Lab:
    """A lab that takes commands. Made by `open_lab`."""

    def __init__(self, settings: LabSettings, log: KernelLog, channel: trio.SocketStream) -> None:
        self.settings = settings
        self.log = log
        self.hello: Hello | None = None
        self.monitor: Monitor | None = None
        self._channel = channel
        self._decoder = Decoder()
        self._sending = trio.Lock()

    async def send(self, frame: Frame) -> None:
        """To the lab. Raises `trio.BrokenResourceError` when it is gone."""
        async with self._sending:
            await self._channel.send_all(frame.encode())

    async def frames(self) -> AsyncIterator[Frame]:
        """From the lab, until the channel ends."""
        while True:
            try:
                data = await self._channel.receive_some(_RECEIVE)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            for frame in self._decoder.feed(bytes(data)):
                yield frame

    async def lost(self, attempt: str) -> LabError:
        """The error that says why the channel is gone, once that has settled."""
        with trio.CancelScope(deadline=trio.current_time() + _SETTLE, shield=True):
            if self.monitor is not None:
                await self.monitor.wait()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.02)
        where = f"its whole log is in {self.log.path}"
        panic = self.log.panic()
        if panic is not None:
            return LabPanicError(attempt, f"the lab's kernel panicked: {panic}", where)
        name, ending = "its monitor", "it is not there"
        if self.monitor is not None:
            name, ending = self.monitor.name, self.monitor.ending()
            if not self.monitor.has_ended:
                ending = "it still runs, but the lab's first process has ended"
        last = self.log.last_lines()
        said = f"; the lab's kernel said last: {last}" if last else ""
        return LabLostError(attempt, f"the channel to it was lost ({name}: {ending}){said}", where)


class Monitor(Protocol):
    """Program that runs the lab's machine; `pid` is None where it is this process."""

    @property
    def name(self) -> str:
        """Name in messages."""
        ...

    @property
    def pid(self) -> int | None:
        """Process ID of its own."""
        ...

    @property
    def has_ended(self) -> bool:
        """True when the machine is gone."""
        ...

    async def wait(self) -> None:
        """Wait for that."""
        ...

    def ending(self) -> str:
        """Describe how it ended, or that it has not."""
        ...


class QemuMonitor:
    """QEMU as the lab's monitor."""

    name = "QEMU"

    def __init__(self, peer: QemuPeer) -> None:
        self._peer = peer

    @property
    def pid(self) -> int:
        """Process ID of QEMU."""
        return self._peer.child.pid

    @property
    def has_ended(self) -> bool:
        """True when QEMU has ended."""
        return self._peer.child.returncode is not None

    async def wait(self) -> None:
        """Wait for QEMU's end."""
        await self._peer.child.wait()

    def ending(self) -> str:
        """The end of QEMU, and what it said last."""
        said = self._peer.last_lines
        return self._peer.child.ending() + (f", saying: {said}" if said else "")


@asynccontextmanager
async def open_lab(settings: LabSettings, log: KernelLog) -> AsyncIterator[Lab]:
    """Boot a lab; in the block it takes commands, after it nothing of it is left.

    Raises `HostLacksError` where QEMU or the kernel cannot do it, `LabError` where it starts and
    then fails.
    """
    with ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        channel = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        lab = Lab(settings, log, channel)
        if settings.monitor is LabMonitor.PYVMM:
            async with _under_pyvmm(lab, theirs):
                yield lab
        else:
            async with _under_qemu(lab, theirs, stack):
                yield lab


@asynccontextmanager
async def _under_qemu(lab: Lab, theirs: socket.socket, stack: ExitStack) -> AsyncIterator[None]:
    initrd = os.memfd_create("pyvmm-lab-initrd", os.MFD_CLOEXEC)
    stack.callback(os.close, initrd)
    folders = exported_folders(lab.settings)
    _write_all(initrd, lab_archive(folders))
    command = qemu_command(lab.settings, folders, initrd, theirs.fileno())
    ready = False
    try:
        async with open_qemu(
            command, pass_fds=(initrd, theirs.fileno()), on_output=lab.log.add
        ) as peer:
            lab.monitor = QemuMonitor(peer)
            theirs.close()
            await _greet(lab)
            ready = True
            yield
    except QemuError as error:
        raise (await lab.lost("use the lab") if ready else explain(error)) from error


@asynccontextmanager
async def _under_pyvmm(lab: Lab, theirs: socket.socket) -> AsyncIterator[None]:
    from pyvmm.lab.pyvmm_machine import machine_config, open_pyvmm

    folders = exported_folders(lab.settings)
    config = machine_config(lab.settings, folders, lab_archive(folders), theirs.fileno())

    def end_channel() -> None:
        theirs.shutdown(socket.SHUT_RDWR)

    async with open_pyvmm(config, lab.log.add, end_channel) as monitor:
        lab.monitor = monitor
        await _greet(lab)
        yield


async def _greet(lab: Lab) -> None:
    lab.hello = await _first_word(lab)
    _check(lab.hello, lab.settings)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def _first_word(lab: Lab) -> Hello:
    with trio.move_on_after(BOOT_PATIENCE):
        async for frame in lab.frames():
            if frame.type == FrameType.HELLO:
                return Hello.decode(frame.payload)
        raise await lab.lost("start a lab")
    raise LabSilentError(
        "start a lab",
        f"it took no commands within {BOOT_PATIENCE:g} s; it said last: {lab.log.last_lines()}",
        f"its whole log is in {lab.log.path}",
    )


def _check(hello: Hello, settings: LabSettings) -> None:
    for fact, what in (
        (Fact.KVM, "KVM"),
        (Fact.PRIVATE_VM, "private memory (KVM_X86_SW_PROTECTED_VM)"),
        (Fact.MEMORY_ATTRIBUTES, "memory attributes (KVM_MEMORY_ATTRIBUTE_PRIVATE)"),
    ):
        if fact not in hello.facts:
            if settings.monitor is LabMonitor.PYVMM and fact is Fact.KVM:
                raise HostLacksError(
                    "start a lab under pyvmm",
                    "its kernel finds no AMD virtualization, which this host's KVM had to nest",
                    "on an AMD processor set kvm_amd.nested=1; else leave --monitor pyvmm out",
                )
            raise HostLacksError(
                "start a lab",
                f"the kernel {settings.kernel} ({hello.release}) has no {what}",
                "build one that does with pyvmm lab build",
            )
