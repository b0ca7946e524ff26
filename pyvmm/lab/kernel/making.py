# SPDX-License-Identifier: MIT
"""Kconfig, the compiler, and the image that comes out."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.configuration import Fragment
from pyvmm.lab.kernel.failures import KernelBuildError, system_call_error
from pyvmm.lab.kernel.progress import Progress

EXPECTED_OBJECTS = {"7.3": 1235, "6.12": 1214}
"""Number of files that a build of our fragment compiles, measured: the progress bar's total."""

REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "pyvmm",
    "KBUILD_BUILD_HOST": "lab",
    "KBUILD_BUILD_VERSION": "1",
}
"""So that the same source, configuration and compiler give the same bytes."""

IMAGE = "vmlinux"
_COMPILED = re.compile(r"  (?:CC|AS)  ")
_KCONFIG_FILES = re.compile(r"^deps_config := ((?:.*\\\n)*.*)$", re.MULTILINE)
_NOT_THE_KERNELS = {"tools", "scripts"}


@dataclass(frozen=True, slots=True)
class Tree:
    """A build under way: `source` is only read, everything is made in `objects`.

    `is_complete`: what is there at first is of a build that is complete, and does not count as this
    one's.
    """

    source: Path
    objects: Path
    jobs: int
    is_complete: bool = False

    def make(self, *arguments: str) -> list[str]:
        """The command line of a make in it."""
        command = [
            "make", "--no-print-directory", "-C", str(self.source), f"O={self.objects}",
            f"-j{self.jobs}",
        ]  # fmt: skip
        if shutil.which("ccache") is not None:
            command += ["CC=ccache gcc", "HOSTCC=ccache gcc"]
        return [*command, *(f"{name}={value}" for name, value in REPRODUCIBLE.items()), *arguments]


def configure(
    tree: Tree,
    fragment: Fragment,
    children: Children,
    progress: Progress,
    *,
    is_own: bool = False,
) -> None:
    """Make the .config. Raises `KernelBuildError`, naming the options that Kconfig dropped.

    `is_own`: the tree is the user's, and may have another Kconfig than last time; it is asked where
    a file of it is newer.
    """
    attempt = "configure the kernel"
    wanted = tree.objects / "lab.config"
    asked = tree.objects / "lab.config.asked"
    config = tree.objects / ".config"
    try:
        tree.objects.mkdir(parents=True, exist_ok=True)
        answered = asked if is_own else wanted
        if (
            answered.is_file()
            and answered.read_text(encoding="utf-8") == fragment.text
            and (not is_own or _is_older(tree, asked))
            and config.is_file()
            and not fragment.dropped(config.read_text(encoding="utf-8"))
        ):
            return  # An interrupted build goes on: a new .config would have make look at it all.
        wanted.write_text(fragment.text, encoding="utf-8")
        asking = asked.with_suffix(".new")
        shutil.copyfile(wanted, asking)
        with progress.stage("configuring", None, ""):
            children.run(tree.make(f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig"), attempt)
        dropped = fragment.dropped(config.read_text(encoding="utf-8"))
        if dropped:
            config.unlink()
        else:
            asking.replace(asked)
    except OSError as error:
        raise system_call_error(attempt, error) from error
    if dropped:
        raise KernelBuildError(
            attempt,
            f"this kernel's Kconfig does not take {', '.join(dropped)}",
            "take it out of the fragment"
            if is_own
            else "use another version (pyvmm lab build --kernel 7.3)",
        )


def _is_older(tree: Tree, file: Path) -> bool:
    """True if each file of the tree's Kconfig, as of the last build, is older than `file`.

    Kernel make has noted them in ``auto.conf.cmd``; it compares times, too. Raises `OSError`.
    """
    try:
        noted = (tree.objects / "include/config/auto.conf.cmd").read_text(encoding="utf-8")
        files = _KCONFIG_FILES.search(noted)
        if files is None:
            return False
        limit = file.stat().st_mtime_ns
        names = files[1].replace("\\\n", " ").split()
        return all((tree.source / name).stat().st_mtime_ns < limit for name in names)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def compile_kernel(tree: Tree, expected: int | None, children: Children, progress: Progress) -> int:
    """Compile what is not compiled yet; how many files that makes in all.

    `expected` is how many files other builds compiled. Raises `KernelBuildError`.
    """
    done = 0 if tree.is_complete else _objects(tree.objects)
    with progress.stage(f"compiling, {tree.jobs} at a time", expected, "files") as stage:

        def count(line: str) -> None:
            nonlocal done
            if _COMPILED.match(line):
                done += 1
                stage.reach(done)

        stage.reach(done)
        children.run(tree.make(IMAGE), "compile the kernel", on_line=count)
    return done


def strip(tree: Tree, image: Path, children: Children) -> None:
    """Put the kernel, without symbols, into the file `image`. Raises `KernelBuildError`."""
    children.run(
        ["objcopy", "--strip-all", str(tree.objects / IMAGE), str(image)], "strip the kernel"
    )


def _objects(folder: Path) -> int:
    """Count the files of the kernel that are compiled already."""
    found = 0
    for where, folders, files in os.walk(folder):
        if where == str(folder):
            folders[:] = [name for name in folders if name not in _NOT_THE_KERNELS]
        found += sum(
            name.endswith(".o") and name not in ("built-in.o", "vmlinux.o") for name in files
        )
    return found
