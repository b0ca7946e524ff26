# SPDX-License-Identifier: MIT
"""Looking at a guest under QEMU: how it ends, what it leaves in RAM, what KVM counted."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import Any

import trio

from pyvmm.compare import qemu_command
from pyvmm.compare.guest_files import GuestFiles, path_of
from pyvmm.compare.observations import (
    KERNEL_COUNTERS,
    Counts,
    End,
    EndKind,
    Inspection,
    end_of_qemu,
)
from pyvmm.compare.processes import Transcript
from pyvmm.compare.qemu_boot import refusal
from pyvmm.compare.subjects import QemuAccelerator, QemuSubject
from pyvmm.errors import UsageError
from pyvmm.qmp.peer import QemuError, QemuPeer, QmpRefusalError, open_qemu

_LOOK_EVERY = 0.01
_KVM_SOURCE = "KVM, by query-stats"
_EXITS_UNKNOWN = "QEMU does not count exits by what it sees of them"
_NOT_KVM = "there is no KVM"


async def inspect(subject: QemuSubject, files: GuestFiles, ram: int) -> Inspection:
    """Run the guest once and look at all of it; its RAM is left in the file `ram`, which is empty.

    Raises `QemuError` where QEMU fails, `UsageError` where it refuses the image.
    """
    said = Transcript()
    command = qemu_command.inspected(
        subject, files.request, path_of(files.image), _initrd(files), path_of(ram)
    )
    with files.standard_input() as stdin:
        try:
            async with open_qemu(
                command, pass_fds=(*files.inherited, ram), stdin=stdin, on_output=said.take
            ) as peer:
                end = await _end(peer, files.request.timeout)
                code = peer.child.returncode or 0
        except QemuError as error:
            why = refusal(error.last_lines) if error.returncode == 1 else None
            if why is None:
                raise
            attempt = f"compare {files.request.name} with {subject.name}"
            remedy = "change the image, or run it without QEMU (pyvmm run)"
            raise UsageError(attempt, f"QEMU refuses it: {why}", remedy) from error
    kernel, unknown = await _kernel_counts(subject, files, end)
    return Inspection(subject, end, code, said.text, None, kernel, _EXITS_UNKNOWN, unknown)


def _initrd(files: GuestFiles) -> str | None:
    return None if files.initrd is None else path_of(files.initrd)


async def _cont(peer: QemuPeer) -> None:
    """Let the guest run. It may be over before QEMU has answered."""
    try:
        await peer.execute("cont")
    except QemuError as error:
        if error.returncode is None or error.returncode < 0:
            raise


async def _end(peer: QemuPeer, timeout: float) -> End:
    with trio.move_on_after(timeout) as limit:
        await _cont(peer)
        code = await peer.wait()
    if limit.cancelled_caught:
        return End(EndKind.TIME_LIMIT, None, f"it was still running after {timeout:g} s")
    reason, panicked = "", False
    for event in peer.events():
        if event.name == "SHUTDOWN":
            reason = str(event.data.get("reason", ""))
        panicked = panicked or event.name == "GUEST_PANICKED"
    if code < 0:
        raise peer.failure("run the guest under QEMU")
    return end_of_qemu(code, reason, panicked=panicked)


async def _kernel_counts(
    subject: QemuSubject, files: GuestFiles, end: End
) -> tuple[Counts | None, str]:
    """Run the guest once more and return KVM's counts; None and the reason where there are none."""
    if subject.accelerator is not QemuAccelerator.KVM:
        return None, _NOT_KVM
    if end.kind is EndKind.TIME_LIMIT:
        return None, "the guest does not end"
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(reading, False)
        with files.standard_input() as stdin:
            command = qemu_command.counted(
                subject, files.request, path_of(files.image), _initrd(files), path_of(writing)
            )
            async with open_qemu(
                command, pass_fds=(*files.inherited, writing), stdin=stdin
            ) as peer:
                with trio.move_on_after(files.request.timeout):
                    await _cont(peer)
                    await _until_over(peer, reading)
                    await peer.execute("stop")
                    return _summed(await peer.execute("query-stats", {"target": "vcpu"})), ""
                return None, "the guest did not end when it was to be counted"
    except QmpRefusalError:
        return None, "this QEMU has no query-stats (7.1 and newer have)"
    finally:
        os.close(reading)
        os.close(writing)


async def _until_over(peer: QemuPeer, status: int) -> None:
    """Until the guest has written a status, or QEMU says that it has ended otherwise."""
    while peer.child.returncode is None:
        with suppress(BlockingIOError):
            if os.read(status, 1):
                return
        if any(event.name in {"SHUTDOWN", "GUEST_PANICKED"} for event in peer.events()):
            return
        await trio.sleep(_LOOK_EVERY)


def _summed(answer: Any) -> Counts:
    """The counters of all vCPUs together; what is no number in the answer is left out."""
    counts: Counter[str] = Counter()
    for one in answer:
        if one.get("provider") != "kvm":
            continue
        for stat in one.get("stats", ()):
            if stat["name"] in KERNEL_COUNTERS and isinstance(stat["value"], int):
                counts[stat["name"]] += stat["value"]
    return Counts(_KVM_SOURCE, dict(counts))
