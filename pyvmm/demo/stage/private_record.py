# SPDX-License-Identifier: MIT
"""The record of one machine: bounded, taken act by act, and with an exit that is waited for."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from pyvmm.demo.stage.exit_words import exit_words
from pyvmm.hosts.call_record import SystemCall
from pyvmm.hosts.exits import Exit, Interrupted

MOST = 40
"""Most calls, and most exits, that are kept of one act; of more than these there is a count."""

QUESTIONS = frozenset({
    "KVM_GET_API_VERSION", "KVM_CHECK_EXTENSION", "KVM_GET_VCPU_MMAP_SIZE",
    "KVM_GET_SUPPORTED_CPUID", "KVM_GET_MSR_INDEX_LIST", "KVM_GET_SREGS", "KVM_GET_DEBUGREGS",
    "KVM_GET_VCPU_EVENTS", "KVM_GET_FPU", "KVM_GET_XSAVE", "KVM_GET_MSRS", "KVM_GET_MP_STATE",
})  # fmt: skip
"""Calls that only ask what the kernel has: counted, not kept.

They would be half of a boot's, and of a dump's.
"""
OF_A_PAUSE = frozenset({"KVM_KVMCLOCK_CTRL"})
"""Calls that go with each pause between two acts, and with no act: left out, as kicks are."""


class Kept(NamedTuple):
    """Record of an act that was kept: as the same fields of `Outcome`."""

    calls: tuple[SystemCall, ...]
    exits: tuple[str, ...]
    exited_after: tuple[int, ...]
    left_out: tuple[tuple[str, int], ...]

    def __bool__(self) -> bool:
        return bool(self.calls or self.exits or self.left_out)

    @property
    def total(self) -> int:
        """Count of all calls and exits, those that were left out, too."""
        return len(self.calls) + len(self.exits) + sum(count for _, count in self.left_out)


class PrivateRecord:
    """A `Recorder`. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[SystemCall] = []
        self._exits: list[str] = []
        self._exited_after: list[int] = []
        self._left_out: Counter[str] = Counter()
        self._log: deque[str] = deque(maxlen=MOST)
        self._watch: tuple[Callable[[Exit], bool], Callable[[], None]] | None = None

    def call(self, made: SystemCall) -> None:
        """Keep a call, or count it."""
        if made.request in OF_A_PAUSE:
            return
        with self._lock:
            if len(self._calls) < MOST and made.request not in QUESTIONS:
                self._calls.append(made)
            else:
                self._left_out[made.request or made.name] += 1

    def exit(self, vcpu: int, exit_: Exit) -> None:
        """Keep an exit, or count it; where it is the one that is waited for, say so."""
        if isinstance(exit_, Interrupted):
            return  # A kick: it was this process that stopped the guest.
        with self._lock:
            self._log.append(exit_words(vcpu, exit_))
            if len(self._exits) < MOST:
                self._exits.append(self._log[-1])
                self._exited_after.append(len(self._calls))
            else:
                self._left_out[f"exit {type(exit_).__name__}"] += 1
            watch = self._watch
            if watch is None or not watch[0](exit_):
                return
            self._watch = None
        watch[1]()

    def watch(self, is_it: Callable[[Exit], bool], then: Callable[[], None]) -> None:
        """At the next exit that `is_it`, call `then`, once, on the vCPU's thread."""
        with self._lock:
            self._watch = is_it, then

    def forget_watch(self) -> None:
        """Wait for no exit any more."""
        with self._lock:
            self._watch = None

    def log(self) -> tuple[str, ...]:
        """The last exits in words, `MOST` at most, whether they have been taken or not."""
        with self._lock:
            return tuple(self._log)

    def take(self) -> Kept:
        """All since the last call of this."""
        with self._lock:
            kept = Kept(
                tuple(self._calls),
                tuple(self._exits),
                tuple(self._exited_after),
                tuple(sorted(self._left_out.items())),
            )
            for each in (self._calls, self._exits, self._exited_after, self._left_out):
                each.clear()
        return kept
