# SPDX-License-Identifier: MIT
"""Sources of a kernel, and unpacking it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import NoInputError, UsageError
from pyvmm.held_signals import held_signals
from pyvmm.lab.kernel.cache import sha256
from pyvmm.lab.kernel.children import Children, close
from pyvmm.lab.kernel.failures import KernelBuildError, system_call_error
from pyvmm.lab.kernel.progress import Progress, Stage

_CHUNK = 1 << 20
_DONE = ".pyvmm-unpacked"
_OTHER_ARCHITECTURES = (
    "alpha", "arc", "arm", "arm64", "csky", "hexagon", "loongarch", "m68k", "microblaze", "mips",
    "nios2", "openrisc", "parisc", "powerpc", "riscv", "s390", "sh", "sparc", "xtensa",
)  # fmt: skip
_UNUSED_DRIVERS = (
    "accel", "clk", "gpu", "iio", "infiniband", "media", "net/ethernet", "net/wireless", "pinctrl",
    "scsi", "staging", "usb",
)  # fmt: skip
LEFT_OUT = (
    *(f"*/arch/{name}/*.[chSd]*" for name in _OTHER_ARCHITECTURES),
    *(f"*/drivers/{name}/*.[chS]" for name in _UNUSED_DRIVERS),
    *(f"*/Documentation/*.{suffix}" for suffix in ("rst", "txt", "yaml", "svg", "json")),
    "*/sound/*.[ch]", "*/tools/testing/*", "*/tools/perf/*",
)  # fmt: skip
"""Members of a kernel's archive that the lab's kernel does not need: two thirds of its bytes.

Kconfig and make read their own files in every folder, so those stay.
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel's source. `identity` says which, for the manifest and the cache's key.

    `version` is the kernel's, "" where only the unpacked source tells. `archive` is to be unpacked
    (a .deb of Debian's, or a tarball).
    """

    identity: str
    version: str
    archive: Path


def from_path(path: Path) -> Source:
    """The source in the tarball `path`. Raises `NoInputError`."""
    attempt = f"use the kernel source {path}"
    try:
        if path.is_file():
            return Source(f"{path.resolve().name} ({sha256(path)[:16]})", "", path.resolve())
    except OSError as error:
        raise NoInputError(attempt, error.strerror or str(error)) from error
    raise NoInputError(attempt, "there is no such file or folder")


def kernel_version(tree: Path, attempt: str) -> str:
    """The version that a source tree's Makefile has: "7.3.4". Raises `UsageError`."""
    try:
        with (tree / "Makefile").open(encoding="utf-8") as file:
            head = [file.readline() for _ in range(12)]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(attempt, "there is no readable Makefile in it") from error
    fields: dict[str, str] = {}
    for line in head:
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = value.strip()
    number = [fields.get(name, "") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if not all(part.isdigit() for part in number) or not (tree / "Kconfig").is_file():
        raise UsageError(attempt, "it is not the source of a Linux kernel")
    return ".".join(number) + fields.get("EXTRAVERSION", "")


def unpack(
    source: Source,
    tree: Path,
    children: Children,
    progress: Progress,
    members: Sequence[str] = (),
) -> Path:
    """Have the source in the folder `tree`, and return that.

    All but `LEFT_OUT`, or else `members`: patterns of files, and of folders with all that is in
    them, which the archive must have, and whose ``*`` stops at a slash. Raises
    `KernelBuildError`, `UsageError`, `SystemCallError`.
    """
    done = tree / _DONE
    try:
        if done.is_file() and done.read_text(encoding="utf-8") == source.identity:
            return tree
        if tree.exists():
            shutil.rmtree(tree)
        tree.mkdir(parents=True)
        size = source.archive.stat().st_size
        with progress.stage(f"unpacking {source.archive.name}", size, "bytes") as stage:
            _extract(source.archive, tree, members, children, stage)
        kernel_version(tree, f"use the kernel source {source.archive}")
        done.write_text(source.identity, encoding="utf-8")
    except OSError as error:
        raise system_call_error(f"unpack {source.archive} to {tree}", error) from error
    return tree


def _extract(
    archive: Path, tree: Path, members: Sequence[str], children: Children, stage: Stage
) -> None:
    """`archive` -> compressed tar -> us, who count -> tar, which unpacks what is needed."""
    attempt = f"unpack {archive}"
    tar = ["tar", "-x", "-C", str(tree), "--strip-components=1", "--no-same-owner"]
    if not members:
        tar += [f"--exclude={pattern}" for pattern in LEFT_OUT]
    commands: list[Sequence[str]] = []
    if archive.suffix == ".deb":
        commands.append(["dpkg-deb", "--fsys-tarfile", str(archive)])
        commands.append(["tar", "-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"])
        tar.append("-J")
    else:
        commands.append(["cat", str(archive)])
        tar += {".xz": ["-J"], ".gz": ["-z"], ".tgz": ["-z"], ".zst": ["--zstd"]}.get(
            archive.suffix, ["-j"] if archive.suffix == ".bz2" else []
        )
    if members:
        tar += ["--wildcards", "--no-wildcards-match-slash", *members]
    commands.append(tar)
    with ExitStack() as stack:
        running: list[tuple[Sequence[str], subprocess.Popen[bytes]]] = []

        def start(command: Sequence[str], **streams: object) -> subprocess.Popen[bytes]:
            with held_signals():
                child = children.start(command, **streams)
                stack.callback(close, child)
            running.append((command, child))
            return child

        begin = children.log_size()
        errors = stack.enter_context(children.open_log())
        upstream = start(commands[0], stdout=subprocess.PIPE, stderr=errors)
        for command in commands[1:-1]:
            following = start(command, stdin=upstream.stdout, stdout=subprocess.PIPE, stderr=errors)
            assert upstream.stdout is not None
            upstream.stdout.close()
            upstream = following
        last = start(commands[-1], stdin=subprocess.PIPE, stderr=errors)
        _pump(upstream, last, stage)
        # The last first: those before it fail too when it does, but know nothing of why.
        for command, child in reversed(running):
            status = child.wait()
            if status != 0:
                said = children.log_lines(begin)
                raise KernelBuildError(attempt, children.reason(command[0], status, said))
    if not any(tree.iterdir()):
        raise KernelBuildError(attempt, "nothing was in it")


def _pump(upstream: subprocess.Popen[bytes], last: subprocess.Popen[bytes], stage: Stage) -> None:
    assert upstream.stdout is not None
    assert last.stdin is not None
    moved = 0
    try:
        while chunk := upstream.stdout.read(_CHUNK):
            last.stdin.write(chunk)
            moved += len(chunk)
            stage.reach(moved)
        last.stdin.close()
    except BrokenPipeError:
        pass  # tar has ended: its status, and what it wrote, say why.
