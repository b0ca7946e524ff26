# SPDX-License-Identifier: MIT
"""The words of the human monitor: QEMU's, where it has them, and in its forms.

One implementation serves the terminal (Ctrl-A c) and QMP's ``human-monitor-command``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from pyvmm.devices.placement import Window
from pyvmm.errors import UsageError
from pyvmm.machine.ending import Requester
from pyvmm.machine.machine import Machine
from pyvmm.machine.monitor.expressions import LineError, TrailingError, evaluate, take_format
from pyvmm.machine.monitor.memory_lines import character, memory_lines
from pyvmm.machine.monitor.memory_tree import (
    AddressSpace,
    TreeEntry,
    TreeKind,
    controller_entries,
    flat_lines,
    region_entries,
    tree_lines,
)
from pyvmm.machine.monitor.register_lines import VcpuRegisters, register_lines
from pyvmm.machine.report import collect
from pyvmm.machine.steering import MachineState
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_walk import walk
from pyvmm.rules.abi import PAGE_SIZE

LONGEST_LINE = 1024
"""Characters that a line may have."""


@dataclass(frozen=True, slots=True)
class Line:
    """Arguments of a monitor word: the machine, what follows the word, the vCPU meant, who asks."""

    machine: Machine
    rest: str
    cpu: int
    requester: Requester


@dataclass(frozen=True, slots=True)
class Word:
    """A command: its name, what follows it, what it does, and the function that does it."""

    name: str
    parameters: str
    what: str
    run: Callable[[Line], Awaitable[str]]
    aliases: tuple[str, ...] = ()

    def help(self, group: str = "") -> str:
        """One line, as QEMU has it."""
        return f"{group}{self.names} {self.parameters} -- {self.what}\n"

    @property
    def names(self) -> str:
        """The name with its aliases."""
        return "|".join((self.name, *self.aliases))


async def execute(machine: Machine, text: str, cpu: int, requester: Requester) -> str:
    """Execute a line and return its output; `cpu` is the vCPU that registers and x mean.

    What cannot be done is said in the text, as QEMU's monitor does. Raises `PyvmmError` when the
    machine fails or has ended.
    """
    if len(text) > LONGEST_LINE:
        return f"a line has at most {LONGEST_LINE} characters\n"
    words: Sequence[Word] = WORDS
    name, rest = _split(text)
    group = ""
    if name == "info" and rest.strip():
        words, group = INFO, "info "
        name, rest = _split(rest)
    if not name:
        await trio.lowlevel.checkpoint()
        return ""
    word = _find(words, name)
    if word is None:
        await trio.lowlevel.checkpoint()
        return f"unknown command: '{group}{name}'\n"
    try:
        return await word.run(Line(machine, rest, cpu, requester))
    except LineError as error:
        told = str(error)
        if isinstance(error, TrailingError):
            told = f"{word.names}: {told}"
        return f'{told}\nTry "help {group}{name}" for more information\n'


def _split(text: str) -> tuple[str, str]:
    """The word in front, and the rest; a format clings to its word: x/4x."""
    text = text.strip()
    at = next((at for at, letter in enumerate(text) if letter.isspace() or letter == "/"), None)
    return (text, "") if at is None else (text[:at], text[at:])


def _find(words: Sequence[Word], name: str) -> Word | None:
    return next((word for word in words if name == word.name or name in word.aliases), None)


# -- help, running --


async def _help(line: Line) -> str:
    name, rest = _split(line.rest)
    await trio.lowlevel.checkpoint()
    if not name:
        everything = [word.help() for word in WORDS] + [word.help("info ") for word in INFO]
        return "".join(everything)
    if name == "info":
        wanted = _split(rest)[0]
        found = [word for word in INFO if wanted in ("", word.name)]
        return "".join(word.help("info ") for word in found) or f"unknown command: '{wanted}'\n"
    word = _find(WORDS, name)
    return f"unknown command: '{name}'\n" if word is None else word.help()


async def _info(_line: Line) -> str:
    await trio.lowlevel.checkpoint()
    return "".join(word.help("info ") for word in INFO)


async def _stop(line: Line) -> str:
    await line.machine.control.pause()
    return ""


async def _cont(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    line.machine.control.resume()
    return ""


async def _quit(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    line.machine.control.interrupt("ended from the monitor (quit)", line.requester)
    return ""


# -- memory and numbers --


async def _examine(line: Line) -> str:
    """x: by the linear addresses of a vCPU."""
    format_, expression = take_format(line.rest)
    vcpu = await _registers(line.machine, line.cpu)
    start = evaluate(expression, vcpu.names())
    return await _lines(partial(memory_lines, start, format_, partial(_read_linear, line, vcpu)))


async def _examine_physical(line: Line) -> str:
    """xp: by guest-physical addresses."""
    format_, expression = take_format(line.rest)
    start = evaluate(expression, await _names(line, expression))
    return await _lines(partial(memory_lines, start, format_, line.machine.memory.read))


async def _print(line: Line) -> str:
    format_, expression = take_format(line.rest)
    value = evaluate(expression, await _names(line, expression))
    match format_.base.value:
        case "o":
            return f"0{value:o}\n" if value else "0\n"
        case "c":
            return f"'{character(value & 0xFF)}'\n"
        case "d":
            return f"{value - (1 << 64) if value >> 63 else value}\n"
        case "u":
            return f"{value}\n"
    return f"{value:#x}\n"


async def _names(line: Line, expression: str) -> Mapping[str, int]:
    """The registers, where the expression may mean some: else the vCPU is left alone."""
    if "$" not in expression:
        return {}
    return (await _registers(line.machine, line.cpu)).names()


async def _lines(make: Callable[[], Iterable[str]]) -> str:
    """Memory is read in a worker thread: the lock on it may be held for long."""
    made = await trio.to_thread.run_sync(lambda: [f"{one}\n" for one in make()])
    return "".join(made)


def _read_linear(line: Line, vcpu: VcpuRegisters, address: int, size: int) -> bytes | None:
    read = line.machine.memory.read
    data = b""
    while len(data) < size:
        at = address + len(data)
        gpa = walk(read, vcpu.sregs, at).gpa
        if gpa is None:
            return None
        piece = read(gpa, min(size - len(data), PAGE_SIZE - at % PAGE_SIZE))
        if piece is None:
            return None
        data += piece
    return data


async def _registers(machine: Machine, index: int) -> VcpuRegisters:
    return await machine.vcpus[index].registers()


# -- info --


async def _info_status(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    return f"VM status: {_status(line.machine.control.state)}\n"


def _status(state: MachineState) -> str:
    """Word for it; QEMU's are those of QMP's RunState, of which a person needs two."""
    stands = state in {MachineState.NEW, MachineState.PAUSED}
    return "paused" if stands else "running"


async def _info_registers(line: Line) -> str:
    wanted = line.rest.split()
    cpus = len(line.machine.vcpus)
    if wanted == ["-a"]:
        indices: Sequence[int] = range(cpus)
    elif not wanted:
        indices = [line.cpu]
    elif len(wanted) == 1 and wanted[0].isdecimal() and len(wanted[0]) < 6:
        indices = [int(wanted[0])]
        if indices[0] >= cpus:
            return f"CPU#{indices[0]} not available\n"
    else:
        raise LineError(f"{' '.join(wanted)}: neither -a nor the number of a vCPU")
    texts = []
    for index in indices:
        found = await _registers(line.machine, index)
        # An empty line before each, as in QEMU.
        texts.append("\n" + "".join(f"{one}\n" for one in register_lines(found)))
    return "".join(texts)


async def _info_mtree(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    wanted = line.rest.split()
    if wanted not in ([], ["-f"]):
        raise LineError(f"{' '.join(wanted)}: there is no such view here, only -f")
    show = flat_lines if wanted else tree_lines
    return "".join(f"{one}\n" for one in show(_address_spaces(line.machine)))


def _address_spaces(machine: Machine) -> tuple[AddressSpace, AddressSpace]:
    host = machine.host
    regions = [sides.region for sides in host.regions]
    memory = [
        *region_entries(host.address_map, regions),
        *controller_entries(host.address_map),
        *_device_entries(host.mmio[1]),
    ]
    ports = [*_device_entries(host.ports[1])]
    return (
        AddressSpace("memory", "system", host.mmio[0], tuple(memory)),
        AddressSpace("I/O", "io", host.ports[0], tuple(ports)),
    )


def _device_entries(windows: Iterable[Window]) -> Iterator[TreeEntry]:
    for one in windows:
        yield TreeEntry(GpaRange(one.start, one.end), TreeKind.DEVICE, one.name)


async def _info_pci(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    from pyvmm.machine.monitor.pci_lines import pci_lines  # Most machines have none.

    return "".join(f"{one}\n" for one in pci_lines(line.machine.host.pci_functions()))


async def _info_network(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    from pyvmm.machine.monitor.network_lines import network_lines  # Most machines have none.

    return "".join(f"{one}\n" for one in network_lines(line.machine.network.cards))


async def _set_link(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    # The names of cards have a space in them.
    name, _, state = line.rest.strip().rpartition(" ")
    if not name or state not in ("on", "off"):
        raise LineError("set_link: a card's name and on or off expected")
    name = name.strip().strip("\"'")
    try:
        line.machine.network.set_link(name, up=state == "on")
    except UsageError as error:
        return f"Error: {error}\n"
    return ""


async def _info_memory(line: Line) -> str:
    await trio.lowlevel.checkpoint()
    host = line.machine.host
    lines = [f"{host.address_map.memory >> 10} KiB, {host.backing.reason}"]
    lines += [
        f"  slot {region.slot}: gpa {region.range.start:#x}..{region.range.end:#x}"
        for region in host.address_map.ram
    ]
    return "".join(f"{one}\n" for one in lines)


async def _info_vcpus(line: Line) -> str:
    lines: list[str] = []
    for vcpu in line.machine.vcpus:
        report = await vcpu.call(partial(collect, vcpu.index, read=line.machine.memory.read))
        lines += report.lines()
    return "".join(f"{one}\n" for one in lines)


WORDS = (
    Word("help", "[cmd]", "show the help", _help, ("?",)),
    Word("info", "[subcommand]", "show various information about the system state", _info),
    Word("print", "/fmt expr", "print expression value (use $reg for CPU register access)",
         _print, ("p",)),
    Word("stop", "", "stop emulation", _stop, ("s",)),
    Word("cont", "", "resume emulation", _cont, ("c",)),
    Word("quit", "", "quit the emulator", _quit, ("q",)),
    Word("set_link", "name on|off", "change the link status of a network adapter", _set_link),
    Word("x", "/fmt addr", "virtual memory dump starting at 'addr'", _examine),
    Word("xp", "/fmt addr", "physical memory dump starting at 'addr'", _examine_physical),
)  # fmt: skip
"""Words that a line may begin with."""

INFO = (
    Word("status", "", "show the current VM status (running|paused)", _info_status),
    Word("registers", "[-a|vcpu]", "show the cpu registers (-a: show register info for all cpus; "
         "vcpu: specific vCPU to query; show the current CPU's registers if no argument is "
         "specified)", _info_registers),
    Word("mtree", "[-f]", "show memory tree (-f: dump flat view for address spaces)", _info_mtree),
    Word("pci", "", "show PCI info", _info_pci),
    Word("network", "", "show the network state", _info_network),
    Word("memory", "", "how much memory there is, and what it is made from", _info_memory),
    Word("vcpus", "", "registers, code, page tables and last exits of every vCPU", _info_vcpus),
)  # fmt: skip
"""Words that may follow ``info``."""
