# SPDX-License-Identifier: MIT
"""One boot of a matrix, in the process that does it: from the job to a result that can travel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from pyvmm import bundled_guests
from pyvmm.errors import HostLacksError, ImageError, NoPermissionError, PyvmmError, UsageError
from pyvmm.testing.drivers.driver import CannotError, Outcome, OutcomeKind
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.failures import ExpectError
from pyvmm.testing.matrix.jobs import Job
from pyvmm.testing.matrix.plan import End, Expectation, Strictness
from pyvmm.testing.matrix.results import (
    EXPLANATION,
    Artifact,
    BootResult,
    Verdict,
    faults_of,
    judged,
)
from pyvmm.testing.request import BootRequest

if TYPE_CHECKING:
    from pyvmm.testing.explaining.witness import Witness
    from pyvmm.testing.vm import AsyncVm

_PYVMM = (HostName.MODEL, HostName.KVM)
_HEAD = 256 << 10
_TAIL = 1 << 20
"""Bytes of the console's beginning and end that travel."""


async def boot(job: Job, contents: Mapping[str, bytes]) -> BootResult:
    """Boot a guest, in trio; `contents` are files by digest. Every end of it is a result."""
    from pyvmm.testing.explaining.witness import Witness
    from pyvmm.testing.vm import open_vm

    key = job.boot.key
    expect = job.boot.expect
    begun = trio.current_time()
    seen = _Seen()
    try:
        witness = Witness()
        async with open_vm(_request(job, contents), witness) as vm:
            await _watch(vm, job, seen)
            if seen.faults and expect.strictness is not Strictness.FAILS:
                await _explain(vm, witness, seen)
    except (CannotError, HostLacksError, NoPermissionError) as error:
        return BootResult(key, Verdict.SKIPPED, str(error))
    except (ImageError, UsageError) as error:
        # Of the guest as the matrix has it: it may well be expected.
        seen.faults = [str(error)]
    except PyvmmError as error:
        return BootResult(key, Verdict.LOST, str(error))
    seconds = trio.current_time() - begun
    verdict, reason = judged(expect, seen.faults)
    return BootResult(
        key,
        verdict,
        reason,
        seen.outcome,
        seconds,
        _shortened(seen.console),
        seen.by_hand,
        artifacts=tuple(seen.artifacts),
    )


async def _explain(vm: AsyncVm, witness: Witness, seen: _Seen) -> None:
    """Look at a guest that has failed, while it is there: registers, code, last exits, memory."""
    from pyvmm.testing.explaining.explain import explain
    from pyvmm.testing.vm import examine

    await examine(vm)
    for remains in witness.guests:
        text = explain(remains, None).to_text() + "\n"
        seen.artifacts.append(Artifact(EXPLANATION, text.encode("utf-8", "backslashreplace")))


class _Seen:
    """Facts about a guest, as far as it came."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.console = b""
        self.by_hand = ""
        self.faults: list[str] = []
        self.artifacts: list[Artifact] = []


async def _watch(vm: AsyncVm, job: Job, seen: _Seen) -> None:
    """Type, and wait for the end that is expected, or another."""
    expect = job.boot.expect
    seen.by_hand = vm.by_hand
    failure: PyvmmError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_type, vm, job.boot.image.typed)
        try:
            await _until_over(vm, expect, seen)
        except PyvmmError as error:
            failure = error  # Raised below, without a group.
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    seen.console = vm.console.transcript
    seen.faults = faults_of(expect, seen.outcome, seen.console)


async def _until_over(vm: AsyncVm, expect: Expectation, seen: _Seen) -> None:
    forbidden = expect.absent or ()
    try:
        if expect.end is End.CONSOLE:
            for _, pattern in expect.wanted():
                await vm.console.expect(pattern, forbid=forbidden)
        else:
            seen.outcome = await vm.wait()
    except ExpectError:
        # It ended, or said what it must not, or neither in time.
        seen.outcome = vm.outcome
        if seen.outcome is None and not any(
            text.encode() in vm.console.transcript for text in forbidden
        ):
            limit = vm.request.timeout
            seen.outcome = Outcome(
                OutcomeKind.TIME_LIMIT, f"not within {limit:g} s", None, limit, {}
            )


async def _type(vm: AsyncVm, typed: str) -> None:
    # A guest that ends before it has read all, or a monitor that has no end of input: the outcome
    # says what matters of that.
    with suppress(PyvmmError, ExpectError):
        if typed:
            await vm.console.send(typed)
        await vm.console.end_input()


def _request(job: Job, contents: Mapping[str, bytes]) -> BootRequest:
    boot = job.boot
    image = boot.image
    return BootRequest(
        image=contents[job.image],
        name=image.path,
        # pyvmm finds a bundled guest by its name, another monitor does not.
        path=None if job.is_bundled and boot.host in _PYVMM else job.image_path,
        append=os.fsencode(image.append),
        memory=boot.memory,
        cpus=boot.cpus,
        private=image.private,
        firmware=bundled_guests.firmware() if image.private else None,
        host=boot.host,
        initrd=None if job.initrd is None else contents[job.initrd],
        initrd_path=job.initrd_path,
        timeout=image.timeout,
        crash=True,
    )


def _shortened(console: bytes) -> bytes:
    dropped = len(console) - _HEAD - _TAIL
    if dropped <= 0:
        return console
    return console[:_HEAD] + f"\n[{dropped} bytes not kept]\n".encode() + console[-_TAIL:]
