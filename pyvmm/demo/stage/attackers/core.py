# SPDX-License-Identifier: MIT
"""Road to a secret through a core file of the monitor's process.

The process that is made to dump core is one of its own, with a machine like this one and a secret
of its guest's own: this one is to live on, and a process whose vCPUs have threads cannot be forked.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Protocol

import trio

from pyvmm.demo.stage.attackers.core_process import CoreOrder
from pyvmm.demo.stage.attackers.searching import Searcher
from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.stage.secret import SIZE
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Content, Seen
from pyvmm.hosts.call_record import Field, number_field
from pyvmm.memory.page_states import PageState


class Told(Protocol):
    """`Target.told`."""

    def __call__(self, name: str, target: str, *given: Field, result: int | OSError) -> None:
        """Tell of a system call."""


PATIENCE = 180.0
"""Seconds that the process may take: in the lab it starts slowly."""
_WORD = 8
_PATTERN = Path("/proc/sys/kernel/core_pattern")


async def by_core(target: Target, gpa: int) -> Seen:
    """Have such a process end by SIGABRT, and search the file that the kernel writes."""
    why_not = _why_no_file()
    if why_not:
        return closed(Road.CORE, gpa, why_not)
    states = target.inside.assembly.memory.states
    order = CoreOrder(
        target.host.value,
        target.inputs.memory,
        target.inputs.window,
        _for_secret(target, gpa),
        shared=states.at(gpa) is not PageState.PRIVATE,
    )
    with tempfile.TemporaryDirectory(prefix="pyvmm-demo-") as folder:
        return await _of_process(order, Path(folder), target.told)


def _for_secret(target: Target, gpa: int) -> int:
    """The place of a secret, which is aligned and ends with the memory, that is next to a GPA."""
    return min(gpa, target.sides(gpa).region.range.end - SIZE) // _WORD * _WORD


async def _of_process(order: CoreOrder, folder: Path, told: Told) -> Seen:
    command = [sys.executable, "-m", "pyvmm.demo.stage.attackers.core_process"]
    done = None
    with trio.move_on_after(PATIENCE):
        done = await trio.run_process(
            command,
            stdin=order.line().encode() + b"\n",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
        )
    if done is None:
        return closed(Road.CORE, order.gpa, f"the process took longer than {PATIENCE:g} s")
    answer = _answer(done.stdout)
    seed = answer.get("seed")
    if done.returncode != -signal.SIGABRT or not isinstance(seed, int):
        why = answer.get("failed") or _last_line(done.stderr)
        return closed(Road.CORE, order.gpa, f"the process did not come to that: {why}")
    return await trio.to_thread.run_sync(_searched, order, seed, folder, told)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:200]


def _answer(output: bytes) -> dict[str, object]:
    try:
        answer = json.loads(output or b"{}")
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _searched(order: CoreOrder, seed: int, folder: Path, told: Told) -> Seen:
    core = next((one for one in folder.iterdir() if one.is_file()), None)
    if core is None:
        return closed(Road.CORE, order.gpa, "it ended by SIGABRT, and the kernel wrote no core")
    searcher = Searcher(order.gpa, seed, tuple(range(0, SIZE, 8)))
    said = f"a core of {core.stat().st_size} bytes of a process like this one"
    with core.open("rb", buffering=0) as file:
        fd = file.fileno()
        told("openat", str(core), result=fd)
        offsets = searcher.in_file(fd)
        if not offsets and _is_cut(core):
            note = f"{said} is cut off: there is no room for it, or a limit (RLIMIT_CORE)"
            return closed(Road.CORE, order.gpa, note)
        if not offsets:
            note = f"{said}, with all that is mapped: no word of its guest's secret is in it"
            return closed(Road.CORE, order.gpa, note)
        data = os.pread(fd, SIZE, offsets[0])
        asked = number_field("length", SIZE), number_field("offset", offsets[0])
        told("pread", f"core fd {fd}", *asked, result=len(data))
    note = f"{said}: its guest's secret is at offset {offsets[0]:#x}"
    return Seen(Road.CORE, order.gpa, Content.SECRET, data, note=note)


def _is_cut(core: Path) -> bool:
    """Tell whether an ELF file ends before its last segment does."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with core.open("rb") as file:
            ends = [one["p_offset"] + one["p_filesz"] for one in ELFFile(file).iter_segments()]
    except ELFError:
        return True
    return max(ends, default=0) > core.stat().st_size


def _why_no_file() -> str:
    """Reason why an aborted process would leave no file in its folder here; "" where it does."""
    try:
        pattern = _PATTERN.read_text().strip()
    except OSError:
        return "this kernel writes no cores: it has no core_pattern (CONFIG_COREDUMP)"
    if pattern.startswith("|"):
        return f"core_pattern gives cores to a program here: {pattern}"
    if "/" in pattern:
        return f"core_pattern has cores written elsewhere: {pattern}"
    if not pattern:
        return "core_pattern is empty: no core is written"
    if not resource.getrlimit(resource.RLIMIT_CORE)[1]:
        return "the limit on the size of cores is 0, and cannot be raised"
    return ""
