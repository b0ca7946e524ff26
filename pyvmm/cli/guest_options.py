# SPDX-License-Identifier: MIT
"""The options that say which guest: what ``run`` boots is what ``measure`` measures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.sizes import parse_size
from pyvmm.errors import NoInputError, UsageError
from pyvmm.machine.image_file import image_path, read_image, read_input


class GuestInput(NamedTuple):
    """Input of a boot: file contents, the command line without its zero byte, message names."""

    name: str
    image: bytes
    command_line: bytes
    initrd: bytes | None
    initrd_name: str


def add_guest_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGE, --memory, --append, --initrd."""
    parser.add_argument("image", metavar="IMAGE", help="a file, or a bundled guest's name")
    parser.add_argument(
        "-m", "--memory", type=parse_size, default=256 << 20, metavar="SIZE", help="256M, 2G, ..."
    )
    parser.add_argument("--append", default="", metavar="TEXT", help="the guest's command line")
    parser.add_argument(
        "--initrd", type=Path, action="append", metavar="FILE",
        help="an initial RAM disk; given again: its next part",
    )  # fmt: skip


def read_guest(options: argparse.Namespace) -> GuestInput:
    """Read the files that the options name; no initrd may be longer than the guest's memory.

    Raises `UsageError`, and whatever `pyvmm.machine.image_file.read_input` raises.
    """
    if "\0" in options.append:
        raise UsageError("pass on the command line", "it has a zero byte in it", "leave that out")
    if not options.image:
        raise NoInputError(
            "read the image", "its name is empty", "give a path, or a name that pyvmm guests lists"
        )
    return GuestInput(
        name=str(options.image),
        image=read_image(image_path(options.image)),
        command_line=os.fsencode(options.append),
        initrd=_read_initrd(options) if options.initrd else None,
        initrd_name=" ".join(map(str, options.initrd or ())),
    )


def _read_initrd(options: argparse.Namespace) -> bytes:
    from pyvmm.boot.initrd import joined

    remedy = "give the guest more with --memory"
    than = "the guest's memory"
    parts: list[bytes] = []
    for path in options.initrd:
        room = options.memory - sum(map(len, parts))
        parts.append(read_input(path, room, than, remedy))
        than = "what the parts before it leave of the guest's memory"
    return joined(parts)


def guest_inputs(options: argparse.Namespace) -> list[NamedFile]:
    """The files that `read_guest` reads, which no output may be."""
    inputs = [NamedFile("the image", image_path(options.image))]
    inputs += (NamedFile("the initial RAM disk", path) for path in options.initrd or ())
    return inputs
