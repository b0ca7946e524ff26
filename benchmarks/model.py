# SPDX-License-Identifier: MIT
"""The model: guest instructions next to bare Unicorn, hello next to KVM, conversions."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import baselines, conversions_pyvmm, long_mode
from benchmarks.conversion_cells import DATA_GPA, Cell, Kind
from benchmarks.figures import Sample, at_least, at_most
from benchmarks.launching import environment
from benchmarks.measure import (
    CannotRunError,
    Comparison,
    Effort,
    Result,
    Step,
    Subject,
    Table,
    take_turns,
)
from pyvmm import bundled_guests
from pyvmm.errors import PyvmmError
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

NAME = "model"
TITLE = "the model: guest instructions, time to hello's first byte, conversions"
RUNS = 15

_SIZES = {"4 KiB": (PAGE_SIZE, 256, 4096), "2 MiB": (2 * MIB, 16, 256)}
"""Of a range; how many the guest converts, and how many the host."""
_TIMEOUT = 120


def run(effort: Effort, step: Step) -> Result:
    """Measure all subjects; hello on KVM only where there is a KVM."""
    with ExitStack() as stack:
        loops, rates = _loops(stack, effort)
        hellos, times, tables = _hellos()
        subjects = (*loops, *hellos, *_conversions(effort))
        samples = take_turns(subjects, effort, step)
    return Result(NAME, TITLE, subjects, samples, (*rates, *times), tables)


def _loops(stack: ExitStack, effort: Effort) -> tuple[list[Subject], list[Comparison]]:
    subjects: list[Subject] = []
    comparisons: list[Comparison] = []
    for loop in long_mode.Loop:
        turns = effort.scaled(loop.turns)
        bare = _loop(stack.enter_context(long_mode.on_unicorn(loop)), turns)
        model = _loop(stack.enter_context(long_mode.on_model(loop)), turns)
        names = f"Unicorn, {loop.value}", f"model, {loop.value}"
        subjects += [
            Subject(names[0], f"a bare instance {loop.what}", bare),
            Subject(names[1], f"Vcpu.run() {loop.what}", model),
        ]
        comparisons += [
            Comparison("million_instructions_per_s", names[1], names[0], at_least(0.9)),
            Comparison("cpu_per_million_us", names[1], names[0]),
        ]
    return subjects, comparisons


def _loop(run_loop: long_mode.Run, turns: int) -> Callable[[], Sample]:
    return lambda: run_loop(turns)


def _hellos() -> tuple[list[Subject], list[Comparison], list[Table]]:
    if bundled_guests.find("hello") is None:
        raise CannotRunError("the bundled guests are not built; run make guests")
    program = Path(sys.executable).parent / "pyvmm"
    if not program.exists():
        raise CannotRunError(f"{program} does not exist; install pyvmm into this environment")
    missing = _no_kvm()
    hosts = ("model",) if missing else ("kvm", "model")
    subjects = [_hello(program, host) for host in hosts]
    if missing:
        row = ("hello on KVM", "not measured", missing)
        return subjects, [], [Table("what has no figure here", (row,))]
    figures = (("first_byte_ms", at_most(1.5)), ("wall_ms", None))
    names = [subject.name for subject in subjects]
    comparisons = [Comparison(one, names[1], names[0], target) for one, target in figures]
    return subjects, comparisons, []


def _no_kvm() -> str | None:
    """Why hello cannot run on KVM here."""
    try:
        with KvmSystem():
            return None
    except PyvmmError as error:
        return str(error)


def _hello(program: Path, host: str) -> Subject:
    command = [str(program), "run", "--host", host, "hello"]
    return Subject(f"hello, {host}", f"pyvmm {' '.join(command[1:])}", lambda: _timed(command))


def _timed(command: list[str]) -> Sample:
    """From the start of the process to the first byte that it writes, and to its end."""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        bufsize=0,
    ) as process:
        if process.stdout is None:
            raise CannotRunError(f"{' '.join(command)} has no output to look at")
        first = process.stdout.read(1)
        seen = time.perf_counter()
        rest, said = process.communicate(timeout=_TIMEOUT)
    ended = time.perf_counter()
    text = first + rest
    if process.returncode or not text.startswith(b"Hello from a pyvmm guest"):
        raise CannotRunError(
            f"{' '.join(command)} ended with {process.returncode} and said {text[:60]!r} {said!r}"
        )
    return {"first_byte_ms": (seen - started) * 1e3, "wall_ms": (ended - started) * 1e3}


def _conversions(effort: Effort) -> list[Subject]:
    code = baselines.assembled("conversions_guest").read_bytes()
    subjects = []
    for label, (size, by_guest, by_host) in _SIZES.items():
        cell = Cell(Kind.SWEEPS, size, effort.scaled(by_guest), touch=size)
        subjects += [
            Subject(
                f"guest, {label}",
                "KVM_HC_MAP_GPA_RANGE in a loop, a page of each range in use",
                _converting(code, cell),
            ),
            Subject(
                f"host, {label}",
                "Vm.set_memory_attributes() and a discard, no guest",
                _host_converting(Cell(Kind.SWEEPS, size, effort.scaled(by_host))),
            ),
        ]
    return subjects


def _converting(code: bytes, cell: Cell) -> Callable[[], Sample]:
    def sample() -> Sample:
        found = conversions_pyvmm.measured(code, cell, fast=True, host=ModelSystem)
        return _rates(cell, found["to_private"], found["to_shared"])

    return sample


def _rates(cell: Cell, to_private: float, to_shared: float) -> Sample:
    return {
        "to_private_per_s": cell.count / to_private,
        "to_shared_per_s": cell.count / to_shared,
    }


def _host_converting(cell: Cell) -> Callable[[], Sample]:
    def sample() -> Sample:
        with ExitStack() as stack:
            system = stack.enter_context(ModelSystem())
            vm = stack.enter_context(system.create_vm(VmType.SW_PROTECTED))
            shared = stack.enter_context(system.map_anonymous(cell.data_size))
            private = stack.enter_context(vm.create_guest_memfd(cell.data_size))
            vm.set_memslot(Memslot(0, DATA_GPA, cell.data_size, shared.hva, guest_memfd=private))
            offsets = range(0, cell.data_size, cell.size)
            started = time.perf_counter()
            for offset in offsets:
                vm.set_memory_attributes(DATA_GPA + offset, cell.size, MemoryAttribute.PRIVATE)
                shared.discard(offset, cell.size)
            between = time.perf_counter()
            for offset in offsets:
                vm.set_memory_attributes(DATA_GPA + offset, cell.size, MemoryAttribute(0))
                private.punch_hole(offset, cell.size)
            return _rates(cell, between - started, time.perf_counter() - between)

    return sample
