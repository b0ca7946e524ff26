# SPDX-License-Identifier: MIT
"""Explanation of a failed boot test: from what is left of a guest to text and plain values. Pure.

All of it is bounded: `MOST_TEXT` letters a guest, whatever that has said and done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pyvmm.errors import PyvmmError
from pyvmm.testing.drivers.driver import OutcomeKind, VcpuState
from pyvmm.testing.drivers.vcpu_states import CODE_BYTES, named
from pyvmm.testing.explaining.disassembly import disassembled
from pyvmm.testing.explaining.witness import Remains
from pyvmm.testing.failures import Expectation, ExpectError
from pyvmm.testing.images.symbols import NO_SYMBOLS, Symbols, code_of
from pyvmm.testing.life import Life
from pyvmm.testing.transcript import printable

CONSOLE_LINES = 20
EXIT_LINES = 16
MEMORY_LINES = 16
EVENT_LINES = 16
VCPUS = 4
"""vCPUs that are shown in full."""
LINE_LETTERS = 200
MOST_TEXT = 1 << 15
_CONSOLE_BYTES = 1 << 14
_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
    ("rflags", "cr0", "cr2", "cr3"),
    ("cr4", "efer", "cs", "ss"),
)


@dataclass(frozen=True, slots=True)
class ExplainedVcpu:
    """A vCPU for people: `place` names the function at `rip`, "" where nobody knows it.

    `code` is that of the image where memory cannot be read (`is_images_code`).
    """

    index: int
    mode: str
    rip: int | None
    place: str
    registers: dict[str, int]
    code: str
    is_images_code: bool
    instructions: tuple[str, ...]
    page_walk: tuple[str, ...]
    exits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of what one guest came to; `to_json` has plain values only."""

    name: str
    host: str
    by_hand: str
    end: str
    has_exited: bool
    seconds: float
    exits: dict[str, int]
    expected: tuple[str, ...]
    nearest: str
    reason: str
    console: tuple[str, ...]
    console_bytes: int
    vcpus: tuple[ExplainedVcpu, ...]
    memory: tuple[str, ...]
    events: tuple[str, ...]
    remarks: tuple[str, ...]
    artifacts: str = ""

    @property
    def title(self) -> str:
        """Title of its section in a report."""
        return f"guest {self.name} on {self.host}"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {name: _plain(part) for name, part in asdict(self).items()}

    def to_text(self) -> str:
        """Text of many lines, without colour."""
        text = "\n".join(_cut(line, LINE_LETTERS) for line in self._lines())
        return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}\n[cut off here]"

    def _lines(self) -> Iterator[str]:
        yield self.end
        yield from (f"note: {remark}" for remark in self.remarks)
        if self.expected:
            yield f"expected: {' or '.join(self.expected)}: {self.reason}"
            yield f"nearest miss: {self.nearest or 'nothing like it'}"
        if self.console:
            yield f"console ({self.console_bytes} bytes), the end:"
            yield from (f"  | {line}" for line in self.console)
        else:
            yield "console: nothing was said"
        # Who has ended by itself stands where it did so.
        full = 0 if self.has_exited else VCPUS
        for vcpu in self.vcpus[:full]:
            yield from _vcpu_lines(vcpu)
        for vcpu in self.vcpus[full:]:
            yield _vcpu_line(vcpu)
        if self.exits:
            counts = (f"{name} {count}" for name, count in sorted(self.exits.items()))
            yield f"exits: {', '.join(counts)}"
        yield from _some("memory", self.memory, MEMORY_LINES, first=True)
        yield from _some("events", self.events, EVENT_LINES, first=False)
        if self.artifacts:
            yield f"artifacts: {self.artifacts}"
        yield f"by hand: {self.by_hand}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def _cut(line: str, most: int) -> str:
    # A command line is of no use if it is cut.
    if len(line) <= most or line.startswith("by hand: "):
        return line
    return f"{line[: most - 3]}..."


def _some(what: str, lines: Sequence[str], most: int, *, first: bool) -> Iterator[str]:
    """The first or the last lines, and how many there are more."""
    if not lines:
        return
    yield f"{what}:"
    left = len(lines) - most
    if left > 0 and not first:
        yield f"  ... {left} before"
    yield from (f"  {line}" for line in (lines[:most] if first else lines[-most:]))
    if left > 0 and first:
        yield f"  ... {left} more"


def _vcpu_line(vcpu: ExplainedVcpu) -> str:
    where = "" if vcpu.rip is None else f" at {vcpu.rip:#x}"
    return f"vCPU {vcpu.index}: {vcpu.mode}{where}" + (f", {vcpu.place}" if vcpu.place else "")


def _vcpu_lines(vcpu: ExplainedVcpu) -> Iterator[str]:
    yield _vcpu_line(vcpu)
    for row in _ROWS:
        cells = [f"{name:<3} {vcpu.registers[name]:016x}" for name in row if name in vcpu.registers]
        if cells:
            yield "  " + "  ".join(cells)
    if vcpu.rip is not None:
        whose = ", in the image (its memory is not readable)" if vcpu.is_images_code else ""
        yield f"  code at rip{whose}: {vcpu.code or 'not readable'}"
    yield from (f"    {line}" for line in vcpu.instructions)
    if vcpu.page_walk:
        yield "  page tables for rip:"
        yield from (f"    {step}" for step in vcpu.page_walk)
    for line in _some("last exits", vcpu.exits, EXIT_LINES, first=False):
        yield f"  {line}"


def explain(remains: Remains, failure: BaseException | None) -> Explanation:
    """Explain what a guest came to, for the test's `failure`. Never raises a `PyvmmError`."""
    life = remains.life
    remarks = list(remains.remarks)
    try:
        symbols = life.symbols
    except PyvmmError as error:
        symbols = NO_SYMBOLS
        remarks.append(str(error))
    reason, unmet = _unmet(life, failure)
    if not remains.is_examined:
        remarks.append("its block had been left when the test failed: its memory was gone")
    outcome = life.outcome
    return Explanation(
        name=life.request.name,
        host=life.driver.host.value,
        by_hand=life.driver.by_hand,
        end=_end(remains),
        has_exited=outcome is not None and outcome.kind is OutcomeKind.EXITED,
        seconds=remains.seconds if outcome is None else outcome.seconds,
        exits={} if outcome is None else dict(outcome.exits),
        expected=() if unmet is None else unmet.patterns,
        nearest="" if unmet is None else unmet.nearest,
        reason=reason,
        console=_console(life),
        console_bytes=life.transcript.end,
        vcpus=tuple(_explained(state, symbols, life.request.image) for state in remains.vcpus),
        memory=tuple(_page_lines(remains.memory)),
        events=tuple(_event_lines(life)),
        remarks=tuple(remarks),
    )


def with_artifacts(explanation: Explanation, folder: str, by_hand: str) -> Explanation:
    """The same, with the place of its artifacts and a command line that names files there."""
    return replace(explanation, artifacts=folder, by_hand=by_hand)


def _end(remains: Remains) -> str:
    life = remains.life
    if life.failure is not None:
        return f"the run failed, and not by the guest: {life.failure}"
    if life.outcome is None:
        if not remains.is_examined:
            return "it was still running when its block was left"
        return f"it was still running, {remains.seconds:.3f} s after its boot"
    outcome = life.outcome
    return f"{outcome.kind.value} after {outcome.seconds:.3f} s: {outcome.detail}"


def _is_same(one: Expectation | None, other: Expectation | None) -> bool:
    return one is not None and one is other


def _unmet(life: Life, failure: BaseException | None) -> tuple[str, Expectation | None]:
    """The expectation of this guest that the test has failed by, and the reason."""
    seen: set[int] = set()
    pending = [failure]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, ExpectError) and _is_same(one.expectation, life.unmet):
            return one.reason, one.expectation
        pending += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions
    return "", None


def _console(life: Life) -> tuple[str, ...]:
    said = life.transcript.since(life.transcript.end - _CONSOLE_BYTES)
    lines = printable(said).split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(_cut(line, LINE_LETTERS) for line in lines[-CONSOLE_LINES:])


def _explained(state: VcpuState, symbols: Symbols, image: bytes) -> ExplainedVcpu:
    place = None if state.rip is None else symbols.place(state.rip)
    instructions: Sequence[str] = ()
    code = state.code
    if state.rip is not None:
        code = code or code_of(image, state.rip, CODE_BYTES)
        instructions = disassembled(code, state.rip, state.mode)
    return ExplainedVcpu(
        index=state.index,
        mode=state.mode,
        rip=state.rip,
        place="" if place is None else str(place),
        registers={} if state.registers is None else named(state.registers),
        code=code.hex(" "),
        is_images_code=not state.code and bool(code),
        instructions=tuple(instructions),
        page_walk=state.page_walk,
        exits=state.exits,
    )


def _page_lines(pages: Sequence[tuple[int, int, str]]) -> Iterator[str]:
    """A line for each run of pages of one state, and how much there is of each first."""
    totals: Counter[str] = Counter()
    runs: list[tuple[int, int, str]] = []
    for start, size, state in pages:
        totals[state] += size
        if runs and runs[-1][2] == state and runs[-1][0] + runs[-1][1] == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + size, state)
        else:
            runs.append((start, size, state))
    if len(totals) > 1:
        yield ", ".join(f"{size >> 10} KiB {state}" for state, size in totals.items())
    for start, size, state in runs:
        yield f"{start:#012x}..{start + size:#012x} {size >> 10} KiB {state}"


def _event_lines(life: Life) -> Iterator[str]:
    for event in life.events:
        vcpu = "" if event.vcpu is None else f" vCPU {event.vcpu}"
        detail = f" {event.detail}" if event.detail else ""
        yield f"{event.seconds:10.6f} s  {event.name.value}{vcpu}{detail}"
