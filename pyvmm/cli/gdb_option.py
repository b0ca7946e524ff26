# SPDX-License-Identifier: MIT
"""``--gdb PLACE[,wait=on]``: where the stub for GDB listens."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cli.place_options import Switches, parse_place
from pyvmm.cli.standard_error import write_to_user

if TYPE_CHECKING:
    import socket

_UNIX: dict[str, Switches] = {"unix": {"server": (True,), "wait": (True, False)}}
_USAGE = "PORT, HOST:PORT, unix:PATH, each with ,wait=on"
_LOCAL = "127.0.0.1"
_WAITS = {"": False, "wait": True, "wait=on": True, "nowait": False, "wait=off": False}


class GdbOption(NamedTuple):
    """A port at a host's address, or a socket's path; with `wait` the guest waits for a client."""

    host: str = _LOCAL
    port: int = 0
    path: Path | None = None
    wait: bool = False

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_gdb(text: str) -> GdbOption:
    """Read the option. Raises `argparse.ArgumentTypeError`."""
    if text.startswith("unix:"):
        _, path, switches = parse_place(text, _UNIX, _USAGE)
        return GdbOption(path=path, wait=switches.get("wait", False))
    place, _, switch = text.removeprefix("tcp:").partition(",")
    host, colon, port = place.rpartition(":")
    if switch not in _WAITS:
        raise argparse.ArgumentTypeError(f"{switch!r} cannot be: it may be wait=on, wait=off")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {_USAGE}")
    host = host.strip("[]") if colon and host else _LOCAL
    return GdbOption(host, int(port), None, _WAITS[switch])


def add_gdb_argument(parser: argparse.ArgumentParser) -> None:
    """--gdb."""
    parser.add_argument(
        "--gdb", type=parse_gdb, metavar="PORT[,wait=on]",
        help="serve GDB at 127.0.0.1, HOST:PORT or unix:PATH; with wait=on the guest waits for it",
    )  # fmt: skip


@contextmanager
def gdb_listener(option: GdbOption) -> Iterator[socket.socket]:
    """A socket that listens there, closed at the end. Raises `UsageError` and its like."""
    if option.path is not None:
        from pyvmm.machine.unix_listener import UnixListener

        with UnixListener(option.path, f"listen for GDB on {option.path}") as listener:
            if option.wait:
                write_to_user(f"pyvmm: GDB may connect: target remote {option}\n")
            yield listener.socket
        return
    from pyvmm.gdb.tcp_listener import listening_at

    with listening_at(option.host, option.port) as listening:
        bound = option._replace(port=listening.getsockname()[1])
        if option.wait or not option.port:
            write_to_user(f"pyvmm: GDB may connect: target remote {bound}\n")
        yield listening
