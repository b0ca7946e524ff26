# SPDX-License-Identifier: MIT
"""Debian's kernel, an initrd and disks for tests, and the lab that they are booted in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.lab.kernel.progress import Lines
from pyvmm.lab.linux import kernel_package, making
from tests.conftest import REQUIRED
from tests.lab.linux.console import Console
from tests.lab.places import PYVMM, ROOT, run

PROGRAMS = ("diskcheck", "nettransfer", "vsockecho")
DISK = 24 << 20
PATIENCE = 900.0
"""Seconds for a boot and what is asked of it: three machines are within one another."""
_TALK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as talk:
    talk.connect(sys.argv[1])
    for say, wanted in zip(sys.argv[2::2], sys.argv[3::2]):
        talk.sendall(say.encode().decode("unicode_escape").encode())
        heard = b""
        while not heard.endswith(wanted.encode() + b"\\n"):
            more = talk.recv(4096)
            assert more, heard
            heard += more
"""
_BUTTON = """
import socket, sys
with socket.socket(socket.AF_UNIX) as qmp, qmp.makefile("rw") as lines:
    qmp.connect(sys.argv[1])
    lines = qmp.makefile("rw")
    lines.readline()
    for command in ("qmp_capabilities", *sys.argv[2:]):
        lines.write(command if command[0] == "{" else '{"execute": "%s"}' % command)
        lines.flush()
        line = lines.readline()
        while "return" not in line and "error" not in line:
            line = lines.readline()
        print(line, end="")
"""


@dataclass(frozen=True)
class LinuxInLab:
    """A lab that is up, and in `folder`, which it sees, ``vmlinuz``, ``initrd`` and ``disk``."""

    folder: Path
    env: Mapping[str, str]

    def boot(self, *arguments: str, line: str = "") -> Console:
        """A run of the kernel; `line` is appended to its command line."""
        files = ["vmlinuz", "--initrd", "initrd", "-m", "512M", "--timeout", f"{PATIENCE:.0f}"]
        words = f"console=ttyS0 panic=-1 {line}".strip()
        return Console(
            [*files, *arguments, "--append", words], self.env, self.folder, patience=PATIENCE
        )

    def ask_monitor(self, path: str, *commands: str) -> str:
        """The answers of the QMP server at `path` in the lab; a command is a name or JSON."""
        done = run(
            [PYVMM, "lab", "run", "--", "python3", "-c", _BUTTON, path, *commands], self.env,
            cwd=self.folder,
        )  # fmt: skip
        assert done.code == 0, done.err
        return done.out.decode()

    def talk(self, path: str, *lines: str) -> None:
        """Say a line to the socket at `path` in the lab, wait for one that ends as the next has it,
        and so on."""
        done = run([PYVMM, "lab", "run", "--", "python3", "-c", _TALK, path, *lines], self.env)
        assert done.code == 0, done.err


def debians_kernel(folder: Path) -> None:
    """Write the kernel with an initrd and a disk to `folder`; skips where it cannot be had."""
    programs = []
    for name in PROGRAMS:
        programs.append(folder / name)
        subprocess.run(
            ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror",
             ROOT / "guest" / "linux" / f"{name}.c", "-o", programs[-1]],
            check=True,
        )  # fmt: skip
    try:
        with (folder / "fetch.log").open("w") as log:
            kernel = kernel_package.fetch(Lines(log))
        making.make(kernel, folder, making.LinuxWish((), tuple(programs), DISK))
    except PyvmmError as error:
        if "linux" in REQUIRED:
            pytest.fail(f"linux is required here, but {error}")
        pytest.skip(f"no Linux: {error}")


@contextmanager
def linux_in_lab(folder: Path, env: Mapping[str, str]) -> Iterator[LinuxInLab]:
    """A lab that may change `folder`, where the files are."""
    debians_kernel(folder)
    done = run([PYVMM, "lab", "up", "--writable", str(folder)], env)
    assert done.code == 0, done.err
    try:
        yield LinuxInLab(folder, env)
    finally:
        run([PYVMM, "lab", "down"], env)
