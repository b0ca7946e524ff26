# SPDX-License-Identifier: MIT
"""Headers of a kernel tree, by the system's C preprocessor; nothing of the tree is built.

A tree's uapi headers include a few that only its build makes (``asm/types.h`` for what is the same
everywhere) or that are not for user space (``linux/compiler.h``); for the time of a call they are
stood in for.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from pyvmm.errors import HostLacksError, NoInputError
from pyvmm.experiment.c_text import DeclarationError

_PREPROCESSORS = ("cpp", "gcc", "cc", "clang")
_ERROR = re.compile(r"^(?:<stdin>|(\S+)):(\d+):(?:\d+:)? (?:fatal )?error: (.*)", re.MULTILINE)
_NOT_FOR_USERS = ("linux/compiler.h", "linux/compiler_types.h", "linux/stringify.h")


def preprocessed(text: str, tree: Path) -> str:
    """`text` with its directives resolved by the headers of `tree`, macros and markers kept.

    `tree` is a kernel's source, or a folder of installed headers such as /usr/include. Raises
    `NoInputError` for a folder that is neither, `DeclarationError` with the first error,
    `HostLacksError` without a preprocessor.
    """
    with tempfile.TemporaryDirectory(prefix="pyvmm-headers-") as folder:
        stand_ins = Path(folder)
        folders = _include_folders(tree, stand_ins)
        tool = next(filter(None, map(shutil.which, _PREPROCESSORS)), None)
        attempt = f"read headers of {tree}"
        if tool is None:
            raise HostLacksError(
                attempt, "there is no C preprocessor", "install cpp, or give the declarations alone"
            )
        command = [tool, "-E", "-dD", "-nostdinc", "-xc", *(f"-I{one}" for one in folders), "-"]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as error:
            raise HostLacksError(attempt, f"{tool}: {error.strerror}") from error
        if done.returncode:
            raise _refused(done.stderr, attempt)
        return done.stdout


def _include_folders(tree: Path, stand_ins: Path) -> list[Path]:
    uapi = tree / "include/uapi"
    if uapi.is_dir():
        own = tree / "arch/x86/include/uapi"
        _stand_in(uapi, own, stand_ins)
        return [own, uapi, tree / "include/generated/uapi", stand_ins]
    for folder in (tree, tree / "include"):
        if (folder / "linux").is_dir():
            multiarch = folder / "x86_64-linux-gnu"  # where Debian has <asm/...>
            return [folder, *([multiarch] if multiarch.is_dir() else [])]
    raise NoInputError(
        f"read headers of {tree}",
        "it has neither include/uapi nor linux: no kernel tree, and no folder of headers",
        "give the folder of a kernel's source, or /usr/include",
    )


def _stand_in(uapi: Path, own: Path, stand_ins: Path) -> None:
    (stand_ins / "asm").mkdir()
    (stand_ins / "linux").mkdir()
    for header in (uapi / "asm-generic").glob("*.h"):
        if not (own / "asm" / header.name).exists():
            wrapper = f"#include <asm-generic/{header.name}>\n"
            (stand_ins / "asm" / header.name).write_text(wrapper, encoding="utf-8")
    for name in _NOT_FOR_USERS:
        if not (uapi / name).exists():
            (stand_ins / name).write_text("", encoding="utf-8")


def _refused(said: str, attempt: str) -> DeclarationError:
    found = _ERROR.search(said)
    if found is None:
        lines = said.strip().splitlines() or ["the preprocessor failed"]
        return DeclarationError("C text", lines[0])
    place = f"{found[1]}:{found[2]}" if found[1] else f"line {found[2]}"
    return DeclarationError(f"C text ({place})", f"{found[3]} ({attempt})")
