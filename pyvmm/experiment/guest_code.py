# SPDX-License-Identifier: MIT
"""Guest code from assembly text, by the system's assembler and linker (binutils)."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pyvmm.errors import HostLacksError, SystemCallError, UsageError
from pyvmm.rules.abi import PAGE_SIZE

CODE = 8 * PAGE_SIZE
"""GPA at which code is placed unless another is named; below are a GDT and page tables."""
BITS = (16, 32, 64)
_ERROR = re.compile(r"\{standard input\}:(\d+): (?:Error|Fatal error): (.*)")


class Code(NamedTuple):
    """Machine code for `bits` (16, 32 or 64), to lie at the GPA `at`."""

    content: bytes
    at: int = CODE
    bits: int = 64


def assemble(text: str, *, at: int = CODE, bits: int = 64) -> Code:
    """Assemble `text`, in AT&T syntax or after ``.intel_syntax noprefix``, to lie at the GPA `at`.

    Instructions may be separated by semicolons. Raises `UsageError` with the line that is not
    understood, `HostLacksError` without binutils, `SystemCallError` where there is no folder for
    temporary files.
    """
    if bits not in BITS:
        raise UsageError(f"assemble code of {bits} bits", "there is 16, 32 and 64")
    with _temporary_folder() as folder:
        made, linked = Path(folder) / "code.o", Path(folder) / "code.bin"
        width = "--64" if bits == 64 else "--32"
        source = f".code16; {text}\n" if bits == 16 else f"{text}\n"
        _tool(["as", width, "-mx86-used-note=no", "-o", made, "-"], source)
        emulation = "elf_x86_64" if bits == 64 else "elf_i386"
        layout = ["-Ttext", hex(at), "-e", hex(at), "--oformat", "binary", "-z", "noexecstack"]
        _tool(["ld", "-m", emulation, *layout, "-o", linked, made], "")
        return Code(linked.read_bytes(), at, bits)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvmm-code-"))
        except OSError as error:
            cause = error.strerror or str(error)
            remedy = "have TMPDIR name a folder that can be written to"
            raise SystemCallError(
                "make a folder for guest code", error.errno or 0, cause, remedy
            ) from error
        yield folder


def _tool(command: list[str | Path], given: str) -> None:
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise HostLacksError(
            f"assemble guest code by `{command[0]}`",
            error.strerror or str(error),
            "install binutils, or give machine code: Code(b'...')",
        ) from error
    if done.returncode:
        found = _ERROR.search(done.stderr)
        if found is not None:
            raise UsageError(f"assemble line {found[1]}", found[2].strip())
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        # A message of ld begins with its name, a file, and a place in a section.
        cause = re.split(r"^\w+: (?:\S+:\([^)]*\): )?", lines[0])[-1]
        raise UsageError("assemble guest code", cause)
