# SPDX-License-Identifier: MIT
"""Exits: how many port writes per second a monitor answers, and at what cost in user time."""

from __future__ import annotations

import datetime
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks import baselines, guests, host_api
from benchmarks.figures import Sample, at_least
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.cmos import Cmos
from pyvmm.hosts.exits import IoOut
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.attach import discard
from pyvmm.machine.running import open_machine

NAME = "exits"
TITLE = "exits answered per second"
RUNS = 11

EXITS = 40_000
SECONDS = 0.35
WARM_UP_EXITS = 1000
SETTLE = 0.02
"""Seconds that a machine runs before its exits are counted."""

ORDINARY_PORT = ports.CMOS_INDEX
"""A device's port that no fast path takes: every write comes to Python and goes to the device."""
POSTED_PORT = ports.DEBUG_CONSOLE

_EXIT = "IO"
_POSTED = "POSTED_WRITE"


def run(effort: Effort, step: Step) -> Result:
    """Measure all subjects."""
    exits = effort.scaled(EXITS)
    seconds = SECONDS * effort.scale
    program = baselines.compiled("exits")
    subjects = (
        Subject("C", "a loop around KVM_RUN that looks at every exit", lambda: _c(program, exits)),
        Subject(
            "host API",
            "Vcpu.run() and Bus.handle_out() to the CMOS model, in one thread",
            lambda: _host_api(exits),
        ),
        Subject(
            "machine",
            "a whole machine, trio asleep: the vCPU's thread, locks, the bus, the CMOS model",
            lambda: trio.run(_machine, ORDINARY_PORT, _EXIT, seconds),
        ),
        Subject(
            "posted",
            "a whole machine; writes to a posted port, which trio takes out of the ring",
            lambda: trio.run(_machine, POSTED_PORT, _POSTED, seconds),
        ),
        Subject(
            "machine, busy",
            "as machine, while another thread spins in Python and wants the interpreter lock",
            lambda: _busy_machine(ORDINARY_PORT, _EXIT, seconds),
        ),
        Subject(
            "posted, busy",
            "as posted, while another thread spins in Python",
            lambda: _busy_machine(POSTED_PORT, _POSTED, seconds),
        ),
    )
    gated = ("host API", "machine", "posted")
    rates = [Comparison("exits_per_s", name, "C", at_least(0.90)) for name in gated]
    rates += [Comparison("exits_per_s", f"{name}, busy", "C") for name in ("machine", "posted")]
    costs = [Comparison("user_us", name, "C") for name in gated]
    return Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), (*rates, *costs))


def _c(program: Path, exits: int) -> Sample:
    answer = baselines.called(program, ORDINARY_PORT, exits)
    return _sample(exits, answer["seconds"], answer["user"], answer["system"])


def _sample(exits: int, seconds: float, user: float, system: float) -> Sample:
    return {
        "exits_per_s": exits / seconds,
        "user_us": user / exits * 1e6,
        "system_us": system / exits * 1e6,
    }


@dataclass(frozen=True, slots=True)
class _Mark:
    """A moment: counts and times so far."""

    exits: int
    seconds: float
    user: float
    system: float

    @classmethod
    def now(cls, exits: int) -> _Mark:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(exits, time.perf_counter(), used.ru_utime, used.ru_stime)

    def until(self, later: _Mark) -> Sample:
        return _sample(
            later.exits - self.exits,
            later.seconds - self.seconds,
            later.user - self.user,
            later.system - self.system,
        )


def _host_api(exits: int) -> Sample:
    bus = Bus("port", 1 << 16)
    clock = Cmos(lambda: datetime.datetime.now(datetime.UTC), guests.MEMORY)
    bus.add(ports.CMOS_INDEX, ports.CMOS_LENGTH, clock, "CMOS clock")
    with host_api.guest(host_api.planned(guests.write_forever(ORDINARY_PORT))) as vcpu:
        _answer(vcpu, bus, WARM_UP_EXITS)
        before = _Mark.now(0)
        _answer(vcpu, bus, exits)
        return before.until(_Mark.now(exits))


def _answer(vcpu: Vcpu, bus: Bus, exits: int) -> None:
    run_vcpu = vcpu.run
    handle_out = bus.handle_out
    for _ in range(exits):
        reason = run_vcpu()
        if reason.__class__ is not IoOut:
            raise CannotRunError(f"the guest stopped for {reason}")
        handle_out(reason.port, reason.size, reason.count, reason.data)


async def _machine(port: int, counter: str, seconds: float) -> Sample:
    def mark(vcpu: Vcpu) -> _Mark:
        return _Mark.now(vcpu.exit_counts().get(counter, 0))

    config = MachineConfig(guests.write_forever(port), memory=guests.MEMORY)
    async with open_machine(config, discard) as machine:
        await trio.sleep(SETTLE)
        before = await machine.vcpus[0].call(mark)
        await trio.sleep(seconds)
        after = await machine.vcpus[0].call(mark)
    if after.exits == before.exits:
        raise CannotRunError(f"the machine counted no {counter} exits")
    return before.until(after)


def _busy_machine(port: int, counter: str, seconds: float) -> Sample:
    with _spinning():
        sample = trio.run(_machine, port, counter, seconds)
    # The process's CPU time is the spinning thread's here.
    return {"exits_per_s": sample["exits_per_s"]}


@contextmanager
def _spinning() -> Iterator[None]:
    stop = False

    def spin() -> None:
        while not stop:
            pass

    thread = threading.Thread(target=spin, name="spinning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop = True
        thread.join()
