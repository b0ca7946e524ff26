# SPDX-License-Identifier: MIT
"""``--device NAME[,OPTION=VALUE...]``: QEMU's test devices, in QEMU's spelling."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from pyvmm.cli.standard_output import print_answer
from pyvmm.devices import ports
from pyvmm.errors import UsageError
from pyvmm.machine.device_choice import DeviceChoice, ExitPortPlace

_HELP = f"""\
Every machine has these; docs/machine.md lists all of its devices. Asked for by name,
  pc-testdev      has port {ports.DEBUG_CONSOLE:#x} for itself, where the debug console is otherwise
  isa-debug-exit  beside {ports.EXIT:#x} and {ports.DEBUG_EXIT:#x}: at iobase=PORT, iosize=N long
  pvpanic         is where it is anyway, at {ports.PVPANIC:#x}"""
_OPTIONS_HELP: Mapping[str, str] = {
    "pc-testdev": "There are no options for pc-testdev.",
    "isa-debug-exit": f"""\
isa-debug-exit options:
  iobase=PORT  its first I/O port (default: {ports.DEBUG_EXIT:#x})
  iosize=N     how many it has, 1 to 4 (default: {ports.DEBUG_EXIT_LENGTH})""",
    "pvpanic": f"There are no options for pvpanic: it is at {ports.PVPANIC:#x}.",
}
_HELP_WORDS = frozenset({"help", "?"})
_KNOWN: Mapping[str, frozenset[str]] = {
    "pc-testdev": frozenset(),
    "isa-debug-exit": frozenset({"iobase", "iosize"}),
    "pvpanic": frozenset(),
}


class DeviceHelp(argparse.Action):
    """Collects the devices; ``help`` lists them and ends the command, as ``--help`` does.

    ``NAME,help`` does the same with the options of one.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> None:
        """Take one device."""
        name, *options = values.split(",")
        told = _HELP if name in _HELP_WORDS else ""
        if not _HELP_WORDS.isdisjoint(options):
            told = told or _OPTIONS_HELP.get(name, "")
        if told:
            print_answer(told)
            parser.exit()
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", action=DeviceHelp, default=[], metavar="NAME",
        help="QEMU's test devices, most of which are there anyway; help lists them",
    )  # fmt: skip


def device_choice(asked: Sequence[str]) -> DeviceChoice:
    """Parse the values of the ``--device`` options. Raises `UsageError`."""
    exit_ports = []
    whole_test_device = False
    for text in asked:
        name, *parts = text.split(",")
        attempt = f"add the device {text!r}"
        if name not in _KNOWN:
            raise UsageError(attempt, f"there is none called {name!r}", "see --device help")
        options = dict(part.partition("=")[::2] for part in parts)
        unknown = sorted(options.keys() - _KNOWN[name])
        if unknown or len(options) != len(parts):
            what = repr(unknown[0]) if unknown else "the same twice"
            raise UsageError(attempt, f"{name} takes no such option: {what}", "see --device help")
        if name == "pc-testdev":
            whole_test_device = True
        elif name == "isa-debug-exit":
            start = _number(options.get("iobase", hex(ports.DEBUG_EXIT)), attempt)
            length = _number(options.get("iosize", str(ports.DEBUG_EXIT_LENGTH)), attempt)
            exit_ports.append(ExitPortPlace(start, length))
    return DeviceChoice(tuple(exit_ports), whole_test_device)


def _number(text: str, attempt: str) -> int:
    """A number of C's spelling: decimal, or hexadecimal after 0x."""
    try:
        return int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        raise UsageError(attempt, f"{text!r} is no number", "write it as 244 or 0xf4") from None
