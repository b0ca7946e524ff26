# SPDX-License-Identifier: MIT
"""Everything that a command of the shell can name, and what is shown after it."""

from __future__ import annotations

import enum
from collections.abc import Iterator

from pyvmm.experiment import assemble, declare, guest
from pyvmm.hosts.call_record import SystemCall
from pyvmm.hosts.exits import Exit
from pyvmm.shell.bench import Bench
from pyvmm.shell.built_in_ioctls import built_in_ioctls
from pyvmm.shell.held_memory import HeldMemory
from pyvmm.shell.map_lines import lines_of_vm
from pyvmm.shell.names import constants, names_of_types


class ShowMap(enum.Enum):
    """Commands after which the page map is shown."""

    CHANGED = "changed"
    """Those that change what it shows."""
    ALWAYS = "always"
    NEVER = "never"


class Desk:
    """Names of a bench for commands to use: `names`, a name space that commands may change."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.names: dict[str, object] = {
            "__name__": "__main__",
            "__doc__": None,
            **constants(),
            **names_of_types(),
            **built_in_ioctls(),
            "declare": declare,
            "assemble": assemble,
            "guest": guest,
            "bench": bench,
            "system": bench.system,
            "vm": bench.vm,
            "memory": bench.memory,
            "vcpu": bench.vcpu,
            "page_map": self.page_map,
            "calls": self.calls,
        }
        self._shown: tuple[str, ...] = ()
        self._last: tuple[tuple[SystemCall, ...], tuple[tuple[int, Exit], ...]] = ((), ())
        bench.watch.take()

    def page_map(self) -> None:
        """Print the page map of every VM there is."""
        self._shown = tuple(self._lines())
        print("\n".join(self._shown))

    def first_map(self, show: ShowMap) -> None:
        """Print the map before the first command."""
        if show is not ShowMap.NEVER:
            self.page_map()

    def calls(self) -> None:
        """Print the system calls and exits of the last command that made any."""
        made, exits = self._last
        for one in made:
            print(_said(one))
        for vcpu, exit_ in exits:
            print(f"vCPU {vcpu}: {exit_}")

    def after_command(self, show: ShowMap) -> None:
        """Keep what a command did for `calls`, and show the map."""
        made = self.bench.watch.take()
        if any(made):
            self._last = made
        if show is ShowMap.NEVER:
            return
        before, now = self._shown, tuple(self._lines())
        if show is ShowMap.CHANGED and now == before:
            return
        self._shown = now
        for line in now:
            is_new = bool(before) and line not in before and line[0] not in "V["
            print(f"{line}  *" if is_new else line)

    def _lines(self) -> Iterator[str]:
        bench = self.bench
        held = HeldMemory(
            (bench.memory.mapping, bench.memory.file, *self.names.values()), bench.watch
        )
        vms = tuple(bench.watch.vms.items())  # A thread of the user's may make more meanwhile.
        if not vms:
            yield "no VM"
        for name, vm in vms:
            yield from lines_of_vm(name, vm, held)


def _said(made: SystemCall) -> str:
    given = ", ".join(
        f"{one.name}={one.meaning or hex(one.value)}" for one in made.given if one.value is not None
    )
    asked = f"{made.target}, {made.request}" if made.request else made.target
    answer = _errno(made.errno) if made.errno else str(made.result)
    return f"{made.name}({asked}{f', {given}' if given else ''}) = {answer}"


def _errno(number: int) -> str:
    from errno import errorcode

    return f"-1 {errorcode.get(number, str(number))}"
