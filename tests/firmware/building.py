# SPDX-License-Identifier: MIT
"""Building the firmware, and parts of it as an ordinary program."""

from __future__ import annotations

import subprocess
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tests.guest.building import make as make_in

ROOT = Path(__file__).parents[2]
FIRMWARE = ROOT / "firmware"
HERE = Path(__file__).parent

_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow")
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def make(*arguments: str) -> str:
    """``make -C firmware`` with `arguments`: what it says. Fails the test with its errors."""
    return make_in(*arguments, folder=FIRMWARE)


def elf() -> Path:
    """The firmware with its symbols."""
    return FIRMWARE / "build" / "objects" / "build" / "firmware.elf"


def symbols() -> dict[str, int]:
    """The address of every symbol."""
    with elf().open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return {str(symbol.name): int(symbol.entry.st_value) for symbol in table.iter_symbols()}


def build_host_program(target: Path) -> None:
    """The firmware's hash and its checks, as a program that takes questions on standard input."""
    sources = [HERE / "on_host.c", FIRMWARE / "sha384.c", FIRMWARE / "block.c"]
    includes = (f"-I{FIRMWARE}", f"-I{ROOT / 'guest' / 'include'}")
    done = subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O1", "-g", *_WARNINGS, *_SANITIZERS, *includes),
            *("-o", str(target), *map(str, sources)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def build_payload(target: Path) -> bytes:
    """``payload.S`` as flat code; `target` names files to make."""
    object_file = target.with_suffix(".o")
    include = f"-I{ROOT / 'guest' / 'include'}"
    subprocess.run(
        ["gcc", include, "-c", str(HERE / "payload.S"), "-o", str(object_file)], check=True
    )
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", str(object_file), str(target)], check=True
    )
    return target.read_bytes()
