# SPDX-License-Identifier: MIT
"""The same command here and in the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANG = 240.0
"""Seconds after which something counts as hung: a lab is emulated, and the machine may be busy."""
PYVMM = str(Path(sys.executable).parent / "pyvmm")


@dataclass(frozen=True)
class Outcome:
    """How a command ended: `code` as `subprocess` has it, negative for a signal."""

    code: int
    out: bytes
    err: bytes


def run(
    command: Sequence[str | bytes],
    env: Mapping[str, str],
    *,
    given: bytes | None = b"",
    cwd: Path = ROOT,
    patience: float = HANG,
) -> Outcome:
    """Run `command` to its end, `given` on its standard input (None: that is closed).

    Where it hangs the test fails with what it has said so far.
    """
    try:
        done = subprocess.run(
            command,
            input=given if given is not None else None,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            cwd=cwd,
            env=env,
            timeout=patience,
            check=False,
            preexec_fn=None if given is not None else lambda: os.close(0),
        )
    except subprocess.TimeoutExpired as late:
        said = b"".join(part or b"" for part in (late.stdout, late.stderr))
        raise AssertionError(
            f"{command} has not ended after {patience:.0f} s; it has said:\n"
            + said.decode(errors="replace")[-20000:]
        ) from None
    return Outcome(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class LabAtHand:
    """A lab that is up, for commands of the tests."""

    env: Mapping[str, str]

    def pyvmm(self, *arguments: str | bytes, given: bytes | None = b"") -> Outcome:
        """``pyvmm ARGUMENTS`` here, where the lab is up."""
        return run([PYVMM, *arguments], self.env, given=given)

    def inside(
        self,
        command: Sequence[str | bytes],
        *,
        given: bytes | None = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        patience: float = HANG,
    ) -> Outcome:
        """`command` in the lab."""
        return run(
            [PYVMM, "lab", "run", "--", *command],
            {**self.env, **(env or {})},
            given=given,
            cwd=cwd,
            patience=patience,
        )

    def outside(
        self,
        command: Sequence[str | bytes],
        *,
        given: bytes | None = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> Outcome:
        """`command` here."""
        return run(command, {**self.env, **(env or {})}, given=given, cwd=cwd)


def qemus_of(directory: Path) -> set[int]:
    """QEMUs that a keeper with its files in `directory` has started, and those keepers."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            ours = f"XDG_RUNTIME_DIR={directory}\0".encode() in environment + b"\0"
            if ours and state != "Z" and (b"qemu-system" in command or b"lab.keeper" in command):
                found.add(int(entry.name))
    return found
