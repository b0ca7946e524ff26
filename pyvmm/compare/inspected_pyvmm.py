# SPDX-License-Identifier: MIT
"""``python -m pyvmm.compare.inspected_pyvmm JSON``: one run under pyvmm that is looked at closely.

Its console is standard input and output. What there is to tell goes to a descriptor as JSON, guest
RAM to another one. Started by `pyvmm_runs`, which says what JSON holds.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from pyvmm.compare.observations import KERNEL_COUNTERS, EndKind
from pyvmm.errors import ExitCode, PyvmmError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.board import Board
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.console.attach import Stdio
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.ram import GuestRam
from pyvmm.machine.running import running

if TYPE_CHECKING:
    from pyvmm.devices.bus import Bus, Route
    from pyvmm.hosts.kvm.stats import Stats
    from pyvmm.machine.console.port import ConsolePort

_KINDS: Mapping[EndingKind, EndKind] = {
    EndingKind.EXITED: EndKind.EXITED,
    EndingKind.RESET: EndKind.RESTARTED,
    EndingKind.TRIPLE_FAULT: EndKind.RESTARTED,
    EndingKind.PANICKED: EndKind.PANICKED,
    EndingKind.HALTED: EndKind.HALTED,
    EndingKind.BAD_STATUS: EndKind.BAD_STATUS,
    EndingKind.TIME_LIMIT: EndKind.TIME_LIMIT,
}
_CHUNK = 4 << 20
_ACCESSES_MAX = 4096


def _config(asked: Mapping[str, Any]) -> MachineConfig:
    initrd = asked["initrd"]
    return MachineConfig(
        image=Path(asked["image"]).read_bytes(),
        # As QEMU is told them, and so a Multiboot kernel.
        name=asked["image"],
        initrd_name=asked["initrd"] or "",
        memory=asked["memory"],
        cpus=asked["cpus"],
        command_line=os.fsencode(asked["command_line"]),
        initrd=None if initrd is None else Path(initrd).read_bytes(),
        timeout=asked["timeout"],
        host=HostChoice(asked["host"]),
    )


async def _run(asked: Mapping[str, Any], config: MachineConfig) -> dict[str, object]:
    with ExitStack() as stack:
        async with running(config, Stdio(), paused=True) as inside:
            machine = inside.machine
            accesses = _Accesses(inside.assembly.board, inside.port)
            statistics = []
            if config.host is HostChoice.KVM:
                for vcpu in machine.vcpus:
                    opened = await vcpu.call(_statistics)
                    if opened is not None:
                        statistics.append(stack.enter_context(opened))
            machine.control.resume()
            result = await machine.control.wait()
            kernel = _kernel_counts(statistics) if statistics else None
            ending = result.ending
            kind = _KINDS.get(ending.kind, EndKind.CRASHED)
            if kind is not EndKind.TIME_LIMIT:
                _copy_ram(inside.assembly.ram, asked["ram"])
    return {
        "kind": kind.value,
        "status": _status(ending),
        "detail": ending.detail,
        "exit_code": int(ending.exit_code),
        "exits": dict(result.exits),
        "kernel": kernel,
        "accesses": accesses.first,
    }


class _Accesses:
    """Addresses that are not RAM, in the order in which the guest used them first.

    Each as `FirstAccess` has it: address, whether it is a port and was read, whether a device
    answers there, and how many bytes the guest had said.
    """

    def __init__(self, board: Board, console: ConsolePort) -> None:
        self._board = board
        self._console = console
        self._lock = threading.Lock()
        self._seen: set[tuple[int, bool, bool]] = set()
        self.first: list[tuple[int, bool, bool, bool, int]] = []
        board.ports.on_route = partial(self._watched, board.ports, True)
        board.mmio.on_route = partial(self._watched, board.mmio, False)

    def _watched(self, bus: Bus, is_port: bool, address: int, route: Route) -> Route:
        read, write, offset, widest, guard = route
        claimed = bus.find(address) is not None

        def watched_read(at: int, size: int) -> int:
            self._take(address, is_port, True, claimed)
            return read(at, size)

        def watched_write(at: int, size: int, value: int) -> None:
            self._take(address, is_port, False, claimed)
            write(at, size, value)

        return watched_read, watched_write, offset, widest, guard

    def _take(self, address: int, is_port: bool, is_read: bool, claimed: bool) -> None:
        # Under the device's guard, on the thread of the vCPU that accesses it.
        key = (address, is_port, is_read)
        if key in self._seen:
            return
        self._board.drain_posted()
        with self._lock:
            if key not in self._seen and len(self._seen) < _ACCESSES_MAX:
                self._seen.add(key)
                self.first.append((*key, claimed, self._console.total))


def _statistics(vcpu: Vcpu) -> Stats | None:
    """On the vCPU's thread, before its first instruction: the file that counts to its end."""
    from pyvmm.hosts.kvm.vcpu import Vcpu as KvmVcpu

    if not isinstance(vcpu, KvmVcpu):
        return None
    try:
        return vcpu.statistics()
    except PyvmmError:  # Before Linux 5.14 there is none.
        return None


def _kernel_counts(statistics: list[Stats]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for opened in statistics:
        for one in opened.read():
            if one.descriptor.name in KERNEL_COUNTERS:
                counts[one.descriptor.name] += one.values[0]
    return dict(counts)


def _status(ending: Ending) -> int | None:
    if ending.kind is EndingKind.BAD_STATUS and (
        found := re.search(r"wrote (\d+) ", ending.detail)
    ):
        return int(found[1])
    return ending.status


def _copy_ram(ram: GuestRam, fd: int) -> None:
    """Copy it to `fd`, a file of that size; what nobody has touched stays a hole there."""
    with ram.mapping.view() as view:
        for start, end in ram.mapping.data(0, ram.address_map.memory):
            for offset in range(start, end, _CHUNK):
                stop = min(offset + _CHUNK, end)
                with view[offset:stop] as part:
                    os.pwrite(fd, part, offset)


def main() -> int:
    """Run it; 0, or the exit code of what failed, which standard error then says in a line."""
    asked = json.loads(sys.argv[1])
    try:
        told = trio.run(_run, asked, _config(asked))
    except PyvmmError as error:
        sys.stderr.write(f"pyvmm: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    os.write(asked["report"], json.dumps(told).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
