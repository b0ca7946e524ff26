# SPDX-License-Identifier: MIT
"""The C programs: compiled when they are needed, called with their answer in JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import CannotRunError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"
KVM_ABI = ROOT / "pyvmm" / "hosts" / "kvm" / "kvm_abi.h"
PYTHON = (sys.executable,)
"""The interpreter that children are run with."""
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


def compiled(name: str) -> Path:
    """The program built from ``benchmarks/<name>.c``, anew if a source is newer.

    Raises `CannotRunError`.
    """
    program = BUILD / name
    sources = (HERE / f"{name}.c", HERE / "baseline.h", *KVM_ABI.parent.glob("*.[ch]"))
    newest = max(source.stat().st_mtime for source in sources)
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CannotRunError("no gcc here to compile the baseline with")
    BUILD.mkdir(exist_ok=True)
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", program, sources[0]], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotRunError(f"gcc cannot compile {name}.c: {done.stderr.strip()}")
    return program


def assembled(name: str) -> Path:
    """The bare machine code of ``benchmarks/<name>.S``, made anew if the source is newer.

    Raises `CannotRunError`.
    """
    source, code, linkable = HERE / f"{name}.S", BUILD / f"{name}.bin", BUILD / f"{name}.o"
    if code.exists() and code.stat().st_mtime > source.stat().st_mtime:
        return code
    BUILD.mkdir(exist_ok=True)
    steps = {
        "gcc": ["-m32", "-c", "-o", str(linkable), str(source)],
        "objcopy": ["-O", "binary", "-j", ".text", str(linkable), str(code)],
    }
    for tool, arguments in steps.items():
        if shutil.which(tool) is None:
            raise CannotRunError(f"no {tool} here to assemble the guest with")
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotRunError(f"{tool} cannot make {name}: {done.stderr.strip()}")
    return code


def called(
    program: Path, *arguments: object, env: Mapping[str, str] | None = None
) -> dict[str, float]:
    """What `program` prints. Raises `CannotRunError` where it fails."""
    command = [str(program), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise CannotRunError(f"{program.name} failed: {said}")
    answer: dict[str, float] = json.loads(done.stdout)
    return answer
