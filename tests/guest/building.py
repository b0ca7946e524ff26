# SPDX-License-Identifier: MIT
"""Building the guests, and what their images must look like."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from elftools.elf.elffile import ELFFile

GUEST = Path(__file__).parents[2] / "guest"
_DEFINE = re.compile(r"^#define[ \t]+(\w+)[ \t]+(\d\w*)$", re.MULTILINE)

PRIVATE_PROGRAMS = ("convert", "mailbox", "punch", "secret", "smp", "touch")
"""The programs that cannot do without private memory."""
PROGRAMS = (
    *PRIVATE_PROGRAMS,
    "acpi",
    "balloon",
    "block",
    "echo",
    "exit",
    "failing",
    "fault",
    "hang",
    "hello",
    "hostile",
    "hypercall",
    "inventory",
    "memtest",
    "net",
    "packed",
    "panic",
    "pci",
    "ports",
    "ring3",
    "selftest",
    "share",
    "tests",
    "timer",
    "triple",
    "vsock",
)


def make(*arguments: str, folder: Path = GUEST) -> str:
    """``make -C folder`` with `arguments`: what it says. Fails the test with its errors."""
    # Flags of the make that runs the tests are not for this one.
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    done = subprocess.run(
        ["make", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def linked(program: str) -> Path:
    """The file that the image of `program` is made of: with symbols."""
    return GUEST / "build" / "objects" / "build" / f"{program}.elf"


def defines(header: str = "protocol.h") -> dict[str, int]:
    """Every number of `header`."""
    text = (GUEST / "include" / header).read_text()
    return {name: int(value, 0) for name, value in _DEFINE.findall(text)}


def notes(image: Path) -> dict[tuple[str, int], bytes]:
    """Descriptions of the notes in PT_NOTE segments, by name and type."""
    found: dict[tuple[str, int], bytes] = {}
    with image.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_NOTE"):
            data = segment.data()
            while data:
                name_size, size, kind = (
                    int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8)
                )
                name = data[12 : 12 + name_size]
                start = 12 + (name_size + 3) // 4 * 4
                assert name.endswith(b"\0")
                found[name[:-1].decode(), kind] = data[start : start + size]
                data = data[start + (size + 3) // 4 * 4 :]
    return found
