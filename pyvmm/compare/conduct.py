# SPDX-License-Identifier: MIT
"""Doing what the plan says: one look at each subject, RAM compared meanwhile, then timed rounds."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import trio

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol
from pyvmm.boot.unpacking import unpacked
from pyvmm.compare import pyvmm_runs, qemu_runs
from pyvmm.compare.guest_files import GuestFiles, GuestRequest, guest_files, memory_file, path_of
from pyvmm.compare.loader_values import loader_values
from pyvmm.compare.observations import EndKind, Inspection, TimedRun
from pyvmm.compare.plan import inspections, timed_rounds
from pyvmm.compare.qemu_boot import qemu_protocol
from pyvmm.compare.ram import (
    RamRegion,
    RegionComparison,
    compare_pages,
    digests,
    regions_of,
)
from pyvmm.compare.reasons import GuestKnown
from pyvmm.compare.report import Absent, GuestFacts, Report, pair_ratios, subject_report
from pyvmm.compare.subjects import PyvmmSubject, Subject
from pyvmm.compare.timed_runs import timed_run
from pyvmm.compare.verdict import PairVerdict, judge
from pyvmm.errors import UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.visible import visible

QEMU_MEMORY_STEP = 8192
"""Granularity to which QEMU rounds a machine's memory up, in bytes."""

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how many runs are over, and how many there are."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """An inspection with the RAM it left: a descriptor, and each region's SHA-256."""

    inspection: Inspection
    ram: int
    sha256: tuple[str, ...] | None


def check(request: GuestRequest) -> tuple[BootPlan, BootProtocol]:
    """Plan the boot in pyvmm, and tell the protocol by which QEMU boots the same image.

    Raises `ImageError`, or `UsageError` for what QEMU cannot run.
    """
    if request.memory % QEMU_MEMORY_STEP:
        raise UsageError(
            f"compare with {request.memory} bytes of memory",
            f"QEMU takes multiples of {QEMU_MEMORY_STEP} bytes",
            "round it up",
        )
    plan = _plan(request, request.name, "initrd")
    # QEMU is given it unpacked (`guest_files`).
    image = unpacked(memoryview(request.image), f"boot {request.name}").image
    return plan, qemu_protocol(image, plan.protocol, f"compare {request.name}")


def _plan(request: GuestRequest, name: str, initrd_name: str) -> BootPlan:
    return plan_boot(
        request.image,
        AddressMap.of(request.memory),
        request.command_line,
        request.initrd,
        name,
        initrd_name=initrd_name,
    )


async def compare(
    request: GuestRequest,
    subjects: Sequence[Subject],
    absent: Sequence[Absent],
    rounds: int,
    tell: Tell,
) -> Report:
    """Compare; the first subject is the reference. Raises a `PyvmmError` where a monitor fails."""
    plan, theirs = check(request)
    image_end = max(one.gpa + len(one.data) for one in plan.placements if one.what != "the initrd")
    address_map = AddressMap.of(request.memory)
    regions = regions_of(address_map, image_end)
    done = 0
    total = len(subjects) * (1 + rounds)
    verdicts: list[PairVerdict] = []
    seen: list[Inspection] = []
    with guest_files(request) as files, ExitStack() as stack:
        # Under these names everybody is given the files.
        initrd = "" if files.initrd is None else path_of(files.initrd)
        values = loader_values(_plan(request, path_of(files.image), initrd), address_map)
        known = GuestKnown(request.bundled, plan.protocol, theirs, values)
        reference: _Looked | None = None
        for planned in inspections(subjects):
            tell(f"looking at {planned.subject.name}", done, total)
            with ExitStack() as own:
                owner = stack if reference is None else own
                ram = owner.enter_context(memory_file("ram", size=request.memory))
                looked = await _look(planned.subject, files, ram, regions)
                seen.append(looked.inspection)
                if reference is None:
                    reference = looked
                else:
                    verdicts.append(await _judge(reference, looked, known, regions))
            done += 1
        stack.close()  # The reference's RAM.
        runs: list[TimedRun] = []
        endless = {one.subject for one in seen if one.end.kind is EndKind.TIME_LIMIT}
        for planned in timed_rounds(subjects, rounds):
            tell(f"round {planned.round}: {planned.subject.name}", done, total)
            if planned.subject not in endless:
                runs.append(await timed_run(planned.subject, files, planned.round))
            done += 1
    reports = tuple(
        subject_report(one, [run for run in runs if run.subject == one.subject]) for one in seen
    )
    return Report(
        _facts(request),
        _host(),
        rounds,
        reports,
        tuple(absent),
        tuple(verdicts),
        pair_ratios(reports),
    )


async def _look(
    subject: Subject, files: GuestFiles, ram: int, regions: Sequence[RamRegion]
) -> _Looked:
    if isinstance(subject, PyvmmSubject):
        inspection = await pyvmm_runs.inspect(subject, files, ram)
    else:
        inspection = await qemu_runs.inspect(subject, files, ram)
    if inspection.end.kind is EndKind.TIME_LIMIT:
        # It was stopped somewhere.
        return _Looked(inspection, ram, None)
    whole, parts = await trio.to_thread.run_sync(partial(digests, _reader(ram), regions))
    return _Looked(replace(inspection, ram_sha256=whole), ram, parts)


def _reader(fd: int) -> Callable[[int, int], bytes]:
    return lambda offset, size: os.pread(fd, size, offset)


async def _judge(
    reference: _Looked, other: _Looked, guest: GuestKnown, regions: Sequence[RamRegion]
) -> PairVerdict:
    ram: list[RegionComparison] | None = None
    if reference.sha256 is not None and other.sha256 is not None:
        ram = []
        for region, ours, theirs in zip(regions, reference.sha256, other.sha256, strict=True):
            pages = await trio.to_thread.run_sync(
                compare_pages, _reader(reference.ram), _reader(other.ram), region
            )
            ram.append(RegionComparison(region, ours, theirs, pages))
    return judge(reference.inspection, other.inspection, guest, ram)


def _facts(request: GuestRequest) -> GuestFacts:
    return GuestFacts(
        visible(request.name),
        request.bundled,
        hashlib.sha256(request.image).hexdigest(),
        request.memory,
        request.cpus,
        visible(os.fsdecode(request.command_line)),
        request.timeout,
    )


def _host() -> str:
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs"
